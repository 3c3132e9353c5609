"""When a worker ends by itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a worker ends by itself.

    burst       when nothing is ready or running
    max_jobs    after so many jobs were started
    max_time    after so many seconds
    """

    burst: bool = False
    max_jobs: int | None = None
    max_time: float | None = None

    def reached(self, *, seconds: float, jobs: int, idle: bool) -> str | None:
        """Which of them was reached after so many seconds and jobs, in words; None: none."""
        if self.max_time is not None and seconds >= self.max_time:
            return "max time reached"
        if self.max_jobs is not None and jobs >= self.max_jobs and idle:
            return "max jobs reached"
        return None
