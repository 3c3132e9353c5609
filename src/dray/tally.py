"""What a worker counts of its runs, minute by minute, until it is stored."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

from dray.job import Finish, State
from dray.rollup import MINUTE, Numbers
from dray.store.board import Rollup

KEPT = 3  # minutes: late ends of a minute may still come


class Tally:
    """Counts ends; safe in several threads.

    A minute is written whole each time, over what was written of it before: to write it twice changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[int, dict[tuple[str, str], Numbers]] = {}
        self._changed: set[int] = set()
        self.total = 0  # ends counted so far
        self.by_state: dict[State, int] = {}  # the same by what became of the jobs

    def add(self, ends: Iterable[Finish]) -> None:
        """Count ends. Their minute is by the database's clock: from the instant of the claim on, by our own steady one."""
        alike: defaultdict[tuple[str, str, State, bool], list[Finish]] = defaultdict(list)
        for one in ends:
            if one.started:
                claim, change = one.claim, one.change
                alike[claim.task, claim.queue, change.state, change.error is not None].append(one)
        with self._lock:
            for (task, queue, state, failed), some in alike.items():
                for minute, same in _by_minute(some):
                    self._changed.add(minute)
                    numbers = self._minutes.setdefault(minute, {}).setdefault((task, queue), Numbers())
                    numbers.count(state, failed=failed, number=len(same))
                    _measure(numbers, same)
                self.total += len(some)
                self.by_state[state] = self.by_state.get(state, 0) + len(some)

    def take(self, worker_id: int) -> list[Rollup]:
        """What is to be written: every minute that has changed."""
        with self._lock:
            changed, self._changed = sorted(self._changed), set()
            rows = [
                Rollup(minute * MINUTE, worker_id, task, queue, numbers.to_json())
                for minute in changed
                for (task, queue), numbers in self._minutes[minute].items()
            ]
            for old in sorted(self._minutes)[:-KEPT]:
                del self._minutes[old]
        return rows

    def again(self, rows: list[Rollup]) -> None:
        """They could not be written: they are given once more, if they are still known."""
        with self._lock:
            self._changed |= {row.at // MINUTE for row in rows} & self._minutes.keys()


def _by_minute(some: Sequence[Finish]) -> Iterable[tuple[int, Sequence[Finish]]]:
    """Runs by the minute of their end: mostly it is that of all."""
    minutes = [(one.claim.claimed_at + round(one.ran * 1_000_000)) // (MINUTE * 1_000_000) for one in some]
    if min(minutes) == max(minutes):
        return [(minutes[0], some)]
    parted: defaultdict[int, list[Finish]] = defaultdict(list)
    for minute, one in zip(minutes, some, strict=True):
        parted[minute].append(one)
    return parted.items()


def _measure(numbers: Numbers, some: Sequence[Finish]) -> None:
    claims, usages = [one.claim for one in some], [one.usage for one in some if one.usage is not None]
    waits = [max(0, claim.claimed_at - claim.ready_at) for claim in claims if claim.ready_at is not None]
    numbers.time([round(one.ran * 1_000_000) for one in some], waits)
    cpu = sum(usage.cpu for usage in usages if usage.cpu is not None)
    numbers.use(round(cpu * 1_000_000), max((usage.peak_after for usage in usages), default=0))
