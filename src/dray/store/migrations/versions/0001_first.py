"""the tables of the first release

Written out, and not taken from the code, since the code will change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table, Text, text
from sqlalchemy.dialects.mysql import LONGTEXT

from dray.store.migrations.steps import Steps

revision = "0001"
down_revision = None

ID = BigInteger().with_variant(Integer, "sqlite")
LONG = Text().with_variant(LONGTEXT, "mysql", "mariadb")
NAME = String(200)
HASH = String(32).with_variant(String(32, collation="C"), "postgresql")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mysql_row_format": "DYNAMIC",
}
COUNTED: dict[str, Any] = {**OPTIONS, "sqlite_autoincrement": True}
STORAGE_OF_JOBS = (
    "fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,"
    " autovacuum_vacuum_cost_delay = 0,"
    " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000"
)
STORAGE_OF_HISTORY = (
    "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,"
    " autovacuum_vacuum_scale_factor = 0.05,"
    " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 200000"
)


def upgrade(steps: Steps) -> None:
    for table in (
        *(_jobs, _history, _attempts, _labels, _output, _unique_keys, _workers),
        *(_gates, _halts, _edges, _unsettled, _controls, _notices, _rollups),
    ):
        steps.ensure_table(table(steps))
    steps.ensure_storage("jobs", STORAGE_OF_JOBS)
    steps.ensure_storage("history", STORAGE_OF_HISTORY)
    live, ended = _words(steps, "jobs", "TRUE"), _words(steps, "history", "FALSE")
    steps.ensure_view("all_jobs", f"{live}\nUNION ALL\n{ended}")


def _job_columns() -> list[Column[Any]]:
    return [
        Column("state", SmallInteger, nullable=False),
        Column("reason", SmallInteger),
        Column("queue_hash", BigInteger, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("ready_at", BigInteger),
        Column("fence", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("max_attempts", Integer),
        Column("crashes", SmallInteger, nullable=False),
        Column("snoozes", Integer, nullable=False),
        Column("flags", Integer, nullable=False),
        Column("worker_id", BigInteger),
        Column("run_at", BigInteger),
        Column("created_at", BigInteger, nullable=False),
        Column("claimed_at", BigInteger),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger),
        Column("task_hash", BigInteger, nullable=False),
        Column("signature", BigInteger, nullable=False),
        Column("key_hash", BigInteger),
        Column("group_hash", BigInteger),
        Column("group_held", SmallInteger),
        Column("group_rank", SmallInteger),
        Column("limit_hash", BigInteger),
        Column("limit_held", SmallInteger),
        Column("unique_hash", HASH),
        Column("unique_scope", SmallInteger),
        Column("parent_id", BigInteger),
        Column("batch_id", BigInteger),
        Column("threshold", BigInteger),
        Column("covered_by", BigInteger),
        Column("expires_at", BigInteger),
        Column("pid", Integer),
        Column("cpu_us", BigInteger),
        Column("memory_before", Integer),
        Column("memory_after", Integer),
        Column("peak_before", Integer),
        Column("peak_after", Integer),
        Column("queue", NAME, nullable=False),
        Column("task", NAME, nullable=False),
        Column("job_key", NAME),
        Column("owner", NAME),
        Column("group_name", NAME),
        Column("limit_name", NAME),
        Column("limit_rule", String(64)),
        Column("args", LONG, nullable=False),
        Column("result", LONG),
        Column("report", LONG),
        Column("error", LONG),
        Column("note", LONG),
        Column("metadata", LONG),
    ]


def _jobs(steps: Steps) -> Table:
    name = f"{steps.prefix}jobs"
    if steps.family == "mysql":  # it has no partial indexes
        indexes = [
            Index(f"{name}_ready", "state", "queue_hash", "priority", "ready_at", "id"),
            Index(f"{name}_due", "state", "run_at", "id"),
            Index(f"{name}_running", "worker_id", "state"),
            Index(f"{name}_parked", "reason", "task_hash", "signature", "id"),
        ]
    else:
        indexes = [
            _partial(f"{name}_ready", "state = 0", "queue_hash", "priority", "ready_at", "id"),
            _partial(f"{name}_running", "state = 1", "worker_id"),
            _partial(f"{name}_due", "state IN (2, 3)", "run_at", "id"),
            _partial(f"{name}_waiting", "state IN (2, 3, 4)", "state", "id"),
            _partial(f"{name}_parked", "reason = 5", "task_hash", "signature", "id"),
        ]
    return steps.table(
        "jobs",
        Column("id", ID, primary_key=True, autoincrement=True),
        *_job_columns(),
        *indexes,
        *_gated(steps, name),
        *_given(steps, name),
        **COUNTED,
    )


def _partial(name: str, where: str, *columns: str) -> Index:
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


def _some(steps: Steps, name: str, where: str, *columns: str) -> Index:
    return Index(name, *columns) if steps.family == "mysql" else _partial(name, where, *columns)


def _gated(steps: Steps, name: str) -> list[Index]:
    lines = [
        _some(steps, f"{name}_group", "group_hash IS NOT NULL", "group_hash", "group_held", "group_rank", "id"),
        _some(steps, f"{name}_limit", "limit_hash IS NOT NULL", "limit_hash", "limit_held", "priority", "id"),
        _some(steps, f"{name}_expires", "expires_at IS NOT NULL", "expires_at", "id"),
    ]
    if steps.family == "mysql":
        return lines
    where = text("group_held = 1")
    return [*lines, Index(f"{name}_head", "group_hash", unique=True, postgresql_where=where, sqlite_where=where)]


def _given(steps: Steps, name: str) -> list[Index]:
    return [
        _some(steps, f"{name}_key", "key_hash IS NOT NULL", "key_hash"),
        _some(steps, f"{name}_owner", "owner IS NOT NULL", "owner", "id"),
    ]


def _history(steps: Steps) -> Table:
    name = f"{steps.prefix}history"
    return steps.table(
        "history",
        Column("id", ID, primary_key=True, autoincrement=False),
        *_job_columns(),
        Index(f"{name}_ended", "state", "finished_at", "id"),
        Index(f"{name}_queue", "queue_hash", "state", "id"),
        Index(f"{name}_task", "task_hash", "state", "id"),
        _some(steps, f"{name}_state", "state IN (11, 12)", "state", "id"),
        *_given(steps, name),
        **OPTIONS,
    )


def _attempts(steps: Steps) -> Table:
    return steps.table(
        "attempts",
        Column("job_id", ID, primary_key=True, autoincrement=False),
        Column("fence", Integer, primary_key=True, autoincrement=False),
        Column("attempt", Integer, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("worker_id", BigInteger),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger, nullable=False),
        Column("error", LONG),
        Column("traceback", LONG),
        Column("fingerprint", BigInteger),
        Index(f"{steps.prefix}attempts_ended", "finished_at", "job_id"),
        **OPTIONS,
    )


def _labels(steps: Steps) -> Table:
    return steps.table(
        "labels",
        Column("job_id", ID, primary_key=True, autoincrement=False),
        Column("name", NAME, primary_key=True),
        Column("value", NAME, nullable=False),
        Column("label_hash", BigInteger, nullable=False),
        Index(f"{steps.prefix}labels_value", "label_hash", "job_id"),
        **OPTIONS,
    )


def _output(steps: Steps) -> Table:
    return steps.table(
        "output",
        Column("id", ID, primary_key=True, autoincrement=True),
        Column("job_id", BigInteger, nullable=False),
        Column("fence", Integer, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("stream", String(16), nullable=False),
        Column("line", LONG, nullable=False),
        Index(f"{steps.prefix}output_job", "job_id", "id"),
        **COUNTED,
    )


def _unique_keys(steps: Steps) -> Table:
    return steps.table(
        "unique_keys",
        Column("unique_hash", HASH, primary_key=True),
        Column("job_id", BigInteger, nullable=False),
        Column("scope", SmallInteger, nullable=False),
        Column("hold_until", BigInteger),
        **OPTIONS,
    )


def _workers(steps: Steps) -> Table:
    return steps.table(
        "workers",
        Column("id", ID, primary_key=True, autoincrement=True),
        Column("state", SmallInteger, nullable=False),
        Column("host", NAME, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("queues", LONG, nullable=False),
        Column("priorities", String(16)),
        Column("tasks", LONG),
        Column("concurrency", Integer, nullable=False),
        Column("started_at", BigInteger, nullable=False),
        Column("beat_at", BigInteger, nullable=False),
        Column("ended_at", BigInteger),
        Column("generation", BigInteger, nullable=False),
        Column("asked", SmallInteger),
        Column("stack_asked", BigInteger),
        Column("stack_at", BigInteger),
        Column("stack", LONG),
        Column("paused", SmallInteger),
        Column("memory", BigInteger),
        Column("done", BigInteger),
        **COUNTED,
    )


INSTANT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06d', {0} % 1000000)",
    "postgresql": "to_timestamp({0} / 1000000.0)",
    "mysql": "TIMESTAMPADD(MICROSECOND, {0}, TIMESTAMP'1970-01-01 00:00:00.000000')",
}
INSTANTS = ("created_at", "run_at", "ready_at", "claimed_at", "started_at", "finished_at", "expires_at")


def _words(steps: Steps, table: str, live: str) -> str:
    state = (
        "CASE state WHEN 0 THEN 'ready' WHEN 1 THEN 'running' WHEN 2 THEN 'scheduled' WHEN 3 THEN 'retrying'"
        " WHEN 4 THEN 'blocked' WHEN 10 THEN 'succeeded' WHEN 11 THEN 'failed' WHEN 12 THEN 'cancelled' END"
    )
    reason = (
        "CASE reason WHEN 1 THEN 'parents' WHEN 2 THEN 'group' WHEN 3 THEN 'limit' WHEN 4 THEN 'held'"
        " WHEN 5 THEN 'unknown task' WHEN 6 THEN 'children' WHEN 7 THEN 'covered' END"
    )
    columns = {"id": "id", "state": state, "reason": reason}
    columns |= {name: name for name in ("queue", "task", "priority")}
    columns |= {"key": "job_key", "owner": "owner", "group": "group_name", "limit": "limit_name", "parent_id": "parent_id"}
    columns |= {name: name for name in ("attempt", "max_attempts", "crashes")}
    columns |= {"held": "(flags & 1) <> 0", "cancel_requested": "(flags & 2) <> 0", "worker_id": "worker_id"}
    columns |= {name: INSTANT[steps.family].format(name) for name in INSTANTS}
    columns |= {"pid": "pid", "cpu_seconds": "cpu_us / 1000000.0"}
    columns |= {name: f"{name} * 1024" for name in ("memory_before", "memory_after", "peak_before", "peak_after")}
    columns |= {name: name for name in ("args", "result", "report", "error", "note", "metadata")}
    columns["live"] = live
    fields = ",\n".join(f"    {expression} AS {steps.quote(name)}" for name, expression in columns.items())
    return f"SELECT\n{fields}\nFROM {steps.name(table)}"


def _gates(steps: Steps) -> Table:
    return steps.table(
        "gates",
        Column("gate_hash", BigInteger, primary_key=True, autoincrement=False),
        Column("kind", SmallInteger, nullable=False),
        Column("name", NAME, nullable=False),
        Column("rule", String(64)),
        Column("spent", LONG),
        Column("opens_at", BigInteger),
        Column("made_at", BigInteger, nullable=False),
        Index(f"{steps.prefix}gates_opens", "opens_at"),
        **OPTIONS,
    )


def _halts(steps: Steps) -> Table:
    return steps.table(
        "halts",
        Column("group_hash", BigInteger, primary_key=True, autoincrement=False),
        Column("job_id", BigInteger, primary_key=True, autoincrement=False),
        Column("at", BigInteger, nullable=False),
        **OPTIONS,
    )


def _edges(steps: Steps) -> Table:
    return steps.table(
        "edges",
        Column("job_id", BigInteger, primary_key=True, autoincrement=False),
        Column("needs_id", BigInteger, primary_key=True, autoincrement=False),
        Column("policy", SmallInteger, nullable=False),
        Column("outcome", SmallInteger),
        Index(f"{steps.prefix}edges_needs", "needs_id", "job_id"),
        **OPTIONS,
    )


def _unsettled(steps: Steps) -> Table:
    return steps.table(
        "unsettled",
        Column("id", ID, primary_key=True, autoincrement=True),
        Column("at", BigInteger, nullable=False),
        Column("owed", LONG, nullable=False),
        **COUNTED,
    )


def _controls(steps: Steps) -> Table:
    return steps.table(
        "controls",
        Column("kind", SmallInteger, primary_key=True, autoincrement=False),
        Column("name_hash", BigInteger, primary_key=True, autoincrement=False),
        Column("name", NAME, nullable=False),
        Column("note", LONG),
        Column("until_at", BigInteger),
        Column("changed_at", BigInteger, nullable=False),
        Column("generation", BigInteger, nullable=False),
        **OPTIONS,
    )


def _notices(steps: Steps) -> Table:
    return steps.table(
        "notices",
        Column("id", ID, primary_key=True, autoincrement=True),
        Column("event", SmallInteger, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("job_id", BigInteger, nullable=False),
        Column("task", NAME, nullable=False),
        Column("queue", NAME, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("error", LONG),
        Column("fingerprint", BigInteger),
        Column("bundle", BigInteger),
        Column("taken_until", BigInteger),
        Column("token", BigInteger),
        Column("tries", Integer, nullable=False),
        Column("deaths", Integer, nullable=False),
        Column("told", LONG),
        Index(f"{steps.prefix}notices_at", "at"),
        **COUNTED,
    )


def _rollups(steps: Steps) -> Table:
    return steps.table(
        "rollups",
        Column("span", Integer, primary_key=True, autoincrement=False),
        Column("at", BigInteger, primary_key=True, autoincrement=False),
        Column("worker_id", BigInteger, primary_key=True, autoincrement=False),
        Column("task_hash", BigInteger, primary_key=True, autoincrement=False),
        Column("queue_hash", BigInteger, primary_key=True, autoincrement=False),
        Column("task", NAME, nullable=False),
        Column("queue", NAME, nullable=False),
        Column("numbers", LONG, nullable=False),
        **OPTIONS,
    )
