"""Failpoints: each statement of each operation of the store, and what can befall a process before or after it.

Nothing in Dray knows of them. The process under test hears its own statements, BEGIN and COMMIT included, on their way to
the driver, and numbers them within the operation they belong to: a new statement is a new failpoint by itself.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from sqlalchemy import Engine, event

from dray.store.sql import SqlStore
from tests.crash.wire import Wire

Fault = Literal["kill", "freeze", "cut"]
Place = Literal["before", "after"]

# On SQLite, which has no wire, a cut is an I/O error: of a disk that refuses to be written, or after what was asked is done.
IO_ERROR = "SQLITE_IOERR_FSYNC"


@dataclass(frozen=True)
class Case:
    """What befalls the process that does something, and where. Without a fault it is a rehearsal."""

    act: str
    point: str = ""
    place: Place = "before"
    fault: Fault | None = None
    breakage: str = ""  # what is wrong with the operation on purpose

    def __str__(self) -> str:
        return f"{self.act}: {self.fault} {self.place} {self.point}"


class Failpoints:
    """Hears all statements of this process, and strikes at the one of the case."""

    def __init__(self, case: Case, wire: Wire | None, on_strike: Callable[[], None]) -> None:
        self._case, self._wire, self._on_strike = case, wire, on_strike
        self._mine = threading.local()
        self._struck = False
        self.calls: list[list[str]] = []  # the points that each operation came by
        self.on_end: Callable[[], None] = lambda: None  # called behind each operation

    def watch(self, engine: Engine) -> None:
        """Hear the statements of an engine, and the commits that it leaves to its driver."""
        event.listen(engine, "do_execute", self._execute)
        event.listen(engine, "do_executemany", self._execute_many)
        commit = engine.dialect.do_commit
        engine.dialect.do_commit = lambda connection: self._pass(connection, "COMMIT", lambda: commit(connection))

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """What this thread asks the database from here on belongs to an operation, unless it belongs to one already."""
        if getattr(self._mine, "points", None) is not None:
            yield
            return
        self._mine.name, self._mine.points = name, []
        self.calls.append(self._mine.points)
        try:
            yield
        finally:
            self._mine.points = None
            self.on_end()

    def name_operations(self, store: SqlStore) -> None:
        """Give the operations of a store their names."""
        for owner, method, name in (
            (store, "add", lambda jobs: "enqueue" if len(jobs) == 1 else "enqueue many"),
            (store, "claim", "claim"),
            (store, "exchange", _exchange),
            (store, "finish", lambda finishes: "finish plainly" if is_bare(finishes[0].change.note) else "finish singly"),
            (store, "mark_started", "mark"),
            (store, "held", "recount"),
            (store, "follow", "follow"),
            (store, "promote", "promote"),
            (store, "rescue", "rescue"),
            (store, "open_rates", "open rates"),
            (store, "go_round", "round"),
            (store.settler, "sweep", "sweep"),
            (store.settler, "settle", "settle"),  # by itself behind the commit of a caller
            (store.roster, "declare_dead", "declare dead"),
            (store.desk, "retry", "retry"),
            (store.desk, "cancel", "cancel"),
            (store.desk, "hold", "hold"),
            (store.desk, "release", "release"),
            (store.desk, "unblock_group", "unblock"),
            (store.desk, "waive", "waive"),
            (store.desk, "prune_gates", "prune gates"),
            (store.desk, "prune_keys", "prune keys"),
            (store.desk, "prune_batch", "prune"),
        ):
            setattr(owner, method, self._named(getattr(owner, method), name))

    def _named(self, method: Callable[..., Any], name: str | Callable[..., str]) -> Callable[..., Any]:
        @wraps(method)
        def named(*arguments: Any, **keywords: Any) -> Any:
            with self.operation(name if isinstance(name, str) else name(*arguments)):
                return method(*arguments, **keywords)

        return named

    def _execute(self, cursor: Any, statement: str, values: Any, context: Any) -> bool:
        return self._pass(cursor.connection, statement, lambda: cursor.execute(statement, values), cursor)

    def _execute_many(self, cursor: Any, statement: str, values: Any, context: Any) -> bool:
        return self._pass(cursor.connection, statement, lambda: cursor.executemany(statement, values))

    def _pass(self, connection: Any, statement: str, run: Callable[[], object], cursor: Any = None) -> bool:
        """Let a statement pass to the driver, or strike; True, since it has been run."""
        points = getattr(self._mine, "points", None)
        if points is not None:
            points.append(f"{self._mine.name}:{len(points) + 1}:{_words(statement)}")
            if points[-1] == self._case.point and not self._struck:
                self._struck = True
                self._on_strike()
                # SQLite has not done a statement, nor committed it, before the last of its rows has been fetched.
                whole = isinstance(cursor, sqlite3.Cursor) and self._case.fault != "freeze"
                self._strike(connection, statement, (lambda: (run(), cursor.fetchall())) if whole else run)
                return True
        run()
        return True

    def _strike(self, connection: Any, statement: str, run: Callable[[], object]) -> None:
        before = self._case.place == "before"
        if self._case.fault == "cut":
            if self._wire is None:
                _break_file(connection, statement, run, before=before)
            else:
                self._wire.hang_up_at_next(_port(connection), arrives=not before)
                run()
            return
        number = signal.SIGKILL if self._case.fault == "kill" else signal.SIGSTOP
        if before:
            os.kill(os.getpid(), number)
            run()
        else:
            run()
            os.kill(os.getpid(), number)


def is_bare(note: str | None) -> bool:
    """Whether an outcome was written without what could not be stored of it."""
    return note == "the outcome could not be stored whole"


def _exchange(worker_id: int, pickup: object, finishes: Any, limit: int) -> str:
    if not finishes:
        return "claim"
    if limit > 0:
        return "exchange"
    return "finish" if any(one.started for one in finishes) else "hand back"


def _words(statement: str) -> str:
    """What a statement does, and to what, as far as its beginning says."""
    words = re.sub(r'["`(]', " ", statement).split()
    return " ".join(words[: 1 if words[0] in ("SELECT", "COMMIT", "BEGIN", "START") else 3])


def _port(connection: Any) -> int:
    """The near port of a driver's connection."""
    if hasattr(connection, "pgconn"):
        with socket.socket(fileno=os.dup(connection.pgconn.socket)) as one:
            return int(one.getsockname()[1])
    return int(connection._sock.getsockname()[1])


def _break_file(connection: Any, statement: str, run: Callable[[], object], *, before: bool) -> None:
    if statement.startswith("BEGIN"):
        pass  # one that fails has begun nothing
    elif not before:
        run()
    elif not connection.in_transaction or statement == "COMMIT":
        with _disk_that_refuses():
            run()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname, error.sqlite_errorcode = IO_ERROR, 1034
    raise error


@contextmanager
def _disk_that_refuses() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
