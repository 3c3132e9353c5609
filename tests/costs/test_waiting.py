"""Groups, limits, dependencies and expiry cost the same beside a thousand jobs that wait and beside fifty thousand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.costs.bed import Bed
from tests.costs.operations import WAITING, Operation, fill
from tests.costs.plans import explained
from tests.costs.test_scale import FEW, LEVELS, MANY_ROWS, MARGIN, Beds, _by_index, measured

NAMED = {"ids": lambda operation: operation.name.replace(" ", "-")}


@pytest.fixture(scope="module")
def beds(new_bed: Callable[[], Bed]) -> Beds:
    beds = Beds(new_bed(), new_bed())
    fill(beds.small, FEW)
    fill(beds.full, MANY_ROWS)
    _by_index(beds.small)
    return beds


@pytest.mark.rows("C49", "S2.60")
@pytest.mark.parametrize("operation", WAITING, **NAMED)
def test_fifty_times_the_rows_cost_the_same(beds: Beds, operation: Operation) -> None:
    small, full = (measured(bed, operation) for bed in beds)
    assert full.statements == small.statements
    assert full.work <= MARGIN * small.work + LEVELS, f"with {FEW} rows: {small}\nwith {MANY_ROWS}: {full}"


@pytest.mark.rows("C49", "S2.60")
@pytest.mark.parametrize("operation", WAITING, **NAMED)
def test_no_statement_walks_along_all_that_wait(beds: Beds, operation: Operation) -> None:
    before = operation.prepare(beds.full)
    with explained(beds.full.engine) as found:
        operation.run(beds.full, before)
    told = "\n".join(f"{way:40} {statement[:400]}" for statement, way in found)
    for way in " ".join(way for _, way in found).split():
        assert way not in ("jobs.scan", "history.scan"), told
    assert "jobs.waiting (all)" not in told
    assert "jobs.group (all)" not in told
