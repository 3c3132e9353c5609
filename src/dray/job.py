"""What a job is: its states, the options of an enqueue, a claim, the outcome of a run, and the change it leads to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntFlag, StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from dray.errors import BadOption
from dray.report import Report

PRIORITIES = range(1000)  # smaller is more urgent
DEFAULT_PRIORITY = 100
NAME_LIMIT = 200  # characters of a queue, task, key or label name


class State(StrEnum):
    """Where a job is in its life; the last three are end states and always have `finished_at`."""

    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Reason(StrEnum):
    """Why a job is blocked."""

    PARENTS = "parents"
    GROUP = "group"
    LIMIT = "limit"
    HELD = "held"
    UNKNOWN_TASK = "unknown task"
    CHILDREN = "children"


class Flag(IntFlag):
    """Facts about a job that are kept in one small column."""

    HELD = 1  # an operator holds it; checked at every entry to ready
    CANCEL = 2  # cancel was asked for while it ran
    FAIL_ON_CRASH = 4  # the task said on_crash="fail"
    SUSPECT = 8  # its worker died and nobody knows whether it had started: the next run says so first


@lru_cache(maxsize=4096)
def name_hash(name: str) -> int:
    """A stable signed 64-bit number for a name: narrow in rows and indexes, the same in every process and database."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


class Ready(NamedTuple):
    """A job that has just become ready: all that a broker or a sleeping worker has to be told."""

    id: int
    queue: str
    priority: int


class Added(NamedTuple):
    """What became of one enqueued job."""

    id: int
    state: State


class Lease(NamedTuple):
    """The right to write to a running job: its id and the number of its claim."""

    id: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a job should be queued. None means: as its task says.

    queue       the named lane it waits in
    priority    0-999, smaller is more urgent (S2.29)
    run_in      seconds from now until it may start
    run_at      aware datetime before which it may not start
    key         the caller's own identifier, not unique by itself (S2.24)
    labels      free names and values, for people and for lists
    owner       on whose behalf it runs
    max_attempts  how often it may be started before it fails; the task's retry policy says how long it waits in between
    """

    queue: str | None = None
    priority: int | None = None
    run_in: float | None = None
    run_at: datetime | None = None
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    max_attempts: int | None = None

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_name("queue", self.queue)
        if self.priority is not None:
            check_priority(self.priority)
        if self.run_in is not None and self.run_at is not None:
            raise BadOption("give run_in or run_at, not both")
        if self.run_in is not None and not 0 <= self.run_in < 1e10:
            raise BadOption(f"run_in must be a number of seconds from 0 up, got {self.run_in!r}")
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise BadOption(f"run_at needs a time zone, got {self.run_at!r}; use datetime.now(UTC) or similar")
        for name in ("key", "owner"):
            if (value := getattr(self, name)) is not None:
                check_name(name, value)
        for name, value in self.labels.items():
            check_name("label", name)
            check_name(f"label {name}", value)
        if self.max_attempts is not None and self.max_attempts < 1:
            raise BadOption(f"max_attempts must be at least 1, got {self.max_attempts}")


def check_known(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadOption for an option that does not exist."""
    names = list(known)
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            raise BadOption(f"there is no {what} option {name!r}; {hint}")


def check_name(what: str, value: object) -> None:
    """Raise BadOption unless the value is a short, printable, non-empty string."""
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_LIMIT or not value.isprintable():
        raise BadOption(f"{what} must be a printable text of 1 to {NAME_LIMIT} characters, got {value!r:.300}")


def check_priority(value: object) -> None:
    """Raise BadOption unless the value is a whole number from 0 to 999 (S2.17)."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise BadOption(f"priority must be a whole number from 0 (most urgent) to 999, got {value!r}")


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is about to be inserted, with every choice made. Instants are microseconds since 1970, UTC."""

    task: str
    queue: str
    args: str
    priority: int = DEFAULT_PRIORITY
    delay: float | None = None  # seconds, counted from the database's clock
    run_at: int | None = None
    key: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = {}
    max_attempts: int | None = None
    flags: int = 0


class Claim(msgspec.Struct, frozen=True):
    """A running job as its worker has it: a fenced lease, and what is needed to run it and to judge the run."""

    id: int
    fence: int
    attempt: int
    crashes: int
    snoozes: int
    max_attempts: int | None
    flags: int
    priority: int
    queue: str
    task: str
    args: str
    key: str | None
    owner: str | None
    created_at: int
    claimed_at: int
    worker_id: int | None = None

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.fence)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as people read it, live or ended. Instants are aware datetimes; `None` where it has not happened."""

    id: int
    state: State
    reason: Reason | None
    queue: str
    task: str
    priority: int
    args: str
    fence: int
    attempt: int
    max_attempts: int | None
    crashes: int
    snoozes: int
    flags: Flag
    key: str | None
    owner: str | None
    worker_id: int | None = None
    created_at: datetime
    run_at: datetime | None
    ready_at: datetime | None
    claimed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    result: str | None
    report: Report | None
    error: str | None
    note: str | None

    @property
    def run_seconds(self) -> float | None:
        """How long its last finished run took (S2.79)."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


# --- what a run came to ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The task returned."""

    result: str | None = None
    report: Report | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The task raised, or its arguments cannot be read."""

    error: str
    traceback: str | None = None
    permanent: bool = False
    retry_in: float | None = None  # seconds, when the task itself said so
    report: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed:
    """The task asked to be started again later; this start does not count."""

    delay: float
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """The task found that there was nothing to do."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """This worker does not know the task, or the arguments do not bind to its signature."""

    why: str
    signature: int = 0  # which signature could not take the arguments; 0: the task itself is unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The run saw the request to cancel and ended."""

    why: str = "cancelled while running"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedBack:
    """The job goes back to its queue and the start does not count."""

    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """The worker died while it held the job. `started`: it surely was running."""

    started: bool
    how: str = "its worker died"


Outcome = Done | Failed | Snoozed | Skipped | Parked | Cancelled | HandedBack | Died


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a running job: the state it goes to and what is written with it. Made by `lifecycle.decide`."""

    state: State
    reason: Reason | None = None
    delay: float = 0.0  # seconds; the statement adds them to the database's clock
    counted: bool = True  # False gives the attempt back
    crashed: bool = False
    snoozed: bool = False
    suspect: bool = False
    signature: int = 0
    result: str | None = None
    report: Report | None = None
    error: str | None = None
    traceback: str | None = None
    note: str | None = None


class Finish(NamedTuple):
    """One fenced end of a run, as the finisher hands it to the store."""

    claim: Claim
    change: Change
    ran: float = 0.0  # seconds from start to end, by the worker's steady clock; 0 and no start when it never started
    ended_ago: float = 0.0  # seconds between the end of the run and this write
    started: bool = True


# --- how a task says what should become of it -----------------------------------------------------------------------------


class Signal(BaseException):
    """What a task raises to say what should become of its job; no error, and not eaten by `except Exception`."""


class Snooze(Signal):
    """Start me again in `delay` seconds; this start does not count as an attempt (S2.44)."""

    def __init__(self, delay: float, why: str | None = None) -> None:
        super().__init__(delay, why)
        self.delay, self.why = delay, why


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
