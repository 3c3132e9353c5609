"""What becomes ready without anybody's asking: jobs whose time has come, and parked jobs that somebody here can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, select, text

from dray.job import Ready, name_hash
from dray.store.owed import Owed
from dray.store.places import COLUMNS, Placed, Traveller, send_on
from dray.store.tables import Tables

# Conditions are written out, not bound: a partial index is only used for the very words it was made with. MySQL has none, and
# finds the first of several states only one state at a time.
WAITING = "state IN (2, 3)"
WAITING_SINGLY = ("state = 2", "state = 3")
PARKED = "state = 4 AND reason = 5"


class Promoted(NamedTuple):
    """What a look at the clock brought: jobs that are ready now, and in how many seconds the next is due (None: never)."""

    ready: list[Ready]
    next_in: float | None


def promote(connection: Connection, tables: Tables, limit: int = 1000) -> tuple[Promoted, Owed]:
    """Let up to `limit` due jobs go on, the longest due first. Safe in any number of processes at once."""
    jobs = tables.jobs
    due: list[Row[Any]] = []
    for some in waiting(tables):
        rows = select(jobs.c.id).where(text(some), jobs.c.run_at <= tables.fixed_now()).order_by(jobs.c.run_at, jobs.c.id)
        due += _lock(connection, tables, rows.limit(limit))
    # Where states are looked for singly there may be more than were asked for: the commit lets go of the rest.
    due = sorted(due, key=lambda row: (row.run_at, row.id))[:limit]
    placed = send_on(connection, tables, [Traveller(*row[: len(COLUMNS)]) for row in due], text(WAITING))
    wait = 0.0 if len(due) >= limit else next_due(connection, tables)
    return Promoted(placed.ready, wait if wait is None else max(0.0, wait)), placed.owed


def next_due(connection: Connection, tables: Tables) -> float | None:
    """Seconds until the next waiting job is due, negative when it is overdue; None when none waits."""
    waits = []
    for some in first_due(tables):
        first = some.subquery()
        waits.append(connection.execute(select(first.c.run_at - tables.now())).scalar())
    known = [wait for wait in waits if wait is not None]
    return min(known) / 1_000_000 if known else None


def first_due(tables: Tables) -> list[Select[tuple[int]]]:
    """The instants of the first of those that wait for their time, one for each way to look for them."""
    jobs = tables.jobs
    # A row without a time, which only a hand can have written, would come first and hide those that are due.
    timed = [select(jobs.c.run_at).where(text(some), jobs.c.run_at.is_not(None)) for some in waiting(tables)]
    return [some.order_by(jobs.c.run_at, jobs.c.id).limit(1) for some in timed]


def waiting(tables: Tables) -> tuple[str, ...]:
    """The conditions for jobs that wait for their time, each in the words of an index that has them by it."""
    return (WAITING,) if tables.dialect.partial_indexes else WAITING_SINGLY


def parked(connection: Connection, tables: Tables, known: Mapping[str, int]) -> list[tuple[int, int]]:
    """Which kinds of parked jobs could be run here: hash of the task, and the signature that could not take them (C35).

    `known`: task name -> number of its signature. Not those that met this very signature.
    """
    names = {name_hash(name): signature for name, signature in known.items()}
    jobs = tables.jobs
    kinds = connection.execute(select(jobs.c.task_hash, jobs.c.signature).where(text(PARKED)).distinct()).all()
    return [(row[0], row[1]) for row in kinds if row[0] in names and row[1] != names[row[0]]]


def adopt(
    connection: Connection, tables: Tables, kinds: Sequence[tuple[int, int]], limit: int = 1000
) -> tuple[list[Ready], Owed]:
    """Free parked jobs of these kinds: a rolling deploy loses nothing, what the old workers could not run goes on with the
    first new one (C35)."""
    jobs, placed = tables.jobs, Placed()
    for task_hash, signature in kinds:
        kind = select(jobs.c.id).where(text(PARKED), jobs.c.task_hash == task_hash, jobs.c.signature == signature)
        found = _lock(connection, tables, kind.order_by(jobs.c.id).limit(limit))
        placed.add(send_on(connection, tables, [Traveller(*row[: len(COLUMNS)]) for row in found], text(PARKED)))
    return placed.ready, placed.owed


def _lock(connection: Connection, tables: Tables, wanted: Select[tuple[int]]) -> Sequence[Row[Any]]:
    rows = wanted.add_columns(*[tables.jobs.c[name] for name in COLUMNS[1:]], tables.jobs.c.run_at)
    return connection.execute(tables.dialect.lock(rows)).all()
