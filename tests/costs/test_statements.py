"""How many statements, transactions and waits for the server each operation takes, however many jobs it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sqlalchemy import create_engine, event

from dray.job import Failed, HandedBack, Outcome, State
from dray.store.lanes import Lanes
from tests.contract.test_wire import Proxy
from tests.costs.bed import Bed, new_job
from tests.costs.counters import Meter


class Taken(NamedTuple):
    """What an operation took; `turns`: waits for the server, None where there is no wire."""

    statements: int
    writes: int
    turns: int | None


class Wired:
    """A store whose statements are counted, and whose way to the server leads through a proxy that counts too."""

    def __init__(self, bed: Bed) -> None:
        self.proxy: Proxy | None = None
        url = bed.store.database.url
        if url.port is not None:
            self.proxy = Proxy(url.port)
            url = url.set(port=self.proxy.port)
        self.url = url.render_as_string(hide_password=False)
        self.bed = Bed(self.url)
        self.meter = Meter(self.bed.engine, work=False)
        event.listen(self.bed.engine, "connect", _unprepared)
        self.bed.store.close()
        self.bed.add()
        self.bed.claim(1)  # what is asked only once
        with self.bed.engine.connect():  # a connection for the notifications, beside the one for what is counted
            self.bed.add()

    @contextmanager
    def count(self, meter: Meter | None = None) -> Iterator[Callable[[], Taken]]:
        taken: list[Taken] = []
        self.bed.store.bell.flush(10)
        if self.proxy is not None:
            self.proxy.forget()
        with (meter or self.meter).count() as cost:
            yield lambda: taken[0]
        taken.append(Taken(cost.statements, cost.writes, self._turns()))

    def _turns(self) -> int | None:
        if self.proxy is None:
            return None
        return sum(b"pg_notify" not in turn.request for turn in self.proxy.turns)

    def close(self) -> None:
        self.bed.close()
        if self.proxy is not None:
            self.proxy.close()


def _unprepared(connection: Any, record: object) -> None:
    """psycopg prepares what is sent for the sixth time, which takes one more turn, once on each connection."""
    if hasattr(connection, "prepare_threshold"):
        connection.prepare_threshold = None


@pytest.fixture(scope="module")
def wired(new_bed: Callable[[], Bed]) -> Iterator[Wired]:
    wired = Wired(new_bed())
    yield wired
    wired.close()


ONE = Taken(1, 1, 1)  # PostgreSQL finds and takes jobs in a single statement; if it finds none, nothing is logged


class Expected(NamedTuple):
    """Statements on each database, and whether they are in a transaction: BEGIN and COMMIT are a turn each."""

    sqlite: int
    postgresql: int | Taken
    mysql: int
    transaction: bool = True

    def on(self, wired: Wired) -> Taken:
        name = wired.bed.dialect.name
        if name == "postgresql" and isinstance(self.postgresql, Taken):
            return self.postgresql
        statements = self.mysql if name == "mysql" else self.sqlite if name == "sqlite" else self.postgresql
        turns = None if wired.proxy is None else statements + 2 * self.transaction
        return Taken(statements, int(self.transaction), turns)


def check(wired: Wired, expected: Expected, work: Callable[[], Any]) -> None:
    with wired.count() as taken:
        work()
    assert taken() == expected.on(wired)


# --- enqueue --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 1000])
def test_jobs_are_added_by_one_statement_that_is_its_own_transaction(wired: Wired, count: int) -> None:
    with wired.count() as taken:
        wired.bed.add(count)
    assert taken() == Taken(1, 1, None if wired.proxy is None else 1)


def test_each_thousand_more_is_one_more(wired: Wired) -> None:
    check(wired, Expected(3, 3, 3), lambda: wired.bed.add(2500))


def test_within_a_transaction_of_the_caller_it_is_one_statement_and_nothing_else(wired: Wired) -> None:
    engine = create_engine(wired.url)
    with engine.begin() as connection:
        wired.bed.store.add_within(connection, [new_job()])
        with wired.count(Meter(engine, work=False)) as taken:
            wired.bed.store.add_within(connection, [new_job()])
    engine.dispose()
    assert (taken().statements, taken().turns) == (1, None if wired.proxy is None else 1)


# --- claim and finish -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, 500])
def test_a_claim_of_any_size(wired: Wired, count: int) -> None:
    wired.bed.add(3 * count)
    pickup = Lanes(clock=lambda: 0.0)
    # MySQL is asked once more, for what is behind a lane that was not known.
    check(wired, Expected(4, ONE, 6), lambda: wired.bed.claim(count, pickup=pickup))
    # There is a backlog: PostgreSQL goes by lanes and floors then.
    check(wired, Expected(3, 2, 4), lambda: wired.bed.claim(count, pickup=pickup))
    check(wired, Expected(3, 1, 4), lambda: wired.bed.claim(count, pickup=pickup))  # the lanes are known by now


@pytest.mark.parametrize("count", [100, 500])
def test_ends_of_any_number(wired: Wired, count: int) -> None:
    wired.bed.add(count)
    runs = wired.bed.claim(count)
    check(wired, Expected(3, 2, 4), lambda: wired.bed.finish(runs))  # the last asks who waits for them, after the commit


@pytest.mark.parametrize("count", [100, 500])
def test_ends_and_the_next_claim_share_a_transaction(wired: Wired, count: int) -> None:
    wired.bed.add(3 * count)
    pickup = Lanes(clock=lambda: 0.0)
    runs = wired.bed.claim(count, pickup=pickup)
    check(wired, Expected(6, 4, 8), lambda: wired.bed.exchange(runs, count, pickup))


@pytest.mark.parametrize("count", [100, 500])
@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (HandedBack(why="it waited"), Expected(2, 2, 2)),
        (Failed(error="boom", retry_in=60.0), Expected(3, 3, 3)),
        (Failed(error="boom", permanent=True), Expected(5, 4, 6)),
    ],
    ids=["handed back", "failed for now", "failed"],
)
def test_other_ends_of_any_number(wired: Wired, count: int, outcome: Outcome, expected: Expected) -> None:
    wired.bed.add(count)
    runs = wired.bed.claim(count)
    check(wired, expected, lambda: wired.bed.finish(runs, outcome))


# --- chores ---------------------------------------------------------------------------------------------------------------


def test_looks_in_vain_are_reads_without_a_transaction(wired: Wired) -> None:
    bed, store = wired.bed, wired.bed.store
    check(wired, Expected(1, ONE, 1, transaction=False), lambda: store.claim(bed.worker, bed.pickup("none"), 100))
    check(wired, Expected(1, 1, 2, transaction=False), store.promote)
    check(wired, Expected(1, 1, 1, transaction=False), store.rescue)


@pytest.mark.parametrize("count", [100, 500])
def test_due_jobs_of_any_number(wired: Wired, count: int) -> None:
    wired.bed.fill(State.SCHEDULED, count, run_at="1")
    check(wired, Expected(4, 4, 7), wired.bed.store.promote)


@pytest.mark.parametrize("count", [100, 500])
def test_lost_jobs_of_any_number(wired: Wired, count: int) -> None:
    wired.bed.add(count)
    wired.bed.lose(wired.bed.claim(count))
    check(wired, Expected(5, 5, 5), wired.bed.store.rescue)
