"""Claiming: which lanes have ready jobs, from where to look in each, and taking up to n jobs under a fenced lease."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Row
from sqlalchemy.exc import DBAPIError

from dray.errors import WorkerGone
from dray.job import Claim, Lease, name_hash
from dray.selection import DEEP, Choice, TaskFilter, spread
from dray.store.codes import document
from dray.store.lanes import SKIP_SCAN, Lane, Lanes
from dray.store.tables import Tables

# A claim is made of these columns, in this order.
CLAIM_COLUMNS = [
    "id",
    "fence",
    "attempt",
    "crashes",
    "snoozes",
    "max_attempts",
    "flags",
    "priority",
    "queue",
    "task",
    "args",
    "job_key",
    "owner",
    "created_at",
    "claimed_at",
    "worker_id",
    "group_hash",
    "group_held",
    "limit_hash",
    "parent_id",
    "expires_at",
    "threshold",
    "ready_at",
]
_RETURNED = ", ".join(f"j.{column}" for column in CLAIM_COLUMNS)
_TAKEN = [*CLAIM_COLUMNS, "alive"]  # what a claim in one statement gives
_SOONEST = attrgetter("priority", "ready_at", "id")

FURTHEST = 10_000  # how deep in a lane is looked for jobs that no other claimer is at


def claim(
    connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int, *, looked: bool = False
) -> list[Claim]:
    """Take up to `limit` ready jobs for this worker, the most urgent and longest ready first, in one transaction.

    `looked`: the caller has just asked which lanes there are. Raises WorkerGone when the worker is not alive in the database:
    its leases would be taken away again at once.
    """
    if limit <= 0:
        return []
    if lanes.sweep_is_due():
        lanes.sweep()
    fresh = lanes.refresh(connection, tables) or looked
    hinted = bool(lanes.floors)
    claims = _timed(connection, tables, worker_id, lanes, limit)
    if len(claims) < limit:
        # Perhaps there are more below the floors, or in a lane that was empty a moment ago.
        deeper = hinted and lanes.may_sweep()
        if deeper:
            lanes.sweep()
        if deeper or not fresh:
            lanes.refresh(connection, tables, force=deeper or lanes.looks_are_cheap)
            claims += _timed(connection, tables, worker_id, lanes, limit - len(claims))
    lanes.filled = len(claims) >= limit
    return _learn(lanes, claims, tables)


def claim_anywhere(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    """The same in a single statement that also finds the lanes, without floors: one round trip for a worker that has waited."""
    if limit <= 0:
        return []
    lanes.swept = lanes.clock()
    conditions, chosen = _chosen(lanes)
    template = _CLAIM_ANYWHERE.replace("{wanted}", conditions)
    values = {"n": limit, "w": worker_id, "first": lanes.first, **chosen}
    claims = _taken(connection.execute(tables.query(template, _TAKEN), values).all(), worker_id)
    lanes.swept_in(lanes.clock() - lanes.swept)
    lanes.filled = len(claims) >= limit
    if claims:
        lanes.floors.clear()  # else they stay: when looks without them have become dear, they are all there is
    return _learn(lanes, claims, tables)


def _chosen(lanes: Lanes) -> tuple[str, dict[str, Any]]:
    """Which lanes are wanted, as a condition and its values."""
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if lanes.queues:
        conditions.append("q = ANY(CAST(:wanted AS bigint[]))")
        values["wanted"] = [name_hash(queue) for queue in lanes.queues]
    if lanes.paused:
        conditions.append("q <> ALL(CAST(:paused AS bigint[]))")
        values["paused"] = sorted(lanes.paused)
    if lanes.priorities is not None:
        conditions.append("p >= CAST(:low AS integer) AND p < CAST(:high AS integer)")
        values |= {"low": lanes.priorities.start, "high": lanes.priorities.stop}
    return f" WHERE {' AND '.join(conditions)}" if conditions else "", values


def _learn(lanes: Lanes, claims: list[Claim], tables: Tables) -> list[Claim]:
    """Put what was taken in order, and remember from where."""
    if lanes.choice is None:
        claims.sort(key=_SOONEST)
    if tables.dialect.mvcc:
        # The last of a lane is its oldest.
        lanes.floors.update({(name_hash(one.queue), one.priority): one.ready_at or 0 for one in reversed(claims)})
    if claims:
        lanes.first = name_hash(claims[0].queue) + 1  # behind this one: another queue's turn to be first
    return claims


def held(connection: Connection, tables: Tables, worker_id: int, known: Collection[Lease]) -> list[Claim]:
    """What a worker holds without knowing it: the answer to a claim was lost, and its commit was not."""
    mine = "{jobs} j WHERE j.worker_id = :w AND j.state = 1"
    rows = connection.execute(tables.text(f"SELECT j.id, j.fence FROM {mine}"), {"w": worker_id}).all()
    if all(Lease(*row) in known for row in rows):
        return []
    columns = ", ".join(f"j.{column}" for column in CLAIM_COLUMNS)
    rows = connection.execute(tables.text(f"SELECT {columns} FROM {mine} ORDER BY j.id"), {"w": worker_id}).all()
    return [claim for claim in (Claim(*row) for row in rows) if claim.lease not in known]


def _timed(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    """Claim, and learn what it costs without floors."""
    if not lanes.known:
        return []
    sweeping = not lanes.floors
    started = lanes.clock()
    claims = _claim(connection, tables, worker_id, lanes, limit)
    if sweeping:
        lanes.swept = lanes.clock()
        lanes.swept_in(lanes.swept - started)
    return claims


def _claim(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    if lanes.choice is None:
        return _claim_here(connection, tables, worker_id, lanes, limit)
    try:
        return _claim_by_choice(connection, tables, worker_id, lanes, limit, lanes.choice)
    finally:
        lanes.only = None  # also when the transaction is going to be run again


def _claim_by_choice(
    connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int, choice: Choice
) -> list[Claim]:
    claims: list[Claim] = []
    queues = sorted({lane[0] for lane in lanes.in_order()})
    while queues and len(claims) < limit:
        taken = []
        for lanes.only, share in choice.shares(queues, limit - len(claims)):
            some = _claim_here(connection, tables, worker_id, lanes, share)
            taken.append(sorted(some, key=_SOONEST))
            if len(some) < share:
                queues.remove(lanes.only)  # what it could not give, the others may
        if not taken:
            break
        claims += spread(taken)
    return claims


def _claim_here(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    if tables.dialect.name == "postgresql":
        return _claim_at_once(connection, tables, worker_id, lanes, limit)
    return _claim_in_steps(connection, tables, worker_id, lanes, limit)


# What the columns hold. A row that was written by hand with more in it must not make the claim of all others fail: such a fence
# cannot rise, so the job stays; such an attempt stays as it is.
_MOST = 2**31 - 1
_NEXT = f"CASE WHEN j.attempt < {_MOST} THEN j.attempt + 1 ELSE j.attempt END"

# MATERIALIZED: a subquery with a LIMIT may otherwise be run again, and claim more than asked. An array and not a join: the rows
# are then fetched by their ids. For a join PostgreSQL reads the whole table as long as it seems small, and with it all the dead
# rows that somebody's old snapshot keeps in it.
_IN_LANE = (
    "SELECT id FROM {jobs} WHERE state = 0 AND queue_hash = d.q AND priority = d.p{floor}"
    f" AND fence < {_MOST} ORDER BY ready_at, id LIMIT "
)
_CHOSEN = (
    f"c AS MATERIALIZED (SELECT r.id FROM {{rows}} CROSS JOIN LATERAL ({_IN_LANE}:n FOR NO KEY UPDATE SKIP LOCKED) r LIMIT :n)"
    ", me AS (SELECT EXISTS (SELECT 1 FROM {workers} WHERE id = :w AND state = 0) AS alive), taken AS ("
    f" UPDATE {{jobs}} j SET state = 1, fence = j.fence + 1, attempt = {_NEXT}, worker_id = :w, claimed_at = {{now}},"
    " started_at = NULL FROM me WHERE j.id = ANY(ARRAY(SELECT id FROM c)) AND me.alive"
    f" RETURNING {_RETURNED})"
    " SELECT taken.*, me.alive FROM me LEFT JOIN taken ON TRUE"  # one row at least, to tell none from not alive
)
_CLAIM_AT_ONCE = "WITH " + _CHOSEN.replace("{floor}", " AND ready_at >= d.f")
# Of some tasks: what is not wanted is looked at, and not locked.
_OF_TASKS = (
    "SELECT id FROM {jobs} WHERE id = ANY(ARRAY(SELECT x.id FROM ("
    + _IN_LANE.replace("SELECT id ", "SELECT id, task_hash ")
    + f"{DEEP}) x WHERE {{tasks}})) AND state = 0 ORDER BY ready_at, id LIMIT "
)
_CLAIM_OF_TASKS = _CLAIM_AT_ONCE.replace(_IN_LANE.replace("{floor}", " AND ready_at >= d.f"), _OF_TASKS)
_BY_TURNS = "(SELECT q, p FROM lane{wanted} ORDER BY p, q < CAST(:first AS numeric), q) d"
_CLAIM_ANYWHERE = f"WITH {SKIP_SCAN}, " + _CHOSEN.replace("{floor}", " AND ready_at >= 0").replace("{rows}", _BY_TURNS)


def _claim_at_once(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    source = "(SELECT * FROM " + tables.dialect.rows({"o": "int", "q": "int", "p": "int", "f": "int"}) + " ORDER BY o) d"
    template = _CLAIM_AT_ONCE
    if lanes.tasks:
        template = _CLAIM_OF_TASKS.replace("{tasks}", _of_tasks(lanes.tasks, "x")).replace("{floor}", " AND ready_at >= d.f")
    statement = tables.query(template.replace("{rows}", source), _TAKEN)
    document = [
        {"o": order, "q": lane[0], "p": lane[1], "f": lanes.floors.get(lane, 0)} for order, lane in enumerate(lanes.in_order())
    ]
    values = {"doc": msgspec.json.encode(document).decode(), "n": limit, "w": worker_id}
    return _taken(connection.execute(statement, values).all(), worker_id)


def _taken(rows: Sequence[Row[Any]], worker_id: int) -> list[Claim]:
    first = rows[0]
    if not first.alive:
        raise WorkerGone(worker_id)
    return [] if first.id is None else _claims(rows)


def _claims(rows: Iterable[Row[Any]]) -> list[Claim]:
    return [Claim(*row[: len(CLAIM_COLUMNS)]) for row in rows]


def _of_tasks(tasks: TaskFilter, name: str) -> str:
    """The condition that a job is of the wanted tasks. Numbers of our own making, a few of them, for the life of a worker."""
    return f"{name}.task_hash {'' if tasks.only else 'NOT '}IN ({', '.join(map(str, tasks.hashes))})"


_CANDIDATES = (
    "SELECT id FROM {jobs} WHERE state = 0 AND queue_hash = :q AND priority = :p AND ready_at >= :f"
    " ORDER BY ready_at, id LIMIT :n"
)
# MySQL, as its statistics grow old, goes to the head of the lane instead of the floor, unless the columns before are given as
# ranges too. No other index is in the order that is asked for.
_CANDIDATES_MYSQL = _CANDIDATES.replace("state = 0", "state >= 0 AND state <= 0").replace("BY ", "BY state, ")
# What a row will be a moment later: to read that spares reading it back.
_AS_TAKEN = (
    _RETURNED.replace("j.fence", "j.fence + 1 AS fence")
    .replace("j.attempt", f"{_NEXT} AS attempt")
    .replace("j.claimed_at", "{now} AS claimed_at")
    .replace("j.worker_id", ":w AS worker_id")
)
_READ = _CANDIDATES.replace("SELECT id FROM {jobs}", f"SELECT {_AS_TAKEN} FROM {{jobs}} j")
# The primary key is forced: of a small table MySQL would rather lock all ready jobs by another index, one claimer then has
# them all, and the others find none.
_LOCK = (
    f"SELECT {_AS_TAKEN} FROM {{rows}} STRAIGHT_JOIN {{jobs}} j FORCE INDEX (PRIMARY) ON j.id = d.i"
    f" WHERE j.state = 0 AND j.fence < {_MOST} FOR UPDATE SKIP LOCKED"
)
_SET = (
    f"SET state = 1, fence = fence + 1, attempt = {_NEXT.replace('j.', '')}, worker_id = :w, claimed_at = :at,"
    " started_at = NULL WHERE"
)
_TAKE = f"UPDATE {{jobs}} {_SET} state = 0 AND id IN (SELECT d.i FROM {{rows}})"
_TAKE_MYSQL = f"UPDATE {{rows}} STRAIGHT_JOIN {{jobs}} j FORCE INDEX (PRIMARY) ON j.id = d.i {_SET} j.state = 0"


def _claim_in_steps(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, limit: int) -> list[Claim]:
    """Where one statement cannot do it: read the rows as they will be, where there are others under a lock, and take them."""
    check_alive(connection, tables, worker_id)
    in_lane = _lock_in_lane if tables.dialect.skip_locked else _read_in_lane
    claims: list[Claim] = []
    for lane in lanes.in_order():
        wanted = limit - len(claims)
        if wanted <= 0:
            break
        claims += in_lane(connection, tables, worker_id, lanes, lane, wanted)
    if claims:
        take = _TAKE_MYSQL if tables.dialect.name == "mysql" else _TAKE
        values = {"doc": document(one.id for one in claims), "w": worker_id, "at": claims[0].claimed_at}
        connection.execute(tables.text(take.replace("{rows}", tables.dialect.ids())), values)
    return claims


# In one value: row by row, the driver would hand the interpreter to the other threads after each of them. Not what is large: as
# a document it would be in memory several times.
LARGE = 10_000  # characters of arguments
_AS_DOCUMENT = (
    f"SELECT count(*), CAST(json_group_array(json_array({', '.join(CLAIM_COLUMNS)})) FILTER (WHERE length(args) < {LARGE})"
    " AS BLOB) FROM ({read})"
)
_CLAIMS = msgspec.json.Decoder(list[Claim])


def _read_in_lane(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, lane: Lane, wanted: int) -> list[Claim]:
    """Read the first as they will be, where nobody else writes meanwhile."""
    template = _READ
    if lanes.tasks:
        template = f"SELECT {_AS_TAKEN} FROM {{jobs}} j WHERE j.id IN ({_of_wanted(_CANDIDATES, lanes.tasks)})"
    values = {"q": lane[0], "p": lane[1], "f": lanes.floors.get(lane, 0), "n": wanted, "w": worker_id}
    try:
        found, read = connection.execute(tables.text(_AS_DOCUMENT.replace("{read}", template)), values).one()
        claims = _CLAIMS.decode(read)
    except (DBAPIError, msgspec.DecodeError):
        found, claims = -1, []  # a hand has written what has no place in a document, or in a claim: it is found out later which
    return claims if len(claims) == found else _claims(connection.execute(tables.text(template), values))


def _lock_in_lane(connection: Connection, tables: Tables, worker_id: int, lanes: Lanes, lane: Lane, wanted: int) -> list[Claim]:
    """Lock the first that no other claimer is at. While there are more, no less urgent lane is turned to."""
    locked: list[Claim] = []
    seen: set[int] = set()
    reach = wanted
    while True:
        # Not by position: what was committed in between may have moved a job that is ours already down the list, and it would
        # be claimed twice.
        found = _candidates(connection, tables, lanes, lane, reach)
        fresh = [id for id in found if id not in seen]
        seen.update(fresh)
        while fresh and (need := wanted - len(locked)) > 0:
            few, fresh = fresh[:need], fresh[need:]
            locked += _lock(connection, tables, worker_id, few)
        if len(locked) >= wanted or len(found) < reach or reach >= FURTHEST:
            return locked
        reach = min(3 * reach, max(FURTHEST, wanted))


def _candidates(connection: Connection, tables: Tables, lanes: Lanes, lane: Lane, limit: int) -> list[int]:
    values = {"q": lane[0], "p": lane[1], "f": lanes.floors.get(lane, 0), "n": limit}
    template = _CANDIDATES_MYSQL
    if lanes.tasks:
        template = _of_wanted(template, lanes.tasks)
    return [row[0] for row in connection.execute(tables.text(template), values).all()]


def _of_wanted(template: str, tasks: TaskFilter) -> str:
    """The same of some tasks: so deep is looked for them."""
    deep = template.replace("SELECT id ", "SELECT id, task_hash, ready_at ").replace(":n", str(DEEP))
    return f"SELECT x.id FROM ({deep}) x WHERE {_of_tasks(tasks, 'x')} ORDER BY x.ready_at, x.id LIMIT :n"


def _lock(connection: Connection, tables: Tables, worker_id: int, ids: list[int]) -> list[Claim]:
    if not ids:
        return []
    statement = tables.text(_LOCK.replace("{rows}", tables.dialect.ids()))
    # Ascending ids: whoever locks several rows takes them in the same order.
    return _claims(connection.execute(statement, {"doc": document(sorted(ids)), "w": worker_id}))


def check_alive(connection: Connection, tables: Tables, worker_id: int) -> None:
    """Raise WorkerGone unless the worker is alive in the database."""
    alive = connection.execute(tables.text("SELECT 1 FROM {workers} WHERE id = :w AND state = 0"), {"w": worker_id})
    if alive.first() is None:
        raise WorkerGone(worker_id)
