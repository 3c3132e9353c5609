"""P7: what a store does costs the same with a thousand rows and with fifty thousand, of jobs that live and of such that ended.

Where the number of rows makes no difference, a tree that is one level higher makes a little one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from dray.job import State
from tests.costs.bed import Bed
from tests.costs.counters import Cost
from tests.costs.operations import MANY, OPERATIONS, Operation, fill

FEW, MANY_ROWS = 1_000, 50_000
MARGIN = 1.25  # each row that changes enters several trees, any of which may be one level higher
LEVELS = 8  # pages, for what looks at a row or two


class Beds(NamedTuple):
    small: Bed
    full: Bed


@pytest.fixture(scope="module")
def beds(new_bed: Callable[[], Bed]) -> Iterator[Beds]:
    beds = Beds(new_bed(), new_bed())
    fill(beds.small, FEW)
    fill(beds.full, MANY_ROWS)
    _by_index(beds.small)
    return beds


def _by_index(bed: Bed) -> None:
    """PostgreSQL reads a small table from end to end, which is little work; it is measured with what it does to a large one."""
    if bed.dialect.name == "postgresql":
        for way in ("seqscan", "hashjoin", "mergejoin"):
            bed.run(f"ALTER DATABASE {bed.store.database.url.database} SET enable_{way} = off")
        bed.store.database.close()


def measured(bed: Bed, operation: Operation) -> Cost:
    """What it costs at best: now and then a page is full, and another one has to be found."""
    costs = []
    for _ in range(3):
        bed.fill(State.READY, 2 * MANY, queue="mail", priority=7)
        before = operation.prepare(bed)
        with bed.meter.count() as cost:
            operation.run(bed, before)
        costs.append(cost)
    return min(costs, key=lambda cost: cost.work)


@pytest.mark.rows("C49")
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name.replace(" ", "-"))
def test_fifty_times_the_rows_cost_the_same(beds: Beds, operation: Operation) -> None:
    small, full = (measured(bed, operation) for bed in beds)
    assert full.statements == small.statements
    splits = small.work // 25  # pages of an index that are split now and then, where rows are inserted
    assert full.work <= MARGIN * small.work + LEVELS + splits, f"with {FEW} rows: {small}\nwith {MANY_ROWS}: {full}"
