"""What a worker counts of its runs, minute by minute, until it is stored."""

from __future__ import annotations

import threading

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

    def add(self, one: Finish) -> None:
        """Count an end. Its minute is by the database's clock: from the instant of the claim on, by our own steady one."""
        if not one.started:
            return
        claim, change = one.claim, one.change
        run = round(one.ran * 1_000_000)
        minute = (claim.claimed_at + run) // (MINUTE * 1_000_000)
        wait = None if claim.ready_at is None else max(0, claim.claimed_at - claim.ready_at)
        usage = one.usage
        cpu = 0 if usage is None or usage.cpu is None else round(usage.cpu * 1_000_000)
        with self._lock:
            self.total += 1
            self.by_state[change.state] = self.by_state.get(change.state, 0) + 1
            numbers = self._minutes.setdefault(minute, {}).setdefault((claim.task, claim.queue), Numbers())
            numbers.count(change.state, failed=change.error is not None)
            numbers.time(run, wait, cpu, 0 if usage is None else usage.peak_after)
            self._changed.add(minute)

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
