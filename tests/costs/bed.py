"""A store with as many rows in it as wanted, put there by the database itself, and what is done to it while it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from dray.job import Claim, Done, Finish, NewJob, Outcome, Reason, State, name_hash
from dray.lifecycle import Retry, decide
from dray.store.base import Pickup
from dray.store.codes import REASON, STATE
from dray.store.sql import SqlStore
from tests.costs.counters import Meter

# A table `s` of the numbers `n` from 1.
NUMBERS = {
    "sqlite": "(WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i LIMIT %d) SELECT n FROM i) AS s",
    "postgresql": "generate_series(1, %d) AS s(n)",
    "mysql": "(SELECT seq AS n FROM seq_1_to_%d) AS s",
}
ENDED, GONE = 1_000_000, 2_000_000  # above these are the ids of jobs that ended, and of such that were pruned
ALWAYS = {
    "priority": "100",
    "fence": "0",
    "attempt": "0",
    "max_attempts": "20",
    "crashes": "0",
    "snoozes": "0",
    "flags": "0",
    "created_at": "s.n",
    "task_hash": str(name_hash("send")),
    "signature": "0",
    "task": "'send'",
    "args": """'[[1,"a small note"],{{}}]'""",
}
RAN = {"fence": "1", "attempt": "1"}
BY_STATE: dict[State, dict[str, str]] = {
    State.READY: {"ready_at": "s.n"},
    State.RUNNING: {**RAN, "claimed_at": "{now}"},
    State.SCHEDULED: {"run_at": "{now} + 3600000000 + s.n"},
    State.RETRYING: {**RAN, "run_at": "{now} + 3600000000 + s.n"},
    State.BLOCKED: {**RAN, "reason": str(REASON[Reason.UNKNOWN_TASK])},
    State.SUCCEEDED: {**RAN, "finished_at": "{now} - s.n"},
    State.FAILED: {**RAN, "finished_at": "{now} - s.n", "error": "'boom'"},
    State.CANCELLED: {"finished_at": "{now} - s.n"},
}


class Bed:
    """One store, and one worker who is known to it."""

    def __init__(self, url: str) -> None:
        self.store = SqlStore(url, create_tables=True)
        self.store.ensure()
        self.dialect = self.store.database.dialect
        self.engine = self.store.database.engine
        self.meter = Meter(self.engine)
        self.worker = self.new_worker()
        self._highest = ENDED
        if self.dialect.name == "postgresql":
            self._keep_statistics()

    def _keep_statistics(self) -> None:
        """Those that a test has had taken, and not what a server finds at some moment in between."""
        names = self.store.tables.names()
        with self.engine.connect() as connection:
            for short in ("jobs", "history", "workers", "labels", "attempts", "output", "edges", "halts", "gates"):
                connection.exec_driver_sql(f"ALTER TABLE {names[short]} SET (autovacuum_enabled = false)")

    def close(self) -> None:
        self.store.close()

    def new_worker(self) -> int:
        return self.store.roster.register(host="h", pid=1, queues="*", concurrency=8)

    # --- rows -----------------------------------------------------------------------------------------------------------

    def fill(self, state: State, count: int, queue: str = "default", **columns: Any) -> None:
        """Put in so many jobs; `columns`: SQL, with the number of the row as `s.n`."""
        values = {"state": str(STATE[state]), "queue": f"'{queue}'", "queue_hash": str(name_hash(queue)), **ALWAYS}
        values |= BY_STATE[state] | {name: str(value) for name, value in columns.items()}
        if state.ended:
            values["id"] = f"{self._highest} + s.n"
            self._highest += count
        self._insert("history" if state.ended else "jobs", values, count)

    def fill_workers(self, count: int) -> None:
        """Workers that have said goodbye."""
        values = {"state": "2", "host": "'h'", "pid": "1", "queues": "'*'", "concurrency": "8"}
        self._insert(
            "workers", {**values, "started_at": "s.n", "beat_at": "s.n", "ended_at": "{now}", "generation": "0"}, count
        )

    def fill_beside(self, count: int) -> None:
        """What is kept beside jobs; of these jobs nothing else is left."""
        gone = {"job_id": f"{GONE} + s.n"}
        self._insert("labels", {**gone, "name": "'shop'", "value": "'north'", "label_hash": "s.n"}, count)
        self._insert("attempts", {**gone, "fence": "1", "attempt": "1", "state": "11", "finished_at": "1"}, count)
        self._insert("output", {**gone, "fence": "1", "at": "1", "stream": "'stdout'", "line": "'x'"}, count)

        self._insert("halts", {**gone, "group_hash": "s.n", "at": "1"}, count // 10)

    def _insert(self, table: str, values: dict[str, str], count: int) -> None:
        numbers = NUMBERS[self.dialect.name] % count
        self.run(f"INSERT INTO {{{table}}} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {numbers}")

    def run(self, template: str) -> None:
        statement = self.store.tables.text(template)
        self.store.database.transact(lambda connection: connection.execute(statement))

    def settle(self) -> None:
        """Let the database take note of what it has now, as its own chores do from time to time. SQLite has none."""
        words = {"postgresql": "VACUUM ANALYZE {}", "mysql": "ANALYZE TABLE {}"}.get(self.dialect.name)
        if words is None:
            return

        def work(connection: Connection) -> None:
            for table in self.store.tables.names().values():
                result = connection.exec_driver_sql(words.format(table))
                if result.returns_rows:
                    result.all()

        self.store.database.once(work)

    # --- work -----------------------------------------------------------------------------------------------------------

    def add(self, count: int = 1, **options: Any) -> list[int]:
        return [one.id for one in self.store.add([new_job(**options)] * count)]

    def pickup(self, *queues: str) -> Pickup:
        return self.store.pickup(queues)

    def claim(self, limit: int, *queues: str, pickup: Pickup | None = None) -> list[Claim]:
        runs = self.store.claim(self.worker, pickup or self.pickup(*queues), limit)
        assert len(runs) == limit, f"{len(runs)} of {limit} jobs claimed"
        return runs

    def finish(self, runs: Sequence[Claim], outcome: Outcome | None = None, **options: Any) -> None:
        done = self.store.finish(ends(runs, outcome), **options)
        assert len(done.accepted) == len(runs)

    def lose(self, runs: Sequence[Claim]) -> None:
        """Let these runs be those of a worker that is gone."""
        others, self.worker = self.worker, self.new_worker()
        ids = ", ".join(str(run.id) for run in runs)
        self.run(f"UPDATE {{jobs}} SET worker_id = {self.worker} WHERE id IN ({ids})")
        assert self.store.roster.leave(self.worker)
        self.worker = others

    def exchange(self, runs: Sequence[Claim], limit: int, pickup: Pickup) -> list[Claim]:
        done = self.store.exchange(self.worker, pickup, ends(runs), limit)
        assert (len(done.finished.accepted), len(done.claims)) == (len(runs), limit)
        return done.claims


def new_job(**options: Any) -> NewJob:
    return NewJob(**{"task": "send", "queue": "default", "args": '[[1,"a small note"],{}]', **options})


def ends(runs: Sequence[Claim], outcome: Outcome | None = None) -> list[Finish]:
    """What a finisher makes of runs that came to this outcome."""
    policy = Retry.after(60.0)
    return [Finish(run, decide(run, outcome or Done(result="7"), policy), ran=0.01) for run in runs]
