"""Inserting jobs: one statement for any number, ids in the order given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select

from dray.errors import UnknownJob
from dray.job import Added, Flag, Lease, NewJob, State, name_hash
from dray.stations import GROUP, LIMIT, enter, gate_hash
from dray.store import edges, unique
from dray.store.codes import REASON, STATE, STATE_OF
from dray.store.owed import Owed
from dray.store.tables import Tables

CHUNK = 1000  # jobs in one statement
CHUNK_BYTES = 4_000_000  # MariaDB takes packets of 16 MB unless told otherwise

_FIELDS = {
    "o": "int",
    "qh": "int",
    "kh": "int",
    "pr": "int",
    "dl": "int",
    "ra": "int",
    "ma": "int",
    "fl": "int",
    "st": "int",  # where it stands once its time has come
    "rs": "int",
    "pa": "int",  # 1: it waits for its parents first, whatever its time is
    "gh": "int",
    "gd": "int",
    "gr": "int",
    "lh": "int",
    "ld": "int",
    "pi": "int",
    "th": "int",
    "xd": "int",  # microseconds until it expires
    "xa": "int",
    "ts": "int",
    "uh": "text",
    "us": "int",
    "q": "text",
    "t": "text",
    "k": "text",
    "ow": "text",
    "g": "text",
    "l": "text",
    "lr": "text",
    "ar": "text",
}
# A job stands before its parents; else it waits for its time; else it is where `stations.enter` puts it.
_LATER = "COALESCE(d.ra, n.now + d.dl) > n.now"
_COLUMNS = {
    "state": f"CASE WHEN d.pa = 1 THEN 4 WHEN {_LATER} THEN 2 ELSE COALESCE(d.st, 0) END",
    "reason": f"CASE WHEN d.pa = 1 THEN 1 WHEN {_LATER} THEN NULL ELSE d.rs END",
    "queue_hash": "d.qh",
    "priority": "d.pr",
    "ready_at": f"CASE WHEN d.pa = 1 OR d.st = 4 OR {_LATER} THEN NULL ELSE n.now END",
    "fence": "0",
    "attempt": "0",
    "max_attempts": "d.ma",
    "crashes": "0",
    "snoozes": "0",
    "flags": "d.fl",
    "run_at": "COALESCE(d.ra, n.now + d.dl)",
    "created_at": "n.now",
    "task_hash": "d.th",
    "signature": "0",
    "key_hash": "d.kh",
    "group_hash": "d.gh",
    "group_held": f"CASE WHEN d.pa = 1 OR {_LATER} THEN NULL ELSE d.gd END",
    "group_rank": "d.gr",
    "limit_hash": "d.lh",
    "limit_held": f"CASE WHEN d.pa = 1 OR {_LATER} THEN NULL ELSE d.ld END",
    "unique_hash": "d.uh",
    "unique_scope": "d.us",
    "parent_id": "d.pi",
    "threshold": "d.ts",
    "expires_at": "COALESCE(d.xa, n.now + d.xd)",
    "queue": "d.q",
    "task": "d.t",
    "job_key": "d.k",
    "owner": "d.ow",
    "group_name": "d.g",
    "limit_name": "d.l",
    "limit_rule": "d.lr",
    "args": "d.ar",
}
_INSERT = f"INSERT INTO {{jobs}} ({', '.join(_COLUMNS)}) "
_SELECT = f"SELECT {', '.join(_COLUMNS.values())} FROM (SELECT {{now}} AS now) AS n, "
_NAMED = re.compile(r"\bd\.(\w+)")


def _literal_row(later: str) -> tuple[str, list[str]]:
    """The same as a row of literals, for a server that gives ids only to those, and the order of its values. Whether it waits
    for its time is mostly known before, and then not asked in each column."""
    columns = ", ".join(_COLUMNS.values()).replace(_LATER, later).replace("n.now", "{now}")
    return f"({_NAMED.sub('%s', columns)})", _NAMED.findall(columns)


_NOW, _DELAYED, _DATED = (_literal_row(later) for later in ("FALSE", "TRUE", _LATER))


def add(
    connection: Connection,
    tables: Tables,
    jobs: Sequence[NewJob],
    *,
    marked: bool = False,
    missing: Callable[[set[int]], set[int]] = lambda ids: ids,
) -> tuple[list[Added], Owed]:
    """Insert jobs; give their ids in the order of the jobs (C8), and what has to be settled after the commit.

    One statement for each thousand jobs; labels, if there are any, one more. It inserts rows of these jobs only and takes no
    shared lock, so it never waits for another producer, nor makes one wait, however long the transaction is. That is why a job
    of a group always joins the end of the line, even if nobody stands in it.

    marked     the jobs that spawn these have been marked already
    missing    asks once more for parents that this transaction does not see, which may be an old one

    Raises UnknownJob for a parent that does not exist, LeaseLost for a spawner that has lost its lease, BadOption for a child
    that waits for its spawner.
    """
    unknown = edges.missing_parents(connection, tables, {id for job in jobs for id in job.after})
    if unknown and (unknown := missing(unknown)):
        raise UnknownJob(min(unknown))
    edges.check_spawned(connection, tables, jobs)
    if not marked:
        edges.mark_spawners(connection, tables, spawners_of(jobs))
    added: list[Added] = []
    owed = Owed()
    for chunk in _chunks(jobs):
        fresh, there = _fresh(connection, tables, chunk)
        made = dict(zip(fresh, _insert(connection, tables, [chunk[place] for place in fresh]), strict=True)) if fresh else {}
        new = [(one.id, chunk[place]) for place, one in made.items()]
        unique.name(connection, tables, new)
        _insert_sides(connection, tables, new)
        for place, one in made.items():
            if chunk[place].waits and one.state is State.BLOCKED:
                _owe(owed, one.id, chunk[place])
        owed.rulings |= set({job.limit: id for id, job in new if job.limit}.values())
        added += [made.get(place) or there(place, made) for place in range(len(chunk))]
    return added, owed


def spawners_of(jobs: Sequence[NewJob]) -> set[Lease]:
    """The running jobs that spawn these."""
    return {job.parent for job in jobs if job.parent is not None}


def _fresh(
    connection: Connection, tables: Tables, jobs: Sequence[NewJob]
) -> tuple[list[int], Callable[[int, Mapping[int, Added]], Added]]:
    """The places of those that are new, and what tells of another which job it is."""
    first: dict[str, int] = {}
    for place, job in enumerate(jobs):
        if job.unique is not None:
            first.setdefault(job.unique.hash, place)  # of equal ones in one batch the first is the one
    existing = unique.acquire(connection, tables, [jobs[place] for place in first.values()]) if first else {}

    def is_new(place: int, job: NewJob) -> bool:
        return job.unique is None or (job.unique.hash not in existing and first[job.unique.hash] == place)

    def there(place: int, made: Mapping[int, Added]) -> Added:
        key = jobs[place].unique
        assert key is not None
        if key.hash in existing:
            return Added(existing[key.hash].id, STATE_OF[existing[key.hash].state], created=False)
        return made[first[key.hash]]._replace(created=False)

    return [place for place, job in enumerate(jobs) if is_new(place, job)], there


def _insert_sides(connection: Connection, tables: Tables, new: Sequence[tuple[int, NewJob]]) -> None:
    needed = [edge for id, job in new for edge in _edges(id, job)]
    if needed:
        connection.execute(insert(tables.edges), needed)
    labelled = [
        {"job_id": id, "name": name, "value": value, "label_hash": name_hash(f"{name}={value}")}
        for id, job in new
        for name, value in job.labels.items()
    ]
    if labelled:
        connection.execute(insert(tables.labels), labelled)


def _owe(owed: Owed, id: int, job: NewJob) -> None:
    if job.after:
        owed.waiting.add(id)
    else:
        owed.gates(gate_hash(GROUP, job.group), None if job.group else gate_hash(LIMIT, job.limit))


def _edges(id: int, job: NewJob) -> Iterator[dict[str, int]]:
    for needed in job.after:
        yield {"job_id": id, "needs_id": needed, "policy": _policy(job)}
    if job.parent is not None:
        yield {"job_id": job.parent.id, "needs_id": id, "policy": edges.SPAWNED}


def _policy(job: NewJob) -> int:
    if job.when == "all_done":
        return edges.ALL_DONE
    return edges.OR_CANCEL if job.flags & Flag.CANCELS_WITH_PARENTS else edges.ALL_SUCCEEDED


def is_one_statement(jobs: Sequence[NewJob]) -> bool:
    """Whether `add` runs a single statement, which is atomic by itself, and leaves nothing to settle."""
    return not any(job.labels or job.waits or job.parent or job.unique for job in jobs) and sum(1 for _ in _chunks(jobs)) == 1


def _chunks(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    start = size = 0
    for position, job in enumerate(jobs):
        # Four bytes for a character is the worst case; an exact count would cost an encoding.
        size += 4 * len(job.args) + 1000
        if position > start and (position - start >= CHUNK or size > CHUNK_BYTES):
            yield jobs[start:position]
            start, size = position, 4 * len(job.args) + 1000
    if start < len(jobs):
        yield jobs[start:]


def _insert(connection: Connection, tables: Tables, jobs: Sequence[NewJob]) -> list[Added]:
    if tables.dialect.returning:
        return _insert_document(connection, tables, jobs)
    return _insert_values(connection, tables, jobs)


def _insert_document(connection: Connection, tables: Tables, jobs: Sequence[NewJob]) -> list[Added]:
    # ORDER BY before the ids are given out: the first job gets the smallest. "WHERE true" keeps SQLite's grammar from
    # reading what follows as part of a join.
    template = _INSERT + _SELECT + tables.dialect.rows(_FIELDS) + " WHERE true ORDER BY d.o RETURNING id, state"
    statement = tables.query(template, ("id", "state"))
    document = msgspec.json.encode([{"o": order, **_row(job)} for order, job in enumerate(jobs)]).decode()
    rows = connection.execute(statement, {"doc": document}).all()
    return [Added(id=id, state=STATE_OF[state]) for id, state in sorted((row[0], row[1]) for row in rows)]


def _insert_values(connection: Connection, tables: Tables, jobs: Sequence[NewJob]) -> list[Added]:
    """For a server without RETURNING: a multi-row INSERT of literal rows is given consecutive ids, the first of them told."""
    names = {**tables.names(), "now": tables.literal_now()}
    rows = [_row(job) for job in jobs]
    kinds = [_DATED if row["ra"] is not None else _DELAYED if row["dl"] else _NOW for row in rows]
    statement = _INSERT.format_map(names) + "VALUES " + ", ".join(template for template, _ in kinds).format_map(names)
    values = tuple(row.get(name) for row, (_, order) in zip(rows, kinds, strict=True) for name in order)
    result = connection.exec_driver_sql(statement, values)
    first, step = int(result.lastrowid), _increment(connection)
    ids = range(first, first + len(jobs) * step, step)
    states = {id: _state(row) for id, row in zip(ids, rows, strict=True)}
    dated = [id for id, job in zip(ids, jobs, strict=True) if job.run_at is not None]
    if dated:  # only the database's clock knows whether their time has come
        found = connection.execute(select(tables.jobs.c.id, tables.jobs.c.state).where(tables.jobs.c.id.in_(dated)))
        states.update({id: STATE_OF[state] for id, state in found})
    return [Added(id, state) for id, state in states.items()]


def _state(row: dict[str, Any]) -> State:
    if row.get("pa") == 1:
        return State.BLOCKED
    return State.SCHEDULED if row["dl"] else STATE_OF[row.get("st", 0)]


def _increment(connection: Connection) -> int:
    """Ids of one statement are this far apart: more than 1 on servers that share the numbers with others (Galera)."""
    info = connection.info
    if "dray_increment" not in info:
        info["dray_increment"] = int(connection.exec_driver_sql("SELECT @@auto_increment_increment").scalar_one())
    return int(info["dray_increment"])


def _row(job: NewJob) -> dict[str, Any]:
    """What is stored of a job; what is not in it is NULL."""
    row: dict[str, Any] = {
        "qh": name_hash(job.queue),
        "th": name_hash(job.task),
        "kh": None if job.key is None else name_hash(job.key),
        "pr": job.priority,
        "dl": None if not job.delay else round(job.delay * 1_000_000),
        "ra": job.run_at,
        "ma": job.max_attempts,
        "fl": job.flags | Flag.PARENTS if job.after else job.flags,
        "q": job.queue,
        "t": job.task,
        "k": job.key,
        "ow": job.owner,
        "ar": job.args,
    }
    return row if job.is_plain else {**row, **_rare(job)}


def _rare(job: NewJob) -> dict[str, Any]:
    """What is stored only of jobs that wait for others, that expire, or that have a parent."""
    gates = _Gates(gate_hash(GROUP, job.group), gate_hash(LIMIT, job.limit))
    place = enter(gates)
    return {
        "st": STATE[place.state],
        "rs": None if place.reason is None else REASON[place.reason],
        "pa": 1 if job.after else 0,
        "gh": gates.group_hash,
        "gd": place.group_held,
        "gr": job.priority if job.rank is None else job.rank,
        "lh": gates.limit_hash,
        "ld": place.limit_held,
        "pi": None if job.parent is None else job.parent.id,
        "ts": job.threshold,
        "uh": None if job.unique is None else job.unique.hash,
        "us": None if job.unique is None else job.unique.scope,
        "xd": None if job.expires_in is None else round(job.expires_in * 1_000_000),
        "xa": job.expires_at,
        "g": job.group,
        "l": job.limit,
        "lr": job.limit_rule,
    }


class _Gates(NamedTuple):
    """A new job before its gates: it holds neither."""

    group_hash: int | None
    limit_hash: int | None
    group_held: int | None = None
    limit_held: int | None = None
    flags: int = 0
