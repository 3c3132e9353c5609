"""What an operator looks at costs the same among fifty thousand rows as among a thousand: each page, the last one too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from sqlalchemy import Connection

from dray.care import Care
from dray.job import State, name_hash
from dray.settings import load
from dray.store import listing, promote
from dray.store.filters import Filter
from tests.costs.bed import Bed
from tests.costs.counters import Cost

FEW, MANY_ROWS = 1_000, 50_000
MARGIN, LEVELS = 1.3, 200  # each of 50 rows is looked up in a tree; a small table may be read from end to end instead
RARE = 20

Look = Callable[[Bed], object]


class Beds(NamedTuple):
    small: Bed
    full: Bed


@pytest.fixture(scope="module")
def beds(new_bed: Callable[[], Bed]) -> Beds:
    beds = Beds(new_bed(), new_bed())
    for bed, rows in zip(beds, (FEW, MANY_ROWS), strict=True):
        # The oldest are of another queue and task, and most of these failed: a list of them has to look far back.
        rare = {"task": "'rare'", "task_hash": name_hash("rare")}
        bed.fill(State.FAILED, RARE, "rare", **rare)
        bed.fill(State.SUCCEEDED, RARE, "rare", **rare)
        bed.fill(State.CANCELLED, 60)
        bed.fill(State.SUCCEEDED, rows)
        bed.fill(State.FAILED, rows // 4)
        bed.fill(State.SUCCEEDED, rows)
        bed.fill(State.BLOCKED, 60)
        bed.fill(State.SCHEDULED, rows)
        bed.fill(State.READY, 2_000)
        bed.settle()
    return beds


def listed(words: dict[str, object], before: int | None = None, rows: int = 50) -> Look:
    def look(bed: Bed) -> None:
        found = bed.store.desk.jobs(Filter.parse(words), before=before)
        assert len(found) == rows, words

    return look


LOOKS: dict[str, Look] = {
    "the newest": listed({}),
    "a page far back": listed({}, before=1_000_300),
    "a page before all": listed({}, before=1, rows=0),
    "by a usual state": listed({"state": "succeeded"}),
    "by an unusual state": listed({"state": "failed"}),
    "by a state long ago": listed({"state": "cancelled"}),
    "by a queue": listed({"queue": "default", "state": "succeeded"}),
    "by a queue long ago": listed({"queue": "rare", "state": "succeeded,failed,cancelled"}, rows=2 * RARE),
    "by a queue, far back": listed({"queue": "default", "state": "succeeded"}, before=1_000_300),
    "by a task long ago": listed({"task": "rare", "state": "succeeded,failed,cancelled"}, rows=2 * RARE),
    "by a task and a state": listed({"task": "rare", "state": "failed"}, rows=RARE),
    "by a task and a queue": listed({"task": "rare", "queue": "default", "state": "failed"}, rows=0),
    "by a task that never was": listed({"task": "none", "state": "succeeded,failed,cancelled"}, rows=0),
    "what is due": lambda bed: bed.store.database.once(lambda connection: promote.next_due(connection, bed.store.tables)),
    "what is kept": lambda bed: bed.store.desk.count_kept(State.SUCCEEDED, -1e6, cap=200),
    "what is stuck": lambda bed: Care(bed.store, load({})).stuck(),
}
# By these, MySQL, without indexes of some rows only, gathers up to a limit, or walks.
WAITING: dict[str, Look] = {
    "by a state that waits": listed({"state": "scheduled"}),
    "by one that few are in": listed({"state": "blocked"}),
}


def measured(bed: Bed, look: Look) -> Cost:
    look(bed)
    with bed.meter.count() as cost:
        look(bed)
    return cost


@pytest.mark.rows("C49")
@pytest.mark.parametrize("name", [*LOOKS, *WAITING])
def test_a_page_costs_the_same_whatever_the_history(beds: Beds, name: str) -> None:
    if name in WAITING and not beds.full.dialect.partial_indexes:
        pytest.skip("no index has these by id")
    small, full = (measured(bed, {**LOOKS, **WAITING}[name]) for bed in beds)
    if name == "by a usual state":  # counted up to a limit first, to see whether they are few
        assert full.work <= 12 * MANY_ROWS
        return
    assert full.work <= MARGIN * small.work + LEVELS, f"with {FEW} rows: {small}\nwith {MANY_ROWS}: {full}"


@pytest.mark.rows("C49")
@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_postgresql_expects_as_many_as_there_are(beds: Beds, state: str) -> None:
    """Where it expected none, it took the index by time, and sorted five million rows of it."""
    bed = beds.full
    if bed.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL is asked in words of its own")
    wanted = Filter.parse({"queue": "default", "state": state})

    def expected(connection: Connection) -> tuple[str, int]:
        ((_, query),) = listing.newest(connection, bed.store.tables, wanted, 50, None)
        words = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
        (plan,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {words}").scalar_one()
        scan = plan["Plan"]["Plans"][0]
        return scan["Index Name"], scan["Plan Rows"]

    index, rows = bed.store.database.once(expected)
    assert index == "dray_history_queue"
    assert rows > MANY_ROWS // 8
