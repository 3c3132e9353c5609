"""The view `all_jobs`: live and ended jobs in words, for people with a SQL prompt. No code reads it."""

from __future__ import annotations

from collections.abc import Iterable

from dray.job import Flag
from dray.store.codes import REASON, STATE
from dray.store.tables import Tables

NAME = "all_jobs"  # behind the prefix

# SQL: microseconds since 1970 as the database's own kind of timestamp, UTC.
_INSTANT = {
    # Not strftime('%f'), which ends at milliseconds; SQLAlchemy and SQLite's own functions read this form.
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06d', {0} % 1000000)",
    "postgresql": "to_timestamp({0} / 1000000.0)",
    # FROM_UNIXTIME would give the time of the session's zone.
    "mysql": "TIMESTAMPADD(MICROSECOND, {0}, TIMESTAMP'1970-01-01 00:00:00.000000')",
}


def select(tables: Tables) -> str:
    """The SELECT that the view stands for."""
    names = tables.names()
    ended, live = (_half(tables, names[name], live=name == "jobs") for name in ("history", "jobs"))
    return f"{live}\nUNION ALL\n{ended}"


def _half(tables: Tables, source: str, *, live: bool) -> str:
    quote, instant = tables.dialect.quote, _INSTANT[tables.dialect.name]
    columns = {
        "id": "id",
        "state": _words("state", STATE.items()),
        "reason": _words("reason", REASON.items()),
        "queue": "queue",
        "task": "task",
        "priority": "priority",
        "key": "job_key",
        "owner": "owner",
        "group": "group_name",
        "limit": "limit_name",
        "parent_id": "parent_id",
        "attempt": "attempt",
        "max_attempts": "max_attempts",
        "crashes": "crashes",
        "held": f"(flags & {Flag.HELD:d}) <> 0",
        "cancel_requested": f"(flags & {Flag.CANCEL:d}) <> 0",
        "worker_id": "worker_id",
        "created_at": instant.format("created_at"),
        "run_at": instant.format("run_at"),
        "ready_at": instant.format("ready_at"),
        "claimed_at": instant.format("claimed_at"),
        "started_at": instant.format("started_at"),
        "finished_at": instant.format("finished_at"),
        "expires_at": instant.format("expires_at"),
        "pid": "pid",
        "cpu_seconds": "cpu_us / 1000000.0",
        **{name: f"{name} * 1024" for name in ("memory_before", "memory_after", "peak_before", "peak_after")},
        "args": "args",
        "result": "result",
        "report": "report",
        "error": "error",
        "note": "note",
        "metadata": "metadata",
        "live": "TRUE" if live else "FALSE",
    }
    # Every name in quotes: `key` is a reserved word in MySQL, and others may become one.
    fields = ",\n".join(f"    {expression} AS {quote(name)}" for name, expression in columns.items())
    return f"SELECT\n{fields}\nFROM {source}"


def _words(column: str, codes: Iterable[tuple[str, int]]) -> str:
    cases = " ".join(f"WHEN {code} THEN '{word}'" for word, code in codes)
    return f"CASE {column} {cases} END"
