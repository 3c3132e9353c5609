"""The raw limit: the driver alone, on the same tables and rows, with nothing around the statements.

To claim and to end jobs it sends the statements of Dray, so that a ratio shows what Dray adds to them: finding out what is
ready, checking who is alive, starting and judging each job, keeping what becomes of it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from benchmarks.tasks import on
from benchmarks.workload import NOTE, chunks
from dray.app import Dray
from dray.job import name_hash
from dray.store import claim, history
from dray.store.codes import document
from dray.store.dialects import host_clock
from dray.store.rows import bound, packed

BATCH = 500  # jobs in one transaction
ARGS = claim.CLAIM_COLUMNS.index("args")  # where they stand in a row that was claimed
COLUMNS = (
    "state, queue_hash, priority, ready_at, fence, attempt, max_attempts, crashes, snoozes, flags, created_at, task_hash,"
    " signature, queue, task, args"
)
INSERT = f"INSERT INTO {{jobs}} ({COLUMNS}) VALUES (" + ", ".join(f":{name}" for name in COLUMNS.split(", ")) + ")"
ORDER = "INSERT INTO purchase (number) VALUES (:number)"
CREATE_ORDER = "CREATE TABLE purchase (number BIGINT NOT NULL)"


class Raw:
    """A connection of the driver's own, in autocommit, set up as Dray sets up its own."""

    def __init__(self, app: Dray) -> None:
        database = app.store.database
        self.tables, self.dialect, self._sql = app.store.tables, database.dialect, database.engine.dialect
        module, arguments, keywords = database.driver()
        self.connection = importlib.import_module(module).connect(*arguments, **keywords)
        match self.dialect.name:
            case "sqlite":
                self.connection.isolation_level = None
            case "postgresql":
                self.connection.autocommit = True
            case _:
                self.connection.autocommit(True)
        self.cursor = self.connection.cursor()
        for statement in self.dialect.setup:
            self.cursor.execute(statement)
        self._ready: dict[str, tuple[str, Any]] = {}

    def run(self, template: str, **values: Any) -> Any:
        """Run a statement of Dray's, in the driver's own spelling."""
        statement, arranged = self._prepared(template)
        self.cursor.execute(statement, arranged(values))
        return self.cursor

    def run_many(self, template: str, rows: list[dict[str, Any]]) -> None:
        statement, arranged = self._prepared(template)
        self.cursor.executemany(statement, [arranged(row) for row in rows])

    def _prepared(self, template: str) -> tuple[str, Callable[[dict[str, Any]], Any]]:
        if template not in self._ready:
            compiled: Any = self.tables.text(template).compile(dialect=self._sql)
            names = compiled.positiontup

            def arranged(values: dict[str, Any]) -> Any:
                values = {"now": host_clock(), **values}
                return values if names is None else [values[name] for name in names]

            self._ready[template] = str(compiled), arranged
        return self._ready[template]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.cursor.execute(self.dialect.begin)
        yield
        self.cursor.execute("COMMIT")


@contextmanager
def opened(url: str) -> Iterator[Raw]:
    """The driver, with the tables of Dray in place."""
    app, _ = on(url)
    raw = Raw(app)
    with closing(raw.connection):
        yield raw
    app.close()


# --- claim and end --------------------------------------------------------------------------------------------------------


