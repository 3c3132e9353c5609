"""How an SQLite worker's heartbeat process hears of others' commits without looking all the time."""

from __future__ import annotations

import select
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dray.heartbeat import BLIND, PEEK, POLL, POLLS, Commits, FileWatch


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with closing(opened(tmp_path / "dray.db")) as connection:
        connection.execute("CREATE TABLE thing (number)")
    return tmp_path / "dray.db"


@pytest.fixture
def commits(file: Path) -> Iterator[Commits]:
    with closing(opened(file)) as connection:
        made = Commits(connection)
        assert made.moved()  # whatever was there before
        made.quiet_until = 0.0
        yield made
        made.close()


@pytest.fixture
def other(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(opened(file)) as connection:
        yield connection


def heard(commits: Commits) -> bool:
    return select.select(commits.sources(), [], [], 5)[0] != []


def test_a_commit_is_heard(commits: Commits, other: sqlite3.Connection) -> None:
    assert commits.pause() == BLIND
    other.execute("INSERT INTO thing VALUES (1)")
    assert heard(commits)
    assert commits.moved()
    assert not commits.moved()
    assert commits.watch is not None


def test_after_a_commit_others_are_not_told_of_for_a_moment(commits: Commits, other: sqlite3.Connection) -> None:
    other.execute("INSERT INTO thing VALUES (1)")
    assert commits.moved()
    other.execute("INSERT INTO thing VALUES (2)")
    assert commits.sources() == []
    assert 0 < commits.pause() <= POLL
    assert commits.moved(), "it is told of afterwards, though nothing was heard meanwhile"
    assert commits.watch is not None


def test_while_a_commit_is_under_way_it_looks_often_and_not_for_ever(commits: Commits, other: sqlite3.Connection) -> None:
    commits.connection.execute("INSERT INTO thing VALUES (1)")  # its own moves no counter, as a rollback does not
    assert heard(commits)
    assert not commits.moved()
    assert commits.pause() == PEEK
    assert commits.sources() == [], "each page of a large commit would wake it"
    for _ in range(POLLS):
        assert not commits.moved()
    assert commits.pause() == BLIND
    assert commits.sources() != []


def test_commits_that_come_in_pairs_do_not_make_it_believe_that_it_is_deaf(commits: Commits, other: sqlite3.Connection) -> None:
    for _ in range(20):
        for _ in range(2):
            other.execute("INSERT INTO thing VALUES (1)")
            commits.listen()  # the log of the second is heard before the first is seen
        while commits.moved():
            commits.quiet_until = 0.0
        assert commits.watch is not None
        assert commits.pause() <= POLL


def test_a_watch_that_is_deaf_is_given_up(commits: Commits, other: sqlite3.Connection, tmp_path: Path) -> None:
    commits.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    commits.watch = FileWatch(str(elsewhere))
    other.execute("INSERT INTO thing VALUES (1)")
    assert commits.moved()
    assert commits.watch is None
    assert (commits.sources(), commits.pause()) == ([], POLL)


def test_without_a_watch_it_looks_often(commits: Commits, other: sqlite3.Connection) -> None:
    commits.close()
    assert commits.pause() == POLL
    other.execute("INSERT INTO thing VALUES (1)")
    assert commits.moved()
    assert not commits.moved()


def test_a_file_that_cannot_be_watched_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot watch"):
        FileWatch(str(tmp_path / "nowhere"))
