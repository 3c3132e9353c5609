"""What a run leads to, by the promises alone: what the model expects where `lifecycle.decide` decides."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from dray.job import (
    Cancelled,
    Died,
    Done,
    Failed,
    Flag,
    HandedBack,
    Lease,
    Outcome,
    Parked,
    Reason,
    Skipped,
    Snoozed,
    State,
)
from dray.lifecycle import Retry

DELAYS = (60.0, 0.0)  # seconds after the first failure, and after any other
POLICY = Retry(attempts=None, wait=lambda attempt: DELAYS[min(attempt, 2) - 1])
LAST_DEATH = 3  # deaths of its worker after which a job fails


class Run(NamedTuple):
    """The end of a run, as its worker tells it."""

    lease: Lease
    outcome: Outcome
    ran: float = 0.0
    ended_ago: float = 0.0
    started: bool = True


class Verdict(NamedTuple):
    """Where the job goes and what is written with it."""

    state: State
    reason: Reason | None = None
    delay: float = 0.0
    counted: bool = True
    crashed: bool = False
    leaves: bool = False
    suspect: bool = False
    signature: int = 0
    result: str | None = None
    report: str | None = None
    error: str | None = None
    note: str | None = None


class Judged(Protocol):
    attempt: int
    max_attempts: int | None
    crashes: int
    flags: Flag


def verdict(job: Judged, outcome: Outcome) -> Verdict:
    """Before anybody has asked whether an operator said something meanwhile."""
    match outcome:
        case Done(result=result, report=report, note=note):
            errors = [part.message for part in report or () if part.kind == "error"]
            state = State.FAILED if errors else State.SUCCEEDED
            return Verdict(state, result=result, report=_json(report), note=note, error=errors[0] if errors else None)
        case Failed():
            return _failed(job, outcome)
        case Snoozed(delay=delay, why=why, leave_line=leaves):
            return Verdict(State.SCHEDULED, delay=delay, counted=False, leaves=leaves, note=why)
        case Skipped(why=why):
            return Verdict(State.SUCCEEDED, note=f"skipped: {why}")
        case Parked(why=why, signature=signature):
            return Verdict(State.BLOCKED, Reason.UNKNOWN_TASK, counted=False, signature=signature, note=why)
        case Cancelled(why=why):
            return Verdict(State.CANCELLED, note=why)
        case HandedBack(why=why):
            return Verdict(State.READY, counted=False, note=why)
        case Died(started=started, how=how):
            return _died(job, started, how)


def _failed(job: Judged, outcome: Failed) -> Verdict:
    said = {"error": outcome.error, "report": _json(outcome.report)}
    if outcome.permanent or (job.max_attempts is not None and job.attempt >= job.max_attempts):
        return Verdict(State.FAILED, **said)
    delay = outcome.retry_in if outcome.retry_in is not None else DELAYS[0 if job.attempt == 1 else 1]
    return Verdict(State.RETRYING if delay else State.READY, delay=delay, **said)


def _died(job: Judged, started: bool, how: str) -> Verdict:
    fails = Flag.FAIL_ON_CRASH in job.flags
    if not started:
        return Verdict(State.READY, counted=False, suspect=not fails, note=how)
    if fails:
        return Verdict(State.FAILED, crashed=True, error=f'{how} while this job ran, and its task says on_crash="fail"')
    if job.crashes + 1 == LAST_DEATH:
        return Verdict(State.FAILED, crashed=True, error=f"worker died {LAST_DEATH} times ({how})")
    return Verdict(State.READY, counted=False, crashed=True, note=how)


def _json(report: Any) -> str | None:
    return None if report is None else report.to_json()
