"""A workbench for the chapters of the store: tables in an empty database, a clock that a test moves, jobs in any state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, insert

from dray.job import Claim, Done, Failed, Finish, NewJob, Outcome, Parked, Snoozed, State
from dray.lifecycle import Retry, decide
from dray.store import control, read
from dray.store.add import add
from dray.store.base import Finished
from dray.store.claim import claim
from dray.store.connect import Database
from dray.store.finish import finish
from dray.store.lanes import Lanes
from dray.store.tables import Tables

T = TypeVar("T")
START = 1_700_000_000_000_000


class Clock:
    """Microseconds that stand still until told otherwise."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


class Bench:
    """One database with the tables, and the chapters called in transactions of their own."""

    def __init__(self, url: str, *, clock: bool = True, create: bool = True) -> None:
        self.url = url
        self.database = Database(url)
        self.clock = Clock()
        self.tables = Tables(self.database.dialect, clock=self.clock if clock else None)
        if create:
            self.tables.metadata.create_all(self.database.engine)

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def another(self) -> Iterator[Bench]:
        """The same database, seen by somebody else, under the same clock."""
        other = Bench(self.url, create=False)
        other.clock.now = self.clock.now
        try:
            yield other
        finally:
            other.close()

    def call(self, chapter: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Call a function of a chapter in a transaction."""
        return self.database.transact(lambda connection: chapter(connection, self.tables, *arguments, **keywords))

    def move(self, move: Callable[..., control.Moves], *arguments: Any, **keywords: Any) -> list[control.Moved]:
        """Let an operator move jobs."""
        return self.call(move, *arguments, **keywords)[0]

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that stays open as long as the test wants."""
        with self.database.engine.connect() as connection:
            connection.exec_driver_sql(self.database.dialect.begin)
            yield connection
            connection.exec_driver_sql("COMMIT")

    def query(self, template: str, **values: Any) -> list[Any]:
        """Run a statement with the tables' short names in braces; give its rows, if it has some."""

        def run(connection: Connection) -> list[Any]:
            result = connection.execute(self.tables.text(template), values)
            return list(result) if result.returns_rows else []

        return self.database.transact(run)

    # --- the life of a job --------------------------------------------------------------------------------------

    def worker(self, state: int = 0) -> int:
        """The row of a worker."""
        now = self.tables.now()
        row = insert(self.tables.workers).values(
            state=state, host="here", pid=1, queues="", concurrency=1, started_at=now, beat_at=now, generation=0
        )
        key = self.database.transact(lambda connection: connection.execute(row).inserted_primary_key)
        assert key is not None
        return int(key[0])

    def add(self, count: int = 1, **options: Any) -> list[int]:
        """Some jobs; their ids."""
        job = NewJob(**{"task": "t", "queue": "default", "args": "{}", **options})
        return [one.id for one in self.call(add, [job] * count)[0]]

    def claim(self, limit: int = 100, *queues: str, worker: int | None = None) -> list[Claim]:
        """What a worker gets that never claimed before."""
        return self.call(claim, worker or self.worker(), Lanes(queues=queues), limit)

    def end(self, claims: Sequence[Claim], outcome: Outcome | None = None, *, retry: int = 1, **options: Any) -> Finished:
        """End these runs; unless told otherwise they succeed, and a failure is final."""
        policy = Retry.after(*[60.0] * (retry - 1))
        finishes = []
        for one in claims:
            change = decide(one, outcome or Done(), policy)
            finishes.append(Finish(one, change, ran=1.0))
        return self.call(finish, finishes, **options).finished

    def make(self, state: State, **options: Any) -> int:
        """A job in this state, by the way it really comes there."""
        if state is State.SCHEDULED:
            return self.add(delay=3600.0, **options)[0]
        options.setdefault("max_attempts", 1 if state is State.FAILED else None)
        (id,) = self.add(queue=f"way-{state}", **options)
        if state is State.READY:
            return id
        if state is State.CANCELLED:
            self.move(control.cancel, [id])
            return id
        claims = self.claim(1, f"way-{state}")
        ends: dict[State, Outcome] = {
            State.SUCCEEDED: Done(result="1"),
            State.FAILED: Failed(error="boom", traceback="line 1"),
            State.RETRYING: Failed(error="boom", retry_in=60.0),
            State.BLOCKED: Parked(why="unknown task"),
        }
        if state in ends:
            self.end(claims, ends[state])
        return id

    def snooze(self, claims: Sequence[Claim], delay: float) -> Finished:
        """End these runs by asking to be started again later."""
        return self.end(claims, Snoozed(delay=delay))

    def job(self, id: int) -> Any:
        """The job as people read it."""
        found = self.call(read.job, id)
        assert found is not None
        return found

    def states(self, *ids: int) -> list[State]:
        """The states of these jobs."""
        return [self.job(id).state for id in ids]
