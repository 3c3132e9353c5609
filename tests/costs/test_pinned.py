"""A snapshot that somebody keeps open, and the dead rows behind it that cannot be removed, make no work dearer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import pytest
from sqlalchemy import create_engine

from tests.costs.bed import Bed

BATCH, ROUNDS, COUNTED = 500, 40, 7
PIN = {
    "sqlite": ["BEGIN", "SELECT count(*) FROM dray_jobs"],
    "postgresql": ["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM dray_jobs"],
    "mysql": ["SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT"],
}


@contextmanager
def pinned(bed: Bed) -> Iterator[None]:
    engine = create_engine(bed.store.database.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in PIN[bed.dialect.name]:
            connection.exec_driver_sql(statement).close()
        yield
        connection.exec_driver_sql("ROLLBACK")
    engine.dispose()


@pytest.mark.rows("C49")
@pytest.mark.parametrize("waiting", [0, 1000])
def test_claiming_and_ending_cost_the_same_with_an_old_snapshot(new_bed: Callable[[], Bed], waiting: int) -> None:
    bed = new_bed()
    bed.add(1 + waiting, queue="another")
    bed.add(1 + waiting)
    bed.settle()
    pickup = bed.pickup("default")

    def work() -> int:
        bed.add(BATCH)
        with bed.meter.count() as cost:
            pickup.looked = float("-inf")  # it asks anew which lanes there are
            bed.finish(bed.claim(BATCH, pickup=pickup))
        return cost.work

    with pinned(bed):
        first = median(work() for _ in range(COUNTED))
        for _ in range(ROUNDS):
            bed.add(BATCH)
            bed.finish(bed.claim(BATCH, pickup=pickup))
        last = median(work() for _ in range(COUNTED))
    assert last <= 1.3 * first, f"{first:,.0f} at first, {last:,.0f} after {ROUNDS * BATCH:,} jobs"
