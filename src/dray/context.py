"""What a running job can see of itself: `current_job()`, and the `ctx` that class tasks are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from dray.job import Claim
from dray.signals import CancelRequested

_current: ContextVar[Context | None] = ContextVar("dray_current_job", default=None)


class Context:
    """One run of a job, as the task sees it.

    id, attempt, queue, task, key, owner, priority say what runs; `fence` is a number that rises with every start of this job:
    pass it on to a service that should refuse a worker which was given up on.
    """

    _cancel = False
    _metadata: Mapping[str, Any] = MappingProxyType({})  # until there is any
    time_is_over = False  # it is being ended for that
    spawned = False  # it has children: its success waits for them

    def __init__(
        self,
        claim: Claim,
        write: Callable[[Claim, str, str], None] | None = None,
        forget: Callable[[Claim], None] | None = None,
    ) -> None:
        self._claim = claim
        self._write, self._forget = write, forget

    @property
    def id(self) -> int:
        return self._claim.id

    @property
    def fence(self) -> int:
        return self._claim.fence

    @property
    def attempt(self) -> int:
        """Which start this is, from 1; snoozes, hand-backs and deaths of a worker are not counted."""
        return self._claim.attempt

    @property
    def max_attempts(self) -> int | None:
        return self._claim.max_attempts

    @property
    def queue(self) -> str:
        return self._claim.queue

    @property
    def task(self) -> str:
        return self._claim.task

    @property
    def key(self) -> str | None:
        return self._claim.key

    @property
    def owner(self) -> str | None:
        return self._claim.owner

    @property
    def priority(self) -> int:
        return self._claim.priority

    @property
    def metadata(self) -> dict[str, Any]:
        """What is kept with the job: what hooks and the task itself put there."""
        made: dict[str, Any] = self.__dict__.setdefault("_metadata", {})  # two threads of the task may come here first
        return made

    @property
    def cancel_requested(self) -> bool:
        """True once somebody asked to cancel this job."""
        return self._cancel

    def check(self) -> None:
        """A checkpoint: ends the run here if somebody asked for that. Call it in long loops."""
        if self.cancel_requested:
            raise CancelRequested

    def log(self, message: str, kind: str = "message") -> None:
        """Append a line to the job's log: seen by operators at once, kept with the job (S0.24)."""
        if self._write is not None:
            self._write(self._claim, kind, message)

    def forget_log(self) -> None:
        """Take back what this run has written to its log, whether or not it has been stored."""
        if self._forget is not None:
            self._forget(self._claim)

    def request_cancel(self) -> None:
        """Ask this run to end at its next checkpoint. The worker calls this."""
        self._cancel = True


def said(context: Context) -> Mapping[str, Any]:
    """The metadata of a run, without making any where there is none, as mostly."""
    return context._metadata


def current_job() -> Context | None:
    """The job that is running here, or None outside of one: the same code may be called in a request (S3.17)."""
    return _current.get()


def enter(context: Context) -> Callable[[], None]:
    """Make this the current job of this thread or asyncio task; returns how to leave it."""
    token = _current.set(context)
    return lambda: _current.reset(token)
