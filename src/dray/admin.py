"""What an operator may see and do. The command line, the pages and the API speak only to this."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from dray import doctor
from dray.app import Dray
from dray.care import Care
from dray.doctor import Check
from dray.errors import BadFilter, BadOption, Conflict, IllegalMove, SchemaError, UnknownJob
from dray.job import Flag, JobRow, State
from dray.options import check_name, check_priority
from dray.rollup import Numbers
from dray.stations import GROUP, gate_hash
from dray.store import schema, vitals
from dray.store.control import Moved
from dray.store.controls import Pause
from dray.store.dialects import SQLITE
from dray.store.failures import ErrorKind
from dray.store.filters import Filter
from dray.store.output import OutputLine
from dray.store.promote import next_due
from dray.store.read import CAP, AttemptRow, QueueCount
from dray.store.sql import SqlStore
from dray.store.tables import Tables
from dray.store.waits import Line as GroupLine
from dray.store.workers import WorkerRow
from dray.waits import microseconds
from dray.why import Cause, ask

PAGE = 500  # jobs that are looked at, or moved, in one go

Wanted = Filter | Mapping[str, Any] | str | Sequence[str]

_NEXT_WORD = re.compile(r"\s+(?=[a-z_]+:)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """All that is known of one job. `output` is the newest part of its log, the oldest line first."""

    row: JobRow
    labels: Mapping[str, str]
    attempts: list[AttemptRow]
    output: list[OutputLine]
    children: Sequence[int] = ()  # jobs that it spawned, the first ones first


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What became of one job that was to be moved; `error` says why it was not."""

    id: int
    before: State | None
    after: State | None
    error: UnknownJob | IllegalMove | Conflict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How things are. Counts stop one above `cap`.

    next_due    seconds until the next scheduled or retrying job is due; negative when it is overdue
    """

    counts: Mapping[State, int]
    queues: list[QueueCount]
    workers: list[WorkerRow]
    next_due: float | None
    cap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A job, and the jobs that it spawned."""

    row: JobRow
    children: list[Branch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How a group stands; `number` is what the next page begins behind."""

    number: int
    line: GroupLine


class Admin:
    """What an operator may see and do with the jobs of an app.

    Looking never creates a database or a table: where there is none it raises SchemaError. Everything raises
    StoreUnavailable when the database cannot be reached.
    """

    def __init__(self, app: Dray) -> None:
        self.app = app
        self._checked = False

    @property
    def care(self) -> Care:
        """What somebody has to do now and then: rescue, prune, and look at what is stuck."""
        return Care(self._store(), self.app.settings)

    # --- see ------------------------------------------------------------------------------------------------------------

    def jobs(self, wanted: Wanted = "", *, limit: int = 50, before: int | None = None) -> list[JobRow]:
        """Jobs, the newest first, older than the id `before`. Raises BadFilter."""
        return self._store().desk.jobs(read_filter(wanted), limit=limit, before=before)

    def pages(self, wanted: Wanted, *, limit: int | None = None, before: int | None = None) -> Iterator[list[JobRow]]:
        """All jobs a filter lets through, or the newest `limit`, older than the id `before`, page by page.

        By descending id, so it comes to an end whatever is enqueued or moved meanwhile (C92).
        """
        chosen, left = read_filter(wanted), limit
        while left is None or left > 0:
            page = self.jobs(chosen, limit=PAGE if left is None else min(PAGE, left), before=before)
            if not page:
                return
            yield page
            before = page[-1].id
            left = None if left is None else left - len(page)

    def job(self, job_id: int, *, lines: int = 1000) -> Details:
        """One job with its labels, failed attempts and log; raises UnknownJob."""
        desk = self._store().desk
        row = desk.job(job_id)
        if row is None:
            raise UnknownJob(job_id)
        return Details(
            row=row,
            labels=desk.labels([job_id]).get(job_id, {}),
            attempts=desk.attempts(job_id),
            output=self.output(job_id, limit=lines),
            children=desk.children(job_id) if row.flags & Flag.SPAWNED else (),
        )

    def output(self, job_id: int, *, after: int = 0, limit: int = 1000) -> list[OutputLine]:
        """Lines of a job's log behind the line with the id `after`; to follow it, ask again with the last id."""
        return self._store().desk.read_output(job_id, after, limit)

    def stats(self, *, cap: int = CAP) -> Stats:
        """Counts by state, queues, the workers that are alive, and when the next job is due."""
        store = self._store()
        return Stats(
            counts=store.desk.counts(cap),
            queues=store.desk.queues(cap),
            workers=store.roster.listing(),
            next_due=store.database.once(lambda connection: next_due(connection, store.tables)),
            cap=cap,
        )

    def done(self, seconds: float) -> dict[tuple[str, str], Numbers]:
        """What was done in the last so many seconds, by task and queue, as the workers counted it."""
        return self._store().desk.totals(seconds)

    def errors(self, seconds: float | None = None) -> list[ErrorKind]:
        """What failed in the last so many seconds, alike with alike; of the newest 10,000 failed attempts."""
        return self._store().desk.errors(seconds)

    def why(self, job_id: int) -> list[Cause]:
        """Everything that keeps a job from running, and then what keeps the jobs that it waits for (P8); raises UnknownJob."""
        store = self._store()
        return ask(store.desk, store.roster.listing(), store.desk.controls()).causes(job_id)

    def tree(self, job_id: int) -> Branch:
        """A job with those that it spawned, and theirs: each with its own report, read and not copied (C70). Raises UnknownJob.

        What was pruned is left out.
        """
        desk, seen = self._store().desk, {job_id}

        def branch(row: JobRow) -> Branch:
            ids = [id for id in desk.children(row.id) if id not in seen]
            seen.update(ids)
            return Branch(row=row, children=[branch(child) for id in ids if (child := desk.job(id)) is not None])

        row = desk.job(job_id)
        if row is None:
            raise UnknownJob(job_id)
        return branch(row)

    def groups(self, names: Sequence[str] = (), *, limit: int = 50, after: int | None = None) -> list[Group]:
        """How these groups stand; without names those that have live jobs, in an order of their own, behind this one."""
        desk = self._store().desk
        if names:
            return [Group(number=gate_hash(GROUP, name) or 0, line=desk.line(name)) for name in names]
        page = desk.groups(limit=limit, after=after)
        last = page[-1][0] if len(page) == limit else math.inf  # no further, or the next page would leave some out
        halted = {one: name for one, name in desk.halted_groups() if (after is None or one > after) and one <= last}
        return [Group(number=number, line=desk.line(name)) for number, name in sorted({**dict(page), **halted}.items())]

    def paused(self) -> list[Pause]:
        """The queues of which nothing is started, by name."""
        return sorted(self._store().desk.controls().paused.values(), key=lambda pause: pause.queue)

    def queues(self) -> list[QueueCount]:
        """What waits and runs in each queue that is in use."""
        return self._store().desk.queues()

    def workers(self, *, alive_only: bool = True) -> list[WorkerRow]:
        """The workers, the newest first."""
        return self._store().roster.listing(alive_only=alive_only)

    def doctor(self, known_variables: Iterable[str] = ()) -> list[Check]:
        """Look for what is wrong, and say how to mend it. Raises nothing: what cannot be asked is a failed check."""
        return doctor.examine(self.app, known_variables)

    # --- do -------------------------------------------------------------------------------------------------------------

    def retry(self, ids: Sequence[int], *, force: bool = False) -> list[Move]:
        """Run ended jobs again under their ids, and waiting ones now; succeeded ones only with `force`.

        What cannot be moved is told for each job, and does not stop the others.
        """
        return self._moves(ids, "retried", lambda some: self._store().desk.retry(some, force=force))

    def retry_with_children(self, ids: Sequence[int], *, force: bool = False) -> list[Move]:
        """The same, and then what was cancelled because of one of these, and so on; not what a person cancelled, or time."""
        moves = self.retry(ids, force=force)
        seen, parents = {move.id for move in moves}, [move.id for move in moves if move.error is None]
        while parents:
            found = {child for id in parents for child in self._store().desk.doomed_by(id)}
            moves += (revived := self.retry(sorted(found - seen)))
            seen |= found
            parents = [move.id for move in revived if move.error is None]
        return moves

    def hold(self, ids: Sequence[int], note: str | None = None) -> list[Move]:
        """Keep jobs from starting until they are released; what waits gives back its place in its group and limit."""
        return self._moves(ids, "held", lambda some: self._store().desk.hold(some, note))

    def release(self, ids: Sequence[int]) -> list[Move]:
        """Let held jobs go on."""
        return self._moves(ids, "released", lambda some: self._store().desk.release(some))

    def move(self, ids: Sequence[int], *, queue: str | None = None, priority: int | None = None) -> list[Move]:
        """Put jobs that do not run into another queue, or give them another priority (0 to 999). Raises BadOption."""
        if queue is None and priority is None:
            raise BadOption("move them where? Give a queue, a priority or both")
        if queue is not None:
            check_name("queue", queue)
        if priority is not None:
            check_priority(priority)
        return self._moves(ids, "moved", lambda some: self._store().desk.move(some, queue, priority))

    def pause(
        self,
        queue: str,
        *,
        note: str | None = None,
        seconds: float | None = None,
        until: datetime | None = None,
        timeout: float = 10.0,
    ) -> list[int]:
        """Let nothing of a queue start, for so many seconds, until an instant, or until it is resumed.

        Returns when every worker that is alive has said that it obeys, which takes about a second; what runs goes on. Gives
        the workers that have not said so within the timeout (seconds): their database connection may hang.
        """
        check_name("queue", queue)
        desk = self._store().desk
        number = desk.pause(queue, note, seconds, microseconds(until))
        deadline = time.monotonic() + timeout
        while (deaf := desk.deaf(number)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return deaf

    def resume(self, queue: str) -> bool:
        """Let a queue go on; False: it was not paused."""
        return self._store().desk.resume(queue)

    def unblock_group(self, name: str) -> list[int]:
        """Let a group go on without the failed jobs that it stands still for; gives their ids."""
        return self._store().desk.unblock_group(name)

    def waive(self, job_id: int, parent: int) -> None:
        """Let a job wait for this parent no longer. Raises UnknownJob, and BadOption when it does not wait for it."""
        desk = self._store().desk
        if desk.job(job_id) is None:
            raise UnknownJob(job_id)
        if not desk.waive(job_id, parent):
            raise BadOption(f"job {job_id} does not wait for job {parent}; see dray why {job_id}")

    def give_up(self, parent: int) -> list[Move]:
        """Cancel everything that waits for this job to succeed, since it never will."""
        desk, moves, note = self._store().desk, list[Move](), f"job {parent}, which it needs, was given up"
        while waiting := desk.dependents(parent):
            moves += self._moves(waiting, "cancelled", lambda some: desk.cancel(some, note, doomed=True))
        return moves

    def cancel(self, ids: Sequence[int], note: str = "cancelled by an operator") -> list[Move]:
        """End jobs that wait; ask running ones to end, which leaves them running until they heard it."""
        return self._moves(ids, "cancelled", lambda some: self._store().desk.cancel(some, note))

    def _moves(self, ids: Sequence[int], word: str, move: Callable[[list[int]], list[Moved]]) -> list[Move]:
        left = iter(dict.fromkeys(ids))
        moves: list[Move] = []
        while some := list(islice(left, PAGE)):
            moves += [_judged(moved, word) for moved in move(some)]
        return moves

    # --- the schema -----------------------------------------------------------------------------------------------------

    def init(self, report: Callable[[str], None] = lambda line: None) -> list[str]:
        """Create the tables or bring them up to date, and give the steps that were taken; none: they were."""
        store = self.app.store
        return schema.upgrade(store.database, store.tables, report)

    def check_schema(self) -> None:
        """Raise SchemaError, which says what to do, unless the tables are there and of this code's version."""
        store = self.app.store
        file = vitals.file_of(store.database)
        if file is not None and not file.exists():
            raise SchemaError(f"there is no database file {file}: enqueue a job, or run 'dray init'")
        store.database.once(lambda connection: schema.check(connection, store.tables))

    def schema_sql(self) -> str:
        """The tables as SQL, for those who let nobody else create them; no database is asked."""
        settings = self.app.settings
        named = Tables(SQLITE, settings.table_prefix, settings.schema)
        return schema.sql(named, settings.database_url)

    def _store(self) -> SqlStore:
        if not self._checked:
            self.check_schema()
            self._checked = True
        return self.app.store


def _judged(moved: Moved, word: str) -> Move:
    error: UnknownJob | IllegalMove | Conflict | None = None
    if moved.before is None:
        error = UnknownJob(moved.id)
    elif moved.holder is not None:
        error = Conflict(moved.holder)
    elif moved.after is None:
        error = IllegalMove(moved.id, moved.before, word)
    return Move(id=moved.id, before=moved.before, after=moved.after, error=error)


def read_filter(wanted: Wanted) -> Filter:
    """Read `state:failed queue:mail since:1h`, as one text or as words; raises BadFilter.

    A value may hold blanks: it ends where the next `name:` begins.
    """
    if isinstance(wanted, Filter):
        return wanted
    if isinstance(wanted, Mapping):
        return Filter.parse(wanted)
    words: dict[str, str] = {}
    for text in [wanted] if isinstance(wanted, str) else wanted:
        for word in _NEXT_WORD.split(text.strip()):
            name, colon, value = word.partition(":")
            if not colon and word:
                raise BadFilter(f"{word!r} is no filter: write name:value, such as state:failed or queue:mail")
            if name in words:
                raise BadFilter(f"{name} is given twice")
            if word:
                words[name] = value
    return Filter.parse(words)
