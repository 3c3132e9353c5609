"""What the database says, read with plain SQL: an audit does not ask the system that it audits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

READY, RUNNING, SCHEDULED, RETRYING, BLOCKED = 0, 1, 2, 3, 4
SUCCEEDED, FAILED, CANCELLED = 10, 11, 12
ALIVE = 0


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


_COLUMNS = "id, task, state, fence, attempt, crashes, snoozes, worker_id, result, error, args"


class Ledger:
    """The tables of one trial."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

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

    def clear(self, *others: str) -> None:
        """Delete everything, also in tables that are not of Dray."""
        names = ("jobs", "history", "attempts", "labels", "output", "unique_keys", "workers")
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
