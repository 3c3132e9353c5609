"""Ends of runs were lost when the database failed at the wrong moment. A batch that was refused for what seemed to be in it is
written one by one, and bare where an end is still refused; if that failed as well, the ends that were left had been forgotten:
their jobs stayed with a living worker for ever. With the database on a broken disk that was every one of them, and any that
got through had lost its result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

import pytest

from dray.errors import StoreError, StoreUnavailable
from dray.finisher import REFUSED_AGAIN, Finisher
from dray.job import Change, Claim, Finish, Lease, State
from dray.store.base import Exchange, Finished


class Moody:
    """A store that takes an end, or not, as its mood of the moment says."""

    def __init__(self, moods: Sequence[Exception | None]) -> None:
        self.moods = deque(moods)
        self.written: list[Finish] = []
        self.batches: list[int] = []  # ends in each batch
        self.asked: list[int] = []  # jobs asked for with no end to write

    def _take(self, finishes: Sequence[Finish]) -> Finished:
        mood = self.moods.popleft() if self.moods else None
        if mood is not None:
            raise mood
        self.written += finishes
        return Finished(finishes, set(), [])

    def exchange(
        self, worker_id: int, pickup: Any, finishes: Sequence[Finish], limit: int, *, again: bool, begun: object
    ) -> Exchange:
        self.batches.append(len(finishes))
        return Exchange(self._take(finishes), [])

    def claim(self, worker_id: int, pickup: Any, limit: int) -> list[Claim]:
        self.asked.append(limit)
        return []

    def finish(self, finishes: Sequence[Finish], *, again: bool) -> Finished:
        return self._take(finishes)


def end(id: int) -> Finish:
    claim = Claim(id, 1, 1, 0, 0, None, 0, 100, "default", "task", "{}", None, None, 0, 0)
    return Finish(claim, Change(state=State.SUCCEEDED, result="7"))


REFUSED, AWAY = StoreError("refused"), StoreUnavailable("away")


def noting(settled: list[Lease]) -> Callable[[Sequence[Finish], Collection[Lease]], None]:
    return lambda ends, refused: settled.extend(one.claim.lease for one in ends)


@pytest.mark.rows("C25")
@pytest.mark.parametrize(
    "moods",
    [
        [REFUSED, REFUSED, AWAY],  # the batch; the first alone; the first bare
        [REFUSED, REFUSED, REFUSED],
        [REFUSED, None, AWAY],
        [REFUSED, None, REFUSED, AWAY],
        [REFUSED, *[REFUSED] * 12],
    ],
)
def test_no_end_is_forgotten(moods: Sequence[Exception | None]) -> None:
    store, settled = Moody(moods), list[Lease]()
    hours = count(step=3600)
    finisher = Finisher(store, None, noting(settled), clock=lambda: float(next(hours)))  # type: ignore[arg-type]
    batch = [end(id) for id in (1, 2, 3)]
    given: Sequence[Finish] = batch
    for _ in range(10):
        try:
            finisher.write(given, 1, None, 0)  # type: ignore[arg-type]
        except StoreError:
            assert finisher.owes
        given = []
        if not finisher.owes:
            break
    assert sorted(settled) == sorted(one.claim.lease for one in batch)
    assert sorted(one.claim.id for one in store.written) == [1, 2, 3]


def test_one_that_is_always_refused_keeps_back_nobody() -> None:
    store, settled, now = Moody([REFUSED, REFUSED, REFUSED]), list[Lease](), [100.0]
    finisher = Finisher(store, None, noting(settled), clock=lambda: now[0])  # type: ignore[arg-type]
    batch = [end(id) for id in (1, 2, 3)]
    with pytest.raises(StoreError):
        finisher.write(batch, 1, None, 0)  # type: ignore[arg-type]
    finisher.write([], 1, None, 0)  # type: ignore[arg-type]
    assert sorted(one.id for one in settled) == [2, 3]
    assert not finisher.owes
    now[0] += REFUSED_AGAIN
    assert finisher.owes
    finisher.write([], 1, None, 0)  # type: ignore[arg-type]
    assert sorted(one.id for one in settled) == [1, 2, 3]


def test_who_writes_singly_asks_for_jobs_all_the_same() -> None:
    """Else the worker would believe that there are none, and with --burst end."""
    store = Moody([REFUSED])
    finisher = Finisher(store, None, lambda ends, refused: None)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        finisher.write([end(1)], 1, None, 5)  # type: ignore[arg-type]
    finisher.write([], 1, None, 5)  # type: ignore[arg-type]
    assert store.asked == [5]


def test_others_are_not_written_singly_because_one_is_tried_again() -> None:
    store, now = Moody([REFUSED, REFUSED, REFUSED]), [100.0]
    finisher = Finisher(store, None, lambda ends, refused: None, clock=lambda: now[0])  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        finisher.write([end(1)], 1, None, 0)  # type: ignore[arg-type]
    finisher.write([], 1, None, 0)  # type: ignore[arg-type]
    now[0] += REFUSED_AGAIN
    finisher.write([end(id) for id in (2, 3, 4)], 1, None, 0)  # type: ignore[arg-type]
    assert store.batches == [1, 3]
    assert sorted(one.claim.id for one in store.written) == [1, 2, 3, 4]
