"""Which moves a job can make, how long it waits before it is tried again, and what becomes of it after a run. All pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, assert_never

from msgspec.structs import replace

from dray.errors import BadOption
from dray.job import (
    Cancelled,
    Change,
    Died,
    Done,
    Failed,
    Flag,
    HandedBack,
    Outcome,
    Parked,
    Reason,
    Skipped,
    Snoozed,
    State,
)
from dray.report import Kind

MAX_CRASHES = 3  # deaths of its worker, while it was surely running, after which a job fails
ALONE_FROM = 2  # crashes from which on a job is run with nothing beside it
LONGEST_DELAY = 10 * 365 * 86400.0  # seconds; a policy that returns more has a mistake in it


class Move(NamedTuple):
    """A legal change of state, and the word for it."""

    before: State | None
    after: State
    by: str


MOVES = (
    Move(None, State.READY, "enqueue"),
    Move(None, State.SCHEDULED, "enqueue for later"),
    Move(State.SCHEDULED, State.READY, "due"),
    Move(State.SCHEDULED, State.BLOCKED, "due while held"),
    Move(State.RETRYING, State.READY, "due"),
    Move(State.RETRYING, State.BLOCKED, "due while held"),
    Move(State.READY, State.RUNNING, "claim"),
    Move(State.READY, State.BLOCKED, "hold"),
    Move(State.BLOCKED, State.READY, "nothing keeps it any more"),
    Move(State.RUNNING, State.SUCCEEDED, "returned"),
    Move(State.RUNNING, State.FAILED, "raised, no attempts left"),
    Move(State.RUNNING, State.CANCELLED, "saw the request to cancel"),
    Move(State.RUNNING, State.RETRYING, "raised, attempts left"),
    Move(State.RUNNING, State.SCHEDULED, "snoozed"),
    Move(State.RUNNING, State.READY, "handed back, rescued, or retried at once"),
    Move(State.RUNNING, State.BLOCKED, "parked, or handed back while held"),
    Move(None, State.BLOCKED, "enqueue behind others"),
    Move(State.BLOCKED, State.SCHEDULED, "parents have ended, its time has not come"),
    Move(State.BLOCKED, State.SUCCEEDED, "its children have ended, or another did its work"),
    Move(State.BLOCKED, State.FAILED, "a child failed"),
    Move(State.FAILED, State.BLOCKED, "retry behind others"),
    Move(State.CANCELLED, State.BLOCKED, "retry behind others"),
    Move(State.SUCCEEDED, State.BLOCKED, "retry behind others, when forced"),
    Move(State.BLOCKED, State.CANCELLED, "cancel, or a parent that can never succeed"),
    Move(State.SCHEDULED, State.CANCELLED, "cancel"),
    Move(State.READY, State.CANCELLED, "cancel"),
    Move(State.RETRYING, State.CANCELLED, "cancel"),
    Move(State.RETRYING, State.READY, "retry now"),
    Move(State.SCHEDULED, State.READY, "retry now"),
    Move(State.FAILED, State.READY, "retry"),
    Move(State.CANCELLED, State.READY, "retry"),
    Move(State.SUCCEEDED, State.READY, "retry, when forced"),
)


def can(before: State, after: State) -> bool:
    """Whether a job may go from one state to the other."""
    return any(move.before is before and move.after is after for move in MOVES)


# --- retry policies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Exponential:
    first: float
    cap: float

    def __call__(self, attempt: int) -> float:
        # The exponent is bounded because a float cannot hold 2**1100, and a forged attempt can ask for it.
        return float(min(self.cap, self.first * 2.0 ** min(max(attempt - 1, 0), 64)))


@dataclass(frozen=True, slots=True)
class _Linear:
    immediate: int
    step: float

    def __call__(self, attempt: int) -> float:
        return self.step * max(0, attempt - self.immediate + 1)


@dataclass(frozen=True, slots=True)
class _Listed:
    delays: tuple[float, ...]

    def __call__(self, attempt: int) -> float:
        return self.delays[min(max(attempt, 1), len(self.delays)) - 1]


def _never(attempt: int) -> float:
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a failing job is started, and how long it waits in between.

    attempts    executions in all, the first included; None: without end
    wait        seconds to wait after the n-th execution has failed
    jitter      how much of the wait may be taken off at random, 0 to 1, so that a thousand failures do not return at once

    >>> [Retry.exponential(first=60, cap=960).wait(n) / 60 for n in range(1, 8)]      # S2.49, in minutes
    [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    """

    attempts: int | None
    wait: Callable[[int], float]
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise BadOption(f"a retry policy needs at least 1 attempt, got {self.attempts}")
        if not 0 <= self.jitter <= 1:
            raise BadOption(f"jitter is a share from 0 to 1, got {self.jitter}")

    @classmethod
    def none(cls) -> Retry:
        """Never again: the first failure is final."""
        return cls(attempts=1, wait=_never)

    @classmethod
    def once(cls, after: float = 60.0) -> Retry:
        """One more try after so many seconds (S0.33)."""
        return cls(attempts=2, wait=_Listed((after,)))

    @classmethod
    def exponential(cls, first: float = 60.0, cap: float = 960.0, attempts: int | None = None, jitter: float = 0.0) -> Retry:
        """Twice as long after each failure, `first` to `cap` seconds (S2.49)."""
        return cls(attempts=attempts, wait=_Exponential(first, cap), jitter=jitter)

    @classmethod
    def linear(cls, immediate: int = 2, step: float = 7200.0, attempts: int | None = 9) -> Retry:
        """The first `immediate` executions at once, then each `step` seconds later than the one before (S4.24)."""
        return cls(attempts=attempts, wait=_Linear(immediate, step))

    @classmethod
    def after(cls, *delays: float) -> Retry:
        """One retry for each delay, in seconds."""
        return cls(attempts=len(delays) + 1, wait=_Listed(delays)) if delays else cls.none()

    @classmethod
    def of(cls, value: RetryLike) -> Retry:
        """Make a policy of a policy, a number of attempts, a list of delays in seconds, or a function of the attempt."""
        if isinstance(value, Retry):
            return value
        if isinstance(value, bool):
            raise BadOption(f"retry must be a policy, a number of attempts, delays or a function, got {value!r}")
        if isinstance(value, int):
            return cls(attempts=value, wait=DEFAULT_RETRY.wait, jitter=DEFAULT_RETRY.jitter)
        if callable(value):
            return cls(attempts=None, wait=value)
        return cls.after(*value)

    def delay(self, attempt: int, chance: Callable[[], float] = random.random) -> float:
        """Seconds to wait after this attempt has failed, jitter taken off; never negative, never absurd."""
        wait = float(self.wait(attempt))
        if not 0 <= wait <= LONGEST_DELAY:  # also false for nan
            return LONGEST_DELAY if wait > LONGEST_DELAY else 0.0
        return wait * (1 - self.jitter * chance())


