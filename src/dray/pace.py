"""How far a worker fetches ahead, and how long it waits before it looks again. Pure: the clock is an argument."""

from __future__ import annotations

import random
from dataclasses import dataclass

AHEAD = 0.1  # seconds of work that are fetched ahead
FLUSH_AFTER = (0.005, 0.05)  # seconds an outcome waits for others before it is written: at least, at most
FLUSH_AT = 200  # outcomes that wait for no others
AT_ONCE = 500  # jobs in one claim, and outcomes in one write, at most: what one transaction locks has an end
STALE_AFTER = 2.0  # seconds a fetched job waits for a slot before others may have it
FIRST_POLL, LAST_POLL = 0.02, 1.5  # seconds between looks of an idle worker: soon at first, then more seldom
UNWOKEN_POLL = 0.08  # the most where nobody wakes it: an urgent job starts within a tenth of a second all the same
GROWTH = 1.5  # of that pause from one look to the next
LEAP = 4  # times the speed that is believed at most when nothing was left to do


@dataclass(slots=True)
class Pace:
    """Adapts to what the jobs are like.

    Jobs of a millisecond are fetched by the hundred, since a claim costs as much as many of them; jobs of a minute are not
    fetched ahead at all, since another worker could start them at once.
    """

    concurrency: int
    most: int  # jobs fetched ahead at most
    rate: float = 0.0  # jobs finished per second, a moving average
    poll: float = FIRST_POLL
    woken_up: bool = True  # the database tells when there is something; else only a look shows it
    flush_after: float = FLUSH_AFTER[0]
    _counted: int = 0
    _since: float | None = None

    def finished(self, count: int, now: float) -> None:
        """Take note of finished jobs."""
        self._counted += count
        if self._since is None:
            self._since = now
        passed = now - self._since
        if passed >= 0.02:
            latest = self._counted / passed
            # Quick to believe in slowness: what was fetched for a speed that is gone waits for nothing.
            self.rate = latest if latest < self.rate else (self.rate + latest) / 2
            self._counted, self._since = 0, now

    def ran_dry(self, count: int, seconds: float, now: float) -> None:
        """All that was here has ended within so many seconds of the first start, and there is more: so fast it can go, whatever
        time was spent waiting for more. It is believed step by step."""
        seen = count / max(seconds, 1e-6)
        hoped = min(max(LEAP * self.rate, self.concurrency / AHEAD), self.most / AHEAD, seen)
        if hoped > self.rate:
            self.rate = hoped
            self._counted, self._since = 0, now

    def wrote(self, seconds: float) -> None:
        """Take note of what a write cost: half of the time at most goes into writing."""
        self.flush_after = min(max(seconds, FLUSH_AFTER[0]), FLUSH_AFTER[1])

    def flush_in(self, count: int, age: float) -> float:
        """Seconds until so many outcomes, the oldest of this age in seconds, are written; 0 or less: now."""
        return 0.0 if count >= FLUSH_AT else self.flush_after - age

    def at_once(self) -> int:
        """How many outcomes one transaction writes at most: half of what is here, so that the other half can run meanwhile."""
        return min(max(FLUSH_AT, self.target() // 2), AT_ONCE)

    def is_worth_it(self, wanted: int) -> bool:
        """Whether so many are claimed though there is something to do: one claim for each job that ends would be dear."""
        return wanted >= min(self.target() // 4, AT_ONCE)

    def idle(self) -> None:
        """Nothing runs: time that passes now says nothing about speed."""
        self._since = None

    def target(self) -> int:
        """How many jobs should be here, running and fetched ahead."""
        return self.concurrency + min(self.most, int(self.rate * AHEAD))

    def empty(self) -> float:
        """Nothing was ready: seconds until the next look, each time somewhat longer, so that idling costs nothing."""
        wait = self.poll
        self.poll = min(self.poll * GROWTH, LAST_POLL if self.woken_up else UNWOKEN_POLL)
        return wait * random.uniform(0.9, 1.1)  # workers started together shall not ask together

    def woken(self) -> None:
        """There was something: look soon again."""
        self.poll = FIRST_POLL
