"""What a piece of work costs, in things that can be counted and are the same on every machine. No clock is read.

    meter = Meter(store.database.engine)
    with meter.count() as cost:
        store.claim(worker, pickup, 100)
    print(cost.statements, cost.writes, cost.work)

The counting happens on the connections that do the work, whichever the pool gives out, in any thread. What one unit of `work`
is depends on the database, so numbers are compared with numbers of the same one:

    sqlite       instructions of its virtual machine; going down a tree is one, whatever its depth
    postgresql   pages looked at in shared memory (hit or read), told by auto_explain; the role must be allowed to LOAD it. A
                 connection that was counted is slower for the rest of its life, so time nothing on it
    mysql        rows and index entries that the server asked of its storage engine (Handler_read_key and its like)
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

_OPENS = re.compile(r"\s*(BEGIN|START TRANSACTION)\b", re.IGNORECASE)
_CLOSES = re.compile(r"\s*(COMMIT|ROLLBACK)\b", re.IGNORECASE)
_WRITES = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|REPLACE|WITH\b.*\b(INSERT INTO|UPDATE|DELETE FROM)\b)", re.IGNORECASE | re.DOTALL
)
_BELL = "pg_notify"  # sent by a thread of its own, some time after the work: it is nobody's cost in particular


class Sent(NamedTuple):
    """What a driver was given to run: the statement, and with how many sets of values."""

    text: str
    sets: int


@dataclass(slots=True)
class Cost:
    """What was counted so far.

    sent     every statement, BEGIN and COMMIT among them
    writes   transactions that write: those that were opened, and each writing statement outside of one
    parts    the work of each statement, for the message of a test that fails
    """

    sent: list[Sent] = field(default_factory=list)
    writes: int = 0
    parts: list[tuple[str, int]] = field(default_factory=list)

    @property
    def statements(self) -> int:
        """Without those that open and close transactions."""
        return sum(not (_OPENS.match(one.text) or _CLOSES.match(one.text)) for one in self.sent)

    @property
    def work(self) -> int:
        return sum(work for _, work in self.parts)

    def __str__(self) -> str:
        alike: dict[str, int] = {}
        for text, work in self.parts:
            alike[text] = alike.get(text, 0) + work
        parts = "\n".join(f"{work:8} {' '.join(text.split())[:160]}" for text, work in alike.items())
        return f"{self.statements} statements, {self.writes} write transactions, work {self.work}\n{parts}"


class Meter:
    """Counts what the connections of one engine do.

    work    False: only statements and transactions are counted, and nothing is sent that would not be sent anyway
    """

    def __init__(self, engine: Engine, *, work: bool = True) -> None:
        self._engine, self._work = engine, work

    @contextmanager
    def count(self) -> Iterator[Cost]:
        """Count until the end of the block; one block at a time."""
        cost = Cost()
        gauge = _GAUGES[self._engine.dialect.name](cost.parts) if self._work else None
        open_ones: set[int] = set()

        def before(_: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
            if _BELL in statement:
                return
            cost.sent.append(Sent(statement, len(values) if many else 1))
            cost.writes += _is_new_write(statement, id(cursor.connection), open_ones)
            if gauge is not None:
                gauge.before(cursor.connection, statement)

        def after(_: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
            if gauge is not None and _BELL not in statement:
                gauge.after(cursor.connection, statement)

        event.listen(self._engine, "before_cursor_execute", before)
        event.listen(self._engine, "after_cursor_execute", after)
        try:
            yield cost
        finally:
            event.remove(self._engine, "before_cursor_execute", before)
            event.remove(self._engine, "after_cursor_execute", after)
            if gauge is not None:
                gauge.close()


def _is_new_write(statement: str, connection: int, open_ones: set[int]) -> bool:
    if _OPENS.match(statement):
        open_ones.add(connection)
        return True
    if _CLOSES.match(statement):
        open_ones.discard(connection)
    return connection not in open_ones and _WRITES.match(statement) is not None


# --- work -----------------------------------------------------------------------------------------------------------------


class _Gauge(ABC):
    """Finds out how much work a driver's connections do."""

    def __init__(self, parts: list[tuple[str, int]]) -> None:
        self.parts = parts
        self._known: dict[int, Any] = {}

    def before(self, connection: Any, statement: str) -> None:
        if id(connection) not in self._known:
            self._known[id(connection)] = connection
            self.attach(connection)

    @abstractmethod
    def attach(self, connection: Any) -> None:
        """Begin to count on a connection that was not seen before."""

    @abstractmethod
    def after(self, connection: Any, statement: str) -> None:
        """A statement was run; its rows may not all have been fetched yet."""

    @abstractmethod
    def detach(self, connection: Any) -> None: ...

    def close(self) -> None:
        for connection in self._known.values():
            with suppress(Exception):  # it may have been closed meanwhile
                self.detach(connection)


