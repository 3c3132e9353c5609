"""What people look at: one job, lists, counts.

Live and ended jobs are read in one statement, so that none is seen twice or missed while it moves from one
table to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    Connection,
    Row,
    Select,
    Table,
    column,
    literal_column,
    select,
    text,
    union_all,
)

from dray.errors import CodecError
from dray.job import Flag, JobRow, State, name_hash
from dray.report import Report
from dray.store.codes import EPOCH, REASON_OF, RUNNING, STATE, STATE_OF, instant
from dray.store.filters import Filter as Filter
from dray.store.lanes import lanes_of
from dray.store.listing import capped, is_in, newest
from dray.store.tables import Tables

CAP = 10_000  # counting stops above it, so that a page costs the same whatever the backlog

_RENAMED = {
    "key": "job_key",
    "group": "group_name",
    "limit": "limit_name",
    "cpu_seconds": "cpu_us",
}  # the words of SQL are no names of columns
_COLUMNS = {field.name: _RENAMED.get(field.name, field.name) for field in fields(JobRow)}
_LIVE = tuple(state for state in State if not state.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    """What is in a queue.

    ready     counted up to the cap plus one
    oldest    seconds since its longest ready job became so
    """

    queue: str
    ready: int
    running: int
    oldest: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt that went wrong; `state` is what the job became by it."""

    job_id: int
    fence: int
    attempt: int
    state: State | None
    worker_id: int | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    traceback: str | None
    fingerprint: int | None = None  # the same for what fails in the same place in the same way


# --- jobs ---------------------------------------------------------------------------------------------------


def job(connection: Connection, tables: Tables, id: int) -> JobRow | None:
    """One job, live or ended; None when there is none of this id."""
    parts = [_shown(table, ended).where(table.c.id == id) for table, ended in _places(tables)]
    row = connection.execute(union_all(*parts)).first()
    return None if row is None else _job_row(row)


def jobs(connection: Connection, tables: Tables, wanted: Filter, *, limit: int = 50, before: int | None = None) -> list[JobRow]:
    """The jobs a filter lets through, the newest first; `before` is the last id of the page before."""
    parts = []
    for look, ids in newest(connection, tables, wanted, limit, before):
        # Only ids are sorted; the wide rows are fetched for those that are shown.
        found = ids.subquery()
        parts.append(_shown(look.table, look.ended).join_from(look.table, found, found.c.id == look.table.c.id))
    if not parts:
        return []
    query = union_all(*parts).order_by(column("id").desc()).limit(limit)
    return [_job_row(row) for row in connection.execute(query)]


def _places(tables: Tables) -> tuple[tuple[Table, bool], tuple[Table, bool]]:
    return (tables.jobs, False), (tables.history, True)


def _shown(table: Table, ended: bool) -> Select[Any]:
    # Each by its bare name: SQLite sorts two tables put together only by a name that both of them say.
    return select(*[table.c[name].label(name) for name in _COLUMNS.values()], literal_column(str(int(ended))).label("ended"))


# --- rows for people ----------------------------------------------------------------------------------------


def _job_row(row: Row[Any]) -> JobRow:
    """A row as it can be shown: its note tells what is broken in it, and the rest of a list is there."""
    values = {field: getattr(row, name) for field, name in _COLUMNS.items()}
    faults: list[str] = []
    state = STATE_OF.get(row.state)
    if state is None:
        state = State.FAILED if row.ended else State.BLOCKED
        faults.append(f"the stored state {row.state!r} is unknown")
    report = None
    if row.report is not None:
        try:
            report = Report.from_json(row.report)
        except (CodecError, RecursionError) as error:
            faults.append(str(error))
    for name in ("run_at", "ready_at", "claimed_at", "started_at", "finished_at", "expires_at"):
        values[name] = instant(values[name])
    for name in ("memory_before", "memory_after", "peak_before", "peak_after"):
        values[name] = None if values[name] is None else values[name] * 1024
    values |= {
        "cpu_seconds": None if row.cpu_us is None else row.cpu_us / 1_000_000,
        "state": state,
        "reason": REASON_OF.get(row.reason),
        "flags": Flag(row.flags),
        "created_at": instant(row.created_at) or EPOCH,
        "report": report,
        "note": "; ".join([*faults, *([row.note] if row.note else [])]) or None,
    }
    return JobRow(**values)


def attempts(connection: Connection, tables: Tables, id: int) -> list[AttemptRow]:
    """The attempts of a job that went wrong, the first one first."""
    table = tables.attempts
    query = select(table).where(table.c.job_id == id).order_by(table.c.fence)
    return [
        AttemptRow(
            job_id=row.job_id,
            fence=row.fence,
            attempt=row.attempt,
            state=STATE_OF.get(row.state),
            worker_id=row.worker_id,
            started_at=instant(row.started_at),
            finished_at=instant(row.finished_at),
            error=row.error,
            traceback=row.traceback,
            fingerprint=row.fingerprint,
        )
        for row in connection.execute(query)
    ]


def labels(connection: Connection, tables: Tables, ids: Iterable[int]) -> dict[int, dict[str, str]]:
    """The labels of jobs, in the order of their names; a job without labels has none."""
    found: dict[int, dict[str, str]] = {id: {} for id in ids}
    table, ordered = tables.labels, sorted(found)
    for start in range(0, len(ordered), 1000):
        query = select(table.c.job_id, table.c.name, table.c.value)
        mine = table.c.job_id.in_(ordered[start : start + 1000])
        for row in connection.execute(query.where(mine).order_by(table.c.job_id, table.c.name)):
            found[row.job_id][row.name] = row.value
    return found


