"""What may be asked of a store, with the promise of each method. `dray.testing.store_contract` tests the promises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from dray.job import Added, Change, Claim, Finish, Flag, JobRow, Lease, NewJob, Ready, State
from dray.selection import Choice, TaskFilter
from dray.store.board import Bell, CareBoard, ChoreBoard, FleetBoard, NoticeBoard, OrderBoard, RollupBoard


def unheard() -> None:
    """What is told to nobody."""


class Finished(NamedTuple):
    """What a batch of ends came to: `refused` are those whose lease was lost, mostly none, and `accepted` all others."""

    ends: Sequence[Finish]
    refused: set[Lease]
    ready: list[Ready]

    @property
    def accepted(self) -> set[Lease]:
        return {one.claim.lease for one in self.ends} - self.refused


class Exchange(NamedTuple):
    """What finishing a batch and claiming the next came to."""

    finished: Finished
    claims: list[Claim]


class Beat(NamedTuple):
    """The heartbeat of a worker as it stands in its row."""

    worker_id: int
    beat_at: int


class Promoted(Protocol):
    """What a look at the clock brought: jobs that are ready now, and in how many seconds the next is due (None: never)."""

    @property
    def ready(self) -> Sequence[Ready]: ...
    @property
    def next_in(self) -> float | None: ...


class Freed(NamedTuple):
    """A job that rescue took from a dead worker, and what became of it; `why`: its error if it failed."""

    id: int
    task: str
    queue: str
    worker_id: int | None
    state: State
    why: str | None = None


class Rescued(Protocol):
    """What one pass of rescue did: how many jobs it freed, those that are ready again, those that failed for good; all."""

    @property
    def freed(self) -> int: ...
    @property
    def ready(self) -> Sequence[Ready]: ...
    @property
    def failed(self) -> Sequence[int]: ...
    @property
    def jobs(self) -> Sequence[Freed]: ...


class Moved(Protocol):
    """What became of one job that was named: its state before (None: no such job) and now (None: it may not be moved so)."""

    @property
    def id(self) -> int: ...
    @property
    def before(self) -> State | None: ...
    @property
    def after(self) -> State | None: ...


class Pickup(Protocol):
    """What one worker remembers between its claims; made by `Store.pickup` and passed back unread."""

    @property
    def queues(self) -> tuple[str, ...]: ...

    priorities: range | None
    paused: frozenset[int]  # hashes of queues of which nothing is taken; its owner says so

    def forget(self) -> None:
        """Look the next time as if for the first time."""
        ...


class EngineStore(Protocol):
    """The part of a store that the worker's loop stands on. Everything raises StoreUnavailable when the database is away."""

    def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Insert jobs, all or none, and give ids in the order of the jobs, whoever else inserts. One job is one round trip.
        Raises OutcomeUnknown when the connection broke after they were sent."""
        ...

    def pickup(
        self,
        queues: Sequence[str],
        priorities: range | None = None,
        tasks: TaskFilter = TaskFilter(),  # noqa: B008  a value
        choice: Choice | None = None,
    ) -> Pickup:
        """Begin to claim from these queues, by exact name (none: from all), of these priorities (None: of all) and these
        tasks, as far as they are among the first 1,000 of a queue and priority. A choice divides each claim among the queues
        that are not empty; without it the most urgent comes first, whatever its queue."""
        ...

    def claim(self, worker_id: int, pickup: Pickup, limit: int) -> list[Claim]:
        """Take up to `limit` ready jobs, the most urgent first, then the longest ready. No job is given to two workers, and a
        claim waits for no other. The fence of a job rises with each. Raises WorkerGone rather than give anything to a worker
        that is not alive."""
        ...

    def pick(self, worker_id: int, job_id: int) -> Claim | None:
        """Take a job by its id, whatever it waits for, and let its gates be as they are. None: it runs, or has ended."""
        ...

    def follow(self, worker_id: int, head: Claim, limit: int, priorities: range | None = None) -> list[Claim]:
        """Take those that stand behind a claimed job in its group, up to `limit`, in their order, to be run one after the
        other by the same worker. Stops before the first that is of another task or queue, of none of these priorities, has a
        limit, or has seen its worker die. Whatever becomes of the worker, none of them is ready before those in front of it
        have ended."""
        ...

    def cover(self, claim: Claim) -> int:
        """Let a claimed job, before it starts, do the work of those of its task that wait in its group with its threshold or a
        greater one; gives how many. They end with it, or stand in line again if it does not succeed."""
        ...

    def held(self, worker_id: int, known: Collection[Lease]) -> list[Claim]:
        """What this worker holds beside what it knows of: claims whose commit happened though no answer came. Empty as a rule;
        costs one short read then."""
        ...

    def exchange(
        self,
        worker_id: int,
        pickup: Pickup,
        finishes: Sequence[Finish],
        limit: int,
        *,
        again: bool = False,
        begun: Callable[[], None] = unheard,
    ) -> Exchange:
        """Finish and claim in one transaction: both or none. Raises WorkerGone rather than give anything to a worker that is
        not alive; then nothing has been finished either. `begun` is called, once or more, when the transaction has begun or
        has to wait for others: from then on the caller mostly waits for the database."""
        ...

    def finish(self, finishes: Sequence[Finish], *, again: bool = False) -> Finished:
        """End runs in one transaction. An end whose lease was lost writes nothing. `again`: an earlier try broke off with an
        unknown result, so what is found done as wanted under the same fence counts as accepted, and is not done twice; what
        was rescued meanwhile does not."""
        ...

    def mark_started(self, lease: Lease, ago: float = 0.0) -> bool:
        """Write down that user code was reached `ago` seconds ago. False when the lease is lost: then it must not be."""
        ...

    def record(self, lease: Lease, change: Change) -> bool:
        """Put on record what a failed run is going to become, before a hook is called that may take the process down: rescue
        then does as it says, and the end of the run, if it is written after all, takes its place. False: the lease is lost."""
        ...

    def promote(self, limit: int = 1000) -> Promoted:
        """Make due jobs ready, the longest due first, and held ones blocked; each once, however many do it at once."""
        ...

    def adopt(self, known: Mapping[str, int]) -> list[Ready]:
        """Free parked jobs whose task is known here, unless it was this signature that could not take their arguments."""
        ...


class Desk(NoticeBoard, RollupBoard, CareBoard, FleetBoard, Protocol):
    """What operators see and do. A move never changes an end, but for `retry`; it is told for each id, in the order asked."""

    def cancel(self, ids: Sequence[int], note: str = "cancelled", *, doomed: bool = False) -> Sequence[Moved]:
        """End jobs that have not started; ask running ones to end: a success that comes first stays one. `doomed`: because of a
        job that they need."""
        ...

    def hold(self, ids: Sequence[int], note: str | None = None) -> Sequence[Moved]:
        """Keep jobs from starting until they are released."""
        ...

    def release(self, ids: Sequence[int]) -> Sequence[Moved]:
        """Let held jobs go on."""
        ...

    def retry(self, ids: Sequence[int], *, force: bool = False) -> Sequence[Moved]:
        """Run ended jobs again under their ids and fences, and waiting ones now. Of two who do it at once, one does."""
        ...

    def unblock_group(self, name: str) -> Sequence[int]:
        """Let a group go on without the failed jobs that it stands still for; gives their ids."""
        ...

    def waive(self, job_id: int, parent: int) -> bool:
        """Let a job wait for this parent no longer; False: it does not wait for it."""
        ...

    def dependents(self, job_id: int) -> Sequence[int]:
        """Jobs that wait for this one to have succeeded, a thousand at most."""
        ...

    def doomed_by(self, job_id: int) -> Sequence[int]:
        """Jobs that were cancelled because of this one, and by no person, however many."""
        ...

    def pause(self, queue: str, note: str | None = None, seconds: float | None = None, until: int | None = None) -> int:
        """Let nothing of a queue start; gives the number of this change, which workers say that they obey."""
        ...

    def resume(self, queue: str) -> bool:
        """Let a queue go on; False: it was not paused."""
        ...

    def controls(self, worker_id: int | None = None) -> Any:
        """What is paused at this moment, and the number of the last change; for a worker also what it is told itself."""
        ...

    def obey(self, worker_id: int, generation: int) -> None:
        """Write down that nothing that is paused by now, up to this change, can start in this worker any more."""
        ...

    def deaf(self, generation: int) -> Sequence[int]:
        """The workers that are alive and do not obey this change yet."""
        ...

    def requested(self, worker_id: int) -> Sequence[tuple[Lease, Flag]]:
        """Jobs this worker runs that somebody wants cancelled or held."""
        ...

    def job(self, job_id: int) -> JobRow | None:
        """One job, live or ended; None when there is none."""
        ...

    # Filters, lines and counts are made and read by the faces; the engine only passes them on.
    def jobs(self, wanted: Any, *, limit: int = 50, before: int | None = None) -> Sequence[JobRow]:
        """Jobs, the newest first, older than `before`."""
        ...

    def counts(self, cap: int = 10_000) -> Mapping[State, int]:
        """How many jobs are in each state, counted up to cap + 1."""
        ...

    def queues(self, cap: int = 10_000) -> Sequence[Any]:
        """What waits and runs in each queue."""
        ...

    def attempts(self, job_id: int) -> Sequence[Any]:
        """What went wrong, attempt by attempt."""
        ...

    def labels(self, ids: Iterable[int]) -> Mapping[int, Mapping[str, str]]:
        """The labels of these jobs."""
        ...

    def unfinished_keys(
        self, keys: Sequence[str] | None, *, include_running: bool = True, include_failed: bool = True
    ) -> Sequence[str]:
        """Which keys still have work to do (S2.25)."""
        ...

    def write_output(self, lines: Sequence[Any]) -> None:
        """Append lines to the logs of jobs."""
        ...

    def forget_output(self, lease: Lease) -> None:
        """Delete what one run has said."""
        ...

    def read_output(self, job_id: int, after: int = 0, limit: int = 1000) -> Sequence[Any]:
        """Lines of a job's log, the oldest first, behind the line with the id `after`."""
        ...

    def prune_batch(self, state: State, older_than: float, limit: int = 1000) -> int:
        """Delete some jobs that ended in this state more than so many seconds ago; gives how many."""
        ...

    def count_prunable(self, state: State, older_than: float, cap: int = 10_000) -> int:
        """How many jobs `prune_batch` would delete in all, counted up to cap + 1."""
        ...

    def move(self, ids: Sequence[int], queue: str | None, priority: int | None) -> Sequence[Moved]:
        """Put jobs that do not run into another queue, or give them another priority."""
        ...

    def children(self, job_id: int) -> Sequence[int]:
        """The jobs that this one spawned, the first ones first, a thousand at most."""
        ...

    # What keeps a job from running: facts that `dray.why` makes sentences of.
    def now(self) -> datetime:
        """The database's clock."""
        ...

    def needs(self, job_id: int) -> Sequence[Any]:
        """What this job waits for that has not ended as it needs, the first few."""
        ...

    def line(self, group: str) -> Any:
        """How a group stands: who is at its head, how many wait, for which failed jobs it stands still."""
        ...

    def shares(self, limit: str) -> Any:
        """How a limit stands: who has a share of it, and when a rate allows the next start."""
        ...

    def before(self, row: JobRow) -> int:
        """How many ready jobs of the same queue and priority have been ready for longer, counted up to a thousand."""
        ...

    def groups(self, *, limit: int = 50, after: int | None = None) -> Sequence[tuple[int, str]]:
        """Groups that have live jobs, by their numbers, behind this one; whatever the number of jobs in them."""
        ...

    def halted_groups(self) -> Sequence[tuple[int, str]]:
        """Groups that stand still because of a failed job."""
        ...


