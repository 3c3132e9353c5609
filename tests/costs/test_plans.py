"""Every statement goes by the index that is meant for it, among fifty thousand jobs that live and as many that ended.

Which statements there are is heard from the engine, so none is forgotten: a new one fails here until it is said how it finds
its rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dray.job import State
from tests.costs.bed import Bed
from tests.costs.intended import intended
from tests.costs.operations import OPERATIONS, Operation, fill
from tests.costs.plans import explained

ROWS = 50_000


@pytest.fixture(scope="module")
def bed(new_bed: Callable[[], Bed]) -> Bed:
    bed = new_bed()
    fill(bed, ROWS)
    bed.add()  # what is asked once on a connection is asked before
    return bed


@pytest.mark.rows("C49")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name.replace(" ", "-"))
def test_each_statement_goes_by_its_index(bed: Bed, operation: Operation) -> None:
    before = operation.prepare(bed)
    with explained(bed.engine) as found:
        operation.run(bed, before)
    wanted = intended(bed.dialect.name)[operation.name]
    told = "\n".join(f"{way:40} {statement[:400]}" for statement, way in found)
    assert len(found) == len(wanted), f"{len(wanted)} statements are known, there are {len(found)}:\n{told}"
    for (statement, way), good in zip(found, wanted, strict=True):
        assert way in good.split("|"), f"found its rows by {way!r}, not by {good!r}: {statement}\n{told}"


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mysql"])
def test_no_index_of_all_jobs_is_meant_to_be_walked_along(database: str) -> None:
    ways = " ".join(way for ways in intended(database).values() for way in ways)
    for table in ("jobs", "history"):
        assert f"{table}.scan" not in ways
        assert f"{table}.id (all)" not in ways


def test_who_reads_everything_is_seen_to(new_bed: Callable[[], Bed]) -> None:
    bed = new_bed()
    bed.fill(State.READY, 2_000)
    bed.settle()
    with explained(bed.engine) as found:
        bed.run("UPDATE {jobs} SET note = 'x' WHERE task = 'other'")
        bed.run("UPDATE {jobs} SET note = 'x' WHERE owner = 'ann'")
    (_, everything), (_, few) = found
    assert everything in ("jobs.scan", "jobs.id (all)")
    assert few == "jobs.owner"
