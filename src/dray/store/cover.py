"""Coalescing: a wide job that starts does the work of narrower ones that wait in its group (S2.36, C63).

Those it covers leave the line and wait for its end: they have succeeded when it has, and stand in line again when it fails for
good or is cancelled. Enqueued after its start they are not covered, and run on their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, select, update

from dray.job import Claim, Reason, name_hash
from dray.stations import Held
from dray.store.codes import BLOCKED, REASON, RUNNING, SUCCEEDED, document
from dray.store.ends import end_waiting
from dray.store.places import COLUMNS, Placed, Traveller, send_on
from dray.store.rows import by_ids
from dray.store.tables import Tables

COVERED = REASON[Reason.COVERED]
# The covered ones of a coverer that has ended, by its group and their mark in the index of that.
_COVERED = (
    "SELECT j.id, h.id AS by_id, h.state AS ended FROM {rows} JOIN {history} h ON h.id = d.i"
    f" JOIN {{jobs}} j ON j.group_hash = h.group_hash AND j.group_held = {int(Held.COVERED)} AND j.covered_by = h.id"
)

_IN = (
    "SELECT DISTINCT j.covered_by FROM {rows} JOIN {jobs} j"
    f" ON j.group_hash = d.i AND j.group_held = {int(Held.COVERED)} WHERE j.covered_by IS NOT NULL"
)


def cover(connection: Connection, tables: Tables, claim: Claim) -> int:
    """Cover what waits in the group of a job that is about to start; gives how many these are. None, if it is run under this
    lease no more: it has ended perhaps, and nobody would let go on what it covers."""
    jobs = tables.jobs
    mine = select(jobs.c.id).where(jobs.c.id == claim.id, jobs.c.fence == claim.fence, jobs.c.state == RUNNING)
    if connection.execute(tables.dialect.wait_for(mine)).first() is None:
        return 0
    wanted = select(jobs.c.id).where(
        jobs.c.group_hash == claim.group_hash,
        jobs.c.group_held == int(Held.WAITS),
        jobs.c.task_hash == name_hash(claim.task),
        jobs.c.threshold >= claim.threshold,
        jobs.c.id != claim.id,
    )
    ids = sorted(connection.execute(tables.dialect.lock(wanted.order_by(jobs.c.id))).scalars())
    if not ids:
        return 0
    waiting = and_(jobs.c.state == BLOCKED, jobs.c.group_held == int(Held.WAITS))
    some = tables.dialect.by_primary_key(update(jobs).where(jobs.c.id.in_(ids), waiting))
    covered = some.values(reason=COVERED, group_held=int(Held.COVERED), covered_by=claim.id)
    return connection.execute(covered).rowcount


def coverers_in(connection: Connection, tables: Tables, groups: Sequence[int]) -> list[int]:
    """The jobs that cover others in these groups."""
    return sorted(connection.execute(by_ids(tables, _IN), {"doc": document(groups)}).scalars())


def ended_coverers(connection: Connection, tables: Tables, ids: Sequence[int]) -> list[int]:
    """Those of these jobs that have ended and had covered others."""
    return sorted({row.by_id for row in connection.execute(by_ids(tables, _COVERED), {"doc": document(ids)})})


def uncover(connection: Connection, tables: Tables, ids: Sequence[int]) -> Placed:
    """End what these have done too, or send it back into its line (C63)."""
    ended = {row.id: (row.by_id, row.ended) for row in connection.execute(by_ids(tables, _COVERED), {"doc": document(ids)})}
    columns = ", ".join(f"j.{name}" for name in (*COLUMNS, "state", "reason"))
    lock = tables.text(tables.dialect.lock_ids("{jobs}", columns))
    rows = connection.execute(lock, {"doc": document(sorted(ended))}).all() if ended else []
    still = [Traveller(*row[: len(COLUMNS)]) for row in rows if (row[-2], row[-1]) == (BLOCKED, COVERED)]
    done = {one.id: (SUCCEEDED, f"covered by job {ended[one.id][0]}") for one in still if ended[one.id][1] == SUCCEEDED}
    placed = end_waiting(connection, tables, done, COVERED)
    back = [one._replace(group_held=None) for one in still if one.id not in done]
    expected = and_(tables.jobs.c.state == BLOCKED, tables.jobs.c.reason == COVERED)
    placed.add(send_on(connection, tables, back, expected, {"covered_by": None}))
    return placed
