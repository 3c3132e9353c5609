"""What an operator's word does to a job; no state after it where the job may not be moved so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dray.job import Flag, Reason, State
from tests.model.model import DUE, Job, Model


def move(model: Model, verb: str, ids: Sequence[int], **options: Any) -> list[tuple[int, State | None, State | None]]:
    """Say it of these jobs; gives the state before and after of each, in the order asked, also for one named twice."""
    jobs = {id: model.jobs.get(id) for id in ids}
    before = {id: None if job is None else job.state for id, job in jobs.items()}
    after = {id: None if job is None else VERBS[verb](model, job, **options) for id, job in jobs.items()}
    return [(id, before[id], after[id]) for id in ids]


def cancel(model: Model, job: Job) -> State | None:
    if job.state.ended:
        return None
    if job.state is State.RUNNING:
        job.flags |= Flag.CANCEL
    else:
        job.state, job.reason, job.ready_at = State.CANCELLED, None, None
        job.finished_at, job.note = model.now, "cancelled"
        job.group_held = job.limit_held = None
    return job.state


def hold(model: Model, job: Job, note: str | None) -> State | None:
    if job.state.ended:
        return None
    job.flags |= Flag.HELD
    job.note = note or job.note
    if job.state is State.READY or job.reason in (Reason.GROUP, Reason.LIMIT):
        model.pass_on(job)
    elif job.state is not State.RUNNING:
        job.group_held = job.limit_held = None
    return job.state


def release(model: Model, job: Job) -> State | None:
    if job.state.ended:
        return None
    job.flags &= ~Flag.HELD
    if job.reason is Reason.HELD:
        job.note = None
        model.pass_on(job)
    return job.state


def retry(model: Model, job: Job, force: bool) -> State | None:
    before = job.state
    if job.state is State.READY:
        return job.state
    if job.state.ended and (force or job.state is not State.SUCCEEDED):
        job.attempt = job.crashes = job.snoozes = job.signature = 0
        job.flags &= ~(Flag.CANCEL | Flag.SUSPECT)
        job.worker_id = job.claimed_at = job.started_at = job.finished_at = job.expires_at = None
        job.result = job.report = job.note = None
        halts = model.halts.get(job.group_name or "", set())
        if job.id in halts:  # its group has stood still for it: it is at the head again
            halts.discard(job.id)
            job.group_held = 1
    elif job.state not in DUE:
        return None
    job.run_at = None
    if before.ended and Flag.PARENTS in job.flags:
        model.wait_for_parents(job)
    else:
        model.pass_on(job)
    return job.state


VERBS = {"cancel": cancel, "hold": hold, "release": release, "retry": retry}
