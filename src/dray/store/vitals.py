"""How the database itself is: its version, its clock, and what is wrong with it that only it can tell."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select, text

from dray.store.connect import Database
from dray.store.tables import Tables

# SQL: product and version in one text.
_VERSION = {
    "sqlite": "SELECT 'SQLite ' || sqlite_version()",
    "postgresql": "SELECT 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1)",
    "mysql": "SELECT CONCAT(IF(VERSION() LIKE '%MariaDB%', 'MariaDB ', 'MySQL '), SUBSTRING_INDEX(VERSION(), '-', 1))",
}
# SQL: the session whose snapshot is the oldest: vacuum keeps every row version that is younger.
_OLDEST_SNAPSHOT = (
    "SELECT pid, coalesce(nullif(application_name, ''), 'unnamed') AS name, coalesce(state, '') AS state,"
    " CAST(extract(epoch FROM clock_timestamp() - xact_start) AS double precision) AS age FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    " AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) ORDER BY xact_start LIMIT 1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What a database says of itself.

    took    seconds that one question took
    skew    seconds by which its clock is ahead of this host's
    """

    version: str
    took: float
    skew: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A session that keeps old row versions from being removed, and for how many seconds it has done so."""

    pid: int
    name: str
    state: str
    age: float


def vitals(connection: Connection, tables: Tables) -> Vitals:
    """Ask for version and time."""
    version = connection.execute(text(_VERSION[tables.dialect.name])).scalar_one()
    before = time.time()
    now = connection.execute(select(tables.now())).scalar_one() / 1_000_000
    after = time.time()
    # It was asked somewhere between the two; the middle is wrong by half of the way at most.
    return Vitals(version=str(version), took=after - before, skew=now - (before + after) / 2)


def oldest_snapshot(connection: Connection, tables: Tables) -> Snapshot | None:
    """Who holds back vacuum the longest; None: nobody, or no such thing in this database."""
    if tables.dialect.name != "postgresql":
        return None
    row = connection.execute(text(_OLDEST_SNAPSHOT)).first()
    return None if row is None else Snapshot(pid=row.pid, name=row.name, state=row.state, age=row.age)


def journal_mode(connection: Connection, tables: Tables) -> str | None:
    """How an SQLite file is written; None for any other database."""
    if tables.dialect.name != "sqlite":
        return None
    return str(connection.execute(text("PRAGMA journal_mode")).scalar_one())


def file_of(database: Database) -> Path | None:
    """The file of an SQLite database; None for a server, and for a file that only SQLite can name."""
    name = database.url.database
    if database.dialect.name != "sqlite" or name is None or name.startswith("file:"):
        return None
    return Path(name)


def is_writable(file: Path) -> bool:
    """Whether this user may write the file, and beside it: that is where SQLite keeps its log."""
    return os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK)
