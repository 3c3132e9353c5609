"""Which lanes have ready jobs, whatever was known of them before. On every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray.job import name_hash
from dray.store.lanes import Lane, Lanes, lanes_of
from tests.contract.bench import Bench
from tests.servers import Database


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database.url)
    yield bench
    bench.close()


def lane(queue: str, priority: int) -> Lane:
    return name_hash(queue), priority


THERE = {(f"q{number}", priority) for number in range(12) for priority in (0, number, 100, 999)}


@pytest.fixture
def filled(bench: Bench) -> Bench:
    for queue, priority in sorted(THERE):
        bench.add(3, queue=queue, priority=priority)
    bench.add(queue="later", delay=60.0)
    bench.add(queue="taken")
    bench.claim(1, "taken")
    return bench


@pytest.mark.parametrize(
    "known",
    [
        set(),
        THERE,
        {("q3", 100), ("q5", 999), ("q5", 0)},
        {("q3", 7), ("gone", 100), ("taken", 100), ("later", 0), ("q1", 1)},
    ],
    ids=["nothing", "all", "some", "what is no more"],
)
def test_all_lanes_are_found_whatever_was_known(filled: Bench, known: set[tuple[str, int]]) -> None:
    hints = [lane(*one) for one in known]
    wanted = sorted(lane(*one) for one in THERE)
    assert filled.call(lanes_of, (), hints) == wanted
    mine = {name_hash("q3"), name_hash("q5"), name_hash("taken")}
    found = filled.call(lanes_of, mine, [one for one in hints if one[0] in mine])
    assert [one for one in found if one[0] in mine] == [one for one in wanted if one[0] in mine]


def test_no_lanes(bench: Bench) -> None:
    assert bench.call(lanes_of) == []
    assert bench.call(lanes_of, {name_hash("q")}, [lane("q", 100)]) == []


@pytest.mark.parametrize(
    "floored",
    [
        THERE,
        {("q3", 100), ("q5", 999), ("q5", 0), ("q5", 5)},
        {("q3", 7), ("gone", 100), ("taken", 100), ("later", 0), ("q1", 1)},
    ],
    ids=["all", "some", "what is no more"],
)
def test_all_lanes_are_found_whatever_floors_there_are(filled: Bench, floored: set[tuple[str, int]]) -> None:
    wanted = sorted(lane(*one) for one in THERE)
    low = {lane(*one): filled.clock.now for one in floored}
    assert filled.call(lanes_of, (), (), low) == wanted
    high = {lane(*one): filled.clock.now + 1 for one in floored}
    found = filled.call(lanes_of, (), (), high)
    assert [one for one in found if one not in high] == [one for one in wanted if one not in high]
    mine = {name_hash("q3"), name_hash("q5"), name_hash("taken")}
    found = filled.call(lanes_of, mine, (), low)
    assert [one for one in found if one[0] in mine] == [one for one in wanted if one[0] in mine]


def test_lanes_are_looked_for_more_seldom_where_that_is_dear(bench: Bench) -> None:
    """An urgent job is seen after fifty milliseconds; or, where a look takes long, when that is a twentieth of the time."""
    now = 100.0
    took = 0.0

    def clock() -> float:
        nonlocal now
        now += took
        return now

    lanes = Lanes(clock=clock)

    def looks(after: float) -> bool:
        nonlocal now
        now += after
        return bool(bench.call(lambda connection, tables: lanes.refresh(connection, tables)))

    assert looks(0)
    assert [looks(0.04), looks(0.02), looks(0.06)] == [False, True, True]
    took = 0.01
    assert looks(0.06)
    assert [looks(0.1), looks(0.15)] == [False, True]
    took = 5.0
    assert looks(0.3)
    took = 0.0
    assert [looks(0.9), looks(0.2)] == [False, True]