RetryLike = Retry | int | Sequence[float] | Callable[[int], float]
DEFAULT_RETRY = Retry.exponential(first=5, cap=960, attempts=20, jitter=0.2)


# --- what becomes of a job after a run ------------------------------------------------------------------------------------


class Judged(Protocol):
    """What `decide` has to know of a job."""

    @property
    def attempt(self) -> int: ...
    @property
    def crashes(self) -> int: ...
    @property
    def max_attempts(self) -> int | None: ...
    @property
    def flags(self) -> int: ...
    @property
    def follows(self) -> bool: ...
    @property
    def out_of_turn(self) -> bool: ...


def decide(job: Judged, outcome: Outcome, retry: Retry = DEFAULT_RETRY, chance: Callable[[], float] = random.random) -> Change:
    """Decide what becomes of a job that has just been run. No clock and no database: delays, not instants."""
    change = _decide(job, outcome, retry, chance)
    # Behind the head of its group, of which nobody knows any more how far it has come, or out of its turn: back into line.
    if change.state is State.READY and (job.out_of_turn or (job.follows and not change.counted)):
        return replace(change, state=State.BLOCKED, reason=Reason.GROUP)
    return change


def _decide(job: Judged, outcome: Outcome, retry: Retry, chance: Callable[[], float]) -> Change:
    match outcome:
        case Done():
            return _returned(outcome)
        case Skipped():
            return Change(state=State.SUCCEEDED, note=f"skipped: {outcome.why}")
        case Failed():
            return _failed(job, outcome, retry, chance)
        case Snoozed():
            leaves = outcome.leave_line
            return Change(
                state=State.SCHEDULED, delay=outcome.delay, counted=False, snoozed=True, leaves_line=leaves, note=outcome.why
            )
        case Parked():
            return Change(
                state=State.BLOCKED,
                reason=Reason.UNKNOWN_TASK,
                counted=False,
                signature=outcome.signature,
                note=outcome.why,
            )
        case Cancelled():
            return Change(state=State.CANCELLED, note=outcome.why)
        case HandedBack():
            return Change(state=State.READY, counted=False, note=outcome.why)
        case Died():
            return _died(job, outcome)
        case _:
            assert_never(outcome)


