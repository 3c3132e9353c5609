"""What may be stuck: jobs that run, that have been ready or due for long, and that are parked; each look of a bounded cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, select, text

from dray.job import Reason
from dray.store.codes import REASON, RUNNING
from dray.store.lanes import lanes_of
from dray.store.promote import waiting
from dray.store.tables import Tables

KINDS = 100  # tasks of parked jobs that are told apart
PARKED = f"reason = {REASON[Reason.UNKNOWN_TASK]}"


class Runs(NamedTuple):
    """A job that runs, for so many seconds. `silent`: seconds since its worker's last beat; None: that is not alive."""

    id: int
    queue: str
    task: str
    age: float
    worker_id: int | None
    silent: float | None


class Waits(NamedTuple):
    """A job that waits, for so many seconds."""

    id: int
    queue: str
    task: str
    age: float


class Head(NamedTuple):
    """A queue and a priority that have ready jobs, and for how many seconds the first of them has been ready."""

    queue: str
    queue_hash: int
    priority: int
    age: float


# The sum as in rescue: the few that run have an index, and planners shall not walk along all ids instead.
_RUNS = (
    "SELECT j.id, j.queue, j.task, {now} - COALESCE(j.started_at, j.claimed_at, {now}) AS age, j.worker_id,"
    " {now} - w.beat_at AS silent FROM {jobs} j LEFT JOIN {workers} w ON w.id = j.worker_id AND w.state = 0"
    f" WHERE j.state = {RUNNING} ORDER BY j.id + 0 LIMIT :n"
)
_HEADS = (
    "SELECT o.queue, o.queue_hash, o.priority, {now} - o.ready_at AS age FROM (SELECT (SELECT j.id FROM {jobs} j"
    " WHERE j.state = 0 AND j.queue_hash = d.q AND j.priority = d.p ORDER BY j.ready_at, j.id LIMIT 1) AS id"
    " FROM {rows}) AS n JOIN {jobs} o ON o.id = n.id"
)
_LANE = (
    "SELECT id, queue, task, {now} - ready_at AS age FROM {jobs} WHERE state = 0 AND queue_hash = :q AND priority = :p"
    " AND ready_at <= (SELECT {now} - :older) ORDER BY ready_at, id LIMIT :n"
)
_NEXT_KIND = f"SELECT MIN(task_hash) FROM {{jobs}} WHERE {PARKED} AND task_hash > :t"
_OF_KIND = (
    "SELECT id, queue, task, {now} - created_at AS age FROM {jobs}"
    f" WHERE {PARKED} AND task_hash = :t ORDER BY task_hash, signature, id LIMIT :n"
)


def runs(connection: Connection, tables: Tables, limit: int) -> list[Runs]:
    """The jobs that run, the oldest first: as many as workers have room for, whatever the backlog."""
    rows = connection.execute(tables.text(_RUNS), {"n": limit})
    return [
        Runs(
            row.id, row.queue, row.task, _seconds(row.age), row.worker_id, None if row.silent is None else _seconds(row.silent)
        )
        for row in rows
    ]


def heads(connection: Connection, tables: Tables) -> list[Head]:
    """Every queue and priority with ready jobs: one look for each."""
    document = msgspec.json.encode([{"q": queue, "p": priority} for queue, priority in lanes_of(connection, tables)]).decode()
    statement = tables.text(_HEADS.replace("{rows}", tables.dialect.rows({"q": "int", "p": "int"})))
    rows = connection.execute(statement, {"doc": document})
    return [Head(row.queue, row.queue_hash, row.priority, _seconds(row.age or 0)) for row in rows]


def lane(connection: Connection, tables: Tables, head: Head, older_than: float, limit: int) -> list[Waits]:
    """The jobs of a queue and priority that have been ready for longer than so many seconds, the longest first."""
    older = round(older_than * 1_000_000)
    values = {"q": head.queue_hash, "p": head.priority, "older": older, "n": limit}
    return _waits(connection, tables, _LANE, values)


def overdue(connection: Connection, tables: Tables, older_than: float, limit: int) -> list[Waits]:
    """The jobs whose time came more than so many seconds ago, and which nobody has made ready."""
    jobs, found = tables.jobs, list[Waits]()
    before = select(tables.now() - round(older_than * 1_000_000)).scalar_subquery()
    for some in waiting(tables):
        query = select(jobs.c.id, jobs.c.queue, jobs.c.task, (tables.now() - jobs.c.run_at).label("age"))
        query = query.where(text(some), jobs.c.run_at <= before).order_by(jobs.c.run_at, jobs.c.id).limit(limit)
        found += [Waits(row.id, row.queue, row.task, _seconds(row.age)) for row in connection.execute(query)]
    return found


def parked(connection: Connection, tables: Tables, limit: int) -> Iterator[list[Waits]]:
    """The jobs that no worker knew how to run, task by task, up to `limit` of each; their age counts from the enqueue."""
    kind: int | None = -(2**63)
    for _ in range(KINDS):
        kind = connection.execute(tables.text(_NEXT_KIND), {"t": kind}).scalar()
        if kind is None:
            return
        yield _waits(connection, tables, _OF_KIND, {"t": kind, "n": limit})


def _waits(connection: Connection, tables: Tables, template: str, values: dict[str, int]) -> list[Waits]:
    rows = connection.execute(tables.text(template), values)
    return [Waits(row.id, row.queue, row.task, _seconds(row.age)) for row in rows]


def _seconds(microseconds: int) -> float:
    return max(0.0, microseconds / 1_000_000)
