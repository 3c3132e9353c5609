"""What keeps a job from running, as facts: each read goes by an index, whatever waits beside it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from dray.job import State
from dray.stations import GROUP, LIMIT, Held, gate_hash
from dray.store.codes import READY, STATE_OF, SUCCEEDED, instant
from dray.store.edges import ALL_DONE, LEFT, SPAWNED, WAIVED
from dray.store.gates import hashes_after
from dray.store.tables import Tables

SHOWN = 5  # jobs that are named
COUNTED = 1000  # counting stops above it


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One job that another waits for. `state`: None when it is gone."""

    id: int
    policy: int
    state: State | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A group: who is at its head, who stands behind it, and the failed jobs for which it stands still."""

    name: str
    head: int | None
    head_state: State | None
    head_since: datetime | None
    halted_by: tuple[int, ...]
    first: int | None  # of those who wait
    waiting: int  # counted up to COUNTED + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A limit: its rule, who has a share of it, and when a rate allows the next start."""

    rule: str | None
    holders: tuple[int, ...]
    held: int
    opens_at: datetime | None


def needs(connection: Connection, tables: Tables, id: int, limit: int = SHOWN + 1) -> list[Need]:
    """What this job waits for that has not ended as it needs, the first few."""
    edges, jobs, history = tables.edges, tables.jobs, tables.history
    failed = and_(edges.c.outcome != SUCCEEDED, edges.c.policy.not_in((ALL_DONE, SPAWNED)))
    unmet = or_(edges.c.outcome.is_(None), failed)
    found = (
        select(edges.c.needs_id, edges.c.policy, func.coalesce(jobs.c.state, history.c.state).label("state"))
        .join_from(edges, jobs, jobs.c.id == edges.c.needs_id, isouter=True)
        .join(history, history.c.id == edges.c.needs_id, isouter=True)
        .where(edges.c.job_id == id, edges.c.policy.not_in((WAIVED, LEFT)), unmet)
        .order_by(edges.c.needs_id)
        .limit(limit)
    )
    return [
        Need(id=row.needs_id, policy=row.policy, state=None if row.state is None else STATE_OF.get(row.state))
        for row in connection.execute(found)
    ]


def line(connection: Connection, tables: Tables, name: str) -> Line:
    """How a group stands."""
    jobs, halts = tables.jobs, tables.halts
    mine = jobs.c.group_hash == gate_hash(GROUP, name)
    times = jobs.c.started_at, jobs.c.claimed_at, jobs.c.ready_at, jobs.c.run_at
    head = connection.execute(
        select(jobs.c.id, jobs.c.state, func.coalesce(*times).label("since"))
        .where(mine, jobs.c.group_held >= int(Held.HOLDS))
        .order_by(jobs.c.group_held, jobs.c.group_rank, jobs.c.id)
        .limit(1)
    ).first()
    stands = select(halts.c.job_id).where(halts.c.group_hash == gate_hash(GROUP, name)).order_by(halts.c.job_id).limit(SHOWN)
    waits = mine, jobs.c.group_held == int(Held.WAITS)
    first = connection.execute(select(jobs.c.id).where(*waits).order_by(jobs.c.group_rank, jobs.c.id).limit(1)).scalar()
    return Line(
        name=name,
        head=None if head is None else head.id,
        head_state=None if head is None else STATE_OF.get(head.state),
        head_since=None if head is None else instant(head.since),
        halted_by=tuple(connection.execute(stands).scalars()),
        first=first,
        waiting=_count(connection, select(jobs.c.id).where(*waits)),
    )


def shares(connection: Connection, tables: Tables, name: str) -> Shares:
    """How a limit stands."""
    jobs, gates = tables.jobs, tables.gates
    number = gate_hash(LIMIT, name)
    gate = connection.execute(select(gates.c.rule, gates.c.opens_at).where(gates.c.gate_hash == number)).first()
    holds = select(jobs.c.id).where(jobs.c.limit_hash == number, jobs.c.limit_held == int(Held.HOLDS))
    return Shares(
        rule=None if gate is None else gate.rule,
        holders=tuple(connection.execute(holds.order_by(jobs.c.priority, jobs.c.id).limit(SHOWN)).scalars()),
        held=_count(connection, holds),
        opens_at=None if gate is None else instant(gate.opens_at),
    )


def before(connection: Connection, tables: Tables, queue_hash: int, priority: int, ready_at: int, cap: int = COUNTED) -> int:
    """How many ready jobs of this queue and priority have been ready for longer, up to the cap plus one."""
    jobs = tables.jobs
    older = select(jobs.c.id).where(
        *(jobs.c.state == READY, jobs.c.queue_hash == queue_hash, jobs.c.priority == priority, jobs.c.ready_at < ready_at)
    )
    return _count(connection, older, cap)


def groups(connection: Connection, tables: Tables, *, limit: int = 50, after: int = -(2**63)) -> list[tuple[int, str]]:
    """Groups that have live jobs, by their numbers, behind this one: found by going through the index from group to group."""
    hashes = hashes_after(connection, tables, GROUP, after, limit)
    name = tables.text("SELECT j.group_name FROM {jobs} j WHERE j.group_hash = :hash LIMIT 1")
    named = ((hash, connection.execute(name, {"hash": hash}).scalar()) for hash in hashes)
    return [(hash, name) for hash, name in named if name is not None]


def halted(connection: Connection, tables: Tables, limit: int = 1000) -> list[tuple[int, str]]:
    """Groups that stand still because of a failed job, also those in which nobody waits."""
    halts, history = tables.halts, tables.history
    found = select(halts.c.group_hash, history.c.group_name).join_from(halts, history, history.c.id == halts.c.job_id)
    return [(row[0], row[1]) for row in connection.execute(found.order_by(halts.c.group_hash).distinct().limit(limit))]


def _count(connection: Connection, wanted: Any, cap: int = COUNTED) -> int:
    some = wanted.limit(cap + 1).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())
