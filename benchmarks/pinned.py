"""A snapshot that somebody keeps open while jobs come and go: the dead rows behind it cannot be removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from sqlalchemy import create_engine

from benchmarks.operations import BATCH, Hand, Reading, ended

ROUNDS = 15  # that are counted at each end
PIN = {
    "sqlite": ("BEGIN", "SELECT count(*) FROM {jobs}"),
    "postgresql": ("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM {jobs}"),
    "mysql": ("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT"),
}


@contextmanager
def pinned(hand: Hand) -> Iterator[None]:
    """Keep a snapshot open, as a backup or a forgotten session does."""
    tables = hand.store.tables
    engine = create_engine(hand.store.database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in PIN[tables.dialect.name]:
            connection.exec_driver_sql(statement.format_map(tables.names())).close()
        yield
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()


class _Flow:
    """Enqueue, claim and finish a hundred, again and again, as one worker that remembers its floors."""

    def __init__(self, hand: Hand) -> None:
        self._hand, self._pickup = hand, hand.store.pickup([])
        self.done = 0

    def round(self, measured: Callable[[Callable[[], object]], None]) -> None:
        hand = self._hand
        hand.enqueue()

        def work() -> None:
            claims = hand.store.claim(hand.worker, self._pickup, BATCH)
            hand.store.finish(ended(claims))
            self.done += len(claims)

        measured(work)

    def until(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            self.round(lambda work: work())

    def read(self) -> Reading:
        """Counted and timed in different rounds: counting takes time."""
        works: list[float] = []
        times: list[float] = []

        def count(work: Callable[[], object]) -> None:
            with self._hand.meter.count() as cost:
                work()
            works.append(cost.work)

        def clock(work: Callable[[], object]) -> None:
            began = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - began))

        for _ in range(ROUNDS):
            self.round(count)
            self.round(clock)
        return Reading(median(works), median(times))


def read(hand: Hand, seconds: float) -> tuple[Reading, Reading, int]:
    """What claiming and finishing a hundred costs at first and so many seconds later; and how many jobs that were."""
    flow = _Flow(hand)
    flow.read()
    with pinned(hand):
        deadline = time.monotonic() + seconds
        first = flow.read()
        flow.until(deadline)
        return first, flow.read(), flow.done
