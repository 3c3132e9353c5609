"""What becomes ready without anybody's asking: jobs whose time has come, and parked jobs that somebody here can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, Select, case, select, update

from dray.job import Flag, Ready, Reason, name_hash
from dray.store.tables import BLOCKED, READY, REASON, RETRYING, SCHEDULED, Tables

WAITING = (SCHEDULED, RETRYING)


class Promoted(NamedTuple):
    """What a look at the clock brought: jobs that are ready now, and in how many seconds the next is due (None: never)."""

    ready: list[Ready]
    next_in: float | None


def promote(connection: Connection, tables: Tables, limit: int = 1000) -> Promoted:
    """Make up to `limit` due jobs ready, the longest due first. Safe in any number of processes at once."""
    jobs, now = tables.jobs, tables.now()
    due = select(jobs.c.id).where(jobs.c.state.in_(WAITING), jobs.c.run_at <= now).order_by(jobs.c.run_at, jobs.c.id)
    ready = _make_ready(connection, tables, due.limit(limit), from_states=WAITING)
    if len(ready) >= limit:
        return Promoted(ready, 0.0)
    return Promoted(ready, next_due(connection, tables))


def next_due(connection: Connection, tables: Tables) -> float | None:
    """Seconds until the next waiting job is due; 0 when one is due already, None when none waits."""
    jobs = tables.jobs
    times = [
        select(jobs.c.run_at).where(jobs.c.state == state).order_by(jobs.c.run_at, jobs.c.id).limit(1).subquery()
        for state in WAITING
    ]
    earliest = [connection.execute(select(one.c.run_at - tables.now())).scalar() for one in times]
    waits = [wait for wait in earliest if wait is not None]
    return max(0.0, min(waits) / 1_000_000) if waits else None


def adopt(connection: Connection, tables: Tables, known: Mapping[str, int], limit: int = 1000) -> list[Ready]:
    """Free parked jobs of tasks that are known here, unless it was this very signature that could not take them.

    `known`: task name -> number of its signature. A rolling deploy loses nothing: what the old workers could not run waits,
    and goes on with the first new one (C35).
    """
    jobs = tables.jobs
    parked = jobs.c.state == BLOCKED, jobs.c.reason == REASON[Reason.UNKNOWN_TASK]
    names = {name_hash(name): signature for name, signature in known.items()}
    kinds = connection.execute(select(jobs.c.task_hash, jobs.c.signature).where(*parked).distinct()).all()
    ready: list[Ready] = []
    for task_hash, signature in kinds:
        if task_hash in names and signature != names[task_hash]:
            mine = select(jobs.c.id).where(*parked, jobs.c.task_hash == task_hash, jobs.c.signature == signature)
            ready += _make_ready(connection, tables, mine.order_by(jobs.c.id).limit(limit), from_states=(BLOCKED,))
    return ready


def _make_ready(
    connection: Connection, tables: Tables, wanted: Select[tuple[int]], *, from_states: tuple[int, ...]
) -> list[Ready]:
    jobs = tables.jobs
    rows = connection.execute(tables.dialect.lock(wanted.add_columns(jobs.c.queue, jobs.c.priority, jobs.c.flags))).all()
    if not rows:
        return []
    held = jobs.c.flags.op("&")(int(Flag.HELD)) != 0
    # `state` last: MySQL assigns from left to right, and the others must see the old one.
    values = [
        (jobs.c.reason, case((held, REASON[Reason.HELD]), else_=None)),
        (jobs.c.ready_at, case((held, None), else_=tables.now())),
        (jobs.c.state, case((held, BLOCKED), else_=READY)),
    ]
    for start in range(0, len(rows), 1000):
        ids = sorted(row.id for row in rows[start : start + 1000])
        connection.execute(update(jobs).where(jobs.c.id.in_(ids), jobs.c.state.in_(from_states)).ordered_values(*values))
    return [Ready(row.id, row.queue, row.priority) for row in rows if not row.flags & Flag.HELD]
