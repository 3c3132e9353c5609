"""The workers' rows: who is alive, whose beat stands still, and who was declared dead."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from dray.store.base import Beat as Beat
from dray.store.codes import EPOCH, instant
from dray.store.tables import Tables

ALIVE, DEAD, ENDED = 0, 1, 2


class WorkerState(StrEnum):
    """Whether a worker may hold leases."""

    ALIVE = "alive"
    DEAD = "dead"  # declared dead by others, or by its own heartbeat process that saw it die
    ENDED = "ended"  # said goodbye itself


STATES = {ALIVE: WorkerState.ALIVE, DEAD: WorkerState.DEAD, ENDED: WorkerState.ENDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker as people read it."""

    id: int
    state: WorkerState
    host: str
    pid: int
    queues: str
    concurrency: int
    started_at: datetime
    beat_at: datetime
    ended_at: datetime | None
    priorities: str | None = None  # which it takes; None: all
    tasks: str | None = None  # the same, in words
    paused: bool = False
    asked: int | None = None  # what it was told to do, and has not done yet; see `orders`
    memory: int | None = None  # bytes, a few seconds ago
    done: int = 0  # jobs that it had ended a few seconds ago
    silent_for: float  # seconds since its last beat, by the database's clock


def register(
    connection: Connection,
    tables: Tables,
    *,
    host: str,
    pid: int,
    queues: str,
    concurrency: int,
    priorities: str | None = None,
    tasks: str | None = None,
) -> int:
    """Write the row of a new worker, alive as of now, and give its id. An id is never used again."""
    now = tables.now()
    statement = insert(tables.workers).values(
        state=ALIVE,
        host=host[:200],
        pid=pid,
        queues=queues,
        priorities=priorities,
        tasks=tasks,
        concurrency=concurrency,
        started_at=now,
        beat_at=now,
        generation=0,
    )
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])


def beat_statement(tables: Tables) -> str:
    """SQL for the heartbeat process: one parameterless UPDATE after `%d` is replaced; no row changed: we were declared dead."""
    now = (
        tables.literal_now()
        if tables.dialect.host_clock is None
        else "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    )
    return f"UPDATE {tables.names()['workers']} SET beat_at = {now} WHERE id = %d AND state = {ALIVE}"


def death_statement(tables: Tables) -> str:
    """SQL for the heartbeat process that has just seen its worker die: others need not wait for the lease to run out."""
    now = beat_statement(tables).split("beat_at = ")[1].split(" WHERE")[0]
    workers = tables.names()["workers"]
    return f"UPDATE {workers} SET state = {DEAD}, ended_at = {now} WHERE id = %d AND state = {ALIVE}"


def beats(connection: Connection, tables: Tables) -> list[Beat]:
    """The heartbeats of all workers that count as alive."""
    workers = tables.workers
    rows = connection.execute(select(workers.c.id, workers.c.beat_at).where(workers.c.state == ALIVE))
    return [Beat(row[0], row[1]) for row in rows]


def declare_dead(connection: Connection, tables: Tables, beat: Beat) -> bool:
    """Declare a worker dead if its beat still stands where it was seen. False: it has moved, or another was first."""
    workers = tables.workers
    statement = (
        update(workers)
        .where(workers.c.id == beat.worker_id, workers.c.state == ALIVE, workers.c.beat_at == beat.beat_at)
        .values(state=DEAD, ended_at=tables.now())
    )
    return connection.execute(statement).rowcount == 1


def leave(connection: Connection, tables: Tables, worker_id: int) -> bool:
    """A worker says goodbye: whatever it still holds is free from now on."""
    workers = tables.workers
    statement = (
        update(workers).where(workers.c.id == worker_id, workers.c.state == ALIVE).values(state=ENDED, ended_at=tables.now())
    )
    return connection.execute(statement).rowcount == 1


def listing(
    connection: Connection, tables: Tables, *, alive_only: bool = True, limit: int = 1000, worker_id: int | None = None
) -> list[WorkerRow]:
    """The workers, the newest first; or one of them."""
    workers = tables.workers
    query = select(workers, (tables.now() - workers.c.beat_at).label("silent")).order_by(workers.c.id.desc()).limit(limit)
    if alive_only:
        query = query.where(workers.c.state == ALIVE)
    if worker_id is not None:
        query = query.where(workers.c.id == worker_id)
    return [
        WorkerRow(
            id=row.id,
            state=STATES[row.state],
            host=row.host,
            pid=row.pid,
            queues=row.queues,
            priorities=row.priorities,
            tasks=row.tasks,
            concurrency=row.concurrency,
            started_at=instant(row.started_at) or EPOCH,
            beat_at=instant(row.beat_at) or EPOCH,
            ended_at=instant(row.ended_at),
            paused=bool(row.paused),
            asked=row.asked,
            memory=None if row.memory is None else row.memory * 1024,
            done=row.done or 0,
            silent_for=max(0.0, row.silent / 1_000_000),
        )
        for row in connection.execute(query)
    ]
