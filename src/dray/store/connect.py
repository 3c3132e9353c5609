"""Connections of our own: how they are opened, how a transaction is run and repeated, what a driver's error means."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from dray.errors import ConfigurationError, DrayError, SchemaError, StoreError, StoreUnavailable
from dray.store import lines
from dray.store.base import unheard
from dray.store.dialects import DIALECTS, Dialect
from dray.store.locked import Locked

T = TypeVar("T")

TRIES = 20  # how often a transaction that met a deadlock is run again
CONNECT_PATIENCE = 10  # seconds
FILE_PATIENCE = 60.0  # seconds one waits for a locked SQLite file before it is an error, if nothing else is said
SEAT_PATIENCE = 30.0  # seconds one waits for a connection that another thread has
EXTRA = {"sqlite": "", "postgresql": "postgres", "mysql": "mysql"}


class Database:
    """The pool of our own connections to one database.

    Every connection is in the driver's autocommit mode, and transactions are opened and ended by statements of ours: so a
    single statement is one round trip, with no BEGIN before it, no COMMIT, ping or reset after it.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url: URL = make_url(url)
        self.dialect: Dialect = _dialect(self.url)
        self.engine: Engine = self._engine(pool_size)
        self._size = pool_size
        self._seats = threading.BoundedSemaphore(pool_size)
        self._lines = lines.Lines()
        self.patience = FILE_PATIENCE
        self._locked = Locked(self.url.database)
        self.conflicts = 0  # transactions that met a deadlock or the like, and were run again
        self._reads_committed: bool | None = None  # is it usual here?
        # One writer at a time is SQLite's rule; threads of one process need not fight for the file lock.
        self._turn = threading.Lock() if self.dialect.name == "sqlite" else None
        _forget_after_fork(self)

    def _engine(self, pool_size: int) -> Engine:
        if self.dialect.name == "sqlite" and self.url.database in (None, "", ":memory:"):
            raise ConfigurationError(
                "an SQLite database in memory would be lost with this process and seen by no worker; "
                "give a file: sqlite:///dray.db"
            )
        try:
            engine = create_engine(
                self.url,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
                pool_reset_on_return=None,
                pool_size=pool_size,
                max_overflow=0,
                connect_args=self._connect_args(),
            )
        except ModuleNotFoundError as error:
            extra = EXTRA[self.dialect.name]
            raise ConfigurationError(f"{error.name} is not installed; run: pip install 'dray[{extra}]'") from error
        except NoSuchModuleError as error:
            raise ConfigurationError(f"{self.url.drivername} is not supported: {error}") from error
        event.listen(engine, "connect", self._set_up)
        event.listen(engine, "checkout", lines.refuse_stale)
        event.listen(engine, "checkout", self._refuse_read_only)
        return engine

    def _set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["reads_only"] = not self._is_writable()
        cursor = connection.cursor()
        for statement in self.dialect.setup:
            cursor.execute(statement)
        cursor.close()
        lines.set_up(connection)
        for limit in _GREETING:
            if hasattr(connection, f"_{limit}") and limit not in self.url.query:
                setattr(connection, f"_{limit}", None)  # a statement may wait for a lock, or change a table

    def _is_writable(self) -> bool:
        return self.dialect.name != "sqlite" or os.access(str(self.url.database), os.W_OK)

    def _refuse_read_only(self, connection: object, record: ConnectionPoolEntry, proxy: object) -> None:
        """Throw away a connection made while the file was read-only: it stays so when the file can be written again."""
        if record.info["reads_only"] and self._is_writable():
            raise DisconnectionError("the file can be written again")

    def limit(self, connections: int) -> None:
        """Hold at most so many connections from now on."""
        self._size = min(connections, self._size)
        self._seats = threading.BoundedSemaphore(self._size)
        self.engine.pool.dispose()  # closes the idle ones; those in use come back to this pool and are counted

    def driver(self) -> tuple[str, list[Any], dict[str, Any]]:
        """The driver's module and the arguments of its connect(), for a process that does without SQLAlchemy."""
        arguments, keywords = self.engine.dialect.create_connect_args(self.url)
        module = self.engine.dialect.dbapi
        assert module is not None
        # What SQLAlchemy adds for its own use (an adapters map) is of no use elsewhere.
        plain = {name: value for name, value in keywords.items() if isinstance(value, str | int | float | bool)}
        ours = {name: value for name, value in self._connect_args().items() if name not in _GREETING}
        return module.__name__, list(arguments), {**plain, **ours}

    def _connect_args(self) -> dict[str, Any]:
        """What we ask of the driver beside what the URL says."""
        limits = {name: value for name, value in _UNLESS_GIVEN[self.dialect.name].items() if name not in self.url.query}
        return {**limits, **_ALWAYS[self.dialect.name]}

    def hang_up(self, longer_than: float) -> None:
        """Break the connections on which somebody has waited for longer (seconds): those threads get StoreUnavailable."""
        self._lines.hang_up(longer_than)

    def close(self) -> None:
        """Close the pooled connections; the next use opens new ones."""
        self.engine.dispose()

    def forget(self) -> None:
        """Drop the connections of a parent process without closing them: they are still the parent's (S2.5)."""
        self.engine.dispose(close=False)
        self._seats = threading.BoundedSemaphore(self._size)
        self._lines = lines.Lines()
        if self._turn is not None:
            self._turn = threading.Lock()

    # --- three ways to work ---------------------------------------------------------------------------------------------

    def once(self, work: Callable[[Connection], T]) -> T:
        """Run one statement, or read. Never repeated, except while the file or row is merely locked."""
        return self._patiently(work, transaction=False)

    def transact(self, work: Callable[[Connection], T], waits: Callable[[], None] = unheard) -> T:
        """Run a transaction, and run it again when the database says that it lost a conflict. `waits` is called when it has to
        wait for others before it can begin.

        `work` must be safe to run again after a rollback. Raises StoreUnavailable when the connection breaks: then it is
        unknown whether a commit happened, and the caller has to know what to do about it.
        """
        return self._patiently(work, transaction=True, waits=waits)

    def alone(self, work: Callable[[Connection], T]) -> T:
        """Run one statement that passes over what others have locked or changed: that takes READ COMMITTED. Where it is not
        what the server begins with, it is run in a transaction of ours."""
        if self._reads_committed is None:
            usual = self.once(lambda connection: connection.exec_driver_sql("SHOW default_transaction_isolation").scalar())
            self._reads_committed = usual == "read committed"
        return self.once(work) if self._reads_committed else self.transact(work)

    def _patiently(self, work: Callable[[Connection], T], *, transaction: bool, waits: Callable[[], None] = unheard) -> T:
        began, tries = time.monotonic(), 0
        while True:
            try:
                with self._take_turn(transaction, waits), self._connect() as connection:
                    result = self._in_transaction(connection, work) if transaction else work(connection)
                self._locked.is_over()
                return result
            except DBAPIError as error:
                tries += 1
                self.conflicts += self.dialect.is_busy(error)
                if not self.dialect.is_busy(error) or not self._wait(tries, time.monotonic() - began):
                    raise self.translate(error) from error
                waits()

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        seats = self._seats
        if not seats.acquire(timeout=SEAT_PATIENCE):
            raise StoreUnavailable(f"no database connection came free within {SEAT_PATIENCE:g} s")
        try:
            with self.engine.connect() as connection, self._lines.watched(connection.connection.dbapi_connection):
                try:
                    yield connection
                except DBAPIError as error:
                    if self.dialect.is_away(error):
                        connection.invalidate()  # whoever answers a new one may be able to do it
                    raise
        finally:
            seats.release()

    @contextmanager
    def _take_turn(self, writing: bool, waits: Callable[[], None]) -> Iterator[None]:
        if writing and self._turn is not None:
            if self._turn.locked():
                waits()
            with self._turn:
                yield
        else:
            yield

    def _in_transaction(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        connection.exec_driver_sql(self.dialect.begin)
        try:
            result = work(connection)
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        return result

    def _wait(self, tries: int, waited: float) -> bool:
        """Wait a moment before the same again; False when it has been tried long enough."""
        if self.dialect.skip_locked:
            # Always with jitter: victims of a deadlock that come back at once meet again, for half a minute if need be.
            time.sleep(random.uniform(0.001, 0.05))
            return tries < TRIES
        self._locked.lasts(waited, self.patience)
        time.sleep(random.uniform(0.0005, 0.0015))
        return waited < self.patience

    def translate(self, error: DBAPIError) -> DrayError:
        """Our error for a driver's one: what happened, and what to do about it."""
        first = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        where = self.url.render_as_string(hide_password=True)
        if self.dialect.is_away(error):
            remedy = self.dialect.remedy(error)
            return StoreUnavailable(f"the database {where} cannot be used right now: {first}{remedy and f'; {remedy}'}")
        if self.dialect.is_no_table(error):
            return SchemaError(f"the database {where} has no tables of this version of Dray: run 'dray init' ({first})")
        if self.dialect.is_busy(error):
            why = "kept deadlocking" if self.dialect.skip_locked else self._locked.say(self.patience)
            return StoreUnavailable(f"the database {where} {why} ({first})")
        return StoreError(f"the database {where} refused a statement: {first}")


def _dialect(url: URL) -> Dialect:
    try:
        return DIALECTS[url.get_backend_name()]
    except KeyError:
        known = "sqlite:///file.db, postgresql://..., mysql://... or mariadb://..."
        raise ConfigurationError(f"{url.get_backend_name()} databases are not supported; use {known}") from None


_ALWAYS: dict[str, dict[str, Any]] = {
    "sqlite": {"check_same_thread": False, "timeout": 0},
    "postgresql": {"application_name": "dray"},
    "mysql": {"charset": "utf8mb4"},
}
# PyMySQL's connect_timeout ends where the server's greeting begins: for that there are two limits more.
_GREETING = {"read_timeout": CONNECT_PATIENCE, "write_timeout": CONNECT_PATIENCE}
_UNLESS_GIVEN: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {
        "connect_timeout": CONNECT_PATIENCE,
        "keepalives_idle": lines.QUIET,
        "keepalives_interval": lines.ASK_EVERY,
        "keepalives_count": lines.ASK,
        "tcp_user_timeout": lines.UNHEARD,
    },
    "mysql": {"connect_timeout": CONNECT_PATIENCE, **_GREETING},
}


def _roll_back(connection: Connection) -> None:
    if connection.invalidated:
        return  # it broke: the server has rolled back, and SQLAlchemy would complain instead of saying that
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        connection.invalidate()  # whatever state it is in, nobody shall get it from the pool


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _forget_after_fork(database: Database) -> None:
    _OPEN.add(database)


def _forget_all() -> None:
    for database in list(_OPEN):
        database.forget()


os.register_at_fork(after_in_child=_forget_all)
