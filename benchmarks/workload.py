"""What every system is given to do, so that all are given the same. Needs nothing but Python."""

from __future__ import annotations

NOTE = "a small note"  # the second argument of each job; the first is its number
CHUNK = 1000  # jobs that one call of a bulk interface takes
GAP = 0.025  # seconds between two jobs whose latency is measured, more or less


def chunks(jobs: int) -> list[range]:
    """The numbers of so many jobs, in pieces for the bulk interface."""
    return [range(start, min(start + CHUNK, jobs)) for start in range(0, jobs, CHUNK)]
