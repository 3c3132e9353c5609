"""The few questions whose answer depends on the database. Outside of the store nobody asks which one it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, Update
from sqlalchemy.exc import DBAPIError, OperationalError


def host_clock() -> int:
    """Microseconds since 1970, UTC, by this host's clock."""
    return time.time_ns() // 1000


# Seconds between two statements of a transaction that others wait for. A process that is stopped in it, with its machine
# perhaps, would keep them waiting for as long as that lasts.
IDLE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one kind of database answers."""

    name: str
    now: str  # SQL: the server's clock, as microseconds since 1970, UTC, moving within a transaction
    given_now: str  # SQL: an instant given as the parameter `now`
    begin: str  # opens a transaction that is going to write
    skip_locked: bool  # several writers at once; rows another has locked are passed over
    partial_indexes: bool
    mvcc: bool  # old row versions linger in indexes while somebody has a snapshot open: claims need floors
    returning: bool  # one statement can write and give back what it wrote
    quote_mark: str
    busy: frozenset[str]  # error codes after which the same transaction may succeed
    no_table: frozenset[str]
    away: frozenset[str]  # the server says itself that it is starting or stopping
    full: frozenset[str]  # there is no room for what was to be written
    read_only: frozenset[str]
    unsure: frozenset[str] = frozenset()  # what was written may be found there later, or not
    host_clock: Callable[[], int] | None = None  # the host's clock, where the database is a file on it
    brief: str = ""  # SQL: a row that makes the server end this transaction, if nothing comes for `IDLE`
    setup: tuple[str, ...] = ()  # run once on every new connection of our own
    # SQLAlchemy's options. Those of one database only: to check any it loads the ways to all drivers of the database it is for.
    table: Mapping[str, Any] = field(default_factory=dict, hash=False)
    counted: Mapping[str, Any] = field(default_factory=dict, hash=False)  # a table that gives out numbers, none of them twice

    @property
    def finds_and_takes(self) -> bool:
        """Whether one statement can find rows that nobody else is at, change them and give them back."""
        return self.skip_locked and self.returning

    @property
    def insert_new(self) -> tuple[str, str]:
        """How an INSERT begins and ends that leaves out rows which are there already."""
        match self.name:
            case "postgresql":
                return "INSERT INTO", " ON CONFLICT DO NOTHING"
            case "mysql":
                return "INSERT IGNORE INTO", ""
            case _:
                return "INSERT OR IGNORE INTO", ""

    def where(self, condition: ColumnElement[bool]) -> dict[str, Any]:
        """The option of an index that has only the rows for which this is true; not where there are no partial indexes."""
        return {f"{self.name}_where": condition}

    def lock(self, query: Select[Any]) -> Select[Any]:
        """Lock the rows a query finds, passing over those others have; one writer at a time needs no lock."""
        return query.with_for_update(skip_locked=True, key_share=self.name == "postgresql") if self.skip_locked else query

    def wait_for(self, query: Select[Any]) -> Select[Any]:
        """Lock the rows a query finds, waiting for those others have."""
        return query.with_for_update(key_share=self.name == "postgresql") if self.skip_locked else query

    def lock_ids(self, table: str, columns: str, *, skip: bool = False) -> str:
        """SQL: lock the rows `j` of a table in ascending order, waiting for those others have, and read these columns.
        `skip`: those others have are passed over instead.

        The ids travel in the parameter `doc`, an ascending JSON array.
        """
        join = f"SELECT {columns} FROM {self._by_key(table, 'id', 'PRIMARY')}"
        skipping = " SKIP LOCKED" if skip else ""
        match self.name:
            case "sqlite":
                return join
            case "postgresql":
                # An array and not a join, for which it would read a table from end to end as long as it seems small.
                ids = f"ANY(ARRAY(SELECT d.i FROM {self.ids()}))"
                return f"SELECT {columns} FROM {table} j WHERE j.id = {ids} ORDER BY j.id FOR NO KEY UPDATE OF j{skipping}"
            case _:
                return f"{join} FOR UPDATE{skipping}"

    def delete_ids(self, table: str, column: str = "id", where: str = "", index: str = "PRIMARY") -> str:
        """SQL: delete the rows of a table whose column is one of the ids in `doc`, as above."""
        if self.name == "mysql":
            return f"DELETE j FROM {self._by_key(table, column, index)}{where and f' WHERE {where}'}"
        ids = f"(SELECT d.i FROM {self.ids()})"
        # SQLite takes the index of any column that is compared with one value to be better than a list of ids, and would look
        # through all that ended in that state; its rows by themselves are in the order of the ids.
        hint = " NOT INDEXED" if self.name == "sqlite" and column == "id" else ""
        return f"DELETE FROM {table} AS j{hint} WHERE j.{column} IN {ids}{where and f' AND {where}'}"

    def _by_key(self, table: str, column: str, index: str) -> str:
        # MySQL is made to fetch each row by its key. On a small table it would rather scan another index, and lock or wait for
        # rows that nobody asked for: those of a producer's long transaction, say.
        rows = self.ids()
        if self.name == "mysql":
            return f"{rows} STRAIGHT_JOIN {table} j FORCE INDEX ({index}) ON j.{column} = d.i"
        return f"{rows} JOIN {table} j ON j.{column} = d.i"

    def by_primary_key(self, change: Update) -> Update:
        """Let a change of rows named by their ids go by those: MySQL would rather lock all rows of a state, if they are few."""
        for name in ("mysql", "mariadb"):
            change = change.with_hint("FORCE INDEX (PRIMARY)", dialect_name=name)
        return change

    def by_index(self, query: Select[Any], table: Table, index: str) -> Select[Any]:
        """Let a query go by this index: MySQL would rather walk along the ids, because it hopes to be through soon."""
        for name in ("mysql", "mariadb"):
            query = query.with_hint(table, f"FORCE INDEX ({self.quote(index)})", dialect_name=name)
        return query

    def quote(self, name: str) -> str:
        return f"{self.quote_mark}{name}{self.quote_mark}"

    def rows(self, columns: Mapping[str, str], parameter: str = "doc") -> str:
        """SQL: a table `d` made of one parameter, a JSON array of objects. Types: int, text.

        Hundreds of rows travel in one statement whose text does not depend on their number.
        """
        return _rows(self.name, tuple(columns.items()), parameter)

    def ids(self, parameter: str = "doc") -> str:
        """SQL: the same of whole numbers, a JSON array of which is the parameter: a table `d` with the column `i`."""
        match self.name:
            case "sqlite":
                return f"(SELECT value AS i FROM json_each(:{parameter})) AS d"
            case "postgresql":
                array = f"json_array_elements_text(CAST(:{parameter} AS json))"
                return f"(SELECT CAST(value AS bigint) AS i FROM {array}) AS d"
            case _:
                return f"JSON_TABLE(:{parameter}, '$[*]' COLUMNS(i BIGINT PATH '$')) AS d"

    def code(self, error: DBAPIError) -> str:
        """The database's own code for an error: SQLSTATE, an error number, or SQLite's symbolic name."""
        original = error.orig
        if self.name == "sqlite":
            return getattr(original, "sqlite_errorname", "") or _sqlite_name(str(original))
        if self.name == "postgresql":
            return str(getattr(original, "sqlstate", None) or "")
        arguments = getattr(original, "args", ())
        return str(arguments[0]) if arguments else ""

    def _kind(self, error: DBAPIError) -> str:
        """The code without what SQLite adds to it: SQLITE_IOERR of SQLITE_IOERR_SHMSIZE."""
        code = self.code(error)
        return "_".join(code.split("_")[:2]) if self.name == "sqlite" else code

    def is_busy(self, error: DBAPIError) -> bool:
        """A deadlock, a serialisation failure or a locked file: the same again may succeed."""
        return self._kind(error) in self.busy

    def is_away(self, error: DBAPIError) -> bool:
        """The connection is gone or cannot be made, or the disk takes nothing: not the statement is at fault."""
        if error.connection_invalidated or self._kind(error) in self.away | self.full | self.read_only:
            return True
        # libpq gives no code to a connection that it could not make.
        return isinstance(error, OperationalError) and self.name == "postgresql" and not self.code(error)

    def is_unsure(self, error: DBAPIError) -> bool:
        """Whether what was asked may have happened all the same."""
        return error.connection_invalidated or self._kind(error) in self.unsure

    def remedy(self, error: DBAPIError) -> str:
        """What its owner can do about a database that is away; empty where the error says it all."""
        kind = self._kind(error)
        if kind in self.full:
            return "free some space on the disk it lies on"
        if kind in self.read_only:
            return (
                "let this user write the file and its folder" if self.name == "sqlite" else "name the server that is written to"
            )
        return _REMEDIES.get(kind, "")

    def is_no_table(self, error: DBAPIError) -> bool:
        code = self.code(error)
        if self.name == "sqlite":
            return "no such table" in str(error.orig) or "no such column" in str(error.orig)
        return code in self.no_table


@cache
def _rows(name: str, columns: tuple[tuple[str, str], ...], parameter: str) -> str:
    if name == "sqlite":
        fields = ", ".join(f"json_extract(value, '$.{column}') AS {column}" for column, _ in columns)
        return f"(SELECT {fields} FROM json_each(:{parameter})) AS d"
    types = _ROW_TYPES[name]
    if name == "postgresql":
        fields = ", ".join(f"{column} {types[kind]}" for column, kind in columns)
        return f"json_to_recordset(CAST(:{parameter} AS json)) AS d({fields})"
    fields = ", ".join(f"{column} {types[kind]} PATH '$.{column}'" for column, kind in columns)
    return f"JSON_TABLE(:{parameter}, '$[*]' COLUMNS({fields})) AS d"


def _sqlite_name(message: str) -> str:
    return "SQLITE_BUSY" if "locked" in message else ""


_REMEDIES = {
    "SQLITE_IOERR": "look whether its disk is full or broken",
    "SQLITE_CANTOPEN": "its folder has to exist, and this user has to be allowed to write there",
    "53300": "let the server take more connections, or run fewer processes",
    "1040": "let the server take more connections, or run fewer processes",
}

_ROW_TYPES = {
    "postgresql": {"int": "bigint", "text": "text"},
    "mysql": {"int": "BIGINT", "text": "LONGTEXT"},
}

SQLITE = Dialect(
    name="sqlite",
    now=":now",
    given_now=":now",
    begin="BEGIN IMMEDIATE",
    skip_locked=False,
    partial_indexes=True,
    mvcc=False,
    returning=True,
    quote_mark='"',
    busy=frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"}),
    no_table=frozenset(),
    away=frozenset({"SQLITE_CANTOPEN", "SQLITE_IOERR"}),
    full=frozenset({"SQLITE_FULL"}),
    read_only=frozenset({"SQLITE_READONLY"}),
    unsure=frozenset({"SQLITE_IOERR"}),  # the commit can be in the log, and is believed if it is read after a crash
    host_clock=host_clock,
    setup=(
        "PRAGMA busy_timeout = 500",  # only while a connection is set up; see below
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",  # an enqueue that returned survives a power cut
        # SQLite's own busy handler backs off to 100 ms, so that old waiters lose; ours tries again about every millisecond.
        "PRAGMA busy_timeout = 0",
    ),
    # Without AUTOINCREMENT it gives the ids of a drained table out again, which breaks order and fences.
    counted={"sqlite_autoincrement": True},
)
POSTGRESQL = Dialect(
    name="postgresql",
    now="CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)",
    given_now="CAST(:now AS bigint)",
    begin="BEGIN ISOLATION LEVEL READ COMMITTED",
    # For the transaction only: a pooler gives the session to the next client. What the server is told already may be shorter.
    brief=(
        "(SELECT set_config('idle_in_transaction_session_timeout', CASE current_setting('idle_in_transaction_session_timeout')"
        f" WHEN '0' THEN '{IDLE}s' ELSE current_setting('idle_in_transaction_session_timeout') END, TRUE))"
    ),
    skip_locked=True,
    partial_indexes=True,
    mvcc=True,
    returning=True,
    quote_mark='"',
    busy=frozenset({"40001", "40P01", "55P03"}),
    no_table=frozenset({"42P01", "3F000", "42703"}),
    away=frozenset({"57014", "57P01", "57P02", "57P03", "25P03", "08000", "08003", "08006", "08001", "53300", "58030"}),
    full=frozenset({"53100"}),
    read_only=frozenset({"25006"}),
)
_INNODB = {
    "engine": "InnoDB",
    "charset": "utf8mb4",
    "collate": "utf8mb4_bin",  # names are compared byte by byte: case counts
    "row_format": "DYNAMIC",
}
_MADE = {f"{name}_{option}": value for name in ("mysql", "mariadb") for option, value in _INNODB.items()}
MYSQL = Dialect(
    name="mysql",
    now="TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))",
    given_now="CAST(:now AS SIGNED)",
    begin="START TRANSACTION",
    skip_locked=True,
    partial_indexes=False,
    mvcc=True,
    returning=False,  # MariaDB has it, MySQL has not
    quote_mark="`",
    busy=frozenset({"1213", "1205", "1020"}),  # 1020: record has changed since last read (MariaDB 11.6.2 and later)
    no_table=frozenset({"1146", "1049", "1054"}),
    away=frozenset({"1053", "1969", "3024", "1077", "1079", "2002", "2003", "2006", "2013", "1040", "1927", "0"}),
    full=frozenset({"3", "1021", "1026", "1114"}),
    read_only=frozenset({"1290", "1792", "1836"}),
    setup=(
        # REPEATABLE READ deadlocks producers by the thousand on a nearly empty queue.
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        # What does not fit is an error, never cut off silently. The rest is for MariaDB only: who is stopped in a transaction
        # loses it, and with it what others wait for.
        f"SET SESSION sql_mode = 'STRICT_ALL_TABLES' /*M!100300 , idle_transaction_timeout = {IDLE} */",
    ),
    table=_MADE,
    counted=_MADE,
)
DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}