SUCCEEDED = Change(state=State.SUCCEEDED)


def _returned(outcome: Done) -> Change:
    report = outcome.report
    if report is None and outcome.result is None and outcome.note is None:
        return SUCCEEDED  # as most do, with nothing to say
    if report is not None and report.contains(Kind.ERROR):
        # The task itself looked at what it did and says that it went wrong: trying again is its own decision (S3.40).
        first = report.of(Kind.ERROR)[0].message
        return Change(state=State.FAILED, report=report, result=outcome.result, error=first, note=outcome.note)
    return Change(state=State.SUCCEEDED, report=report, result=outcome.result, note=outcome.note)


def _failed(job: Judged, outcome: Failed, retry: Retry, chance: Callable[[], float]) -> Change:
    error, traceback, report, fingerprint = outcome.error, outcome.traceback, outcome.report, outcome.fingerprint
    limit = job.max_attempts
    if outcome.permanent or (limit is not None and job.attempt >= limit):
        return Change(state=State.FAILED, error=error, traceback=traceback, report=report, fingerprint=fingerprint)
    delay = outcome.retry_in
    try:
        delay = retry.delay(job.attempt, chance) if delay is None else delay
    except Exception as mistake:  # a user's function: its mistake must not take the finisher down
        delay = DEFAULT_RETRY.delay(job.attempt, chance)
        traceback = f"{traceback or ''}\nthe retry policy raised {mistake!r}; the default was used"
    state = State.RETRYING if delay > 0 else State.READY
    return Change(state=state, delay=delay, error=error, traceback=traceback, report=report, fingerprint=fingerprint)


def _died(job: Judged, outcome: Died) -> Change:
    fail_on_crash = bool(job.flags & Flag.FAIL_ON_CRASH)
    if not outcome.started:
        # Perhaps it had started, perhaps not. Innocent until seen twice: its next run leaves a mark before user code. A task
        # with on_crash="fail" always leaves that mark, so without one it surely had not started.
        return Change(state=State.READY, counted=False, suspect=not fail_on_crash, note=outcome.how)
    if fail_on_crash:
        error = f'{outcome.how} while this job ran, and its task says on_crash="fail"'
        return Change(state=State.FAILED, crashed=True, error=error)
    if job.crashes + 1 >= MAX_CRASHES:
        return Change(state=State.FAILED, crashed=True, error=f"worker died {job.crashes + 1} times ({outcome.how})")
    return Change(state=State.READY, counted=False, crashed=True, note=outcome.how)


def await_children(change: Change, flags: int) -> Change:
    """What a success becomes of a job that has spawned others: it ends with the last of them, unless it is their master."""
    if change.state is not State.SUCCEEDED or not flags & Flag.SPAWNED or flags & Flag.MASTER:
        return change
    return replace(change, state=State.BLOCKED, reason=Reason.CHILDREN)


def heed(change: Change, flags: int) -> Change:
    """Change what was decided where an operator has spoken meanwhile: no new start after a cancel, no ready while held."""
    if change.state.ended:
        return change
    if flags & Flag.CANCEL:
        return replace(change, state=State.CANCELLED, reason=None, delay=0.0, note="cancelled while running")
    if not flags & Flag.HELD:
        return change
    if change.state is State.READY or change.reason is Reason.GROUP:
        return replace(change, state=State.BLOCKED, reason=Reason.HELD, leaves_line=True)
    return replace(change, leaves_line=True)  # whatever it waits for, nobody has to wait for it
