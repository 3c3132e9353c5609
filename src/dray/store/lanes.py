"""Which lanes have ready jobs: found by jumping through the index from lane to lane, whatever the number of jobs in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from sqlalchemy import Connection

from dray.job import name_hash
from dray.selection import Choice, TaskFilter
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


# --- what is remembered of them -------------------------------------------------------------------------------------------

LANES_EVERY = (0.05, 1.0)  # seconds: an urgent job is seen by then, however busy the worker is
SWEEP_SHARE = 20  # a look without floors, and one for lanes, may take one part in so many of the time
SWEEP_EVERY = (0.25, 10.0)  # seconds: never more often, never more seldom
CHEAP = 0.025  # seconds: a look without floors that takes no longer is made whenever it may find something


@dataclass(slots=True)
class Lanes:
    """What one claimer remembers between claims: which lanes have ready jobs, and a floor under each.

    A floor is the `ready_at` of the oldest job of the last claim: below it there are, most likely, only index entries of jobs
    long gone, which PostgreSQL and InnoDB must keep and wade through while any transaction has an old snapshot open. It is a
    hint: a job that committed late with an older stamp is found by the next look without floors.
    """

    queues: tuple[str, ...] = ()  # empty: every queue
    priorities: range | None = None  # None: every priority
    tasks: TaskFilter = field(default_factory=TaskFilter)  # which tasks are taken
    choice: Choice | None = None  # how to choose among queues; None: by priority alone
    paused: frozenset[int] = frozenset()  # hashes of queues of which nothing is taken
    only: int | None = None  # the hash of the one queue that is looked at just now
    clock: Callable[[], float] = time.monotonic
    known: list[Lane] = field(default_factory=list)
    floors: dict[Lane, int] = field(default_factory=dict)
    first: int = 0  # the hash from which on a queue is the first of its priority
    filled: bool = False  # the last claim got all that it asked for: there is a backlog, and floors are worth their while
    looked: float = float("-inf")
    look_after: float = LANES_EVERY[0]
    swept: float = float("-inf")
    sweep_after: float = SWEEP_EVERY[0]
    costs: tuple[float, ...] = ()  # seconds, of the last ones

    def refresh(self, connection: Connection, tables: Tables, *, force: bool = False) -> bool:
        """Ask which lanes have ready jobs, unless that is known from a moment ago; True when it asked."""
        now = self.clock()
        if not force and now - self.looked < self.look_after:
            return False
        wanted = {name_hash(queue) for queue in self.queues}
        found = lanes_of(connection, tables, wanted, self.known, self.floors)
        self.known = [lane for lane in found if (not wanted or lane[0] in wanted) and self.takes(*lane)]
        self.looked = self.clock()
        # Dear with a thousand queues, or where MySQL wades through what an old snapshot keeps in the index.
        self.look_after = min(max(SWEEP_SHARE * (self.looked - now), LANES_EVERY[0]), LANES_EVERY[1])
        return True

    def takes(self, queue: int, priority: int) -> bool:
        """Whether jobs of this queue and priority may be taken, if the queue is one of ours."""
        return queue not in self.paused and (self.priorities is None or priority in self.priorities)

    def in_order(self) -> list[Lane]:
        """The most urgent first; queues of one priority take turns at being first."""
        known = [lane for lane in self.known if lane[0] not in self.paused and self.only in (None, lane[0])]
        return sorted(known, key=lambda lane: (lane[1], lane[0] < self.first, lane[0]))

    @property
    def choosy(self) -> bool:
        """Whether more than queues and priorities decides what is taken."""
        return self.choice is not None or bool(self.tasks)

    def forget(self) -> None:
        """Look the next time as if for the first time."""
        self.known, self.looked = [], float("-inf")
        self.sweep()

    def sweep_is_due(self) -> bool:
        """Whether it is time to look below the floors again."""
        return bool(self.floors) and self.clock() - self.swept >= self.sweep_after

    def may_sweep(self) -> bool:
        """Whether it may be done out of turn: it is cheap, or has not been done for so long that it still is no great part."""
        return self.sweep_cost <= CHEAP or self.clock() - self.swept >= self.sweep_after

    @property
    def looks_are_cheap(self) -> bool:
        """Whether asking which lanes there are takes so little that it may be done out of turn."""
        return self.look_after <= LANES_EVERY[0]

    def sweep(self) -> None:
        """Forget the floors."""
        self.floors.clear()
        self.swept = self.clock()

    def swept_in(self, seconds: float) -> None:
        """Say how long the look without floors took: dear ones are made more seldom."""
        self.costs = (*self.costs[-2:], seconds)
        self.sweep_after = min(max(SWEEP_SHARE * self.sweep_cost, SWEEP_EVERY[0]), SWEEP_EVERY[1])

    @property
    def sweep_cost(self) -> float:
        """Seconds that such a look takes: the least of the last three, since a machine that was busy once says nothing."""
        return min(self.costs, default=0.0)
