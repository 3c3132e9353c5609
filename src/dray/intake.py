"""Where jobs come from, and when to look for them: the only file that would know of a broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from dray.job import Claim, Lease
from dray.pace import Pace
from dray.store.base import EngineStore, Pickup

RECOUNT_EVERY = 5.0  # seconds between looks for claims that nobody has heard of


class PollIntake:
    """Claims from the store when something hinted at work, and now and then without a hint."""

    def __init__(
        self,
        store: EngineStore,
        pickup: Pickup,
        pace: Pace,
        run_ahead: Callable[[str], int] = lambda task: 1,
        *,
        every: float | None = None,
    ) -> None:
        self._store, self._pace, self._run_ahead = store, pace, run_ahead
        self._every = every  # seconds from the beginning of one look to that of the next, if somebody has said so
        self.looks = 0
        self.leads = False  # somebody was taken to be run behind another
        self.pickup = pickup
        self._hinted = True
        self._sure = False  # the last look was made from scratch, and nothing has been found since
        self._next_look = 0.0
        self._recount_at = 0.0

    def hint(self) -> bool:
        """Something may be ready; True if nobody had said so already. Safe in any thread."""
        news, self._hinted = not self._hinted, True
        return news

    def wait(self, now: float) -> float:
        """Seconds until the next look."""
        if self._every is not None:
            return max(0.0, self._next_look - now)
        return 0.0 if self._hinted else max(0.0, self._next_look - now)

    def look(self) -> None:
        """A look begins: hints that come from now on are news."""
        self._hinted = False
        self.looks += 1
        if self._every is not None:
            self._next_look = time.monotonic() + self._every

    def make_sure(self) -> bool:
        """Whether a look from scratch has found nothing; else the next one is. What is remembered may be a moment old."""
        if not self._sure:
            self.pickup.forget()
            self._sure = self._hinted = True
            return False
        return True

    def doubt(self) -> None:
        """The database did not answer: what was asked may have happened."""
        self._hinted, self._recount_at = True, 0.0

    @property
    def doubts(self) -> bool:
        """Whether it is time to look for claims that nobody has heard of: in doubt, and now and then without."""
        return time.monotonic() >= self._recount_at

    def recount(self, worker_id: int, known: Collection[Lease]) -> list[Claim]:
        """Find what the worker holds beside what it knows."""
        found = self._store.held(worker_id, known)
        # Not only in doubt: the commit may have been under way when its connection broke, and have happened after a look.
        self._recount_at = time.monotonic() + RECOUNT_EVERY
        return found

    def take(self, worker_id: int, limit: int) -> list[Claim]:
        """Claim up to `limit` jobs."""
        return self._store.claim(worker_id, self.pickup, limit)

    def pick(self, worker_id: int, job_id: int) -> list[Claim]:
        """Claim this job, whatever it waits for; nothing if it runs elsewhere or has ended."""
        claim = self._store.pick(worker_id, job_id)
        return [] if claim is None else [claim]

    def behind(self, worker_id: int, head: Claim) -> list[Claim]:
        """Claim those behind a job in its group, as many as its task says may be run ahead of its end; those it covers first
        leave the line."""
        if head.threshold is not None:
            self._store.cover(head)
        most = 1 if head.group_hash is None else self._run_ahead(head.task)
        if most <= 1:
            return []
        self.leads = True
        return self._store.follow(worker_id, head, most - 1, self.pickup.priorities)

    def took(self, count: int, wanted: int) -> bool:
        """Learn from a look; True when it found less than wanted, so that there is no more for now."""
        if count:
            self._sure = False
            self._pace.woken()
        if count >= wanted:
            self._hinted = True  # there may be more
            return False
        if self._every is None:
            self._next_look = time.monotonic() + self._pace.empty()
        return True