class Roster(OrderBoard, Protocol):
    """Who works, who is silent, who is dead. Only who is alive may claim."""

    def register(
        self, *, host: str, pid: int, queues: str, concurrency: int, priorities: str | None = None, tasks: str | None = None
    ) -> int:
        """Write the row of a new worker, alive as of now, and give its id, which nobody has had before."""
        ...

    def beats(self) -> Sequence[Beat]:
        """The heartbeats of all workers that count as alive."""
        ...

    def declare_dead(self, beat: Beat) -> bool:
        """Declare a worker dead, provided that its beat still stands where it was seen; of two who do it at once, one does."""
        ...

    def leave(self, worker_id: int) -> bool:
        """Say goodbye for a worker; what it still holds is free from now on."""
        ...

    def listing(self, *, alive_only: bool = True, limit: int = 1000) -> Sequence[Any]:
        """The workers, the newest first."""
        ...

    def find(self, worker_id: int) -> Any:
        """One worker, alive or not; None when there is none of this id."""
        ...

    def sign(self) -> None:
        """Write something: it proves that beats can be written too, so that a silence is the worker's own."""
        ...

    def heartbeat_plan(self, worker_id: int) -> Mapping[str, object]:
        """All that the heartbeat process has to know, as JSON can carry it: how to connect, and what to say."""
        ...


class Store(EngineStore, ChoreBoard, Protocol):
    """A whole store: what the worker's loop stands on, what upkeep does, and what people see."""

    @property
    def desk(self) -> Desk: ...
    @property
    def roster(self) -> Roster: ...
    @property
    def bell(self) -> Bell: ...

    def ensure(self) -> None:
        """Make sure, once, that the tables fit this code; create them where that is allowed. Raises SchemaError."""
        ...

    def add_within(self, target: Any, jobs: Sequence[NewJob]) -> list[Added]:
        """Insert jobs in the transaction of a caller's Session or Connection: they exist if and only if it commits."""
        ...

    def rescue(self, limit: int = 500) -> Rescued:
        """Free running jobs whose worker is not alive, or has no row; never those of the living. What surely ran counts as a
        crash, what perhaps ran goes back uncounted."""
        ...

    def close(self) -> None:
        """Send the last hints and close the connections; the next use opens new ones."""
        ...
