"""The database is away: said once, waited for, said when it is back."""

from __future__ import annotations

import time

from dray import events

PAUSE = (0.1, 1.0)  # seconds between tries: at first, and after a while


class Outage:
    """Whether the database does what it is asked, as one worker sees it."""

    def __init__(self) -> None:
        self._since: float | None = None

    def goes_on(self, worker_id: int, why: Exception) -> float:
        """It did not do what was asked; gives the seconds until the next try."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            events.emit("store.away", worker_id=worker_id, why=why)
        shortest, longest = PAUSE
        return min(longest, max(shortest, (now - self._since) / 4))

    def is_over(self, worker_id: int) -> None:
        """It did."""
        if self._since is not None:
            events.emit("store.back", worker_id=worker_id, after=round(time.monotonic() - self._since, 3))
            self._since = None