# --- counts -------------------------------------------------------------------------------------------------


def counts(connection: Connection, tables: Tables, cap: int = CAP) -> dict[State, int]:
    """How many jobs are in each state; `cap + 1` stands for more than `cap`."""
    parts = []
    for state in State:
        some = capped(state, tables.history if state.ended else tables.jobs, cap).scalar_subquery()
        parts.append(select(literal_column(str(STATE[state])).label("code"), some.label("number")))
    return {STATE_OF[row.code]: row.number for row in connection.execute(union_all(*parts))}


# The lanes are few and known; each costs one look at the head of its part of the index.
_HEADS = (
    "SELECT o.queue, o.queue_hash, {now} - o.ready_at AS age FROM (SELECT (SELECT j.id FROM {jobs} j"
    " WHERE j.state = 0 AND j.queue_hash = d.q AND j.priority = d.p ORDER BY j.ready_at, j.id LIMIT 1) AS id"
    " FROM {rows}) AS n JOIN {jobs} o ON o.id = n.id"
)
_READY = (
    "SELECT {hash} AS queue_hash,"
    " (SELECT COUNT(*) FROM (SELECT 1 FROM {jobs} WHERE state = 0 AND queue_hash = {hash} LIMIT {most}) AS s) AS number"
)
AT_ONCE = 100  # queues counted with one statement
_RUNNING = f"SELECT queue, COUNT(*) AS number FROM {{jobs}} WHERE state = {RUNNING} GROUP BY queue"


def queues(connection: Connection, tables: Tables, cap: int = CAP) -> list[QueueCount]:
    """The queues that have ready or running jobs, by name.

    Costs one probe for each queue and priority in use, and a look at the rows that run; how many wait makes
    no difference above the cap.
    """
    document = msgspec.json.encode([{"q": queue, "p": priority} for queue, priority in lanes_of(connection, tables)]).decode()
    heads = tables.text(_HEADS.replace("{rows}", tables.dialect.rows({"q": "int", "p": "int"})))
    oldest: dict[str, float] = {}
    names: dict[int, str] = {}
    for row in connection.execute(heads, {"doc": document}):
        oldest[row.queue] = max(oldest.get(row.queue, 0.0), (row.age or 0) / 1_000_000)
        names[row.queue_hash] = row.queue
    ready = {names[hash]: number for hash, number in _ready(connection, tables, sorted(names), cap)}
    running = {row.queue: row.number for row in connection.execute(tables.text(_RUNNING))}
    return [
        QueueCount(queue=name, ready=ready.get(name, 0), running=running.get(name, 0), oldest=oldest.get(name))
        for name in sorted({*ready, *running})
    ]


def _ready(connection: Connection, tables: Tables, hashes: Sequence[int], cap: int) -> Iterator[tuple[int, int]]:
    """How many are ready in each of these queues, up to the cap plus one."""
    for start in range(0, len(hashes), AT_ONCE):
        some = hashes[start : start + AT_ONCE]
        parts = [_READY.format_map({**tables.names(), "hash": hash, "most": cap + 1}) for hash in some]
        yield from ((row[0], row[1]) for row in connection.execute(text(" UNION ALL ".join(parts))))


# --- keys ---------------------------------------------------------------------------------------------------


def unfinished_keys(
    connection: Connection,
    tables: Tables,
    keys: Sequence[str] | None = None,
    *,
    include_running: bool = True,
    include_failed: bool = True,
    limit: int = 1000,
    after: str | None = None,
) -> list[str]:
    """Which of these keys, or without `keys` which keys at all, belong to jobs that are not finished (S2.25).

    A job that failed for good counts as unfinished, because what it was to do has not been done;
    `include_failed=False` leaves only live jobs. A succeeded or cancelled one is finished.

    Given keys come back in their order, each once. Without them there are at most `limit`, in an order of
    their own; the last one, as `after`, asks for the next page.
    """
    sources = _unfinished(tables, include_running, include_failed)
    if keys is None:
        return _all_keys(connection, sources, limit, after)
    found: set[str] = set()
    distinct = list(dict.fromkeys(keys))
    for start in range(0, len(distinct), 1000):
        some = distinct[start : start + 1000]
        hashes = [name_hash(key) for key in some]
        parts = [query.where(table.c.key_hash.in_(hashes)) for table, query in sources]
        found.update(row.job_key for row in connection.execute(union_all(*parts)))
    return [key for key in distinct if key in found]


def _unfinished(tables: Tables, include_running: bool, include_failed: bool) -> list[tuple[Table, Select[Any]]]:
    live, ended = tables.jobs, tables.history
    query = select(live.c.key_hash, live.c.job_key).distinct().where(live.c.key_hash.is_not(None))
    found = [(live, query if include_running else query.where(live.c.state != RUNNING))]
    if include_failed:
        failed = select(ended.c.key_hash, ended.c.job_key).distinct().where(is_in(State.FAILED))
        found.append((ended, failed.where(ended.c.key_hash.is_not(None))))
    return found


def _all_keys(connection: Connection, sources: Sequence[tuple[Table, Select[Any]]], limit: int, after: str | None) -> list[str]:
    parts = []
    for table, query in sources:
        if after is not None:
            query = query.where(table.c.key_hash > name_hash(after))
        parts.append(select(query.order_by(table.c.key_hash).limit(limit).subquery()))
    rows = connection.execute(union_all(*parts).order_by(column("key_hash")))
    return list(dict.fromkeys(row.job_key for row in rows))[:limit]
