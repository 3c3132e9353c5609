"""Why a job is not running: every station that it has not passed, in words, with what somebody can do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dray.durations import show_duration
from dray.errors import UnknownJob
from dray.job import Flag, JobRow, Reason, State
from dray.selection import DEEP
from dray.store.controls import Controls
from dray.store.desk import Desk
from dray.store.edges import ALL_DONE, SPAWNED
from dray.store.waits import COUNTED, SHOWN, Need
from dray.store.workers import WorkerRow
from dray.takers import Call, takers, untaken

DEEPEST = 10  # how far a chain of jobs that wait for each other is followed


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing that keeps a job from running.

    kind     a word for programs
    job_id   the job that is kept
    text     the same for people
    advice   what to do about it, if anything is to be done
    jobs     other jobs that are named
    depth    0 for the job that was asked about; deeper for those that it waits for
    """

    kind: str
    job_id: int
    text: str
    advice: str | None = None
    jobs: tuple[int, ...] = ()
    depth: int = 0


@dataclass(slots=True)
class Asker:
    """What is known of everything around: read once for a whole chain."""

    desk: Desk
    workers: Sequence[WorkerRow]
    controls: Controls
    now: datetime

    def causes(self, job_id: int) -> list[Cause]:
        """Everything that keeps this job, and then those that keep the jobs it waits for; raises UnknownJob."""
        row = self.desk.job(job_id)
        if row is None:
            raise UnknownJob(job_id)
        return list(self._follow(row, 0, {job_id}))

    def _follow(self, row: JobRow, depth: int, seen: set[int]) -> Iterator[Cause]:
        named: list[int] = []
        for cause in self._of(row):
            named += cause.jobs
            yield replace(cause, depth=depth)
        for id in named[:SHOWN]:
            if id in seen or depth >= DEEPEST:
                continue
            seen.add(id)
            other = self.desk.job(id)
            if other is not None and other.state is not State.SUCCEEDED:
                yield from self._follow(other, depth + 1, seen)

    # --- one job --------------------------------------------------------------------------------------------------------

    def _of(self, row: JobRow) -> Iterator[Cause]:
        match row.state:
            case State.BLOCKED:
                yield from self._blocked(row)
            case State.READY:
                yield from self._ready(row)
            case State.SCHEDULED | State.RETRYING:
                yield self._timed(row)
            case State.RUNNING:
                yield self._running(row)
            case _:
                yield self._ended(row)
        if row.state in (State.SCHEDULED, State.RETRYING, State.BLOCKED) and row.reason is not Reason.HELD:
            yield from self._later(row)

    def _later(self, row: JobRow) -> Iterator[Cause]:
        """What will keep it once it is past where it waits now."""
        if row.flags & Flag.HELD:
            yield _cause(
                row, "held", "an operator holds it, which counts as soon as nothing else keeps it", f"dray release {row.id}"
            )
        if row.expires_at is not None and not row.state.ended:
            yield _cause(row, "expires", f"it is cancelled if it has not started in {self._until(row.expires_at)}")

    def _ended(self, row: JobRow) -> Cause:
        said = f": {row.error or row.note}" if row.error or row.note else ""
        advice = None if row.state is State.SUCCEEDED else f"dray retry {row.id}"
        return _cause(row, "ended", f"it {_HAS[row.state]} {self._ago(row.finished_at)}{said}", advice)

    def _running(self, row: JobRow) -> Cause:
        worker = next((one for one in self.workers if one.id == row.worker_id), None)
        where = f"worker {row.worker_id}" if worker is None else f"worker {worker.id} (pid {worker.pid} on {worker.host})"
        if worker is None:
            return _cause(row, "rescue", f"it ran on {where}, which is gone; the next pass of rescue takes it back")
        silent = f", last sign of life {show_duration(round(worker.silent_for))} ago" if worker.silent_for >= 1 else ""
        asked = ", asked to end" if row.flags & Flag.CANCEL else ""
        return _cause(row, "running", f"it runs since {self._for(row.started_at or row.claimed_at)} on {where}{silent}{asked}")

    def _timed(self, row: JobRow) -> Cause:
        if row.run_at is not None and row.run_at <= self.now:
            late = f"it was due {self._ago(row.run_at)}: a worker with upkeep makes it ready"
            return _cause(row, "due", late, None if self.workers else "dray worker")
        when = "soon" if row.run_at is None else f"in {self._until(row.run_at)}"
        if row.state is State.RETRYING:
            of = "" if row.max_attempts is None else f" of {row.max_attempts}"
            return _cause(
                row, "retrying", f"attempt {row.attempt}{of} failed: {row.error}; the next is {when}", f"dray retry {row.id}"
            )
        return _cause(row, "scheduled", f"it is scheduled: it may start {when}", f"dray retry {row.id}")

    # --- blocked --------------------------------------------------------------------------------------------------------

    def _blocked(self, row: JobRow) -> Iterator[Cause]:
        match row.reason:
            case Reason.PARENTS | Reason.CHILDREN:
                yield from self._needs(row)
            case Reason.GROUP:
                yield self._group(row)
            case Reason.LIMIT:
                yield self._limit(row)
            case Reason.HELD:
                why = f": {row.note}" if row.note else ""
                yield _cause(row, "held", f"an operator holds it{why}", f"dray release {row.id}")
            case Reason.COVERED:
                jobs = () if row.covered_by is None else (row.covered_by,)
                yield _cause(row, "covered", f"job {row.covered_by} of its group does its work too", None, jobs)
            case _:
                said = f" ({row.note})" if row.note else ""
                advice = f"start a worker whose app has the task {row.task!r}"
                yield _cause(
                    row, "unknown task", f"it is parked, because no worker knows its task as it is called{said}", advice
                )

    def _needs(self, row: JobRow) -> Iterator[Cause]:
        found = self.desk.needs(row.id)
        if not found:
            yield _cause(row, "settling", "nothing keeps it any more: the next sweep sends it on")
        for need in found[:SHOWN]:
            yield _needed(row, need)
        if len(found) > SHOWN:
            yield _cause(row, row.reason or "parents", "and there are more that it waits for")

    def _group(self, row: JobRow) -> Cause:
        group = row.group or ""
        line = self.desk.line(group)
        if line.halted_by:
            failed = ", ".join(map(str, line.halted_by))
            text = f"group {group!r} stands still, since job {failed} of it failed"
            return _cause(
                row, "halted", text, f"dray retry {line.halted_by[0]}, or dray unblock --group {group}", line.halted_by
            )
        if line.head is not None:
            since = f" since {self._for(line.head_since)}" if line.head_since else ""
            return _cause(
                row, "group", f"group {group!r} is busy: job {line.head} is {line.head_state}{since}", None, (line.head,)
            )
        if line.first not in (None, row.id):
            assert line.first is not None
            return _cause(row, "group", f"job {line.first} of group {group!r} comes first", None, (line.first,))
        return _cause(row, "settling", f"group {group!r} is free and it is the first: the next sweep sends it on")

    def _limit(self, row: JobRow) -> Cause:
        limit = row.limit or ""
        shares = self.desk.shares(limit)
        if shares.opens_at is not None and shares.opens_at > self.now:
            text = f"limit {limit!r} ({shares.rule}) allows the next start in {self._until(shares.opens_at)}"
            return _cause(row, "rate", text)
        if shares.held:
            more = f" and {shares.held - len(shares.holders)} more" if shares.held > len(shares.holders) else ""
            text = f"limit {limit!r} ({shares.rule}) is full: jobs {', '.join(map(str, shares.holders))}{more}"
            return _cause(row, "limit", text, None, shares.holders)
        return _cause(row, "settling", f"limit {limit!r} is free: the next sweep sends it on")

    # --- ready ----------------------------------------------------------------------------------------------------------

    def _ready(self, row: JobRow) -> Iterator[Cause]:
        call = Call(row.queue, row.priority, row.task)
        found = untaken(call, self.workers, self.controls.paused.values(), self.now)
        if found is not None:
            yield _cause(row, found.kind, found.text, found.advice)
            return
        willing = takers(call, self.workers)
        ahead = self.desk.before(row)
        if ahead >= DEEP and all(one.tasks for one in willing):
            text = (
                f"{DEEP} jobs or more of its queue and priority have waited longer, and workers that take only some tasks look"
                " no further"
            )
            advice = f"dray worker {row.queue}, or a queue of its own for the task {row.task!r}"
            yield _cause(row, "hidden", text, advice)
            return
        slots = sum(one.concurrency for one in willing)
        number = f"more than {COUNTED}" if ahead > COUNTED else str(ahead)
        queued = (
            f"; {number} of its queue and priority have waited longer"
            if ahead
            else "; it is the next of its queue and priority"
        )
        yield _cause(
            row, "ready", f"it is ready since {self._for(row.ready_at)}, for {len(willing)} workers with {slots} slots{queued}"
        )

    # --- times ----------------------------------------------------------------------------------------------------------

    def _for(self, since: datetime | None) -> str:
        return "a moment" if since is None else show_duration(max(0, round((self.now - since).total_seconds())))

    def _ago(self, then: datetime | None) -> str:
        return "at some time" if then is None else f"{self._for(then)} ago"

    def _until(self, then: datetime) -> str:
        return show_duration(max(0, round((then - self.now).total_seconds())))


_HAS = {State.SUCCEEDED: "has succeeded", State.FAILED: "failed", State.CANCELLED: "was cancelled"}


def _cause(row: JobRow, kind: str, text: str, advice: str | None = None, jobs: tuple[int, ...] = ()) -> Cause:
    return Cause(kind=kind, job_id=row.id, text=text, advice=advice, jobs=jobs)


def _needed(row: JobRow, need: Need) -> Cause:
    if need.policy == SPAWNED:
        return _cause(
            row, "children", f"it has done its own work and waits for its child, job {need.id} ({need.state})", None, (need.id,)
        )
    how = "to end" if need.policy == ALL_DONE else "to succeed"
    if need.state is State.FAILED and need.policy != ALL_DONE:
        advice = f"dray retry {need.id}, or dray unblock {row.id} --without {need.id}"
        return _cause(row, "parents", f"it needs job {need.id} to succeed, which failed", advice, (need.id,))
    return _cause(row, "parents", f"it waits for job {need.id} {how}, which is {need.state}", None, (need.id,))


def ask(desk: Desk, workers: Sequence[WorkerRow], controls: Controls) -> Asker:
    """Somebody who can be asked about jobs at this moment."""
    return Asker(desk, workers, controls, desk.now())
