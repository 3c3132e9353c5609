"""Filling the tables with millions of rows, inside the database: as they would be, had Dray written them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import text

from dray.app import Dray
from dray.job import State, name_hash
from dray.store.codes import FAILED, READY, SCHEDULED, STATE
from dray.store.dialects import host_clock

CHUNK = 250_000  # rows in one transaction
RARE = 20  # the oldest rows of each table are of another queue and task: a list of them has to look far back
HOUR = 3_600_000_000
FAILURES = 50  # one in so many of the ended jobs has failed
ERROR = "TimeoutError: the other side did not answer within 30 s"
NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {1}) SELECT i FROM n) AS n",
    "postgresql": "generate_series({0}, {1}) AS n(i)",
    "mysql": "(SELECT seq AS i FROM seq_{0}_to_{1}) AS n",
}
# SQLite keeps none for a database of Dray's, so it gets none here.
STATISTICS = {"sqlite": (), "postgresql": ("VACUUM ANALYZE {0}",), "mysql": ("ANALYZE TABLE {0}",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Burden:
    """What is in the tables while something is measured."""

    name: str
    ready: int = 1000
    ended: int = 1000
    due: int = 1000  # scheduled, and their time has come
    later: int = 0  # scheduled for another day
    queues: int = 1  # that the ready ones are in

    def scaled(self, scale: float) -> Burden:
        """A smaller one of the same kind."""

        def less(number: int) -> int:
            return number if number <= 1000 else max(1000, round(number * scale))

        queues = self.queues if self.queues == 1 else max(10, round(self.queues * scale))
        return Burden(
            name=self.name, ready=less(self.ready), ended=less(self.ended), due=self.due, later=less(self.later), queues=queues
        )


def fill(app: Dray, burden: Burden) -> None:
    """Put the burden into empty tables, and leave ids, sequences and statistics as they should be."""
    filler = _Filler(app)
    filler.ended(burden.ended)
    filler.scheduled(burden.later, HOUR)
    filler.scheduled(burden.due, -HOUR)
    each = burden.ready // burden.queues
    for number in range(burden.queues):
        filler.ready(each, "default" if burden.queues == 1 else f"queue-{number}")
    filler.settle()


class _Filler:
    def __init__(self, app: Dray) -> None:
        self._tables, self._database = app.store.tables, app.store.database
        self._next, self._now = 1, host_clock()

    def ended(self, rows: int) -> None:
        failed = f"n.i % {FAILURES} = 0"
        self._insert(
            "history",
            rows,
            {
                "state": f"CASE WHEN {failed} THEN {FAILED} ELSE {STATE[State.SUCCEEDED]} END",
                "error": f"CASE WHEN {failed} THEN '{ERROR}' END",
                "result": f"CASE WHEN {failed} THEN NULL ELSE '1' END",
                "fence": "1",
                "attempt": "1",
                "worker_id": "1",
                "claimed_at": str(self._now - 2 * HOUR),
                "started_at": str(self._now - 2 * HOUR),
                "finished_at": f"{self._now - 2 * HOUR} + n.i",
            },
        )

    def scheduled(self, rows: int, after: int) -> None:
        self._insert("jobs", rows, {"state": str(SCHEDULED), "run_at": f"{self._now + after} + n.i"})

    def ready(self, rows: int, queue: str) -> None:
        self._insert("jobs", rows, {"state": str(READY), "ready_at": f"{self._now - HOUR} + n.i"}, queue)

    def settle(self) -> None:
        names = self._tables.names()
        with self._database.engine.connect() as connection:
            if self._database.dialect.name == "postgresql":
                # The others go on behind the highest id that was given; a sequence knows only of those it gave out itself.
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{self._tables.jobs.name}', 'id'), {self._next})"
                )
            for table in names.values():
                for statement in STATISTICS[self._database.dialect.name]:
                    connection.exec_driver_sql(statement.format(table)).close()

    def _insert(self, table: str, rows: int, own: dict[str, str], queue: str = "default") -> None:
        if not rows:
            return
        first = self._next
        values = {**self._common(first + min(RARE, rows // 4), queue), **own}
        names = self._tables.names()
        insert = f"INSERT INTO {names[table]} (id, {', '.join(values)}) SELECT n.i, {', '.join(values.values())} FROM "
        for start, end in _chunks(first, rows):
            statement = insert + NUMBERS[self._database.dialect.name].format(start, end)
            self._run(statement)
        self._next += rows

    def _run(self, statement: str) -> None:
        self._database.transact(lambda connection: connection.execute(text(statement)).close())

    def _common(self, rare_until: int, queue: str) -> dict[str, str]:
        def either(rare: str | int, usual: str | int) -> str:
            return f"CASE WHEN n.i < {rare_until} THEN {rare} ELSE {usual} END"

        zero = dict.fromkeys(("fence", "attempt", "crashes", "snoozes", "flags", "signature"), "0")
        return {
            **zero,
            "queue": either("'rare'", f"'{queue}'"),
            "queue_hash": either(name_hash("rare"), name_hash(queue)),
            "task": either("'rare'", "'nothing'"),
            "task_hash": either(name_hash("rare"), name_hash("nothing")),
            "priority": "100",
            "max_attempts": "20",
            "created_at": f"{self._now - 3 * HOUR} + n.i",
            "args": "'[[1,\"a small note\"],{}]'",
        }


def _chunks(first: int, rows: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + rows, CHUNK):
        yield start, min(start + CHUNK, first + rows) - 1