def drained(url: str, jobs: int) -> float:
    """Seconds to claim so many jobs and move them to the history, in one transaction for each batch."""
    with opened(url) as raw:
        worker = registered(raw)
        began = time.perf_counter()
        for _ in range(-(-jobs // BATCH)):
            with raw.transaction():
                _end(raw, claimed(raw, worker))
        passed = time.perf_counter() - began
        ended = raw.run("SELECT count(*) FROM {history}").fetchone()[0]
        if ended != jobs:
            raise RuntimeError(f"{ended} of {jobs} jobs have ended")
        return passed


def registered(raw: Raw) -> int:
    """A worker that is alive, by its id."""
    numbers = dict.fromkeys(("state", "pid", "started_at", "generation"), 0)
    values = {**numbers, "host": "", "queues": "*", "concurrency": 1, "beat_at": host_clock()}
    names = ", ".join(values)
    raw.run(f"INSERT INTO {{workers}} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)
    return int(raw.run("SELECT max(id) FROM {workers}").fetchone()[0])


def claimed(raw: Raw, worker: int) -> list[Any]:
    """Take as many as there are, at most a batch."""
    queue, priority = name_hash("default"), 100
    rows = raw.dialect.ids()
    if raw.dialect.name == "postgresql":
        lanes = "(SELECT * FROM " + raw.dialect.rows({"o": "int", "q": "int", "p": "int", "f": "int"}) + " ORDER BY o) d"
        lane = _document([{"o": 0, "q": queue, "p": priority, "f": 0}])
        return list(raw.run(claim._CLAIM_AT_ONCE.replace("{rows}", lanes), doc=lane, n=BATCH, w=worker).fetchall())
    lane, take, at = {"q": queue, "p": priority, "f": 0, "n": BATCH}, claim._TAKE, host_clock()
    if raw.dialect.skip_locked:
        found = raw.run(claim._CANDIDATES, **lane).fetchall()
        lock, take = claim._LOCK.replace("{rows}", rows), claim._TAKE_MYSQL
        taken = list(raw.run(lock, doc=document(id for (id,) in found), w=worker).fetchall())
    else:
        _, read = raw.run(claim._AS_DOCUMENT.replace("{read}", claim._READ), **lane, w=worker).fetchone()
        taken = msgspec.json.decode(read)
    raw.run(take.replace("{rows}", rows), doc=document(row[0] for row in taken), w=worker, at=at)
    return taken


def _end(raw: Raw, taken: list[Any]) -> None:
    ended = [(row[0], row[1], 1, 1, *[None] * len(history.COST)) for row in taken]
    if raw.dialect.name == "sqlite":
        for some in bound(ended, len(history._FIELDS)):
            statement = history._copy_bound_statement(raw.tables, some.size, plain=True)
            raw.cursor.execute(statement, (*some.values, host_clock()))
    else:
        (document_of_all,) = packed(history._FIELDS, ended)
        if raw.dialect.name == "postgresql":
            raw.run(history._move_statement(raw.tables, plain=True), doc=document_of_all).fetchall()
            return
        raw.run(history._copy_statement(raw.tables, plain=True), doc=document_of_all)
    raw.run(raw.dialect.delete_ids("{jobs}"), doc=document(row[0] for row in taken))


def _document(rows: list[dict[str, int]]) -> str:
    return msgspec.json.encode(rows).decode()


# --- enqueue --------------------------------------------------------------------------------------------------------------


def _row(number: int) -> dict[str, Any]:
    now = host_clock()
    zero = dict.fromkeys(("state", "fence", "attempt", "crashes", "snoozes", "flags", "signature"), 0)
    words = {"queue": "default", "task": "nothing", "args": f'[[{number},"{NOTE}"],{{}}]'}
    hashes = {"queue_hash": name_hash("default"), "task_hash": name_hash("nothing")}
    return {**zero, **words, **hashes, "priority": 100, "max_attempts": 20, "ready_at": now, "created_at": now}


def inserted_one_by_one(url: str, jobs: int) -> float:
    with opened(url) as raw:
        began = time.perf_counter()
        for number in range(jobs):
            inserted(raw, number)
        return time.perf_counter() - began


def inserted(raw: Raw, number: int) -> None:
    """Insert this one, with a commit of its own."""
    raw.run(INSERT, **_row(number))


def inserted_in_chunks(url: str, jobs: int) -> float:
    with opened(url) as raw:
        began = time.perf_counter()
        for numbers in chunks(jobs):
            with raw.transaction():
                raw.run_many(INSERT, [_row(number) for number in numbers])
        return time.perf_counter() - began


def inserted_in_transactions(url: str, jobs: int) -> float:
    with opened(url) as raw:
        raw.run(CREATE_ORDER)
        began = time.perf_counter()
        for number in range(jobs):
            with raw.transaction():
                raw.run(ORDER, number=number)
                raw.run(INSERT, **_row(number))
        return time.perf_counter() - began
