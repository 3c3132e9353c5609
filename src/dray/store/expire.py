"""Ending what was not started in time, and asking what has run past its deadline to end."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, not_, or_, select, update

from dray.job import Flag, Reason
from dray.store.codes import BLOCKED, CANCELLED, READY, REASON, RETRYING, RUNNING, SCHEDULED
from dray.store.ends import carry, ended
from dray.store.owed import Owed
from dray.store.tables import Tables

WAITING = (READY, SCHEDULED, RETRYING, BLOCKED)
BEGUN = (REASON[Reason.CHILDREN], REASON[Reason.COVERED])
NOTE = "expired: it had not been started in time"


class Expired(NamedTuple):
    """What a look at the clock brought: how many jobs were cancelled, and how many that run were asked to end."""

    cancelled: int
    asked: int


def anything_expired(connection: Connection, tables: Tables) -> bool:
    """Whether there is anything to do: asked without a lock, since mostly there is not."""
    first = select(tables.jobs.c.id).where(*over(tables)).order_by(tables.jobs.c.expires_at, tables.jobs.c.id).limit(1)
    return connection.execute(first).first() is not None


def expire(connection: Connection, tables: Tables, limit: int = 1000) -> tuple[Expired, Owed]:
    """Cancel jobs that wait past their expiry, and ask those to end that run past their deadline."""
    jobs = tables.jobs
    columns = (jobs.c.id, jobs.c.state, jobs.c.group_hash, jobs.c.limit_hash, jobs.c.threshold)
    old = select(*columns).where(*over(tables)).order_by(jobs.c.expires_at, jobs.c.id).limit(limit)
    rows = connection.execute(tables.dialect.lock(old)).all()
    waiting = [row for row in rows if row.state in WAITING]
    carry(
        *(connection, tables, jobs, tables.history),
        [row.id for row in waiting],
        WAITING,
        ended(tables, CANCELLED) | {"note": NOTE},
    )
    running = sorted(row.id for row in rows if row.state == RUNNING)
    if running:
        mine = update(jobs).where(jobs.c.id.in_(running), jobs.c.state == RUNNING)
        asked = tables.dialect.by_primary_key(mine).values(flags=jobs.c.flags.bitwise_or(int(Flag.CANCEL)))
        connection.execute(asked)
    owed = Owed(ended={row.id for row in waiting}, coverers={row.id for row in waiting if row.threshold is not None})
    for row in waiting:
        owed.gates(row.group_hash, row.limit_hash)
    return Expired(len(waiting), len(running)), owed


def over(tables: Tables) -> tuple[ColumnElement[bool], ...]:
    """What is past its expiry, or runs past its deadline and has not been asked to end."""
    jobs = tables.jobs
    unasked = jobs.c.flags.op("&")(int(Flag.DEADLINE | Flag.CANCEL)) == int(Flag.DEADLINE)
    # What waits for its children has been started in time, and so has what another does the work of.
    began = and_(jobs.c.state == BLOCKED, jobs.c.reason.in_(BEGUN), jobs.c.flags.op("&")(int(Flag.DEADLINE)) == 0)
    return jobs.c.expires_at <= tables.fixed_now(), or_(jobs.c.state != RUNNING, unasked), not_(began)
