"""Claiming a job by its id, whatever it waits for: a person wants it to run here and now."""

from __future__ import annotations

from sqlalchemy import Connection

from dray.job import Claim
from dray.store.claim import CLAIM_COLUMNS, check_alive
from dray.store.tables import Tables

_TAKE = (
    "UPDATE {jobs} SET state = 1, reason = NULL, fence = fence + 1, attempt = attempt + 1, worker_id = :w, run_at = NULL,"
    " ready_at = COALESCE(ready_at, {now}), claimed_at = {now}, started_at = NULL,"
    " group_held = CASE WHEN group_hash IS NULL THEN NULL WHEN group_held = 1 THEN 1 ELSE 0 END,"
    " limit_held = CASE WHEN limit_hash IS NULL THEN NULL ELSE 1 END WHERE id = :id AND state <> 1"
)
_TAKEN = f"SELECT {', '.join(CLAIM_COLUMNS)} FROM {{jobs}} WHERE id = :id"


def pick(connection: Connection, tables: Tables, worker_id: int, job_id: int) -> Claim | None:
    """Take a job that neither runs nor has ended; None: it does. Of its group it is the head only if it was before; of its
    limit it takes a share in any case (S0.49).

    Raises WorkerGone when the worker is not alive in the database.
    """
    check_alive(connection, tables, worker_id)
    if connection.execute(tables.text(_TAKE), {"id": job_id, "w": worker_id}).rowcount == 0:
        return None
    return Claim(*connection.execute(tables.text(_TAKEN), {"id": job_id}).one())
