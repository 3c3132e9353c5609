"""Unique keys as they ought to be: who took each last, and whether that one still keeps others away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dray.job import NewJob, Reason, State
from dray.store.unique import EVER, QUEUED, UNFINISHED, WINDOW
from tests.model.model import DUE, Job, Key, Model

BEGUN = (Reason.CHILDREN, Reason.COVERED)


@dataclass
class Clash(Exception):
    """Somebody asked to be told that this job has the key."""

    holder: int


def is_queued(job: Job) -> bool:
    """Whether its next run starts after now."""
    if job.state is State.BLOCKED:
        return job.reason not in BEGUN
    return job.state is State.READY or job.state in DUE


def holds(model: Model, hash: str) -> bool:
    """Whether the job that took this key last still has it."""
    key = model.keys[hash]
    if key.scope == WINDOW:
        return key.until is not None and key.until > model.now
    if key.scope == EVER:
        return True
    job = model.jobs.get(key.job_id)
    return job is not None and not job.state.ended and (key.scope == UNFINISHED or is_queued(job))


def there(model: Model, jobs: Sequence[NewJob]) -> dict[str, tuple[int, State]]:
    """Which of the keys of these new jobs belong to others, and to whom; those are as the new ones say, if that was wanted."""
    first: dict[str, NewJob] = {}
    for job in jobs:
        if job.unique is not None:
            first.setdefault(job.unique.hash, job)
    held = {hash: job for hash, job in first.items() if hash in model.keys and holds(model, hash)}
    clashes = [model.keys[hash].job_id for hash, job in held.items() if job.unique and job.unique.conflict == "raise"]
    if clashes:
        raise Clash(min(clashes))
    found = {}
    for hash, new in held.items():
        holder = model.jobs.get(model.keys[hash].job_id)
        if holder is not None and new.unique is not None and new.unique.conflict == "replace" and is_queued(holder):
            replace(model, holder, new)
        # Of one that was pruned nothing is known but that it was there.
        found[hash] = (model.keys[hash].job_id, State.READY if holder is None else holder.state)
    return found


def replace(model: Model, job: Job, new: NewJob) -> None:
    """A queued job becomes what the new one would have been."""
    if job.group_rank == job.priority:
        job.group_rank = new.priority
    if job.state is State.READY and job.priority != new.priority:
        job.ready_at = model.now
    job.args, job.priority = new.args, new.priority
    run_at = model.now + round(new.delay * 1_000_000) if new.delay is not None else new.run_at
    if job.state is State.SCHEDULED and run_at is not None:
        job.run_at = run_at


def take(model: Model, id: int, new: NewJob) -> None:
    """A new job has this key now."""
    if new.unique is not None:
        until = None if new.unique.window is None else model.now + new.unique.window
        model.keys[new.unique.hash] = Key(id, new.unique.scope, until)


def take_again(model: Model, job: Job) -> int | None:
    """An ended job starts over and takes its key again; gives who has it, if that is another."""
    if job.unique_hash is None or job.unique_scope in (None, WINDOW):
        return None
    key = model.keys.get(job.unique_hash)
    if key is not None and key.job_id != job.id and holds(model, job.unique_hash):
        return key.job_id
    model.keys[job.unique_hash] = Key(job.id, job.unique_scope or QUEUED, None)
    return None


def prune(model: Model) -> None:
    """Forget keys that nobody holds; one that was taken for ever stays."""

    def over(key: Key) -> bool:
        if key.scope == WINDOW:
            return key.until is not None and key.until <= model.now
        job = model.jobs.get(key.job_id)
        return key.scope != EVER and (job is None or job.state.ended)

    model.keys = {hash: key for hash, key in model.keys.items() if not over(key)}


# --- what has to be so whatever the model says ----------------------------------------------------------------------------


def check_law(rows: Sequence[Mapping[str, Any]]) -> None:
    """At most one job has a key at any time, told from the rows of the jobs alone."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["unique_hash"] is not None:
            alike.setdefault(row["unique_hash"], []).append(row)
    for hash, some in alike.items():
        ids = [row["id"] for row in some]
        live = [row["id"] for row in some if not row["state"].ended]
        scope = some[0]["unique_scope"]
        assert scope != EVER or len(some) == 1, f"{ids} were all made under the key {hash}, which is taken for ever"
        assert scope != UNFINISHED or len(live) <= 1, f"{live} all have the key {hash}, and none has ended"
        # Never claimed nor covered: whoever was may be waiting for another try, and others came meanwhile, rightly.
        new = [row["id"] for row in some if row["id"] in live and row["fence"] == 0 and row["covered_by"] is None]
        was_covered = any(row["threshold"] is not None for row in some)
        assert scope != QUEUED or was_covered or len(new) <= 1, f"{new} all have the key {hash}, and none has started"
