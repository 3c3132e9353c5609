"""What a job is: its states, a claim, the outcome of a run, and the change it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag, StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec

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


ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)  # a tuple finds the usual one without a hash


class Reason(StrEnum):
    """Why a job is blocked."""

    PARENTS = "parents"
    GROUP = "group"
    LIMIT = "limit"
    HELD = "held"
    UNKNOWN_TASK = "unknown task"
    CHILDREN = "children"
    COVERED = "covered"


FOLLOWS = 2  # in `group_held`; see stations.Held


class Flag(IntFlag):
    """Facts about a job that are kept in one small column."""

    HELD = 1  # an operator holds it; checked at every entry to ready
    CANCEL = 2  # cancel was asked for while it ran
    FAIL_ON_CRASH = 4  # the task said on_crash="fail"
    SUSPECT = 8  # its worker died and nobody knows whether it had started: the next run says so first
    PARENTS = 16  # it has edges to jobs that it waits for
    HALT = 32  # its group stands still when it fails, until a person has looked
    DEADLINE = 64  # at its expiry it is also cancelled while it runs
    MASTER = 128  # what becomes of the jobs it spawned does not become its own outcome
    SPAWNED = 512  # it has enqueued children while it ran
    CANCELS_WITH_PARENTS = 256  # it is cancelled when a job that it needs fails
    TOLD = 1024  # a notice that it has failed many times was given, and is not given again
    DOOMED = 2048  # it was cancelled because of a job that it needs, and by nobody's own wish


@lru_cache(maxsize=4096)
def name_hash(name: str) -> int:
    """A stable signed 64-bit number for a name: narrow in rows and indexes, the same in every process and database."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def wide_hash(text: str) -> str:
    """The same where two texts must never be taken for one: 128 bits, as hexadecimal digits, which sort alike everywhere."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


class Ready(NamedTuple):
    """A job that has just become ready: all that a broker or a sleeping worker has to be told."""

    id: int
    queue: str
    priority: int


class Added(NamedTuple):
    """What became of one enqueued job. `created`: it is new, and not the one of its unique key that was there already."""

    id: int
    state: State
    created: bool = True


class Lease(NamedTuple):
    """The right to write to a running job: its id and the number of its claim."""

    id: int
    fence: int


class UniqueKey(NamedTuple):
    """What makes a new job the same as another, and what to do then; see options.Unique."""

    hash: str  # see wide_hash
    scope: int
    window: int | None = None  # microseconds that it is held, whatever becomes of its job
    conflict: str = "keep"
    max_wait: float | None = None  # seconds from the first enqueue that a replaced job waits at most


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
    group: str | None = None
    rank: int | None = None  # its place in the group, before its id; None: its priority
    limit: str | None = None
    limit_rule: str | None = None  # see options.Limit.rule
    after: tuple[int, ...] = ()  # ids of jobs that have to end first, ascending
    when: str = "all_succeeded"  # how those have to end
    parent: Lease | None = None  # of the job that spawns it while running
    expires_in: float | None = None  # seconds, counted from the database's clock
    expires_at: int | None = None
    threshold: int | None = None  # of coalescing in its group
    unique: UniqueKey | None = None

    @property
    def waits(self) -> bool:
        """Whether something else than its time may keep it from starting."""
        return self.group is not None or self.limit is not None or bool(self.after)

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing of what most jobs have not."""
        rare = self.parent, self.expires_in, self.expires_at, self.threshold, self.unique
        return not self.waits and all(one is None for one in rare)


class Claim(msgspec.Struct, frozen=True, array_like=True):
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
    group_hash: int | None = None
    group_held: int | None = None
    limit_hash: int | None = None
    parent_id: int | None = None
    expires_at: int | None = None
    threshold: int | None = None
    ready_at: int | None = None  # since when it had been ready

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.fence)

    @property
    def follows(self) -> bool:
        """Whether it is run behind the head of its group, by the same worker."""
        return self.group_held == FOLLOWS

    @property
    def out_of_turn(self) -> bool:
        """Whether it runs by a person's will, though it is not the head of its group."""
        return self.group_held == 0


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
    group: str | None = None
    group_held: int | None = None
    limit: str | None = None
    limit_held: int | None = None
    parent_id: int | None = None
    covered_by: int | None = None
    threshold: int | None = None
    expires_at: datetime | None = None
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
    pid: int | None = None  # of its last run, in its container
    cpu_seconds: float | None = None
    memory_before: int | None = None  # bytes that the worker had in memory; of jobs side by side, all see the same
    memory_after: int | None = None
    peak_before: int | None = None
    peak_after: int | None = None
    metadata: str | None = None  # JSON, as the hooks gave it

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
    fingerprint: int | None = None  # the same for what fails in the same place in the same way
    report: Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed:
    """The task asked to be started again later; this start does not count."""

    delay: float
    why: str | None = None
    leave_line: bool = False


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
    leaves_line: bool = False  # the next of its group may go first
    suspect: bool = False
    signature: int = 0
    result: str | None = None
    report: Report | None = None
    error: str | None = None
    traceback: str | None = None
    fingerprint: int | None = None
    told: bool = False  # so many attempts have failed by now that somebody is to be told
    note: str | None = None


class Usage(NamedTuple):
    """What a run cost: processor seconds (None: not measured), and KiB of memory of its process before and after it."""

    pid: int
    cpu: float | None
    memory_before: int
    memory_after: int
    peak_before: int
    peak_after: int


class Finish(NamedTuple):
    """One fenced end of a run, as the finisher hands it to the store."""

    claim: Claim
    change: Change
    ran: float = 0.0  # seconds from start to end, by the worker's steady clock; 0 and no start when it never started
    ended_ago: float = 0.0  # seconds between the end of the run and this write
    started: bool = True
    usage: Usage | None = None
    metadata: str | None = None
    recorded: bool = False  # that it failed stands among its attempts already, since a hook was to be called after that