class _Steps(_Gauge):
    """SQLite makes its way through a result only as it is fetched, so a step belongs to the statement sent last."""

    def before(self, connection: Any, statement: str) -> None:
        super().before(connection, statement)
        self.parts.append((statement, 0))

    def attach(self, connection: Any) -> None:
        connection.set_progress_handler(self._step, 1)

    def _step(self) -> None:
        text, steps = self.parts[-1]
        self.parts[-1] = text, steps + 1

    def after(self, connection: Any, statement: str) -> None: ...

    def detach(self, connection: Any) -> None:
        connection.set_progress_handler(None, 1)


class _Pages(_Gauge):
    """PostgreSQL tells, behind each statement, the plan that it really used and what that has touched."""

    SETTINGS = (
        ("log_analyze", "on"),
        ("log_buffers", "on"),
        ("log_timing", "off"),
        ("log_format", "json"),
        ("log_level", "notice"),  # to the client
        ("log_min_duration", "0"),
    )

    def __init__(self, parts: list[tuple[str, int]]) -> None:
        super().__init__(parts)
        self._hear: Callable[[Any], None] = self._heard  # one object, to be taken off again

    def attach(self, connection: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute("LOAD 'auto_explain'")
            for name, value in self.SETTINGS:
                cursor.execute(f"SET auto_explain.{name} = '{value}'")
        connection.add_notice_handler(self._hear)

    def _heard(self, diagnostic: Any) -> None:
        told = (diagnostic.message_primary or "").partition("plan:\n")[2]
        if told:
            found = json.loads(told)
            plan = found["Plan"]
            self.parts.append((found["Query Text"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]))

    def after(self, connection: Any, statement: str) -> None: ...

    def detach(self, connection: Any) -> None:
        # It goes on telling, to nobody: another thread may have the connection now, so nothing can be sent on it.
        connection.remove_notice_handler(self._hear)


class _Handlers(_Gauge):
    """MariaDB counts for each session; asking for the numbers counts too, always the same."""

    COUNTED = re.compile("handler_(read_.*|write|update|delete|icp_attempts)")

    def __init__(self, parts: list[tuple[str, int]]) -> None:
        super().__init__(parts)
        self._last: dict[int, int] = {}
        self._price: dict[int, int] = {}  # of asking

    def attach(self, connection: Any) -> None:
        first = self._total(connection)
        self._price[id(connection)] = self._total(connection) - first

    def before(self, connection: Any, statement: str) -> None:
        super().before(connection, statement)
        self._last[id(connection)] = self._total(connection)

    def after(self, connection: Any, statement: str) -> None:
        key = id(connection)
        self.parts.append((statement, self._total(connection) - self._last[key] - self._price[key]))

    def _total(self, connection: Any) -> int:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler%'")
            return sum(int(value) for name, value in cursor.fetchall() if self.COUNTED.fullmatch(name.lower()))

    def detach(self, connection: Any) -> None: ...


_GAUGES: dict[str, type[_Gauge]] = {"sqlite": _Steps, "postgresql": _Pages, "mysql": _Handlers, "mariadb": _Handlers}


# --- the write-ahead log --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Log:
    """Bytes of PostgreSQL's write-ahead log, by all sessions of the server; set at the end of the block."""

    bytes: int = 0


@contextmanager
def wal(engine: Engine) -> Iterator[Log]:
    """Count what the server writes to its log within the block.

    A page's first change after a checkpoint is logged whole, so whoever wants the same number twice turns
    `full_page_writes` off, or measures a batch on pages that were changed just before.
    """
    log = Log()
    began = _written(engine)
    yield log
    log.bytes = _written(engine) - began


def _written(engine: Engine) -> int:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn)").scalar_one()
    return int(found)
