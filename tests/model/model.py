"""What ought to be true of the jobs: plain dicts and lists, written from the promises and without a look at the SQL.

A job passes stations on its way to ready, and waits at the first that keeps it. Whatever else may keep a job is one more
station here, and one more chapter of acts in the story. What operators do is in `moves`, what a run leads to in `verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dray.job import Flag, Lease, NewJob, Ready, Reason, State
from dray.stations import GROUP, LIMIT, gate_hash
from dray.store.edges import ALL_DONE, ALL_SUCCEEDED, LEFT, OR_CANCEL, SPAWNED, WAIVED
from tests.model.verdict import Run, Verdict, verdict

SECOND = 1_000_000
DUE = (State.SCHEDULED, State.RETRYING)
LIVE = tuple(state for state in State if not state.ended)
EXPIRED = "expired: it had not been started in time"
BEGUN = (Reason.CHILDREN, Reason.COVERED)


@dataclass
class Job:
    """A job as it ought to be, by the names of the columns. Instants are microseconds."""

    id: int
    queue: str
    task: str
    priority: int
    args: str
    job_key: str | None
    owner: str | None
    max_attempts: int | None
    flags: Flag
    created_at: int
    run_at: int | None
    group_name: str | None = None
    group_rank: int | None = None
    limit_name: str | None = None
    limit_rule: str | None = None
    group_held: int | None = None  # 0: it stands in line, 1: it is at the head, -1: another does its work
    limit_held: int | None = None  # 0: it stands in line, 1: it has a share
    unique_hash: str | None = None
    unique_scope: int | None = None
    parent_id: int | None = None
    threshold: int | None = None
    covered_by: int | None = None
    expires_at: int | None = None
    state: State = State.READY
    reason: Reason | None = None
    ready_at: int | None = None
    fence: int = 0
    attempt: int = 0
    crashes: int = 0
    snoozes: int = 0
    signature: int = 0
    worker_id: int | None = None
    claimed_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    result: str | None = None
    report: str | None = None
    error: str | None = None
    note: str | None = None

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.fence)

    @property
    def group_hash(self) -> int | None:
        return gate_hash(GROUP, self.group_name)

    @property
    def limit_hash(self) -> int | None:
        return gate_hash(LIMIT, self.limit_name)

    @property
    def turn(self) -> tuple[int, int, int]:
        """Who is claimed before whom."""
        assert self.ready_at is not None
        return self.priority, self.ready_at, self.id


@dataclass
class Edge:
    """What one job waits for in another."""

    policy: int  # as in `store.edges`
    outcome: State | None = None  # how that one ended, when it was last looked at

    @property
    def met(self) -> bool:
        ended = self.policy in (ALL_DONE, SPAWNED) and self.outcome is not None
        return self.policy in (WAIVED, LEFT) or self.outcome == State.SUCCEEDED or ended

    @property
    def hopeless(self) -> bool:
        if self.policy in (WAIVED, ALL_DONE, SPAWNED, LEFT):
            return False
        return self.outcome is State.CANCELLED or (self.policy == OR_CANCEL and self.outcome is State.FAILED)


@dataclass
class Key:
    """Which job took a unique key last."""

    job_id: int
    scope: int
    until: int | None  # when it is free, whatever becomes of its job


@dataclass
class Worker:
    """One that may claim as long as it is alive."""

    queues: tuple[str, ...]
    beat_at: int
    left_at: int | None = None

    @property
    def alive(self) -> bool:
        return self.left_at is None


# The stations before ready, in order. Each says whether it keeps a job, and notes on the job what it holds there.
Station = Callable[["Job"], bool]


def held(job: Job) -> bool:
    """An operator's hold keeps a job, whoever would make it ready; and what it had of its gates is for others."""
    if Flag.HELD in job.flags:
        job.group_held = job.limit_held = None
    return Flag.HELD in job.flags


