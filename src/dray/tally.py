"""What a worker counts of its runs, minute by minute, until it is stored."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from dray.job import Finish, State
from dray.rollup import MINUTE, Numbers
from dray.store.board import Rollup

KEPT = 3  # minutes: late ends of a minute may still come
_NEVER = (-1, "", "")


class Tally:
    """Counts ends; safe in several threads.

    A minute is written whole each time, over what was written of it before: to write it twice changes nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minutes: dict[int, dict[tuple[str, str], Numbers]] = {}
        self._changed: set[int] = set()
        self._at, self._last = _NEVER, Numbers()  # those that were counted last
        self.total = 0  # ends counted so far
        self.by_state: dict[State, int] = {}  # the same by what became of the jobs

    def add(self, some: Iterable[Finish]) -> None:
        """Count ends. Their minute is by the database's clock: from the instant of the claim on, by our own steady one."""
        with self._lock:
            for one in some:
                if one.started:
                    self._add(one)

    def _add(self, one: Finish) -> None:
        claim, change, usage = one.claim, one.change, one.usage
        run = round(one.ran * 1_000_000)
        wait = None if claim.ready_at is None else max(0, claim.claimed_at - claim.ready_at)
        cpu = 0 if usage is None or usage.cpu is None else round(usage.cpu * 1_000_000)
        numbers = self._numbers((claim.claimed_at + run) // (MINUTE * 1_000_000), claim.task, claim.queue)
        numbers.count(change.state, failed=change.error is not None)
        numbers.time(run, wait, cpu, 0 if usage is None else usage.peak_after)
        self.total += 1
        self.by_state[change.state] = self.by_state.get(change.state, 0) + 1

    def _numbers(self, minute: int, task: str, queue: str) -> Numbers:
        at = minute, task, queue
        if at != self._at:  # as seldom happens: most ends are of one task after the other, in one minute
            self._changed.add(minute)
            self._at, self._last = at, self._minutes.setdefault(minute, {}).setdefault((task, queue), Numbers())
        return self._last

    def take(self, worker_id: int) -> list[Rollup]:
        """What is to be written: every minute that has changed."""
        with self._lock:
            changed, self._changed, self._at = sorted(self._changed), set(), _NEVER
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
