"""What operators see and do, each call a transaction of its own: the store's side of `Admin`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, select

from dray.job import Flag, JobRow, Lease, Ready, State, name_hash
from dray.rollup import Numbers
from dray.stations import GROUP, gate_hash
from dray.store import control, controls, edges, failures, gates, notices, output, prune, read, rollups, stuck, unique, waits
from dray.store.board import Rollup
from dray.store.codes import EPOCH, instant
from dray.store.connect import Database
from dray.store.control import Moved, Moves
from dray.store.controls import Controls
from dray.store.failures import ErrorKind
from dray.store.notices import Taken
from dray.store.output import Line, OutputLine
from dray.store.prune import Kept
from dray.store.read import AttemptRow, Filter, QueueCount
from dray.store.settle import Settler
from dray.store.stuck import Head, Runs, Waits
from dray.store.tables import Tables
from dray.store.waits import Line as GroupLine
from dray.store.waits import Need, Shares
from dray.store.wakeup import Bell

T = TypeVar("T")


class Desk:
    """Lists, single jobs, and the moves an operator can make."""

    def __init__(self, database: Database, tables: Tables, bell: Bell, settler: Settler) -> None:
        self._database, self._tables, self._bell, self._settler = database, tables, bell, settler

    def _look(self, work: Callable[[Connection], T]) -> T:
        return self._database.once(work)

    def _move(self, work: Callable[[Connection], Moves]) -> list[Moved]:
        moved = self._settler.transact(work)
        self._bell.ring(ready_again(moved))
        return moved

    # --- moves ----------------------------------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[int], note: str = "cancelled", *, doomed: bool = False) -> list[Moved]:
        """End jobs that have not started; ask running ones to end. `doomed`: because of a job that they need."""
        return self._move(lambda connection: control.cancel(connection, self._tables, ids, note, doomed=doomed))

    def hold(self, ids: Sequence[int], note: str | None = None) -> list[Moved]:
        """Keep jobs from starting until they are released."""
        return self._move(lambda connection: control.hold(connection, self._tables, ids, note))

    def release(self, ids: Sequence[int]) -> list[Moved]:
        """Let held jobs go on."""
        return self._move(lambda connection: control.release(connection, self._tables, ids))

    def retry(self, ids: Sequence[int], *, force: bool = False) -> list[Moved]:
        """Run ended jobs again under their ids, and waiting ones now."""
        return self._move(lambda connection: control.retry(connection, self._tables, ids, force=force))

    def unblock_group(self, name: str) -> list[int]:
        """Let a group go on without the failed jobs that it stands still for; gives their ids."""
        group = gate_hash(GROUP, name)
        assert group is not None
        return self._settler.transact(lambda connection: gates.unblock_group(connection, self._tables, group))

    def waive(self, job_id: int, parent: int) -> bool:
        """Let a job wait for this parent no longer; False: it does not wait for it."""
        return self._settler.transact(lambda connection: edges.waive(connection, self._tables, job_id, parent))

    def dependents(self, job_id: int) -> list[int]:
        """Jobs that wait for this one to have succeeded, a thousand at most."""
        return self._look(lambda connection: edges.dependents(connection, self._tables, job_id))

    def doomed_by(self, job_id: int) -> list[int]:
        """Jobs that were cancelled because of this one, and by no person, however many."""
        found: list[int] = []
        while some := self._look(partial(edges.doomed_by, tables=self._tables, id=job_id, after=found[-1] if found else 0)):
            found += some
        return found

    def pause(self, queue: str, note: str | None = None, seconds: float | None = None, until: int | None = None) -> int:
        """Let nothing of a queue start; gives the number of this change, which workers say that they obey."""
        number = self._database.transact(
            lambda connection: controls.pause(connection, self._tables, queue, note, seconds, until)
        )
        self._bell.ring([Ready(0, queue, 0)])  # whoever sleeps shall hear of it now
        return number

    def resume(self, queue: str) -> bool:
        """Let a queue go on; False: it was not paused."""
        was = self._database.transact(lambda connection: controls.resume(connection, self._tables, queue))
        self._bell.ring([Ready(0, queue, 0)])
        return was

    def controls(self, worker_id: int | None = None) -> Controls:
        """What is paused at this moment, and the number of the last change; for a worker also what it is told itself."""
        if worker_id is None:
            return self._look(lambda connection: controls.read(connection, self._tables))
        return self._look(lambda connection: controls.heard(connection, self._tables, worker_id))

    def obey(self, worker_id: int, generation: int) -> None:
        """Write down that this worker obeys the controls up to this number."""
        self._look(lambda connection: controls.obey(connection, self._tables, worker_id, generation))

    def deaf(self, generation: int) -> list[int]:
        """The workers that are alive and do not obey this change yet."""
        return self._look(lambda connection: controls.deaf(connection, self._tables, generation))

    def stop_all(self, note: str | None) -> None:
        """Let no worker work until `start_all`."""
        self._database.transact(lambda connection: controls.stop(connection, self._tables, note))

    def start_all(self) -> bool:
        """Let workers work again; False: they were not stopped."""
        return self._database.transact(lambda connection: controls.start(connection, self._tables))

    def move(self, ids: Sequence[int], queue: str | None, priority: int | None) -> list[Moved]:
        """Put jobs that do not run into another queue, or give them another priority."""
        return self._move(lambda connection: control.move(connection, self._tables, ids, queue, priority))

    def requested(self, worker_id: int) -> list[tuple[Lease, Flag]]:
        """Jobs this worker runs that somebody wants cancelled or held."""
        return self._look(lambda connection: control.requested(connection, self._tables, worker_id))

    # --- notices --------------------------------------------------------------------------------------------------------

    def notices_waiting(self, gathered: float) -> bool:
        """Whether anything waits to be told for `gathered` seconds already."""
        return self._look(lambda connection: notices.waiting(connection, self._tables, gathered))

    def take_notices(self, gathered: float, seconds: float) -> list[Taken]:
        """Take what waits to be told, for so many seconds; failures alike are one notice."""
        return self._database.transact(lambda connection: notices.take(connection, self._tables, gathered, seconds))

    def notice_told(self, taken: Taken, channels: Sequence[str], seconds: float) -> bool:
        """Write down to which channels it has gone by now; False: it is not ours any more."""
        return self._look(lambda connection: notices.told(connection, self._tables, taken, channels, seconds))

    def notice_later(self, taken: Taken, seconds: float) -> None:
        """Give it back, to be told to the other channels after so many seconds."""
        self._look(lambda connection: notices.later(connection, self._tables, taken, seconds))

    def notice_done(self, taken: Taken) -> None:
        """Every channel has it: it is gone."""
        self._look(lambda connection: notices.done(connection, self._tables, taken))

    def digest_if_due(self, following: Callable[[int], int]) -> bool:
        """Leave a notice of all that failed since the last time, if its time has come; once, however many ask."""
        return self._database.transact(lambda connection: notices.digest_if_due(connection, self._tables, following))

    # --- numbers --------------------------------------------------------------------------------------------------------

    def write_rollups(self, rows: Sequence[Rollup]) -> None:
        """Write what a worker counted, in place of what it wrote of the same minutes before."""
        self._database.transact(lambda connection: rollups.write(connection, self._tables, rows))

    def totals(self, seconds: float) -> dict[tuple[str, str], Numbers]:
        """What was done in the last so many seconds, by task and queue."""
        return self._look(lambda connection: rollups.totals(connection, self._tables, seconds))

    def errors(self, seconds: float | None = None) -> list[ErrorKind]:
        """What failed in the last so many seconds, alike with alike; of the newest 10,000 failed attempts."""
        return self._look(lambda connection: failures.kinds(connection, self._tables, seconds))

    def merge_rollups(self, older_than: float) -> int:
        """Make an hour of the oldest minutes that are so old; gives how many rows went: 0 when there are none."""
        return self._database.transact(lambda connection: rollups.merge(connection, self._tables, older_than))

    def forget_rollups(self, older_than: float) -> int:
        """Delete the hours that are so old; gives how many rows went."""
        return self._look(lambda connection: rollups.forget(connection, self._tables, older_than))

    # --- reads ----------------------------------------------------------------------------------------------------------

    def job(self, job_id: int) -> JobRow | None:
        """One job, live or ended; None when there is none."""
        return self._look(lambda connection: read.job(connection, self._tables, job_id))

    def jobs(self, wanted: Filter, *, limit: int = 50, before: int | None = None) -> list[JobRow]:
        """Jobs, the newest first, older than `before`."""
        return self._look(lambda connection: read.jobs(connection, self._tables, wanted, limit=limit, before=before))

    def counts(self, cap: int = 10_000) -> dict[State, int]:
        """How many jobs are in each state, counted up to cap + 1."""
        return self._look(lambda connection: read.counts(connection, self._tables, cap))

    def queues(self, cap: int = 10_000) -> list[QueueCount]:
        """What waits and runs in each queue."""
        return self._look(lambda connection: read.queues(connection, self._tables, cap))

    def attempts(self, job_id: int) -> list[AttemptRow]:
        """What went wrong, attempt by attempt."""
        return self._look(lambda connection: read.attempts(connection, self._tables, job_id))

    def labels(self, ids: Iterable[int]) -> Mapping[int, Mapping[str, str]]:
        """The labels of these jobs."""
        return self._look(lambda connection: read.labels(connection, self._tables, list(ids)))

    def unfinished_keys(
        self, keys: Sequence[str] | None, *, include_running: bool = True, include_failed: bool = True
    ) -> list[str]:
        """Which keys still have work to do (S2.25)."""
        return self._look(
            lambda connection: read.unfinished_keys(
                connection, self._tables, keys, include_running=include_running, include_failed=include_failed
            )
        )

    def children(self, job_id: int) -> list[int]:
        """The jobs that this one spawned, the first ones first, a thousand at most."""
        return self._look(lambda connection: edges.children(connection, self._tables, job_id))

    # --- what keeps a job from running ---------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The database's clock."""
        return self._look(lambda connection: instant(connection.execute(select(self._tables.now())).scalar())) or EPOCH

    def needs(self, job_id: int) -> list[Need]:
        """What this job waits for that has not ended as it needs, the first few."""
        return self._look(lambda connection: waits.needs(connection, self._tables, job_id))

    def line(self, group: str) -> GroupLine:
        """How a group stands."""
        return self._look(lambda connection: waits.line(connection, self._tables, group))

    def shares(self, limit: str) -> Shares:
        """How a limit stands."""
        return self._look(lambda connection: waits.shares(connection, self._tables, limit))

    def before(self, row: JobRow) -> int:
        """How many ready jobs of the same queue and priority have been ready for longer, counted up to a thousand."""
        since = 0 if row.ready_at is None else round((row.ready_at - EPOCH).total_seconds() * 1_000_000)
        return self._look(lambda connection: waits.before(connection, self._tables, name_hash(row.queue), row.priority, since))

    def groups(self, *, limit: int = 50, after: int | None = None) -> list[tuple[int, str]]:
        """Groups that have live jobs, by their numbers, behind this one."""
        first = -(2**63) if after is None else after
        return self._look(lambda connection: waits.groups(connection, self._tables, limit=limit, after=first))

    def halted_groups(self) -> list[tuple[int, str]]:
        """Groups that stand still because of a failed job."""
        return self._look(lambda connection: waits.halted(connection, self._tables))

    # --- what may be stuck ----------------------------------------------------------------------------------------------

    def runs(self, limit: int) -> list[Runs]:
        """The jobs that run, each with the silence of its worker."""
        return self._look(lambda connection: stuck.runs(connection, self._tables, limit))

    def heads(self) -> list[Head]:
        """Every queue and priority with ready jobs, and since when it has some."""
        return self._look(lambda connection: stuck.heads(connection, self._tables))

    def lane(self, head: Head, older_than: float, limit: int) -> list[Waits]:
        """The jobs of one of them that have been ready for longer than so many seconds, the longest first."""
        return self._look(lambda connection: stuck.lane(connection, self._tables, head, older_than, limit))

    def parked(self, limit: int) -> list[list[Waits]]:
        """The jobs that no worker knew how to run, task by task, up to `limit` of each."""
        return self._look(lambda connection: list(stuck.parked(connection, self._tables, limit)))

    def overdue(self, older_than: float, limit: int) -> list[Waits]:
        """The jobs whose time came more than so many seconds ago."""
        return self._look(lambda connection: stuck.overdue(connection, self._tables, older_than, limit))

    # --- output and age -------------------------------------------------------------------------------------------------

    def write_output(self, lines: Sequence[Line]) -> None:
        """Append lines to the logs of jobs."""
        self._database.transact(lambda connection: output.write(connection, self._tables, lines))

    def forget_output(self, lease: Lease) -> None:
        """Delete what one run has said."""
        self._look(lambda connection: output.forget(connection, self._tables, lease))

    def read_output(self, job_id: int, after: int = 0, limit: int = 1000) -> list[OutputLine]:
        """Lines of a job's log, the oldest first, behind the line with the id `after`."""
        return self._look(lambda connection: output.read(connection, self._tables, job_id, after, limit))

    def prune_batch(self, state: State, older_than: float, limit: int = 1000) -> int:
        """Delete some jobs that ended in this state more than so many seconds ago; gives how many."""
        return self._database.transact(lambda connection: prune.prune_batch(connection, self._tables, state, older_than, limit))

    def count_prunable(self, state: State, older_than: float, cap: int = 10_000) -> int:
        """How many jobs `prune_batch` would delete in all, counted up to cap + 1."""
        return self._look(lambda connection: prune.count_prunable(connection, self._tables, state, older_than, cap))

    def count_kept(self, state: State, older_than: float, cap: int = 10_000) -> Kept:
        """How many of the oldest of them are kept, because something refers to them; counted up to cap + 1."""
        return self._look(lambda connection: prune.count_kept(connection, self._tables, state, older_than, cap))

    def prune_gates(self, older_than: float) -> int:
        """Delete the rows of groups and limits made more than so many seconds ago that no job uses; gives how many."""
        return self._database.transact(lambda connection: gates.prune_gates(connection, self._tables, older_than))

    def prune_keys(self, after: str | None) -> str | None:
        """Delete unique keys behind this one that nobody holds any more; gives where to go on (None: at the beginning)."""
        return self._database.transact(lambda connection: unique.prune_keys(connection, self._tables, after or ""))[1]

    def prune_workers(self, older_than: float) -> int:
        """Delete the rows of workers that ended more than so many seconds ago."""
        return self._database.transact(lambda connection: prune.prune_workers(connection, self._tables, older_than))


def ready_again(moved: Iterable[Moved]) -> list[Ready]:
    """Those that became ready by a move."""
    return [
        Ready(one.id, one.queue, one.priority) for one in moved if one.after is State.READY and one.before is not State.READY
    ]
