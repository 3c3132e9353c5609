"""How many bytes of PostgreSQL's write-ahead log a job costs: what has to reach the disk, and every replica.

The server takes no checkpoint meanwhile and logs no whole pages, so the numbers are the same in each run but for a byte or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dray.job import HandedBack
from tests.costs.bed import Bed
from tests.costs.counters import wal
from tests.costs.operations import fill
from tests.servers import Server

BATCH = 500
ROUNDS = 4  # of which the least counts: in one or another an index gets a new page


@pytest.fixture(scope="module")
def bed(quiet_postgres: Server) -> Iterator[Bed]:
    bed = Bed(quiet_postgres.create_database("dray_log"))
    fill(bed, 20_000)
    yield bed
    bed.close()
    quiet_postgres.drop_database("dray_log")


def logged(bed: Bed, work: Callable[[Any], Any], before: Callable[[], Any] = lambda: None) -> float:
    """Bytes for each job of a batch."""
    found = []
    for _ in range(ROUNDS):
        ready = before()
        bed.store.bell.flush(10)
        with wal(bed.engine) as log:
            work(ready)
        found.append(log.bytes / BATCH)
    return min(found)


def limit(measured: int) -> float:
    """A little more, for other versions of the server; one more index on jobs would be an eighth."""
    return 1.08 * measured


def test_single_enqueues(bed: Bed) -> None:
    assert logged(bed, lambda _: [bed.add() for _ in range(BATCH)]) <= limit(432)


def test_enqueues_in_bulk(bed: Bed) -> None:
    assert logged(bed, lambda _: bed.add(BATCH)) <= limit(389)


def test_claims(bed: Bed) -> None:
    assert logged(bed, lambda _: bed.claim(BATCH)) <= limit(463)


def test_ends(bed: Bed) -> None:
    assert logged(bed, bed.finish, lambda: bed.claim(BATCH)) <= limit(685)


def test_hand_backs(bed: Bed) -> None:
    assert logged(bed, lambda runs: bed.finish(runs, HandedBack()), lambda: bed.claim(BATCH)) <= limit(486)


def test_looks_in_vain_log_nothing(bed: Bed) -> None:
    def look(_: Any) -> None:
        bed.store.claim(bed.worker, bed.pickup("none"), BATCH)
        bed.store.promote()
        bed.store.rescue()

    assert logged(bed, look) == 0