def grouped(job: Job) -> bool:
    """Only settle lets a job to the head of its group; who is there already goes on."""
    if job.group_name is not None and not job.group_held:
        job.group_held, job.limit_held = 0, None
    return job.group_held == 0


def limited(job: Job) -> bool:
    """Only settle gives shares of a limit; who has one goes on."""
    if job.limit_name is not None and not job.limit_held:
        job.limit_held = 0
    return job.limit_held == 0


STATIONS: tuple[tuple[Reason, Station], ...] = ((Reason.HELD, held), (Reason.GROUP, grouped), (Reason.LIMIT, limited))


@dataclass
class Model:
    """All jobs that were committed and not pruned, what is kept about them, and who works."""

    now: int
    jobs: dict[int, Job] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    labels: dict[int, dict[str, str]] = field(default_factory=dict)
    attempts: dict[Lease, tuple[int, State, int | None, str | None]] = field(default_factory=dict)
    lines: list[tuple[int, int, str]] = field(default_factory=list)
    as_claimed: dict[Lease, Job] = field(default_factory=dict)
    halts: dict[str, set[int]] = field(default_factory=dict)  # groups that stand still, and the failed jobs they do it for
    edges: dict[tuple[int, int], Edge] = field(default_factory=dict)  # who waits, for whom
    keys: dict[str, Key] = field(default_factory=dict)  # by the hashes of the unique keys
    spawned: set[Lease] = field(default_factory=set)  # runs whose workers know that they have children
    newest: int = 0  # the last id that was given out

    def where(self, *states: State, worker: int | None = None) -> list[Job]:
        """The jobs in one of these states, by id."""
        found = [job for job in self.jobs.values() if job.state in states and worker in (None, job.worker_id)]
        return sorted(found, key=lambda job: job.id)

    # --- on the way to ready ----------------------------------------------------------------------------------------------

    def add(self, id: int, new: NewJob) -> State:
        """A job was committed."""
        run_at = self.now + round(new.delay * SECOND) if new.delay else new.run_at
        named = {name: getattr(new, name) for name in ("queue", "task", "priority", "args", "owner", "max_attempts")}
        job = Job(id=id, job_key=new.key, flags=Flag(new.flags), created_at=self.now, run_at=run_at, **named)
        job.group_name, job.limit_name, job.limit_rule = new.group, new.limit, new.limit_rule
        job.threshold = new.threshold
        if new.unique is not None:
            job.unique_hash, job.unique_scope = new.unique.hash, new.unique.scope
        if new.parent is not None:
            job.parent_id = new.parent.id
            self.edges[new.parent.id, id] = Edge(SPAWNED)
        expires_in = None if new.expires_in is None else self.now + round(new.expires_in * SECOND)
        job.expires_at = new.expires_at if new.expires_at is not None else expires_in
        if not new.is_plain:
            job.group_rank = new.priority if new.rank is None else new.rank
        self.jobs[id] = job
        if new.labels:
            self.labels[id] = dict(new.labels)
        policy = ALL_DONE if new.when == "all_done" else OR_CANCEL if Flag.CANCELS_WITH_PARENTS in job.flags else ALL_SUCCEEDED
        self.edges |= {(id, parent): Edge(policy) for parent in new.after}
        if new.after:
            job.flags |= Flag.PARENTS
            self.wait_for_parents(job)
        else:
            self.wait_for_its_time(job)
        return job.state

    def wait_for_parents(self, job: Job) -> None:
        job.state, job.reason, job.ready_at, job.group_held, job.limit_held = State.BLOCKED, Reason.PARENTS, None, None, None

    def wait_for_its_time(self, job: Job) -> list[Ready]:
        if job.run_at is not None and job.run_at > self.now:
            job.state, job.reason, job.ready_at = State.SCHEDULED, None, None
            return []
        return self.pass_on(job)

    def pass_on(self, job: Job) -> list[Ready]:
        """Let a job go on to ready, or to the first station that keeps it."""
        job.reason = next((reason for reason, keeps in STATIONS if keeps(job)), None)
        job.state = State.READY if job.reason is None else State.BLOCKED
        job.ready_at = self.now if job.reason is None else None
        return [Ready(job.id, job.queue, job.priority)] if job.reason is None else []

    def settle(self) -> list[Ready]:
        """After a commit: who may go on now, station by station."""
        ready: list[Ready] = []
        # All that others' ends let go on, and then what that lets go on; only then who is the first of his line.
        while freed := [job for job in self.where(State.BLOCKED) if self.is_freed(job)]:
            for job in freed:
                ready += self.let_go(job)
        return ready + self.settle_gates()

    def is_freed(self, job: Job) -> bool:
        """Whether other jobs keep it no longer, one way or the other."""
        if job.reason is Reason.COVERED:
            assert job.covered_by is not None
            return self.jobs[job.covered_by].state.ended
        if job.reason not in (Reason.PARENTS, Reason.CHILDREN):
            return False
        for (id, needed), edge in self.edges.items():
            if id != job.id:
                continue
            if needed in self.jobs:
                state = self.jobs[needed].state
                edge.outcome = state if state.ended else None
            elif edge.outcome is None:  # pruned while nobody waited for it: what was known then stays
                edge.outcome = State.SUCCEEDED if edge.policy == SPAWNED else State.CANCELLED
        spawned = job.reason is Reason.CHILDREN
        mine = [edge for (id, _), edge in self.edges.items() if id == job.id and (edge.policy == SPAWNED) is spawned]
        return (not spawned and self.doom(job) is not None) or all(edge.met for edge in mine)

    def let_go(self, job: Job) -> list[Ready]:
        """Nobody keeps it: it ends, goes on, or goes back to where it came from."""
        if job.reason is Reason.CHILDREN:
            self.end(job, *self.worst(job))
        elif job.reason is Reason.COVERED and job.covered_by is not None:
            coverer, job.covered_by = self.jobs[job.covered_by], None
            if coverer.state is State.SUCCEEDED:
                self.end(job, State.SUCCEEDED, f"covered by job {coverer.id}")
            else:
                job.group_held = None
                return self.pass_on(job)
        elif (doom := self.doom(job)) is not None:
            job.flags |= Flag.DOOMED
            self.end(job, State.CANCELLED, doom)
        else:
            return self.wait_for_its_time(job)
        return []

    def end(self, job: Job, state: State, note: str | None) -> None:
        """It ends without being run."""
        job.state, job.reason, job.ready_at, job.finished_at, job.covered_by = state, None, None, self.now, None
        job.group_held = job.limit_held = None
        job.note = note or job.note
        self.halt(job)

    def halt(self, job: Job) -> None:
        """Let its group stand still, if it has failed and that was asked for."""
        if job.state is State.FAILED and Flag.HALT in job.flags and job.group_name is not None:
            self.halts.setdefault(job.group_name, set()).add(job.id)

    def worst(self, job: Job) -> tuple[State, str | None]:
        """How a job ends whose children have all ended, and because of which of them."""
        ends = {child: edge.outcome for (id, child), edge in self.edges.items() if id == job.id and edge.policy == SPAWNED}
        for state, word in ((State.FAILED, "failed"), (State.CANCELLED, "was cancelled")):
            if some := [child for child, end in ends.items() if end is state]:
                return state, f"job {min(some)}, its child, {word}"
        return State.SUCCEEDED, None

    def doom(self, job: Job) -> str | None:
        """Why it can never start; None: it can."""
        hopeless = {parent: edge.outcome for (id, parent), edge in self.edges.items() if id == job.id and edge.hopeless}
        if not hopeless:
            return None
        first = min(hopeless)
        return f"job {first}, which it needs, {'failed' if hopeless[first] is State.FAILED else 'was cancelled'}"

    def settle_gates(self) -> list[Ready]:
        """Groups first, since their heads then stand before their limits."""
        ready: list[Ready] = []
        for name in sorted({job.group_name for job in self.jobs.values() if job.group_name is not None}):
            line = [job for job in self.where(State.BLOCKED) if job.group_name == name and job.group_held == 0]
            if line and not self.head(name) and not self.halts.get(name):
                first = min(line, key=lambda job: (job.group_rank, job.id))
                first.group_held = 1
                ready += self.pass_on(first)
        for name, rule in {(job.limit_name, job.limit_rule) for job in self.jobs.values() if job.limit_name is not None}:
            line = [job for job in self.where(State.BLOCKED) if job.limit_name == name and job.limit_held == 0]
            free = int(rule or 0) - sum(job.limit_name == name and job.limit_held == 1 for job in self.jobs.values())
            for job in sorted(line, key=lambda job: (job.priority, job.id))[: max(0, free)]:
                job.limit_held = 1
                ready += self.pass_on(job)
        return ready

    def head(self, group: str) -> Job | None:
        """Who is at the head of a group, whatever it does there."""
        heads = [job for job in self.jobs.values() if job.group_name == group and job.group_held == 1]
        assert len(heads) <= 1, f"{group} has two heads: {heads}"
        return heads[0] if heads else None

    def promote(self, limit: int) -> list[Ready]:
        """Those whose time has come, the longest due first."""
        due = sorted(self.due(), key=lambda job: (job.run_at, job.id))[:limit]
        return [ready for job in due for ready in self.pass_on(job)]

    def due(self) -> list[Job]:
        return [job for job in self.where(*DUE) if job.run_at is not None and job.run_at <= self.now]

    def next_in(self) -> float | None:
        """Seconds until somebody is due."""
        times = [job.run_at - self.now for job in self.where(*DUE) if job.run_at is not None]
        return max(0, min(times)) / SECOND if times else None

    def adopt(self, known: Mapping[str, int]) -> list[Ready]:
        """Those whose task is known here, but for the signature that they have met already."""
        parked = [job for job in self.where(State.BLOCKED) if job.reason is Reason.UNKNOWN_TASK]
        fit = [job for job in parked if known.get(job.task, job.signature) != job.signature]
        return [ready for job in fit for ready in self.pass_on(job)]

    def expire(self) -> tuple[int, int]:
        """What waits past its expiry is over, what runs past its deadline is asked to end."""
        late = [job for job in self.where(*LIVE) if job.expires_at is not None and job.expires_at <= self.now]
        late = [job for job in late if job.reason not in BEGUN or Flag.DEADLINE in job.flags]
        waiting = [job for job in late if job.state is not State.RUNNING]
        asked = [
            job for job in late if job.state is State.RUNNING and Flag.DEADLINE in job.flags and Flag.CANCEL not in job.flags
        ]
        for job in waiting:
            self.end(job, State.CANCELLED, EXPIRED)
        for job in asked:
            job.flags |= Flag.CANCEL
        return len(waiting), len(asked)

    def cover(self, wide: Job) -> int:
        """It does the work of narrower ones of its task that wait in its group; gives how many."""
        line = [job for job in self.where(State.BLOCKED) if job.group_name == wide.group_name and job.group_held == 0]
        alike = [job for job in line if job.task == wide.task and job.threshold is not None]
        narrower = [job for job in alike if (job.threshold or 0) >= (wide.threshold or 0)]
        for job in narrower:
            job.reason, job.group_held, job.covered_by = Reason.COVERED, -1, wide.id
        return len(narrower)

    def leave_children(self, parents: Collection[int]) -> None:
        """These start over: what became of their children so far counts no more."""
        for (id, child), edge in self.edges.items():
            if id in parents and edge.policy == SPAWNED and (child not in self.jobs or self.jobs[child].state.ended):
                edge.policy = LEFT

    def waive(self, id: int, needed: int) -> bool:
        """Somebody says that it need not wait for this one; not of its children."""
        edge = self.edges[id, needed]
        if edge.policy not in (SPAWNED, LEFT):
            edge.policy = WAIVED
        return edge.policy == WAIVED

    # --- claims -----------------------------------------------------------------------------------------------------------

    def claimable(self, worker: int) -> list[Job]:
        """What a worker could be given if it is alive, in order."""
        queues = self.workers[worker].queues
        return sorted((job for job in self.where(State.READY) if not queues or job.queue in queues), key=lambda job: job.turn)

    def check_claim(self, ids: Sequence[int], worker: int, limit: int) -> None:
        """Whether a worker was given the right ones: the most urgent, then queue by queue, of each the longest ready."""
        open_to_it = self.claimable(worker) if self.workers[worker].alive else []
        given = [job for job in open_to_it if job.id in ids]
        assert ids == [job.id for job in given], f"claimed {ids}, of {[job.id for job in open_to_it]} in this order"
        assert len(ids) == min(limit, len(open_to_it)), f"claimed {len(ids)} of {len(open_to_it)}, limit {limit}"
        left = [job for job in open_to_it if job.id not in ids]
        if not given or not left:
            return
        last = given[-1].priority
        assert min(job.priority for job in left) >= last, f"{left} are more urgent than {given[-1]}"
        # Queues of one priority take turns, so any of them may be first; but one is emptied before the next is begun.
        begun = {job.queue for job in given if job.priority == last}
        parted = [queue for queue in begun if any(job.queue == queue and job.priority == last for job in left)]
        assert len(parted) <= 1, f"{parted} were all begun and none was emptied"
        for queue in parted:
            order = [job.id in ids for job in open_to_it if job.queue == queue and job.priority == last]
            assert order == sorted(order, reverse=True), f"in {queue} somebody was passed over"

    def claim(self, ids: Sequence[int], worker: int) -> None:
        """These are run by this worker now."""
        for id in ids:
            job = self.jobs[id]
            job.state, job.worker_id, job.claimed_at, job.started_at = State.RUNNING, worker, self.now, None
            job.fence += 1
            job.attempt += 1
            self.as_claimed[job.lease] = replace(job)

    def holds(self, lease: Lease) -> Job | None:
        """The job to which this lease still gives the right to write."""
        job = self.jobs.get(lease.id)
        return job if job is not None and job.state is State.RUNNING and job.fence == lease.fence else None

    def mark_started(self, lease: Lease, ago: float) -> bool:
        """User code was reached; said once."""
        job = self.holds(lease)
        if job is None or job.started_at is not None:
            return False
        job.started_at = self.now - round(ago * SECOND)
        return True

    # --- ends of runs -----------------------------------------------------------------------------------------------------

    def finish(self, runs: Sequence[Run], *, again: bool = False) -> tuple[set[Lease], list[Ready]]:
        """What becomes of runs; whose lease was lost writes nothing."""
        mine = [run for run in runs if self.holds(run.lease)]
        before = [run.lease for run in runs if again and run not in mine and self._was_written(run)]
        ready = [ready for run in mine for ready in self._end(self.jobs[run.lease.id], run)]
        return {run.lease for run in mine} | set(before), ready

    def _was_written(self, run: Run) -> bool:
        """Whether it left its trace: a rescue may have come first, and leaves the fence as it is."""
        job = self.jobs.get(run.lease.id)
        if job is None or job.fence != run.lease.fence or job.state is State.RUNNING:
            return False
        claimed = self.as_claimed[run.lease]
        end = self.verdict(claimed, run)
        if end.error is not None:
            return run.lease in self.attempts and self.attempts[run.lease][-1] == end.error
        if end.state is State.SCHEDULED:
            return job.snoozes > claimed.snoozes
        return job.state is end.state or not end.state.ended

    def verdict(self, job: Job, run: Run) -> Verdict:
        """What a run leads to; who has children has not succeeded before they have ended, unless he is their master."""
        end = verdict(job, run.outcome)
        spawned = Flag.SPAWNED in self.as_claimed[run.lease].flags or run.lease in self.spawned
        if end.state is State.SUCCEEDED and spawned and Flag.MASTER not in job.flags:
            return end._replace(state=State.BLOCKED, reason=Reason.CHILDREN)
        return end

    def _end(self, job: Job, run: Run) -> list[Ready]:
        end = self.verdict(job, run)
        if Flag.CANCEL in job.flags and not end.state.ended:
            end = end._replace(state=State.CANCELLED, note="cancelled while running")
        attempt, worker = job.attempt, job.worker_id
        job.attempt -= not end.counted
        job.crashes += end.crashed
        job.note = end.note
        ready = self._close(job, run, end) if end.state.ended else self._put_back(job, run, end)
        if end.error is not None or end.crashed:
            self.attempts[run.lease] = (attempt, job.state, worker, end.error or end.note)
        return ready

    def _close(self, job: Job, run: Run, end: Any) -> list[Ready]:
        job.state, job.reason, job.ready_at = end.state, None, None
        job.finished_at = self.now - round(run.ended_ago * SECOND)
        if run.started:
            job.started_at = job.finished_at - round(run.ran * SECOND)
        job.result, job.report, job.error = end.result, end.report, end.error
        job.group_held = job.limit_held = None
        self.halt(job)
        return []

    def _put_back(self, job: Job, run: Run, end: Any) -> list[Ready]:
        job.worker_id = job.claimed_at = job.started_at = job.ready_at = None
        job.state, job.reason, job.signature = end.state, end.reason, end.signature
        job.error, job.report, job.result = end.error or job.error, end.report or job.report, end.result or job.result
        if run.started:
            job.flags &= ~Flag.SUSPECT
        if end.suspect:
            job.flags |= Flag.SUSPECT
        if end.state is not State.READY:
            job.limit_held = None  # it is for others while this one waits; its place in the group is not
        if end.leaves or Flag.HELD in job.flags or end.reason is Reason.CHILDREN:
            job.group_held = None
        if end.state in DUE:
            job.run_at = self.now + round(end.delay * SECOND)
            job.snoozes += end.state is State.SCHEDULED
        return self.pass_on(job) if end.state is State.READY else []

    def lost(self) -> list[Job]:
        """What nobody alive runs."""
        alive = {id for id, worker in self.workers.items() if worker.alive}
        return [job for job in self.where(State.RUNNING) if job.worker_id not in alive]

    # --- forgetting -------------------------------------------------------------------------------------------------------

    def prunable(self, state: State, older_than: float) -> list[Job]:
        """What ended long enough ago, the oldest first."""
        before = self.now - round(older_than * SECOND)
        old = [job for job in self.where(state) if job.finished_at is not None and job.finished_at < before]
        old = [job for job in old if not self.is_needed(job)]
        return sorted(old, key=lambda job: (job.finished_at, job.id))

    def is_needed(self, job: Job) -> bool:
        """Whether somebody waits for it, or stands still because of it."""
        waits = any(parent == job.id and not self.jobs[id].state.ended for id, parent in self.edges)
        return waits or job.id in self.halts.get(job.group_name or "", ())

    def prune(self, state: State, older_than: float, limit: int) -> int:
        """Forget the oldest of them, and all that is kept about them."""
        gone = {job.id for job in self.prunable(state, older_than)[:limit]}
        self.jobs = {id: job for id, job in self.jobs.items() if id not in gone}
        self.edges = {(id, parent): edge for (id, parent), edge in self.edges.items() if id not in gone}
        self.labels = {id: labels for id, labels in self.labels.items() if id not in gone}
        self.attempts = {lease: attempt for lease, attempt in self.attempts.items() if lease.id not in gone}
        self.lines = [line for line in self.lines if line[0] not in gone]
        return len(gone)

    def prune_workers(self, older_than: float) -> int:
        """Forget those who left long ago and hold nothing any more."""
        before = self.now - round(older_than * SECOND)
        busy = {job.worker_id for job in self.where(State.RUNNING)}
        gone = {id for id, one in self.workers.items() if one.left_at is not None and one.left_at < before} - busy
        self.workers = {id: worker for id, worker in self.workers.items() if id not in gone}
        return len(gone)
