"""What fails, alike with alike: the newest failed attempts, put together by their fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from dray.store.codes import EPOCH, FAILED, document, instant
from dray.store.rows import by_ids
from dray.store.tables import Tables

NEWEST = 10_000  # attempts that are looked at, whatever there is
JOBS = 1_000  # of one kind that are named
_SHORT = 300  # characters of an error

_TASKS = (
    "SELECT h.id, h.task FROM {rows} JOIN {history} h ON h.id = d.i UNION ALL"
    " SELECT j.id, j.task FROM {rows} JOIN {jobs} j ON j.id = d.i"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorKind:
    """Failed attempts alike.

    fingerprint   their number; None: they are alike by their text alone
    attempts      how many; `final` of them left their job failed
    jobs          of which jobs, the newest first, up to a thousand
    """

    fingerprint: int | None
    task: str | None
    error: str
    attempts: int
    final: int
    first_at: datetime
    last_at: datetime
    jobs: tuple[int, ...]

    @property
    def key(self) -> str:
        """The same as a short word that people can type."""
        return "-" if self.fingerprint is None else f"{self.fingerprint & (2**64 - 1):016x}"[:8]


def kinds(connection: Connection, tables: Tables, seconds: float | None = None) -> list[ErrorKind]:
    """What failed lately, of the newest 10,000 failed attempts; the kind with most attempts first."""
    attempts = tables.attempts
    query = select(
        attempts.c.job_id,
        attempts.c.state,
        attempts.c.finished_at,
        attempts.c.fingerprint,
        func.substr(attempts.c.error, 1, _SHORT).label("error"),
    )
    if seconds is not None:
        query = query.where(attempts.c.finished_at >= tables.fixed_now() - round(seconds * 1_000_000))
    newest = query.order_by(attempts.c.finished_at.desc(), attempts.c.job_id.desc()).limit(NEWEST)
    groups: dict[object, list[Any]] = {}
    for row in connection.execute(newest):
        alike = row.fingerprint if row.fingerprint is not None else row.error
        groups.setdefault(alike, []).append(row)
    tasks = _tasks(connection, tables, [rows[0].job_id for rows in groups.values()])
    return sorted((_kind(rows, tasks) for rows in groups.values()), key=lambda kind: (-kind.attempts, kind.error))


def _kind(rows: Sequence[Any], tasks: dict[int, str]) -> ErrorKind:
    newest, oldest = rows[0], rows[-1]
    return ErrorKind(
        fingerprint=newest.fingerprint,
        task=tasks.get(newest.job_id),
        error=newest.error or "",
        attempts=len(rows),
        final=sum(row.state == FAILED for row in rows),
        first_at=instant(oldest.finished_at) or EPOCH,
        last_at=instant(newest.finished_at) or EPOCH,
        jobs=tuple(dict.fromkeys(row.job_id for row in rows))[:JOBS],
    )


def _tasks(connection: Connection, tables: Tables, ids: Sequence[int]) -> dict[int, str]:
    rows = connection.execute(by_ids(tables, _TASKS), {"doc": document(sorted(set(ids)))})
    return {row[0]: row[1] for row in rows}
