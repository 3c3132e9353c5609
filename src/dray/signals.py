"""What a task raises, or is raised in it, to say what should become of its job."""

from __future__ import annotations


class Signal(BaseException):
    """What a task raises to say what should become of its job; no error, and not eaten by `except Exception`."""


class Snooze(Signal):
    """Start me again in `delay` seconds; this start does not count as an attempt (S2.44).

    A job of a group keeps the others waiting meanwhile, unless it says `leave_line`.
    """

    def __init__(self, delay: float, why: str | None = None, *, leave_line: bool = False) -> None:
        super().__init__(delay, why)
        self.delay, self.why, self.leave_line = delay, why, leave_line


class RetryIn(Signal):
    """This attempt failed; try again in `delay` seconds, whatever the retry policy says (S0.33)."""

    def __init__(self, delay: float, why: str = "the task asked to be tried again") -> None:
        super().__init__(delay, why)
        self.delay, self.why = delay, why


class Skip(Signal):
    """There was nothing to do: the job has succeeded, with this note (S2.47)."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class StopWorker(Signal):
    """End this worker before its next job; what becomes of this one is decided by `__cause__` (S2.45)."""


class CancelRequested(Signal):
    """Somebody asked to cancel this job; raised at the next checkpoint of the run."""


class TimedOut(Signal):
    """This run has taken longer than the `timeout` of its task: raised in it, wherever it is, so that it may clean up.

    No error, and not eaten by `except Exception`: who catches it has until the hard limit to end.
    """
