"""Which lanes have ready jobs: found by jumping through the index from lane to lane, whatever the number of jobs in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise

import msgspec
from sqlalchemy import Connection

from dray.store.tables import Tables

Lane = tuple[int, int]  # hash of the queue, priority

AT_ONCE = 100  # looks into the index with one statement

_FIRST = "ORDER BY n.queue_hash, n.priority, n.ready_at, n.id LIMIT 1"
# The next lane is either the next priority of the same queue, or the first of the next queue. Not (queue_hash, priority) >
# (q, p): SQLite would look that up by the queue alone, and wade through all its jobs.
SKIP_SCAN = (
    "RECURSIVE lane(q, p) AS ("
    f" SELECT queue_hash, priority FROM {{jobs}} WHERE id = (SELECT n.id FROM {{jobs}} n WHERE n.state = 0 {_FIRST})"
    " UNION ALL SELECT j.queue_hash, j.priority FROM lane JOIN {jobs} j ON j.id = COALESCE("
    f"(SELECT n.id FROM {{jobs}} n WHERE n.state = 0 AND n.queue_hash = lane.q AND n.priority > lane.p {_FIRST}),"
    f" (SELECT n.id FROM {{jobs}} n WHERE n.state = 0 AND n.queue_hash > lane.q {_FIRST}))"
    ")"
)


# The same between two places: above the priority `p` and below `tp` in the queue `q`, then in the queues behind it until `tq`.
# And whether there is something above the floor `f` of this lane. Each look says where it ends, in columns: PostgreSQL does not
# stop at the end of (queue_hash, priority) < (tq, tp) before it has read all of that queue.
_BETWEEN = (
    "CROSS JOIN LATERAL ((SELECT n.queue_hash, n.priority, {here}.tp FROM {jobs} n WHERE n.state = 0"
    " AND n.queue_hash = {here}.q AND n.priority > {here}.p AND n.priority < {here}.tp ORDER BY n.priority, n.ready_at, n.id"
    " LIMIT 1) UNION ALL (SELECT n.queue_hash, n.priority, {highest} FROM {jobs} n WHERE n.state = 0"
    f" AND n.queue_hash > {{here}}.q AND n.queue_hash < {{here}}.tq {_FIRST}) LIMIT 1) AS n(q, p, tp)"
)
_LOWEST, _HIGHEST = -1, 2**15  # priorities that no job has
_SCAN_BETWEEN = (
    "WITH RECURSIVE gap AS (SELECT * FROM {rows}), lane(q, p, tp, tq) AS (SELECT n.q, n.p, n.tp, gap.tq FROM gap {first}"
    " UNION ALL SELECT n.q, n.p, n.tp, lane.tq FROM lane {next})"
    " SELECT q, p FROM lane UNION ALL SELECT gap.q, gap.p FROM gap WHERE gap.f IS NOT NULL AND (SELECT n.id FROM {jobs} n"
    " WHERE n.state = 0 AND n.queue_hash = gap.q AND n.priority = gap.p AND n.ready_at >= gap.f"
    " ORDER BY n.ready_at, n.id LIMIT 1) IS NOT NULL"
)


def lanes_of(
    connection: Connection,
    tables: Tables,
    queues: Collection[int] = (),
    known: Collection[Lane] = (),
    floors: Mapping[Lane, int] | None = None,
) -> list[Lane]:
    """The lanes with ready jobs, in ascending order.

    queues    hashes of those that matter; none: all matter. Lanes of others may be among the answer
    known     lanes that were there a moment ago: a hint that spares round trips
    floors    what is ready since before these instants need not be found; it may be, where that costs nothing
    """
    if tables.dialect.name == "mysql":
        return _by_looks(connection, tables, queues, known)
    if tables.dialect.name == "postgresql" and (floors or queues):
        return _between(connection, tables, queues, floors or {})
    return [(row[0], row[1]) for row in connection.execute(tables.text(f"WITH {SKIP_SCAN} SELECT q, p FROM lane"))]


def _between(connection: Connection, tables: Tables, queues: Collection[int], floors: Mapping[Lane, int]) -> list[Lane]:
    """Pass by what PostgreSQL must keep in the index while somebody has an old snapshot open: it lies below the floors, and in
    the lanes of others."""
    template = _SCAN_BETWEEN.replace("{rows}", tables.dialect.rows(dict.fromkeys(("q", "p", "f", "tp", "tq"), "int")))
    for name, here in (("first", "gap"), ("next", "lane")):
        step = _BETWEEN.replace("{here}", here).replace("{highest}", f"CAST({_HIGHEST} AS bigint)")
        template = template.replace(f"{{{name}}}", step)
    document = msgspec.json.encode(list(_gaps(queues, floors))).decode()
    return sorted({(row[0], row[1]) for row in connection.execute(tables.text(template), {"doc": document})})


def _gaps(queues: Collection[int], floors: Mapping[Lane, int]) -> Iterator[dict[str, int | None]]:
    """From each lane with a floor to the next, and what is before the first and behind the last of them."""
    whole = [((queue, _LOWEST), (queue, _HIGHEST)) for queue in sorted(queues)] or [
        ((-(2**63), _LOWEST), (2**63 - 1, _HIGHEST))
    ]
    for start, end in whole:
        within = sorted(lane for lane in floors if start < lane < end)
        for (queue, priority), (next_queue, next_priority) in pairwise([start, *within, end]):
            here = {"q": queue, "p": priority, "f": floors.get((queue, priority))}
            if queue == next_queue:
                yield {**here, "tp": next_priority, "tq": queue}
            else:
                yield {**here, "tp": _HIGHEST, "tq": next_queue}
                yield {"q": next_queue, "p": _LOWEST, "f": None, "tp": next_priority, "tq": next_queue}


def _by_looks(connection: Connection, tables: Tables, queues: Collection[int], known: Collection[Lane]) -> list[Lane]:
    """MySQL goes straight to a place in the index only if the statement says it in numbers, and so cannot jump by itself; and
    what it knows of grouping by an index it does as long as its statistics are good.

    So it is asked for the lane behind each that we know. Mostly these are the same again, and one round trip is enough.
    """
    found: set[Lane] = set()
    seen: set[Lane] = set()
    fresh = set(known)
    places = [f"n.queue_hash = {queue}" for queue in sorted(queues)] or ["TRUE"]
    while True:
        behind = {queue for queue, _ in fresh} - {queue for queue, _ in seen} if not queues else ()
        places += [f"n.queue_hash = {queue} AND n.priority > {priority}" for queue, priority in sorted(fresh)]
        places += [f"n.queue_hash > {queue}" for queue in sorted(behind)]
        seen |= fresh
        there = set(_looked_up(connection, tables, places))
        found |= there
        fresh = there - seen
        if not fresh:
            return sorted(found)
        places = []


def _looked_up(connection: Connection, tables: Tables, places: Iterable[str]) -> Iterator[Lane]:
    names, index = tables.names(), tables.dialect.quote(f"{tables.prefix}jobs_ready")
    look = f"(SELECT n.queue_hash, n.priority FROM {names['jobs']} n FORCE INDEX ({index}) WHERE n.state = 0 AND %s {_FIRST})"
    looks = [look.replace("%s", place) for place in places]
    for start in range(0, len(looks), AT_ONCE):
        rows = connection.exec_driver_sql(" UNION ALL ".join(looks[start : start + AT_ONCE])).all()
        yield from ((row[0], row[1]) for row in rows)
