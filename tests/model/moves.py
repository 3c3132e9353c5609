"""What an operator's word does to a job; no state after it where the job may not be moved so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dray.job import Flag, Reason, State
from dray.store.unique import WINDOW
from tests.model.keys import take_again
from tests.model.model import DUE, Job, Model

Told = tuple[int, State | None, State | None, int | None]


def move(model: Model, verb: str, ids: Sequence[int], **options: Any) -> list[Told]:
    """Say it of these jobs; gives of each the state before and after, and who has its unique key if that keeps it, in the order
    asked, also for one named twice."""
    jobs = {id: model.jobs.get(id) for id in ids}
    before = {id: None if job is None else job.state for id, job in jobs.items()}
    after: dict[int, State | None] = dict.fromkeys(jobs)
    holders: dict[int, int] = {}
    given: dict[str, int] = {}
    known = {id: job for id, job in sorted(jobs.items()) if job is not None}
    if verb == "retry":
        over = {id: job for id, job in known.items() if starts_over(job, options["force"])}
        # All keys before any job, and by their numbers: of two that want the same the first has it.
        for id, job in sorted(over.items(), key=lambda one: (one[1].unique_hash or "", one[0])):
            if (holder := given.get(job.unique_hash or "") or take_again(model, job)) is not None:
                holders[id] = holder
            elif job.unique_hash is not None and job.unique_scope != WINDOW:
                given[job.unique_hash] = id
        known = {id: job for id, job in known.items() if id not in holders}
        heads = first_halting(model, [job for id, job in over.items() if id not in holders])
    for id, job in known.items():
        after[id] = VERBS[verb](model, job, **options, **({"head": id in heads} if verb == "retry" else {}))
    if verb == "retry":
        model.leave_children({id for id in over if id not in holders})
    return [(id, before[id], after[id], holders.get(id)) for id in ids]


def starts_over(job: Job, force: bool) -> bool:
    return job.state.ended and (force or job.state is not State.SUCCEEDED)


def first_halting(model: Model, jobs: Sequence[Job]) -> set[int]:
    """The first of each group that stands still because of some of these, unless somebody is at its head."""
    halting = [job for job in jobs if job.id in model.halts.get(job.group_name or "", ())]
    first = {job.group_name: job.id for job in reversed(halting)}
    return {id for name, id in first.items() if name is not None and not model.head(name)}


def cancel(model: Model, job: Job) -> State | None:
    if job.state.ended:
        return None
    if job.state is State.RUNNING:
        job.flags |= Flag.CANCEL
    else:
        model.end(job, State.CANCELLED, "cancelled")
    return job.state


def hold(model: Model, job: Job, note: str | None) -> State | None:
    if job.state.ended:
        return None
    job.flags |= Flag.HELD
    job.note = note or job.note
    if job.state is State.READY or job.reason in (Reason.GROUP, Reason.LIMIT):
        model.pass_on(job)
    elif job.state is not State.RUNNING and job.reason is not Reason.COVERED:
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


def retry(model: Model, job: Job, force: bool, head: bool) -> State | None:
    before = job.state
    if job.state is State.READY:
        return job.state
    if starts_over(job, force):
        job.attempt = job.crashes = job.snoozes = job.signature = 0
        job.flags &= ~(Flag.CANCEL | Flag.SUSPECT | Flag.DOOMED)
        job.worker_id = job.claimed_at = job.started_at = job.finished_at = job.expires_at = None
        job.result = job.report = job.note = None
        model.halts.get(job.group_name or "", set()).discard(job.id)
        if head:  # its group has stood still for it, and nobody is at its head
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
