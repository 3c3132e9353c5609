"""Removing what nobody needs any more: ended jobs by state and age, and the rows of workers long gone."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, ScalarSelect, Select, case, func, literal_column, select

from dray.errors import BadOption
from dray.job import State
from dray.store.codes import RUNNING, STATE, document
from dray.store.tables import Tables
from dray.store.workers import ALIVE

BATCH = 1000
_FREE, _NEEDED, _HALTING = range(3)


class Kept(NamedTuple):
    """Old jobs that are kept because something still refers to them.

    needed      other jobs that have not ended depend on how they ended
    halting     their group stands still because of them
    """

    needed: int
    halting: int


def prune_batch(connection: Connection, tables: Tables, state: State, older_than: float, limit: int = BATCH) -> int:
    """Delete up to `limit` jobs that ended in this state more than so many seconds ago; gives how many.

    The oldest go first, and all that is kept about them goes too. To be called, each time in a transaction of
    its own, until it gives 0: so no lock is held for long, whatever there is to delete. Rows that others have
    locked, because they prune too or retry one of them, are passed over. What a job still waits for, and what
    a group stands still for, stays.
    """
    history = tables.history
    old = _old(tables, state, older_than).order_by(history.c.finished_at, history.c.id).limit(limit)
    ids = sorted(connection.execute(tables.dialect.lock(old)).scalars())
    if not ids:
        return 0
    delete = tables.dialect.delete_ids
    by_job = f"{tables.prefix}output_job"
    statements = (
        delete("{labels}", "job_id"),
        delete("{edges}", "job_id"),
        delete("{attempts}", "job_id"),
        delete("{output}", "job_id", index=by_job),
        delete("{history}", where=f"j.state + 0 = {STATE[state]}"),  # the sum: by the ids, not by an index of states
    )
    counts = [connection.execute(tables.text(one), {"doc": document(ids)}).rowcount for one in statements]
    return counts[-1]


def count_prunable(connection: Connection, tables: Tables, state: State, older_than: float, cap: int = 10_000) -> int:
    """How many jobs `prune_batch` would delete in all; counting stops above `cap`."""
    some = _old(tables, state, older_than).limit(cap + 1).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one()


def prune_workers(connection: Connection, tables: Tables, older_than: float, limit: int = BATCH) -> int:
    """Delete up to `limit` workers that left or died more than so many seconds ago; gives how many.

    One that still holds a running job stays until that job has been rescued.
    """
    workers, jobs = tables.workers, tables.jobs
    gone = workers.c.state != ALIVE
    last_seen = func.coalesce(workers.c.ended_at, workers.c.beat_at)
    holds = (
        # A literal, or SQLite does not use its partial index.
        select(jobs.c.id).where(jobs.c.state == literal_column(str(RUNNING)), jobs.c.worker_id == workers.c.id).exists()
    )
    old = select(workers.c.id).where(gone, last_seen < tables.now() - _microseconds(older_than), ~holds)
    # Looked up first: a DELETE that searches would lock the rows of the living too, and make their beats
    # wait.
    ids = sorted(connection.execute(old.order_by(workers.c.id).limit(limit)).scalars())
    if not ids:
        return 0
    statement = tables.dialect.delete_ids("{workers}", where=f"j.state <> {ALIVE}")
    return connection.execute(tables.text(statement), {"doc": document(ids)}).rowcount


def count_kept(connection: Connection, tables: Tables, state: State, older_than: float, cap: int = 10_000) -> Kept:
    """How many of the jobs that are old enough `prune_batch` leaves, and why; for a job with two reasons the first one counts.

    Looks at the oldest `cap` plus one. What is kept is the oldest, so after a prune these are all, if they are not more.
    """
    history = tables.history
    oldest = _aged(tables, state, older_than, history.c.id, history.c.group_hash)
    old = oldest.order_by(history.c.finished_at, history.c.id).limit(cap + 1).subquery()
    needed, halting = (some.is_not(None) for some in _uses(tables, old.c.id, old.c.group_hash))
    reason = case((needed, _NEEDED), (halting, _HALTING), else_=_FREE).label("reason")
    reasons = select(reason).select_from(old).subquery()
    counts = {row[0]: row[1] for row in connection.execute(select(reasons.c.reason, func.count()).group_by(reasons.c.reason))}
    return Kept(counts.get(_NEEDED, 0), counts.get(_HALTING, 0))


def _old(tables: Tables, state: State, older_than: float) -> Select[tuple[int]]:
    history = tables.history
    # One by one, as far as is wanted: joined with them, all edges would be read.
    uses = _uses(tables, history.c.id, history.c.group_hash)
    return _aged(tables, state, older_than, history.c.id).where(*[some.is_(None) for some in uses])


def _aged(tables: Tables, state: State, older_than: float, *columns: Column[Any]) -> Select[Any]:
    if not state.ended:
        raise BadOption(f"only ended jobs can be pruned; {state} is not an end")
    history = tables.history
    before = tables.fixed_now() - _microseconds(older_than)
    return select(*columns).where(history.c.state == STATE[state], history.c.finished_at < before)


def _uses(tables: Tables, id: ColumnElement[int], group: ColumnElement[int]) -> tuple[ScalarSelect[int], ScalarSelect[int]]:
    """What still refers to an ended job: a live one that waits for it or has yet to see how it ended, and its group."""
    edges, jobs, halts = tables.edges, tables.jobs, tables.halts
    needed = select(edges.c.job_id).join_from(edges, jobs, jobs.c.id == edges.c.job_id).where(edges.c.needs_id == id)
    halting = select(halts.c.job_id).where(halts.c.group_hash == group, halts.c.job_id == id)
    return needed.limit(1).scalar_subquery(), halting.limit(1).scalar_subquery()


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
