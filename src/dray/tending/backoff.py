"""When to start the next worker after others have died young. It has no clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST, LONGEST = 0.5, 60.0  # seconds
YOUNG = 60.0  # seconds within which a second death counts, and after which a worker has lived well
AT_ONCE = 5.0  # seconds within which even a good end is too early: somebody would have to start workers all the time


class Backoff:
    """Waits longer after each worker that died young: 0.5 s and then twice as long each time, up to a minute (C79)."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._until = self._last = float("-inf")
        self._tries = 0
        self.deaths = 0  # that counted, since one has lived well
        self._how = ""  # the last one of them

    @property
    def is_wary(self) -> bool:
        """Whether the last ones died young: then one at a time is tried."""
        return self.deaths > 0

    def left(self, now: float) -> float:
        """Seconds until the next worker may be started."""
        return max(self._until - now, 0.0)

    def died(self, now: float, *, age: float, was_up: bool, failed: bool) -> bool:
        """Take note of a worker that ended without being asked, `failed`: with an error. Says whether it is a reason to wait.

        The death of one that was up is none, unless another came shortly before: a worker may always be killed.
        """
        again = now - self._last < YOUNG
        if failed:
            self._last = now
        counts = not was_up or again if failed else age < AT_ONCE
        if not counts:
            return False
        self.deaths += 1
        self._how = "ended at once" if not failed else "died within a minute" if was_up else "died at start"
        if now >= self._until:  # several that were started together are one try
            self._until = now + min(FIRST * 2 ** min(self._tries, 10), LONGEST) * (1 - self._chance() / 4)
            self._tries += 1
        return True

    def lived(self, now: float, age: float) -> None:
        """Forget, when a worker that came after the last death has lived well."""
        if self.deaths and age >= YOUNG and now - age > self._last:
            self.deaths = self._tries = 0

    def say(self, now: float, last: str) -> str:
        """One line for people; `last` is how the last one ended."""
        who = "1 worker" if self.deaths == 1 else f"{self.deaths} workers"
        left = self.left(now)
        return f"{who} {self._how}, the last with {last}; next try in {left:.{int(left < 1)}f}s"
