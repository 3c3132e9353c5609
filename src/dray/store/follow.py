"""Running ahead: a worker that has the head of a group takes those behind it too, to run them one after the other.

The next of a group starts when the end of the one before it is committed: a transaction or two for each job. Where a task says
so, a worker claims the head and those behind it together, and their ends are committed together. One at a time still holds,
since one slot runs them in their order; what a crash costs is that the order is repeated from the first whose end was not
committed.
"""

from __future__ import annotations

from itertools import takewhile

from sqlalchemy import Connection, update

from dray.job import Claim, name_hash
from dray.stations import GROUP, Held
from dray.store.claim import CLAIM_COLUMNS
from dray.store.codes import BLOCKED, RUNNING, document
from dray.store.gates import lock
from dray.store.tables import Tables

_COLUMNS = ", ".join(f"j.{column}" for column in CLAIM_COLUMNS)
_ALIVE = "SELECT 1 FROM {workers} WHERE id = :w AND state = 0"
# The line in its order, as settle goes through it.
_LINE = (
    "SELECT id, priority, task_hash, queue_hash, limit_hash, crashes FROM {jobs}"
    f" WHERE group_hash = :g AND group_held = {int(Held.WAITS)} AND state = {BLOCKED}"
    " ORDER BY group_rank, id LIMIT :n"
)


def follow(
    connection: Connection, tables: Tables, worker_id: int, head: Claim, limit: int, priorities: range | None = None
) -> list[Claim]:
    """Claim those behind the head of a group for the worker that has it, up to `limit`, in their order.

    Under the lock of the gate, like everything that lets somebody out of the line. Gives none if the head is not this worker's
    any more. Stops at the first that is another kind of job: its queue may be paused or another worker's, its limit full.
    """
    assert head.group_hash is not None
    if not lock(connection, tables, GROUP, [head.group_hash]):
        return []  # nobody stands behind it
    if not _is_ours(connection, tables, head) or connection.execute(tables.text(_ALIVE), {"w": worker_id}).first() is None:
        return []
    alike = name_hash(head.task), name_hash(head.queue), None, 0
    rows = connection.execute(tables.text(_LINE), {"g": head.group_hash, "n": limit})
    ours = takewhile(lambda row: tuple(row[2:]) == alike and (priorities is None or row[1] in priorities), rows)
    ids = [row[0] for row in ours]
    return _take(connection, tables, worker_id, ids) if ids else []


def _is_ours(connection: Connection, tables: Tables, head: Claim) -> bool:
    """Whether the head is run under this lease. Its row stays locked, or a rescuer could give it to another worker while this
    one takes those behind it. Whom somebody has is not waited for: they go on one by one then."""
    statement = tables.text(tables.dialect.lock_ids("{jobs}", "j.fence, j.state, j.group_held", skip=True))
    row = connection.execute(statement, {"doc": document([head.id])}).first()
    return row is not None and (row[0], row[1]) == (head.fence, RUNNING) and (row[2] or 0) >= Held.HOLDS


def _take(connection: Connection, tables: Tables, worker_id: int, line: list[int]) -> list[Claim]:
    # Locked first: an operator may have moved some of them since we looked.
    # Passing over whom a caller's transaction has: the line is taken up to there.
    statement = tables.text(tables.dialect.lock_ids("{jobs}", "j.id, j.group_held, j.state", skip=True))
    locked = connection.execute(statement, {"doc": document(sorted(line))}).all()
    ids = _unbroken({row[0] for row in locked if (row[1], row[2]) == (Held.WAITS, BLOCKED)}, line)
    if not ids:
        return []
    jobs = tables.jobs
    mine = update(jobs).where(jobs.c.id.in_(ids), jobs.c.state == BLOCKED, jobs.c.group_held == int(Held.WAITS))
    taken = mine.values(
        state=RUNNING,
        reason=None,
        group_held=int(Held.FOLLOWS),
        fence=jobs.c.fence + 1,
        attempt=jobs.c.attempt + 1,
        worker_id=worker_id,
        claimed_at=tables.fixed_now(),  # of all the same: in whatever order they are written, none was claimed before another
        started_at=None,
    )
    connection.execute(tables.dialect.by_primary_key(taken))
    read = tables.text(tables.dialect.lock_ids("{jobs}", _COLUMNS))
    place = {id: number for number, id in enumerate(line)}
    claims = [Claim(*row) for row in connection.execute(read, {"doc": document(ids)})]
    return sorted(claims, key=lambda claim: place[claim.id])


def _unbroken(there: set[int], line: list[int]) -> list[int]:
    """Those at the beginning of the line, up to one that has left it, by id: nobody passes another."""
    return sorted(takewhile(there.__contains__, line))
