"""What single workers are told: each by its own id, so that one which is started meanwhile cannot take another's order."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import Connection, case, select, update

from dray.codec import sanitize
from dray.store.tables import Tables
from dray.store.workers import ALIVE


class Order(IntEnum):
    """What a worker is told to do."""

    STOP = 1  # within its time of grace
    STOP_NOW = 2
    RELOAD = 3  # when what runs has ended, with the code as it is by then


KNOWN = frozenset(map(int, Order))
# What goes before an order, though the worker has yet to hear of it: who is told to end shall not begin anew instead.
BEFORE = {Order.STOP: (Order.STOP_NOW,), Order.STOP_NOW: (), Order.RELOAD: (Order.STOP, Order.STOP_NOW)}


class Orders(NamedTuple):
    """What a worker finds on its row: an order, and whether somebody wants to see where its jobs are."""

    order: Order | None = None
    stack: bool = False


NO_ORDERS = Orders()


def give(connection: Connection, tables: Tables, ids: Sequence[int], order: Order) -> list[int]:
    """Tell these workers, unless they were told something that goes before it; gives those that are alive to hear it."""
    workers = tables.workers
    asked = case((workers.c.asked.in_([int(one) for one in BEFORE[order]]), workers.c.asked), else_=int(order))
    told = []
    for worker_id in sorted(ids):
        mine = update(workers).where(workers.c.id == worker_id, workers.c.state == ALIVE).values(asked=asked)
        if connection.execute(mine).rowcount == 1:
            told.append(worker_id)
    return told


def orders_of(asked: int | None, stack_asked: int | None, stack_at: int | None) -> Orders:
    """What the columns of a worker's row say."""
    wanted = stack_asked is not None and (stack_at is None or stack_at < stack_asked)
    # What a newer version may say means nothing here.
    return Orders(None if asked is None or asked not in KNOWN else Order(asked), wanted)


def ask_stack(connection: Connection, tables: Tables, worker_id: int) -> int | None:
    """Ask a worker where its jobs are; gives the instant from which on the answer counts. None: it is not alive."""
    workers = tables.workers
    mine = workers.c.id == worker_id
    if connection.execute(update(workers).where(mine, workers.c.state == ALIVE).values(stack_asked=tables.now())).rowcount != 1:
        return None
    return int(connection.execute(select(workers.c.stack_asked).where(mine)).scalar_one())


def answer(connection: Connection, tables: Tables, worker_id: int, stack: str) -> None:
    """Say where this worker's jobs are."""
    workers = tables.workers
    connection.execute(update(workers).where(workers.c.id == worker_id).values(stack=sanitize(stack), stack_at=tables.now()))


def stack(connection: Connection, tables: Tables, worker_id: int, since: int) -> str | None:
    """What a worker has answered since then; None: nothing yet."""
    workers = tables.workers
    answered = select(workers.c.stack).where(workers.c.id == worker_id, workers.c.stack_at >= since)
    return connection.execute(answered).scalar_one_or_none()


def report(connection: Connection, tables: Tables, worker_id: int, *, paused: bool, memory: int, done: int) -> None:
    """Write down how a worker is: whether it is paused, its memory in KiB, and how many jobs it has done."""
    workers = tables.workers
    values = {"paused": int(paused), "memory": memory, "done": done}
    connection.execute(update(workers).where(workers.c.id == worker_id).values(**values))
