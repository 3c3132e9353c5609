"""What operators may do to jobs: cancel, hold, release, retry. Every write names the state it expects."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    select,
    union_all,
    update,
)

from dray.job import Flag, Lease, Reason, State, name_hash
from dray.stations import GROUP, Held, Place, enter
from dray.store import unique
from dray.store.codes import (
    BLOCKED,
    CANCELLED,
    FAILED,
    READY,
    REASON,
    RETRYING,
    RUNNING,
    SCHEDULED,
    STATE_OF,
    SUCCEEDED,
    document,
)
from dray.store.edges import find_out_anew, leave_behind
from dray.store.ends import carry, ended
from dray.store.gates import lock
from dray.store.owed import Owed
from dray.store.places import Placed, Traveller, arrived, columns_of, send_on
from dray.store.tables import Tables

CHUNK = 1000  # jobs locked and written by one round of statements
LOOKS = 10  # how often we look for a job that moves from table to table each time we do
WAITING = (READY, SCHEDULED, RETRYING, BLOCKED)
LIVE = (*WAITING, RUNNING)
HELD, COVERED = REASON[Reason.HELD], REASON[Reason.COVERED]
GATES = (REASON[Reason.GROUP], REASON[Reason.LIMIT])
PARENTS = Place(State.BLOCKED, Reason.PARENTS, None, None)


class Moved(NamedTuple):
    """What became of one job that an operator named.

    before    the state it was found in; None: there is no such job
    after     the state it is in now; None: its state does not allow the move, and nothing was written
    """

    id: int
    before: State | None
    after: State | None
    queue: str
    priority: int
    holder: int | None = None  # the job that has its unique key by now, for which it was not moved


Moves = tuple[list[Moved], Owed]  # in the order asked, and what follows from them


class _Found(NamedTuple):
    """A job whose row is locked by this transaction."""

    id: int
    state: int
    reason: int | None
    flags: int
    queue: str
    priority: int
    group_hash: int | None
    group_held: int | None
    limit_hash: int | None
    limit_held: int | None
    unique_hash: str | None
    unique_scope: int | None
    threshold: int | None

    @property
    def held(self) -> bool:
        return bool(self.flags & Flag.HELD)

    def traveller(self, without: int = 0) -> Traveller:
        """This job on its way to its next station, without some of its flags."""
        gates = self.group_hash, self.group_held, self.limit_hash, self.limit_held
        return Traveller(self.id, self.queue, self.priority, self.flags & ~without, *gates)


class Acted(NamedTuple):
    """The state of each job that was moved, what follows from that, and who keeps others from being moved."""

    after: Mapping[int, int]
    owed: Owed
    holders: Mapping[int, int] = {}


Act = Callable[[Sequence[_Found]], Acted]


def cancel(
    connection: Connection, tables: Tables, ids: Sequence[int], note: str | None = "cancelled", *, doomed: bool = False
) -> Moves:
    """End jobs that wait; ask running ones to end, which they hear at their next checkpoint. `doomed`: because of a job that
    they need."""
    values = ended(tables, CANCELLED, Flag.DOOMED if doomed else 0) | {"note": note}

    def act(found: Sequence[_Found]) -> Acted:
        waiting, running = _ids(found, WAITING), _ids(found, (RUNNING,))
        carry(connection, tables, tables.jobs, tables.history, waiting, WAITING, values)
        flags = tables.jobs.c.flags.bitwise_or(int(Flag.CANCEL))
        _update(connection, tables, running, (RUNNING,), {"flags": flags})
        owed = Owed(
            ended=set(waiting), coverers={job.id for job in found if job.state in WAITING and job.threshold is not None}
        )
        for job in found:
            if job.state in WAITING:
                owed.gates(job.group_hash, job.limit_hash)
        return Acted(dict.fromkeys(waiting, CANCELLED) | dict.fromkeys(running, RUNNING), owed)

    return _move(connection, tables, ids, act)


def hold(connection: Connection, tables: Tables, ids: Sequence[int], note: str | None = None) -> Moves:
    """Keep jobs from starting until they are released. One that runs goes on, but is not started again.

    What waits or is ready gives back its place in its group and limit, so that it keeps nobody else waiting.
    """
    said = {} if note is None else {"note": note}
    flagged = {"flags": tables.jobs.c.flags.bitwise_or(int(Flag.HELD)), **said}
    given_back = {**flagged, "group_held": None, "limit_held": None}
    stopped = {**given_back, "state": BLOCKED, "reason": HELD, "ready_at": None}

    def act(found: Sequence[_Found]) -> Acted:
        startable = [job for job in found if job.state == READY or (job.state == BLOCKED and job.reason in GATES)]
        ready = [job.id for job in startable]
        covered = [job.id for job in found if job.state == BLOCKED and job.reason == COVERED]
        waiting = set(_ids(found, (SCHEDULED, RETRYING, BLOCKED))).difference(ready, covered)
        _update(connection, tables, covered, (BLOCKED,), flagged)
        _update(connection, tables, ready, (READY, BLOCKED), stopped)
        _update(connection, tables, waiting, (SCHEDULED, RETRYING, BLOCKED), given_back)
        _update(connection, tables, _ids(found, (RUNNING,)), (RUNNING,), flagged)
        owed = Owed()
        for job in found:
            if job.state in WAITING:
                owed.gates(job.group_hash, job.limit_hash)
        return Acted(_unmoved(found, LIVE) | dict.fromkeys(ready, BLOCKED), owed)

    return _move(connection, tables, ids, act)


def release(connection: Connection, tables: Tables, ids: Sequence[int], note: str | None = None) -> Moves:
    """Let held jobs go on: those that wait for nothing else are ready now."""
    cleared: dict[str, Any] = {"flags": tables.jobs.c.flags.bitwise_and(~int(Flag.HELD))}
    # The note said why it was held, which is over.
    freed = {**cleared, "note": note}

    def act(found: Sequence[_Found]) -> Acted:
        stopped = [job for job in found if job.state == BLOCKED and job.reason == HELD]
        flagged = set(_ids((job for job in found if job.held), LIVE)).difference(job.id for job in stopped)
        expected = and_(tables.jobs.c.state == BLOCKED, tables.jobs.c.reason == HELD)
        placed = send_on(connection, tables, [job.traveller(without=Flag.HELD) for job in stopped], expected, freed)
        _update(connection, tables, flagged, LIVE, cleared)
        after = dict.fromkeys((job.id for job in stopped), BLOCKED) | {one.id: READY for one in placed.ready}
        return Acted(_unmoved(found, LIVE) | after, placed.owed)

    return _move(connection, tables, ids, act)


def retry(connection: Connection, tables: Tables, ids: Sequence[int], *, force: bool = False) -> Moves:
    """Make jobs ready at once: ended ones start over, waiting ones skip the rest of their wait.

    A succeeded job is run again only with `force`. Of two operators who retry the same job one moves it, and
    the other finds it live. An ended job keeps its fence, so that whoever held it before still cannot write,
    and the list of its attempts; it takes its unique key again, or is not moved. It looks at its parents, its group
    and its limit again (C29).
    """
    endings = (FAILED, CANCELLED, *([SUCCEEDED] if force else []))

    def act(found: Sequence[_Found]) -> Acted:
        timed = [job.traveller() for job in found if job.state in (SCHEDULED, RETRYING)]
        expected = tables.jobs.c.state.in_((SCHEDULED, RETRYING))
        placed = send_on(connection, tables, timed, expected, {"run_at": None})
        over = [job for job in found if job.state in endings]
        keys = [(job.id, job.unique_hash, job.unique_scope or 0) for job in over if job.unique_hash is not None]
        holders = unique.retake(connection, tables, keys)
        over = [job for job in over if job.id not in holders]
        placed.add(_put_back(connection, tables, over, endings))
        moved = dict.fromkeys([*(one.id for one in timed), *(job.id for job in over)], BLOCKED)
        after = _unmoved(found, (READY,)) | moved | {one.id: READY for one in placed.ready}
        return Acted(after, placed.owed, holders)

    return _move(connection, tables, ids, act)


def _put_back(connection: Connection, tables: Tables, over: Sequence[_Found], endings: Collection[int]) -> Placed:
    """Ended jobs start over, each at the first station that keeps it."""
    heads = _halting(connection, tables, over)
    places: defaultdict[Place, list[Traveller]] = defaultdict(list)
    for job in over:
        # Its group has stood still because of it, and it goes on where it was: before all others.
        back = job.traveller()._replace(group_held=Held.HOLDS if job.id in heads else None, limit_held=None)
        place = PARENTS if job.flags & Flag.PARENTS else enter(back)
        places[place].append(back)
    placed = Placed(owed=Owed(ended={job.id for job in over}))
    for place, some in places.items():
        values = _afresh(tables) | columns_of(place, tables) | {"run_at": None}
        carry(connection, tables, tables.history, tables.jobs, [one.id for one in some], endings, values)
        placed.add(arrived(place, some))
        if place is PARENTS:
            placed.owed.waiting |= {one.id for one in some}
    # What was known of its parents, and children, is as old as its end: it is found out anew before it counts.
    needy = {job.id for job in over if job.flags & (Flag.PARENTS | Flag.SPAWNED)}
    if needy:
        leave_behind(connection, tables, needy)
        find_out_anew(connection, tables, needy)
    return placed


def _halting(connection: Connection, tables: Tables, over: Sequence[_Found]) -> set[int]:
    """Those that stand at the head of their group again, which stood still because they failed and does so no more."""
    halts, jobs = tables.halts, tables.jobs
    groups = {job.group_hash for job in over if job.flags & Flag.HALT and job.group_hash is not None}
    if not groups:
        return set()
    # All of these groups are locked: if somebody unblocks one at this moment, or runs another job of it again, either he comes
    # first, or we do. As long as there is one of them nobody else can come to the head.
    query = select(halts.c.group_hash, halts.c.job_id).where(halts.c.group_hash.in_(sorted(groups)))
    ids = {job.id for job in over}
    found = connection.execute(tables.dialect.wait_for(query.order_by(halts.c.group_hash, halts.c.job_id))).all()
    mine = [row for row in found if row[1] in ids]
    first = {row[0]: row[1] for row in reversed(mine)}  # one head for each group, however many have failed in it
    connection.execute(delete(halts).where(halts.c.group_hash.in_(sorted(first)), halts.c.job_id.in_([row[1] for row in mine])))
    # Who failed because of his children had left the head long before, and another may be there, or come there just now.
    lock(connection, tables, GROUP, first)
    there = select(jobs.c.group_hash).where(jobs.c.group_hash.in_(sorted(first)), jobs.c.group_held >= int(Held.HOLDS))
    taken = set(connection.execute(there).scalars())
    return {id for group, id in first.items() if group not in taken}


def move(connection: Connection, tables: Tables, ids: Sequence[int], queue: str | None, priority: int | None) -> Moves:
    """Put jobs that do not run into another queue, or give them another priority; they keep their place in all else."""
    values: dict[str, Any] = {}
    if queue is not None:
        values |= {"queue": queue, "queue_hash": name_hash(queue)}
    if priority is not None:
        values |= unique.with_priority(tables, priority)
    # Else it would lie below the floors of those who claim from where it goes.
    values["ready_at"] = case((tables.jobs.c.state == READY, tables.now()), else_=tables.jobs.c.ready_at)

    def act(found: Sequence[_Found]) -> Acted:
        _update(connection, tables, _ids(found, WAITING), WAITING, values)
        return Acted(_unmoved(found, WAITING), Owed())

    return _move(connection, tables, ids, act)


def requested(connection: Connection, tables: Tables, worker_id: int) -> list[tuple[Lease, Flag]]:
    """The running jobs of a worker that somebody wants held or cancelled; cheap, since workers ask often."""
    # Literals: SQLite uses a partial index only for a condition that is written out.
    wanted = int(Flag.HELD | Flag.CANCEL)
    statement = tables.text(
        "SELECT id, fence, flags FROM {jobs}"
        f" WHERE state = {RUNNING} AND worker_id = :w AND (flags & {wanted}) <> 0 ORDER BY id"
    )
    rows = connection.execute(statement, {"w": worker_id})
    return [(Lease(row[0], row[1]), Flag(row[2])) for row in rows]


# --- lock, then write ---------------------------------------------------------------------------------------


def _move(connection: Connection, tables: Tables, ids: Sequence[int], act: Act) -> Moves:
    """Lock the jobs, let `act` write and say which it moved to what; tell it in the order asked."""
    moved: dict[int, Moved] = {}
    owed = Owed()
    ordered = sorted(set(ids))  # ascending: nobody who locks many rows waits in a circle
    for start in range(0, len(ordered), CHUNK):
        found = _find(connection, tables, ordered[start : start + CHUNK])
        after, some, holders = act(found)
        owed.add(some)
        for job in found:
            now = STATE_OF[after[job.id]] if job.id in after else None
            moved[job.id] = Moved(job.id, STATE_OF.get(job.state), now, job.queue, job.priority, holders.get(job.id))
    return [moved.get(id) or Moved(id, None, None, "", 0) for id in ids], owed


def _find(connection: Connection, tables: Tables, ids: Sequence[int]) -> list[_Found]:
    """Lock these jobs, wherever they are."""
    found: dict[int, _Found] = {}
    missing = list(ids)
    for _ in range(LOOKS):
        for place in ("jobs", "history"):
            statement = tables.dialect.lock_ids(f"{{{place}}}", ", ".join(f"j.{name}" for name in _Found._fields))
            rows = connection.execute(tables.text(statement), {"doc": document(missing)}) if missing else ()
            found.update((row[0], _Found(*row)) for row in rows)
            missing = [id for id in missing if id not in found]
        # A job that is put back while we look may be in the one table before we look there, and in the other after. Only one
        # statement that reads both can say that it is in neither.
        missing = _existing(connection, tables, missing) if missing else []
        if not missing:
            break
    return list(found.values())


def _existing(connection: Connection, tables: Tables, ids: Sequence[int]) -> list[int]:
    places = [select(table.c.id).where(table.c.id.in_(ids)) for table in (tables.jobs, tables.history)]
    return sorted(connection.execute(union_all(*places)).scalars())


def _ids(found: Iterable[_Found], states: Collection[int]) -> list[int]:
    return [job.id for job in found if job.state in states]


def _unmoved(found: Sequence[_Found], states: Collection[int]) -> dict[int, int]:
    return {job.id: job.state for job in found if job.state in states}


def _update(
    connection: Connection,
    tables: Tables,
    ids: Collection[int],
    states: Collection[int],
    values: Mapping[str, Any],
) -> None:
    if ids:
        jobs = tables.jobs
        mine = update(jobs).where(jobs.c.id.in_(sorted(ids)), jobs.c.state.in_(states))
        connection.execute(tables.dialect.by_primary_key(mine).ordered_values(*values.items()))


# --- what a row becomes -------------------------------------------------------------------------------------


def _afresh(tables: Tables) -> dict[str, Any]:
    """An ended job as if it had never run. Its fence and its last error stay."""
    times = "claimed_at", "started_at", "finished_at", "covered_by", "expires_at"  # a person wants it now
    nothing = ("worker_id", *times, "group_held", "limit_held", "result", "report", "note")
    flags = tables.history.c.flags.bitwise_and(~int(Flag.CANCEL | Flag.SUSPECT | Flag.DOOMED))
    return {
        **dict.fromkeys(nothing),
        "attempt": 0,
        "crashes": 0,
        "snoozes": 0,
        "signature": 0,
        "flags": flags,
    }
