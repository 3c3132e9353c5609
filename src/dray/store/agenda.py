"""What there is for upkeep to do, in one look: mostly nothing, and that must cost next to nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select

from dray.store.expire import over
from dray.store.notices import free
from dray.store.owed import old_notes
from dray.store.promote import first_due
from dray.store.settle import LEFT_AFTER
from dray.store.tables import Tables


class Agenda(NamedTuple):
    """Seconds until something has to be done, not more than 0 when it is due, None when it never is; and what is due now."""

    due: float | None  # the next job whose time comes
    rate: float | None  # the next start that a rate allows
    expired: bool  # jobs
    unsettled: bool  # notes that somebody left behind
    notices: bool  # that somebody is to be told


def agenda(connection: Connection, tables: Tables, gathered: float) -> Agenda:
    """What there is to do. `gathered`: seconds in which notices alike are gathered."""
    row = connection.execute(tables.made(("agenda", gathered), lambda: _query(tables, gathered))).one()
    now, rate, expired, unsettled, notices, *waits = row
    due = [run_at - now for run_at in waits if run_at is not None]
    return Agenda(
        min(due) / 1_000_000 if due else None,
        None if rate is None else (rate - now) / 1_000_000,
        expired is not None,
        unsettled is not None,
        notices is not None,
    )


def _query(tables: Tables, gathered: float) -> Select[Any]:
    jobs, gates, notices = tables.jobs, tables.gates, tables.notices
    first_expired = select(jobs.c.id).where(*over(tables)).order_by(jobs.c.expires_at, jobs.c.id).limit(1)
    return select(
        tables.fixed_now(),
        select(func.min(gates.c.opens_at)).scalar_subquery(),
        first_expired.scalar_subquery(),
        select(tables.unsettled.c.id).where(old_notes(tables, LEFT_AFTER)).limit(1).scalar_subquery(),
        select(notices.c.id).where(free(tables, gathered)).limit(1).scalar_subquery(),
        *[some.scalar_subquery() for some in first_due(tables)],
    )
