"""Which lanes have ready jobs: found by jumping through the index from lane to lane, whatever the number of jobs in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

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


def lanes_of(connection: Connection, tables: Tables, queues: Collection[int] = (), known: Collection[Lane] = ()) -> list[Lane]:
    """The lanes with ready jobs, in ascending order.

    queues    hashes of those that matter; none: all matter. Lanes of others may be among the answer
    known     lanes that were there a moment ago: a hint that spares round trips
    """
    if tables.dialect.name == "mysql":
        return _by_looks(connection, tables, queues, known)
    return [(row[0], row[1]) for row in connection.execute(tables.text(f"WITH {SKIP_SCAN} SELECT q, p FROM lane"))]


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
