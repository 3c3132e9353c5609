"""Inserting jobs: one statement for any number, ids in the order given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from dray.job import Added, NewJob, State, name_hash
from dray.store.tables import STATE_OF, Tables

CHUNK = 1000  # jobs in one statement
CHUNK_BYTES = 4_000_000  # MariaDB takes packets of 16 MB unless told otherwise

_FIELDS = {
    "o": "int",
    "qh": "int",
    "th": "int",
    "kh": "int",
    "pr": "int",
    "dl": "int",
    "ra": "int",
    "ma": "int",
    "fl": "int",
    "q": "text",
    "t": "text",
    "k": "text",
    "ow": "text",
    "ar": "text",
}
_INSERT = (
    "INSERT INTO {jobs} (state, queue_hash, priority, ready_at, fence, attempt, max_attempts, crashes, snoozes, flags,"
    " run_at, created_at, task_hash, signature, key_hash, queue, task, job_key, owner, args) "
)
_SELECT = (
    "SELECT CASE WHEN COALESCE(d.ra, n.now + d.dl) > n.now THEN 2 ELSE 0 END, d.qh, d.pr,"
    " CASE WHEN COALESCE(d.ra, n.now + d.dl) > n.now THEN NULL ELSE n.now END, 0, 0, d.ma, 0, 0, d.fl,"
    " COALESCE(d.ra, n.now + d.dl), n.now, d.th, 0, d.kh, d.q, d.t, d.k, d.ow, d.ar"
    " FROM (SELECT {now} AS now) AS n, "
)
_DUE = "COALESCE(%s, {now} + %s)"  # null when neither was given: as soon as possible
_VALUES = (
    "(CASE WHEN " + _DUE + " > {now} THEN 2 ELSE 0 END, %s, %s, CASE WHEN " + _DUE + " > {now} THEN NULL ELSE {now} END,"
    " 0, 0, %s, 0, 0, %s, " + _DUE + ", {now}, %s, 0, %s, %s, %s, %s, %s, %s)"
)
_VALUE_ORDER = ["ra", "dl", "qh", "pr", "ra", "dl", "ma", "fl", "ra", "dl", "th", "kh", "q", "t", "k", "ow", "ar"]


def add(connection: Connection, tables: Tables, jobs: Sequence[NewJob]) -> list[Added]:
    """Insert jobs and give their ids in the order of the jobs (C8).

    One statement for each thousand jobs; labels, if there are any, one more. It inserts rows of these jobs only and takes no
    shared lock, so it never waits for another producer, nor makes one wait, however long the transaction is.
    """
    added: list[Added] = []
    for chunk in _chunks(jobs):
        ids = _insert(connection, tables, chunk)
        added += ids
        labelled = [
            {"job_id": one.id, "name": name, "value": value, "label_hash": name_hash(f"{name}={value}")}
            for one, job in zip(ids, chunk, strict=True)
            for name, value in job.labels.items()
        ]
        if labelled:
            connection.execute(insert(tables.labels), labelled)
    return added


def statements(jobs: Sequence[NewJob]) -> int:
    """How many statements `add` will run: one is atomic by itself, more need a transaction around them."""
    return sum(1 + any(job.labels for job in chunk) for chunk in _chunks(jobs))


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
    template = _INSERT + _SELECT + tables.dialect.rows(_FIELDS)
    # ORDER BY before the ids are given out: the first job gets the smallest. "WHERE true" keeps SQLite's grammar from
    # reading what follows as part of a join.
    statement = tables.text(template + " WHERE true ORDER BY d.o RETURNING id, state")
    document = msgspec.json.encode([{"o": order, **_row(job)} for order, job in enumerate(jobs)]).decode()
    rows = connection.execute(statement, {"doc": document}).all()
    return [Added(id=id, state=STATE_OF[state]) for id, state in sorted((row[0], row[1]) for row in rows)]


def _insert_values(connection: Connection, tables: Tables, jobs: Sequence[NewJob]) -> list[Added]:
    """For a server without RETURNING: a multi-row INSERT of literal rows is given consecutive ids, the first of them told."""
    names = {**tables.names(), "now": tables.literal_now()}
    statement = _INSERT.format_map(names) + "VALUES " + ", ".join([_VALUES.format_map(names)] * len(jobs))
    rows = [_row(job) for job in jobs]
    result = connection.exec_driver_sql(statement, tuple(row[name] for row in rows for name in _VALUE_ORDER))
    first, step = int(result.lastrowid), _increment(connection)
    ids = range(first, first + len(jobs) * step, step)
    states = {id: State.SCHEDULED if row["dl"] else State.READY for id, row in zip(ids, rows, strict=True)}
    dated = [id for id, job in zip(ids, jobs, strict=True) if job.run_at is not None]
    if dated:  # only the database's clock knows whether their time has come
        found = connection.execute(select(tables.jobs.c.id, tables.jobs.c.state).where(tables.jobs.c.id.in_(dated)))
        states.update({id: STATE_OF[state] for id, state in found})
    return [Added(id, state) for id, state in states.items()]


def _increment(connection: Connection) -> int:
    """Ids of one statement are this far apart: more than 1 on servers that share the numbers with others (Galera)."""
    info = connection.info
    if "dray_increment" not in info:
        info["dray_increment"] = int(connection.exec_driver_sql("SELECT @@auto_increment_increment").scalar_one())
    return int(info["dray_increment"])


def _row(job: NewJob) -> dict[str, Any]:
    return {
        "qh": name_hash(job.queue),
        "th": name_hash(job.task),
        "kh": None if job.key is None else name_hash(job.key),
        "pr": job.priority,
        "dl": None if not job.delay else round(job.delay * 1_000_000),
        "ra": job.run_at,
        "ma": job.max_attempts,
        "fl": job.flags,
        "q": job.queue,
        "t": job.task,
        "k": job.key,
        "ow": job.owner,
        "ar": job.args,
    }
