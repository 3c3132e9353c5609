"""A full or broken disk was taken for a statement at fault: SQLite names a good dozen kinds of I/O error, of which only the
plainest was known, and the servers' codes for a disk without room were not. The user was told that the database refused a
statement, with no word of what to do, and a worker threw results away because they seemed to be what was refused.

A connection that had met a read-only file stayed read-only, and in the pool, when the file could be written again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pymysql
import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from dray import Dray
from dray.errors import DrayError, OutcomeUnknown, StoreError, StoreUnavailable
from dray.store.connect import Database

URLS = {"sqlite": "sqlite:///shop.db", "postgresql": "postgresql+psycopg://x/y", "mysql": "mysql+pymysql://x/y"}


def driver_error(name: str, code: str) -> DBAPIError:
    """What SQLAlchemy raises when the driver has met this code."""
    match name:
        case "sqlite":
            original: Exception = sqlite3.OperationalError("it did not work")
            original.sqlite_errorname = code  # type: ignore[attr-defined]
        case "postgresql":
            original = psycopg.errors.lookup(code)("it did not work")
        case _:
            original = pymysql.err.OperationalError(int(code), "it did not work")
    return DBAPIError.instance("", {}, original, Exception)  # type: ignore[arg-type,return-value]


@pytest.mark.rows("C24")
@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("sqlite", "SQLITE_FULL", "free some space"),
        ("sqlite", "SQLITE_IOERR_SHMSIZE", "look whether its disk is full"),
        ("sqlite", "SQLITE_IOERR_WRITE", "look whether its disk is full"),
        ("sqlite", "SQLITE_IOERR", "look whether its disk is full"),
        ("sqlite", "SQLITE_READONLY", "let this user write"),
        ("sqlite", "SQLITE_READONLY_DIRECTORY", "let this user write"),
        ("sqlite", "SQLITE_CANTOPEN", "its folder has to exist"),
        ("sqlite", "SQLITE_CANTOPEN_ISDIR", "its folder has to exist"),
        ("sqlite", "SQLITE_BUSY_SNAPSHOT", "stayed locked"),
        ("postgresql", "53100", "free some space"),
        ("postgresql", "25006", "the server that is written to"),
        ("postgresql", "58030", "cannot be used right now"),
        ("postgresql", "53300", "more connections"),
        ("postgresql", "57014", "cannot be used right now"),  # it took longer than the role may take: it will not always
        ("mysql", "1021", "free some space"),
        ("mysql", "1114", "free some space"),
        ("mysql", "1290", "the server that is written to"),
        ("mysql", "1792", "the server that is written to"),
        ("mysql", "1969", "cannot be used right now"),
        ("mysql", "3024", "cannot be used right now"),
        ("mysql", "1040", "more connections"),
    ],
)
def test_what_is_the_disks_fault_is_no_statements_fault(name: str, code: str, says: str) -> None:
    told = Database(URLS[name]).translate(driver_error(name, code))
    assert isinstance(told, StoreUnavailable)
    assert says in str(told)
    assert len(str(told).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "code"), [("sqlite", "SQLITE_CONSTRAINT_NOTNULL"), ("postgresql", "22003"), ("mysql", "1264")]
)
def test_what_is_a_statements_fault_stays_so(name: str, code: str) -> None:
    told = Database(URLS[name]).translate(driver_error(name, code))
    assert type(told) is StoreError


@pytest.mark.rows("C87")
def test_a_connection_that_cannot_write_is_not_kept(tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")

    @app.task
    def note() -> None: ...

    note.enqueue()
    # What an open file that has become read-only is to SQLite: each connection of the pool refuses to write, once and for all.
    app.store.database.once(lambda connection: connection.exec_driver_sql("PRAGMA query_only = 1"))
    with pytest.raises(StoreUnavailable, match="let this user write"):
        note.enqueue()
    note.enqueue()
    app.close()


@pytest.mark.rows("C87")
def test_a_connection_made_to_a_read_only_file_is_not_kept_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path}/dray.db")
    made: list[object] = []
    event.listen(database.engine, "connect", lambda connection, record: made.append(connection))

    def look() -> int:
        """Ask something, twice; the number of connections made so far."""
        for _ in range(2):
            database.once(lambda connection: connection.exec_driver_sql("SELECT 1"))
        return len(made)

    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        assert look() == 1, "who only reads needs no other"
    assert look() == 2
    database.close()


@pytest.mark.rows("C25")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SQLITE_IOERR_FSYNC", OutcomeUnknown),
        ("SQLITE_IOERR_WRITE", OutcomeUnknown),
        ("SQLITE_FULL", StoreUnavailable),
    ],
)
def test_a_commit_that_may_be_on_disk_is_not_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[DrayError]
) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")

    @app.task
    def note() -> None: ...

    note.enqueue()

    def fail(*_: object) -> None:
        raise driver_error("sqlite", code)

    monkeypatch.setattr("dray.store.sql.add", fail)
    with pytest.raises(StoreError) as caught:
        note.enqueue()
    assert type(caught.value) is kind
    app.close()
