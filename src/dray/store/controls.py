"""Paused queues, whether workers may work at all, and which workers have heard of it.

Every change gets a number, one above the last, under a lock that all changes take. A worker that has read the controls, and has
given back what it had fetched of a paused queue, writes down the number that it obeys: then nothing of that queue can start in
it any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, delete, insert, or_, select, update

from dray.job import name_hash
from dray.store.codes import instant
from dray.store.orders import NO_ORDERS, Orders, orders_of
from dray.store.tables import Tables
from dray.store.workers import ALIVE

GENERATION, QUEUE, TICK, STOP = range(4)  # kinds of rows
WATCHED = "watched"  # the tick of those who watch the beats of others


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A queue of which nothing is started.

    until   when it goes on by itself; None: when somebody says so
    """

    queue: str
    note: str | None
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What is paused at this moment, by the hashes of the queues, and the number of the last change."""

    generation: int = 0
    paused: dict[int, Pause] = field(default_factory=dict)
    stopped: str | None = None  # no worker is to work, and why
    orders: Orders = NO_ORDERS  # of the worker who asks


def read(connection: Connection, tables: Tables) -> Controls:
    """What is paused now. One statement, so that number and pauses belong together; a pause whose time is over is none."""
    return _controls(connection.execute(tables.made("controls", lambda: select(tables.controls).where(_holds(tables)))))


def heard(connection: Connection, tables: Tables, worker_id: int) -> Controls:
    """The same for a worker, with what it is told itself: it asks several times a second, so that is one question."""
    rows = connection.execute(tables.made("heard", lambda: _heard(tables)), {"worker": worker_id}).all()
    controls = _controls(row for row in rows if row.kind is not None)
    return controls if not rows else replace(controls, orders=orders_of(rows[0].asked, rows[0].stack_asked, rows[0].stack_at))


def _holds(tables: Tables) -> ColumnElement[bool]:
    table = tables.controls
    return or_(table.c.kind == GENERATION, table.c.until_at.is_(None), table.c.until_at > tables.fixed_now())


def _heard(tables: Tables) -> Select[Any]:
    table, workers = tables.controls, tables.workers
    mine = select(table, workers.c.asked, workers.c.stack_asked, workers.c.stack_at)
    return mine.join_from(workers, table, _holds(tables), isouter=True).where(workers.c.id == bindparam("worker"))


def _controls(rows: Iterable[Row[Any]]) -> Controls:
    generation, paused, stopped = 0, {}, None
    for row in rows:
        if row.kind == GENERATION:
            generation = row.generation
        elif row.kind == QUEUE:
            since, until = instant(row.changed_at), instant(row.until_at)
            paused[row.name_hash] = Pause(queue=row.name, note=row.note, since=since, until=until)
        elif row.kind == STOP:
            stopped = row.note or ""
    return Controls(generation=generation, paused=paused, stopped=stopped)


def pause(
    connection: Connection, tables: Tables, queue: str, note: str | None, seconds: float | None, until: int | None
) -> int:
    """Pause a queue, for so many seconds or until an instant if one is given; gives the number of the change."""
    generation = _next(connection, tables)
    table = tables.controls
    ends = until if seconds is None else tables.now() + round(seconds * 1_000_000)
    mine = and_(table.c.kind == QUEUE, table.c.name_hash == name_hash(queue))
    values = {"note": note, "until_at": ends, "changed_at": tables.now(), "generation": generation}
    if connection.execute(update(table).where(mine).values(**values)).rowcount == 0:
        connection.execute(insert(table).values(kind=QUEUE, name_hash=name_hash(queue), name=queue, **values))
    return generation


def resume(connection: Connection, tables: Tables, queue: str) -> bool:
    """Let a queue go on; False: it was not paused."""
    _next(connection, tables)
    table = tables.controls
    mine = and_(table.c.kind == QUEUE, table.c.name_hash == name_hash(queue))
    return connection.execute(delete(table).where(mine)).rowcount == 1


def stop(connection: Connection, tables: Tables, note: str | None) -> None:
    """Let no worker work, whenever it was started, until `start` (S0.47)."""
    generation = _next(connection, tables)
    start(connection, tables)
    values = {"note": note, "changed_at": tables.now(), "generation": generation}
    connection.execute(insert(tables.controls).values(kind=STOP, name_hash=0, name="", **values))


def start(connection: Connection, tables: Tables) -> bool:
    """Let workers work again; False: they were not stopped."""
    table = tables.controls
    return connection.execute(delete(table).where(table.c.kind == STOP, table.c.name_hash == 0)).rowcount == 1


def _next(connection: Connection, tables: Tables) -> int:
    """The number of this change; its row is locked until the change has committed, so that numbers and commits are in one
    order."""
    table = tables.controls
    mine = and_(table.c.kind == GENERATION, table.c.name_hash == 0)
    risen = update(table).where(mine).values(generation=table.c.generation + 1, changed_at=tables.now())
    if connection.execute(risen).rowcount == 0:
        make_row(connection, tables, GENERATION, "")
        connection.execute(risen)
    return int(connection.execute(select(table.c.generation).where(mine)).scalar_one())


def make_row(connection: Connection, tables: Tables, kind: int, name: str, until: int | None = None) -> None:
    """Make a row of the controls, unless somebody else has just made it."""
    words, otherwise = tables.dialect.insert_new
    statement = (
        f"{words} {{controls}} (kind, name_hash, name, until_at, changed_at, generation)"
        f" VALUES (:kind, :hash, :name, :until, {{now}}, 0){otherwise}"
    )
    values = {"kind": kind, "hash": 0 if kind == GENERATION else name_hash(name), "name": name, "until": until}
    connection.execute(tables.text(statement), values)


def sign(connection: Connection, tables: Tables) -> None:
    """Write down that somebody was here, and nothing else."""
    table = tables.controls
    mine = and_(table.c.kind == TICK, table.c.name_hash == name_hash(WATCHED))
    seen = update(table).where(mine).values(changed_at=tables.now())
    if connection.execute(seen).rowcount == 0:
        make_row(connection, tables, TICK, WATCHED)


def obey(connection: Connection, tables: Tables, worker_id: int, generation: int) -> None:
    """Write down that this worker obeys the controls up to this number."""
    workers = tables.workers
    mine = update(workers).where(workers.c.id == worker_id, workers.c.generation < generation)
    connection.execute(mine.values(generation=generation))


def deaf(connection: Connection, tables: Tables, generation: int) -> list[int]:
    """The workers that are alive and do not obey this change yet."""
    workers = tables.workers
    some = select(workers.c.id).where(workers.c.state == ALIVE, workers.c.generation < generation).order_by(workers.c.id)
    return list(connection.execute(some).scalars())
