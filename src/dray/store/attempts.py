"""What went wrong, attempt by attempt; and finding out by it whether an end was written whose answer was lost."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete

from dray.job import Change, Finish, Lease
from dray.store.codes import STATE, STATE_OF
from dray.store.rows import by_leases, documents, lease_document, storable, with_rows
from dray.store.tables import Tables


def keep_attempts(connection: Connection, tables: Tables, finishes: Sequence[Finish], refused: set[Lease]) -> None:
    """Keep what went wrong, attempt by attempt. A run that succeeded has all there is to say on the job itself."""
    rows = [
        {
            "i": one.claim.id,
            "f": one.claim.fence,
            "a": one.claim.attempt,
            "w": one.claim.worker_id,
            "s": STATE[one.change.state],
            "ea": round(one.ended_ago * 1_000_000),
            "ra": round(one.ran * 1_000_000),
            "e": storable(one.change.error or one.change.note),
            "t": storable(one.change.traceback),
            "fp": one.change.fingerprint,
        }
        for one in finishes
        if (one.change.error is not None or one.change.crashed) and one.claim.lease not in refused
    ]
    for one in finishes:
        if one.recorded and one.claim.lease not in refused:
            forget_record(connection, tables, one.claim.lease)
    statement = with_rows(tables, _KEEP_ATTEMPTS, _ATTEMPT_FIELDS)
    for document in documents(rows):
        connection.execute(statement, {"doc": document})


_ATTEMPT_FIELDS = dict.fromkeys(("i", "f", "a", "w", "s", "ea", "ra", "fp"), "int") | {"e": "text", "t": "text"}
_KEEP_ATTEMPTS = (
    "INSERT INTO {attempts} (job_id, fence, attempt, state, worker_id, started_at, finished_at, error, traceback,"
    " fingerprint) SELECT d.i, d.f, d.a, d.s, d.w, n.now - d.ea - d.ra, n.now - d.ea, d.e, d.t, d.fp"
    " FROM (SELECT {now} AS now) AS n, {rows}"
)


_RECORD = (
    "INSERT INTO {attempts} (job_id, fence, attempt, state, worker_id, finished_at, error, traceback, fingerprint)"
    " SELECT j.id, j.fence, j.attempt, :s, j.worker_id, {now}, :e, :t, :fp FROM {jobs} j"
    " WHERE j.id = :i AND j.fence = :f AND j.state = 1"
)


def record(connection: Connection, tables: Tables, lease: Lease, change: Change) -> bool:
    """Put on record what a run that has failed is going to become, before a hook is called that may take the process down.
    False: the lease is no longer ours."""
    values = {
        "i": lease.id,
        "f": lease.fence,
        "s": STATE[change.state],
        "e": storable(change.error),
        "t": storable(change.traceback),
        "fp": change.fingerprint,
    }
    return connection.execute(tables.text(_RECORD), values).rowcount == 1


def recorded(connection: Connection, tables: Tables, leases: Sequence[Lease]) -> dict[Lease, Change]:
    """What is on record of runs whose end was never written."""
    document = lease_document(leases)
    statement = (
        "SELECT a.job_id, a.fence, a.state, a.error, a.traceback, a.fingerprint FROM {rows}"
        " JOIN {attempts} a ON a.job_id = d.i AND a.fence = d.f"
    )
    rows = connection.execute(by_leases(tables, statement), {"doc": document})
    return {
        Lease(row[0], row[1]): Change(state=STATE_OF[row[2]], error=row[3], traceback=row[4], fingerprint=row[5])
        for row in rows
    }


def forget_record(connection: Connection, tables: Tables, lease: Lease) -> None:
    """Take a record away: what stands there now is what has become of it."""
    attempts = tables.attempts
    connection.execute(delete(attempts).where(attempts.c.job_id == lease.id, attempts.c.fence == lease.fence))


def done_before(connection: Connection, tables: Tables, finishes: Sequence[Finish]) -> set[Lease]:
    """Those that an earlier try has written. A job may also have been rescued meanwhile, which leaves the fence as it is."""
    document = lease_document(one.claim.lease for one in finishes)
    statement = (
        "SELECT h.id, h.fence, h.state, h.snoozes FROM {rows} JOIN {history} h ON h.id = d.i AND h.fence = d.f UNION ALL"
        " SELECT j.id, j.fence, j.state, j.snoozes FROM {rows} JOIN {jobs} j ON j.id = d.i AND j.fence = d.f WHERE j.state <> 1"
    )
    rows = connection.execute(by_leases(tables, statement), {"doc": document}).all()
    found = {Lease(row[0], row[1]): (row[2], row[3]) for row in rows}
    statement = "SELECT a.job_id, a.fence, a.error FROM {rows} JOIN {attempts} a ON a.job_id = d.i AND a.fence = d.f"
    kept = connection.execute(by_leases(tables, statement), {"doc": document}).all()
    errors = {Lease(row[0], row[1]): row[2] for row in kept}
    return {
        lease for one in finishes if (lease := one.claim.lease) in found and _was_written(one, *found[lease], errors.get(lease))
    }


def _was_written(one: Finish, state: int, snoozes: int, error: str | None) -> bool:
    """Whether it was this end that changed the job, by the trace which only it leaves."""
    change = one.change
    if change.error is not None:
        return error == storable(change.error)
    if change.snoozed:
        return snoozes > one.claim.snoozes
    # What was given back unstarted is where a rescue would have put it, too.
    return state == STATE[change.state] if change.state.ended else True
