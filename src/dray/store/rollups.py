"""What was done, minute by minute, as the workers counted it; later by the hour.

Each worker writes rows of its own, so none waits for another, and writes them whole, so that writing twice changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, func, select, tuple_

from dray.job import name_hash
from dray.rollup import HOUR, MINUTE, Numbers, summed
from dray.store.board import Rollup
from dray.store.rows import documents, with_rows
from dray.store.tables import Tables

ALL = 0  # in place of a worker: of all of them
BATCH = 1000
_SECOND = 1_000_000

_FIELDS = {"s": "int", "at": "int", "w": "int", "th": "int", "qh": "int", "t": "text", "q": "text", "n": "text"}
_WRITE = (
    "INSERT INTO {rollups} (span, at, worker_id, task_hash, queue_hash, task, queue, numbers)"
    " SELECT d.s, d.at, d.w, d.th, d.qh, d.t, d.q, d.n FROM {rows}"
)
_OVER = {
    "sqlite": " WHERE TRUE ON CONFLICT (span, at, worker_id, task_hash, queue_hash) DO UPDATE SET numbers = excluded.numbers",
    "postgresql": " ON CONFLICT (span, at, worker_id, task_hash, queue_hash) DO UPDATE SET numbers = excluded.numbers",
    "mysql": " ON DUPLICATE KEY UPDATE numbers = VALUES(numbers)",
}


def write(connection: Connection, tables: Tables, rows: Sequence[Rollup], span: int = MINUTE) -> None:
    """Write what was counted, in place of what was written of the same minutes before."""
    statement = with_rows(tables, _WRITE + _OVER[tables.dialect.name], _FIELDS)
    some = [
        {
            "s": span,
            "at": row.at * _SECOND,
            "w": row.worker_id,
            "th": name_hash(row.task),
            "qh": name_hash(row.queue),
            "t": row.task,
            "q": row.queue,
            "n": row.numbers,
        }
        for row in sorted(rows)
    ]
    for document in documents(some):
        connection.execute(statement, {"doc": document})


def totals(connection: Connection, tables: Tables, seconds: float) -> dict[tuple[str, str], Numbers]:
    """What was done in the last so many seconds, by task and queue."""
    table = tables.rollups
    since = tables.fixed_now() - round(seconds * _SECOND)
    query = select(table.c.task, table.c.queue, table.c.numbers).where(table.c.span.in_((MINUTE, HOUR)), table.c.at > since)
    found: defaultdict[tuple[str, str], Numbers] = defaultdict(Numbers)
    for task, queue, numbers in connection.execute(query):
        found[task, queue].add(Numbers.from_json(numbers))
    return dict(found)


def merge(connection: Connection, tables: Tables, older_than: float) -> int:
    """Make one hour of the oldest minutes that are so many seconds old, of all workers together; gives how many rows went."""
    table = tables.rollups
    before = tables.fixed_now() - round(older_than * _SECOND)
    first = connection.execute(select(func.min(table.c.at)).where(table.c.span == MINUTE, table.c.at < before)).scalar()
    if first is None:
        return 0
    hour = first // _SECOND // HOUR * HOUR
    within = and_(table.c.span == MINUTE, table.c.at >= hour * _SECOND, table.c.at < (hour + HOUR) * _SECOND)
    # Locked: two who merge the same hour at once would both count its minutes.
    rows = connection.execute(tables.dialect.wait_for(select(table).where(within).order_by(table.c.at))).all()
    some: defaultdict[tuple[str, str], list[Numbers]] = defaultdict(list)
    for row in rows:
        some[row.task, row.queue].append(Numbers.from_json(row.numbers))
    there = and_(table.c.span == HOUR, table.c.at == hour * _SECOND, table.c.worker_id == ALL)
    for row in connection.execute(select(table).where(there)):
        if (row.task, row.queue) in some:
            some[row.task, row.queue].append(Numbers.from_json(row.numbers))
    merged = [Rollup(hour, ALL, task, queue, summed(numbers).to_json()) for (task, queue), numbers in some.items()]
    write(connection, tables, merged, HOUR)
    key = (table.c.span, table.c.at, table.c.worker_id, table.c.task_hash, table.c.queue_hash)
    for start in range(0, len(rows), BATCH):
        gone = [tuple(row)[: len(key)] for row in rows[start : start + BATCH]]
        connection.execute(delete(table).where(tuple_(*key).in_(gone)))
    return len(rows)


def forget(connection: Connection, tables: Tables, older_than: float) -> int:
    """Delete the hours that are so many seconds old; gives how many rows went."""
    table = tables.rollups
    before = tables.fixed_now() - round(older_than * _SECOND)
    return connection.execute(delete(table).where(table.c.span == HOUR, table.c.at < before)).rowcount
