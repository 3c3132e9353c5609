"""What the database says about the demonstration's jobs.

Progress is counted with plain SQL on the view `all_jobs`, as anyone can do it beside the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnClause, Row, Select, column, func, select, table

from dray.admin import Admin
from dray.app import Dray
from dray.demo.census import Figures
from dray.job import JobRow, State
from dray.store.view import NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far the jobs are; `by_worker` counts those that a worker has ended, by its id."""

    by_state: Counter[State]
    by_worker: Counter[int]

    @property
    def ended(self) -> int:
        return sum(number for state, number in self.by_state.items() if state.ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A job that gave up."""

    id: int
    path: str
    tries: int
    error: str


@dataclass(slots=True)
class Results:
    """What came of all jobs, read back from their rows."""

    figures: dict[str, Figures] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    ended_by: dict[int, int | None] = field(default_factory=dict)
    times_ended: Counter[str] = field(default_factory=Counter)
    retries: int = 0

    @property
    def modules(self) -> Counter[str]:
        """In how many files each module is imported."""
        return Counter(name for figures in self.figures.values() for name in figures.modules)


class Ledger:
    """Reads the jobs of one queue."""

    def __init__(self, app: Dray, queue: str) -> None:
        self._app, self._queue, self._admin = app, queue, Admin(app)
        tables = app.store.tables
        columns: list[ColumnClause[Any]] = [column(name) for name in ("id", "state", "queue", "worker_id")]
        self._view = table(tables.prefix + NAME, *columns, schema=tables.schema)

    def counts(self) -> Counts:
        """Count all jobs by state, and the ended ones by worker."""
        view = self._view
        query = select(view.c.state, view.c.worker_id, func.count().label("number")).group_by(view.c.state, view.c.worker_id)
        by_state: Counter[State] = Counter()
        by_worker: Counter[int] = Counter()
        for row in self._read(query):
            state = State(row.state)
            by_state[state] += row.number
            if state.ended and row.worker_id is not None:
                by_worker[row.worker_id] += row.number
        return Counts(by_state=by_state, by_worker=by_worker)

    def held_by(self, worker_ids: Sequence[int]) -> list[int]:
        """The jobs that are now in the hands of a worker, by the ids it has had."""
        view = self._view
        mine = select(view.c.id).where(view.c.state == "running", view.c.worker_id.in_(worker_ids))
        return [row.id for row in self._read(mine)]

    def worker_ids(self) -> dict[int, list[int]]:
        """The ids under which each process has worked on this queue, by the process's number, the oldest first."""
        found: dict[int, list[int]] = {}
        for worker in reversed(self._admin.workers(alive_only=False)):
            if worker.queues == self._queue:
                found.setdefault(worker.pid, []).append(worker.id)
        return found

    def results(self) -> Results:
        """Read what all jobs came to, row by row."""
        results = Results()
        for page in self._admin.pages({"queue": self._queue}):
            for row in page:
                self._enter(row, results)
        results.failures.sort(key=lambda failure: failure.id)
        return results

    def _enter(self, row: JobRow, results: Results) -> None:
        (path,), _ = self._app.codec.decode_call(row.args)
        results.retries += max(0, row.attempt - 1)
        if not row.state.ended:
            return
        results.times_ended[path] += 1
        results.ended_by[row.id] = row.worker_id
        if row.state is State.SUCCEEDED and row.result is not None:
            results.figures[path] = self._app.codec.decode(row.result)
        else:
            results.failures.append(Failure(id=row.id, path=path, tries=row.attempt, error=row.error or row.note or ""))

    def _read(self, query: Select[Any]) -> list[Row[Any]]:
        mine = query.where(self._view.c.queue == self._queue)
        return self._app.store.database.once(lambda connection: list(connection.execute(mine)))
