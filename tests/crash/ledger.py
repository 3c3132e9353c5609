"""What the database says, read with plain SQL: an audit does not ask the system that it audits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

READY, RUNNING, SCHEDULED, RETRYING, BLOCKED = 0, 1, 2, 3, 4
SUCCEEDED, FAILED, CANCELLED = 10, 11, 12
ALIVE = 0
GATED = ("edges", "gates", "halts", "unsettled")  # tables that are empty while jobs are plain


@dataclass(frozen=True)
class Row:
    """A job as it is stored."""

    id: int
    n: int
    task: str
    state: int
    fence: int
    attempt: int
    crashes: int
    snoozes: int
    worker_id: int | None
    result: str | None
    error: str | None
    live: bool


@dataclass(frozen=True)
class Stand:
    """Where a job stands among others: in its group, at its limit, with its key. Instants are microseconds."""

    id: int
    n: int
    live: bool
    state: int
    fence: int
    worker_id: int | None
    group: str | None = None
    rank: int | None = None
    group_held: int | None = None
    limit: str | None = None
    rule: str | None = None
    limit_held: int | None = None
    key: str | None = None
    scope: int | None = None
    claimed_at: int | None = None
    finished_at: int | None = None


_STAND = (
    "id, args, state, fence, worker_id, group_name, group_rank, group_held, limit_name, limit_rule, limit_held, unique_hash,"
    " unique_scope, claimed_at, finished_at"
)
_COLUMNS = "id, task, state, fence, attempt, crashes, snoozes, worker_id, result, error, args"


class Ledger:
    """The tables of one trial."""

    def __init__(self, url: str, *, pooled: bool = False) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.QueuePool if pooled else sa.NullPool)

    def live(self) -> int:
        """How many jobs have not ended."""
        return int(self._ask("SELECT count(*) FROM dray_jobs")[0][0])

    def rows(self) -> list[Row]:
        return [*self._rows("dray_jobs", live=True), *self._rows("dray_history", live=False)]

    def workers(self) -> dict[int, tuple[int, int]]:
        """By id: the state and the process id of every worker there ever was."""
        return {id: (state, pid) for id, state, pid in self._ask("SELECT id, state, pid FROM dray_workers")}

    def alive(self) -> set[int]:
        """The process ids of the workers that count as alive."""
        return {pid for state, pid in self.workers().values() if state == ALIVE}

    def declare_dead(self, pid: int) -> None:
        """Do what another worker does to one that has been silent for too long."""
        with self._engine.begin() as connection:
            connection.execute(sa.text("UPDATE dray_workers SET state = 1 WHERE state = 0 AND pid = :pid"), {"pid": pid})

    def declare_all_dead(self) -> None:
        """Do so to everybody who counts as alive."""
        self._do("UPDATE dray_workers SET state = 1 WHERE state = 0")

    def make_due(self, ids: Sequence[int]) -> None:
        """Let the time of jobs that wait for it come."""
        self._do(f"UPDATE dray_jobs SET run_at = 1 WHERE id IN ({', '.join(map(str, ids))})")

    def count(self, table: str) -> int:
        return int(self._ask(f"SELECT count(*) FROM {table}")[0][0])

    def attempts(self) -> set[tuple[int, int]]:
        """The ids and fences of the runs of which something is kept because they went wrong."""
        return {(id, fence) for id, fence in self._ask("SELECT job_id, fence FROM dray_attempts")}

    def stands(self) -> list[Stand]:
        """How all jobs stand at one moment."""
        halves = [f"SELECT {live} AS live, {_STAND} FROM dray_{table}" for table, live in (("jobs", 1), ("history", 0))]
        rows = self._ask(" UNION ALL ".join(halves))
        return [Stand(id, json.loads(args)["a"][0], bool(live), *rest) for live, id, args, *rest in rows]

    def family(self) -> dict[int, list[int]]:
        """The children of each job that has any, by their own rows."""
        found: dict[int, list[int]] = {}
        for table in ("dray_jobs", "dray_history"):
            for id, parent in self._ask(f"SELECT id, parent_id FROM {table} WHERE parent_id IS NOT NULL"):
                found.setdefault(parent, []).append(id)
        return found

    def forget_notes(self) -> None:
        """Lose what was noted of what is to be settled."""
        self._do("DELETE FROM dray_unsettled")

    def open_rates(self) -> bool:
        """Let the time pass that a rate forbids; False: none forbids anything."""
        waits = self._ask("SELECT count(*) FROM dray_gates WHERE opens_at IS NOT NULL")[0][0] > 0
        self._do("UPDATE dray_gates SET spent = NULL, opens_at = 1 WHERE opens_at IS NOT NULL")
        return waits

    def clear(self, *others: str) -> None:
        """Delete everything, also in tables that are not of Dray."""
        names = ("jobs", "history", "attempts", "labels", "output", "unique_keys", "workers", *GATED)
        self._do(*[f"DELETE FROM {table}" for table in (*[f"dray_{name}" for name in names], *others)])

    def _do(self, *statements: str) -> None:
        with self._engine.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement))

    def _rows(self, table: str, *, live: bool) -> list[Row]:
        rows = []
        for *plain, result, error, args in self._ask(f"SELECT {_COLUMNS} FROM {table}"):
            mark = None if result is None else json.loads(result)
            rows.append(Row(plain[0], json.loads(args)["a"][0], *plain[1:], mark, error, live))
        return rows

    def _ask(self, query: str) -> list[sa.Row[tuple[int, ...]]]:
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(query)))
