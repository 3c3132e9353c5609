"""Unique keys: which of new jobs are already there, and who has a key.

A key's row says who took it last, and is not touched again by claims, ends or cancels. Whether that one still has it is read
from its job: so a key costs nothing but at the enqueue, and a crash cannot leave one behind that nobody gives back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, case, delete, func, select, update

from dray.errors import Conflict, StoreUnavailable
from dray.job import NewJob, Reason, UniqueKey
from dray.store.codes import BLOCKED, READY, REASON, RETRYING, SCHEDULED
from dray.store.tables import Tables

QUEUED, UNFINISHED, EVER, WINDOW = range(4)  # scopes
TAKEN = 0  # the job of a key that this transaction has taken, until it has an id
AT_ONCE = 50  # keys in one statement where that makes fewer deadlocks
TRIES = 10  # rounds with somebody else who wants the same keys

_KEYS = {"u": "text", "s": "int", "w": "int"}
_INSERT = {
    "sqlite": (
        "INSERT OR IGNORE INTO {unique_keys} (unique_hash, job_id, scope, hold_until)"
        " SELECT d.u, 0, d.s, n.now + d.w FROM (SELECT {now} AS now) AS n, {rows} WHERE true ORDER BY d.u"
    ),
    "postgresql": (
        "INSERT INTO {unique_keys} (unique_hash, job_id, scope, hold_until)"
        " SELECT d.u, 0, d.s, n.now + d.w FROM (SELECT {now} AS now) AS n, {rows} ORDER BY d.u ON CONFLICT DO NOTHING"
    ),
    "mysql": (
        "INSERT IGNORE INTO {unique_keys} (unique_hash, job_id, scope, hold_until)"
        " SELECT d.u, 0, d.s, n.now + d.w FROM (SELECT {now} AS now) AS n STRAIGHT_JOIN {rows} ORDER BY d.u"
    ),
}
_SHARE = {"sqlite": "", "postgresql": " FOR SHARE", "mysql": " LOCK IN SHARE MODE"}
_ALONE = {"sqlite": "", "postgresql": " FOR NO KEY UPDATE", "mysql": " FOR UPDATE"}
_HOLDER = "SELECT id, state, reason, priority FROM {jobs} WHERE id = :i"
_NAME = {
    "sqlite": "UPDATE {unique_keys} AS k SET job_id = d.i FROM {rows} WHERE k.unique_hash = d.u",
    "postgresql": (
        "UPDATE {unique_keys} AS k SET job_id = d.i FROM {rows} WHERE k.unique_hash = d.u"
        # An array and not only a join, for which it would read a table of some thousand keys from end to end.
        " AND k.unique_hash = ANY(ARRAY(SELECT d.u FROM {rows}))"
    ),
    "mysql": ("UPDATE {rows} STRAIGHT_JOIN {unique_keys} k FORCE INDEX (PRIMARY) ON k.unique_hash = d.u SET k.job_id = d.i"),
}


class Existing(NamedTuple):
    """The job that is there already, in place of a new one."""

    id: int
    state: int


@dataclass(frozen=True, slots=True)
class _Key:
    """A key as its row says."""

    hash: str
    job_id: int
    free: bool  # its time is over


def acquire(connection: Connection, tables: Tables, wanted: Sequence[NewJob]) -> dict[str, Existing]:
    """Take the keys of these new jobs, each of another key; gives those that are there already, by their keys.

    Raises Conflict for one that asks for that. Another transaction that has just taken one of these keys is waited for.
    """
    left = {job.unique.hash: job for job in wanted if job.unique is not None}
    found: dict[str, Existing] = {}
    for _ in range(TRIES):
        _insert(connection, tables, left.values())
        # By their jobs, as all lock jobs.
        for key in sorted(_read(connection, tables, sorted(left)), key=lambda key: key.job_id):
            job = left[key.hash]
            if key.job_id != TAKEN:
                there = None if key.free else _there(connection, tables, job, key)
                if there is not None:
                    found[key.hash] = there
                elif not _take_over(connection, tables, job, key):
                    continue  # somebody was faster: look again who it is
            del left[key.hash]
        if not left:
            return found
    raise StoreUnavailable("a unique key changed hands again and again; try the same again")


def name(connection: Connection, tables: Tables, jobs: Iterable[tuple[int, NewJob]]) -> None:
    """Write into the keys that this transaction has taken which jobs they are of."""
    taken = sorted((job.unique.hash, id) for id, job in jobs if job.unique is not None)
    if taken:
        template = _NAME[tables.dialect.name].replace("{rows}", tables.dialect.rows({"u": "text", "i": "int"}))
        rows = [{"u": hash, "i": id} for hash, id in taken]
        connection.execute(tables.text(template), {"doc": msgspec.json.encode(rows).decode()})


def _insert(connection: Connection, tables: Tables, jobs: Iterable[NewJob]) -> None:
    rows = [_row(job.unique) for job in jobs if job.unique is not None]
    rows.sort(key=lambda row: row["u"])  # ascending: nobody who takes many waits in a circle
    template = _INSERT[tables.dialect.name].replace("{rows}", tables.dialect.rows(_KEYS))
    step = AT_ONCE if tables.dialect.name == "mysql" else len(rows)
    for start in range(0, len(rows), max(1, step)):
        connection.execute(tables.text(template), {"doc": msgspec.json.encode(rows[start : start + step]).decode()})


def _row(key: UniqueKey) -> dict[str, Any]:
    return {"u": key.hash, "s": key.scope, "w": key.window}


def _read(connection: Connection, tables: Tables, hashes: Sequence[str]) -> list[_Key]:
    keys = tables.unique_keys
    over = and_(keys.c.hold_until.is_not(None), keys.c.hold_until <= tables.now())
    query = select(keys.c.unique_hash, keys.c.job_id, over).where(keys.c.unique_hash.in_(hashes)).order_by(keys.c.unique_hash)
    if tables.dialect.name == "mysql":
        # A caller's transaction may be one that does not see what was committed since it began; the insert has locked the row.
        query = query.with_for_update(read=True)
    rows = connection.execute(query)
    return [_Key(row[0], row[1], bool(row[2])) for row in rows]


def _there(connection: Connection, tables: Tables, job: NewJob, key: _Key) -> Existing | None:
    """The job that has the key, if it has it still; its row is then locked against a start until this transaction ends."""
    wanted = job.unique
    assert wanted is not None
    # At once as it will be needed: of two who share a row and then both want to change it, one loses its transaction.
    lock = (_ALONE if wanted.conflict == "replace" else _SHARE)[tables.dialect.name]
    row = connection.execute(tables.text(_HOLDER + lock), {"i": key.job_id}).first()
    if not is_held(wanted.scope, row):
        return None
    if wanted.conflict == "raise":
        raise Conflict(key.job_id)
    if wanted.conflict == "replace" and row is not None and _is_queued(row):
        _replace(connection, tables, job, key.job_id)
    return Existing(key.job_id, _state(connection, tables, key.job_id) if row is None else row.state)


def is_held(scope: int, holder: Any) -> bool:
    """Whether a key of this scope is held by its job, of which this is the live row (None: it has none)."""
    if scope in (EVER, WINDOW):
        return True
    return holder is not None and (scope == UNFINISHED or _is_queued(holder))


def _is_queued(row: Any) -> bool:
    """Whether a run of it starts after now: what is changed before is then seen by it (C62)."""
    if row.state == BLOCKED:
        return bool(row.reason != REASON[Reason.CHILDREN] and row.reason != REASON[Reason.COVERED])
    return row.state in (READY, SCHEDULED, RETRYING)


def _state(connection: Connection, tables: Tables, id: int) -> int:
    found = connection.execute(select(tables.history.c.state).where(tables.history.c.id == id)).scalar()
    return READY if found is None else int(found)


def _replace(connection: Connection, tables: Tables, job: NewJob, id: int) -> None:
    """Let the queued job be as the new one would have been; one that waits for its time waits for the new one."""
    jobs, wanted = tables.jobs, job.unique
    assert wanted is not None
    mine = update(jobs).where(jobs.c.id == id)
    queued = mine.where(jobs.c.state.in_((READY, SCHEDULED, RETRYING, BLOCKED)))
    values = {**with_priority(tables, job.priority), "args": job.args}
    connection.execute(tables.dialect.by_primary_key(queued).ordered_values(*values.items()))
    if job.delay is None and job.run_at is None:
        return
    run_at: Any = job.run_at if job.run_at is not None else tables.now() + round((job.delay or 0) * 1_000_000)
    if wanted.max_wait is not None:
        latest = jobs.c.created_at + round(wanted.max_wait * 1_000_000)
        least = func.min if tables.dialect.name == "sqlite" else func.least
        run_at = least(run_at, latest)
    timed = mine.where(jobs.c.state == SCHEDULED)
    connection.execute(tables.dialect.by_primary_key(timed).values(run_at=run_at))


def with_priority(tables: Tables, priority: int) -> dict[str, Any]:
    """What is written into a job that gets this priority while it waits, in this order."""
    jobs = tables.jobs
    # Else it would lie below the floors of those who claim from where it goes.
    moved = and_(jobs.c.state == READY, jobs.c.priority != priority)
    return {
        "group_rank": case((jobs.c.group_rank == jobs.c.priority, priority), else_=jobs.c.group_rank),
        "ready_at": case((moved, tables.now()), else_=jobs.c.ready_at),
        "priority": priority,
    }


def _take_over(connection: Connection, tables: Tables, job: NewJob, key: _Key) -> bool:
    keys, wanted = tables.unique_keys, job.unique
    assert wanted is not None
    until = None if wanted.window is None else tables.now() + wanted.window
    mine = update(keys).where(keys.c.unique_hash == key.hash, keys.c.job_id == key.job_id)
    return connection.execute(mine.values(job_id=TAKEN, scope=wanted.scope, hold_until=until)).rowcount == 1


# --- ended jobs that start over, and keys that nobody needs -----------------------------------------------------------------


def retake(connection: Connection, tables: Tables, keys: Iterable[tuple[int, str, int]]) -> dict[int, int]:
    """Let ended jobs that start over have their keys again; gives whom these belong to by now, for those that cannot.

    keys    id of the job, its key, the key's scope
    """
    refused: dict[int, int] = {}
    given: dict[str, int] = {}
    table = tables.unique_keys
    for id, hash, scope in sorted(keys, key=lambda one: one[1]):
        if scope == WINDOW:
            continue
        # Of two of them with one key the first has it: it is not live yet, so that the other would find the key free.
        owner = given.get(hash) or _retake(connection, tables, UniqueKey(hash, scope), id)
        if owner is not None:
            refused[id] = owner
            continue
        given[hash] = id
        connection.execute(update(table).where(table.c.unique_hash == hash).values(job_id=id))
    return refused


def _retake(connection: Connection, tables: Tables, wanted: UniqueKey, id: int) -> int | None:
    """Take a key for a job that had it once; gives whom it belongs to, if that is another."""
    job = NewJob(task="", queue="", args="", unique=wanted)
    for _ in range(TRIES):
        _insert(connection, tables, [job])
        for key in _read(connection, tables, [wanted.hash]):  # none, if it has just been pruned: once more
            if key.job_id in (TAKEN, id):
                return None
            holder = connection.execute(tables.text(_HOLDER + _SHARE[tables.dialect.name]), {"i": key.job_id}).first()
            if is_held(wanted.scope, holder):
                return key.job_id
            if _take_over(connection, tables, job, key):
                return None
    raise StoreUnavailable("a unique key changed hands again and again; try the same again")


def prune_keys(connection: Connection, tables: Tables, after: str, limit: int = 1000) -> tuple[int, str | None]:
    """Delete keys behind this one that nobody holds any more; gives how many, and where to go on (None: that was the end).

    A key that was taken for ever stays, also when its job is pruned: else retention would decide what is unique (C59).
    """
    keys, jobs = tables.unique_keys, tables.jobs
    some = select(keys.c.unique_hash).where(keys.c.unique_hash > after).order_by(keys.c.unique_hash).limit(limit)
    hashes = list(connection.execute(some).scalars())
    live = select(jobs.c.id).where(jobs.c.id == keys.c.job_id).exists()
    window = and_(keys.c.scope == WINDOW, keys.c.hold_until <= tables.fixed_now())
    over = and_(keys.c.scope.in_((QUEUED, UNFINISHED)), ~live)
    count = 0
    if hashes:
        # Locked first, and then looked at anew: of a row that was waited for, the rest of the statement would be old news. What
        # a caller's transaction has just taken is passed over.
        idle = select(keys.c.unique_hash).where(keys.c.unique_hash.in_(hashes), window | over).order_by(keys.c.unique_hash)
        old = list(connection.execute(tables.dialect.lock(idle)).scalars())
        if old:
            count = connection.execute(delete(keys).where(keys.c.unique_hash.in_(old), window | over)).rowcount
    return count, hashes[-1] if len(hashes) == limit else None
