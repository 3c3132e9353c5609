"""SQLite says by extended names where something went wrong; what it is decides, and nothing else."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError

from dray.errors import StoreError, StoreUnavailable
from dray.store.connect import Database
from dray.store.dialects import SQLITE


def raised(name: str) -> DBAPIError:
    error = sqlite3.OperationalError("something went wrong")
    error.sqlite_errorname = name
    return OperationalError("INSERT", None, error)


@pytest.mark.parametrize(
    ("name", "busy", "away", "unsure"),
    [
        ("SQLITE_BUSY", True, False, False),
        ("SQLITE_BUSY_SNAPSHOT", True, False, False),
        ("SQLITE_LOCKED_SHAREDCACHE", True, False, False),
        ("SQLITE_IOERR", False, True, True),
        ("SQLITE_IOERR_WRITE", False, True, True),
        ("SQLITE_IOERR_FSYNC", False, True, True),
        ("SQLITE_CANTOPEN_ISDIR", False, True, False),
        ("SQLITE_READONLY_DBMOVED", False, True, False),
        ("SQLITE_FULL", False, True, False),
        ("SQLITE_CONSTRAINT_UNIQUE", False, False, False),
        ("SQLITE_TOOBIG", False, False, False),
    ],
)
def test_an_error_is_known_by_what_it_is(name: str, busy: bool, away: bool, unsure: bool) -> None:
    error = raised(name)
    assert (SQLITE.is_busy(error), SQLITE.is_away(error), SQLITE.is_unsure(error)) == (busy, away, unsure)


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_BUSY"])
def test_what_may_succeed_later_is_told_from_what_is_refused_for_what_is_in_it(name: str) -> None:
    database = Database("sqlite:///never-opened.db")
    assert type(database.translate(raised(name))) is StoreUnavailable
    assert type(database.translate(raised("SQLITE_TOOBIG"))) is StoreError
