"""When a worker ends by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a worker ends by itself. Whatever it runs by then is let end, however long that takes.

    burst       when nothing is ready or running
    max_jobs    after so many jobs were started
    max_time    after so many seconds (S0.43)
    max_cycles  after it has looked for jobs so many times; looks that found nothing count too (S0.40)
    max_memory  when its process has so many bytes in memory; asked between jobs (S0.42)
    """

    burst: bool = False
    max_jobs: int | None = None
    max_time: float | None = None
    max_cycles: int | None = None
    max_memory: int | None = None

    def reached(self, *, seconds: float, jobs: int, cycles: int, memory: Callable[[], int], idle: bool) -> str | None:
        """Which of them was reached after so many seconds, jobs and looks, in words; None: none.

        memory      gives the bytes that the process has in memory; asked only if there is a limit
        """
        if self.max_time is not None and seconds >= self.max_time:
            return "max time reached"
        if self.max_jobs is not None and jobs >= self.max_jobs and idle:
            return "max jobs reached"
        if self.max_cycles is not None and cycles >= self.max_cycles and idle:
            return "max cycles reached"
        if self.max_memory is not None and memory() >= self.max_memory:
            return "max memory reached"
        return None
