"""The servers that the other tests stand on: they start, stop, crash, come back, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.servers import (
    Database,
    MariaDB,
    NotInstalled,
    Postgres,
    Server,
    StopMode,
    children_of,
    is_alive,
    wait_until,
)

SERVERS = {"postgresql": Postgres, "mysql": MariaDB}

# What a killed test session leaves: a server, and nobody to stop it.
SESSION = """
import sys
from tests.servers import MariaDB, Postgres

server = {"postgresql": Postgres, "mysql": MariaDB}[sys.argv[1]]()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", params=SERVERS)
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # The session's server says whether there can be one, but must not be stopped under the other tests' feet.
    request.getfixturevalue({"postgresql": "postgres_server", "mysql": "mariadb_server"}[request.param])
    with SERVERS[request.param]() as own:
        yield own


@pytest.fixture
def server(own_server: Server) -> Server:
    """A server that runs, whatever the test before left of it."""
    if not own_server.running:
        own_server.restart()
    return own_server


@pytest.fixture
def shop(server: Server) -> Iterator[sa.Engine]:
    """A database with one row in it."""
    engine = sa.create_engine(server.create_database("shop"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id integer PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO orders VALUES (7)"))
    yield engine
    engine.dispose()
    server.drop_database("shop")


def orders(engine: sa.Engine) -> list[int]:
    engine.dispose()  # the connections of before ended with the server
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM orders")))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_keeps_the_data_and_the_port(server: Server, shop: sa.Engine, mode: StopMode) -> None:
    before, port = server.pid, server.port
    server.restart(mode)
    assert orders(shop) == [7]
    assert (server.port, server.running) == (port, True)
    assert server.pid != before


def test_committed_data_survives_a_kill(server: Server, shop: sa.Engine) -> None:
    before = server.pid
    server.kill()
    assert not is_alive(before)
    with pytest.raises(sa.exc.OperationalError):
        orders(shop)
    server.start()
    assert orders(shop) == [7]


def test_a_server_killed_by_somebody_else_can_be_started_again(server: Server, shop: sa.Engine) -> None:
    processes = [*children_of(server.pid), server.pid]
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not (server.running or any(map(is_alive, processes))), "the server to be gone")
    server.start()
    assert orders(shop) == [7]


def test_a_stopped_server_answers_nobody(server: Server, shop: sa.Engine) -> None:
    server.stop()
    with pytest.raises(LookupError, match="is down"):
        _ = server.pid
    with pytest.raises(sa.exc.OperationalError):
        orders(shop)
    server.stop()  # asking twice does no harm
    server.start()
    assert orders(shop) == [7]


def test_a_database_is_dropped_under_an_open_transaction(server: Server) -> None:
    engine = sa.create_engine(server.create_database("busy"))
    with engine.begin() as setup:
        setup.execute(sa.text("CREATE TABLE orders (id integer PRIMARY KEY)"))
    left_open = engine.connect()
    left_open.execute(sa.text("SELECT id FROM orders"))
    server.drop_database("busy")
    with pytest.raises(sa.exc.DBAPIError):
        left_open.execute(sa.text("SELECT id FROM orders"))
    left_open.invalidate()
    left_open.close()
    engine.dispose()


def test_nothing_is_left_behind(server: Server) -> None:
    with type(server)(fast=True) as other:
        assert other.port != server.port
        pid, folder = other.pid, other.folder
        assert folder.is_dir()
    assert not is_alive(pid)
    assert not folder.exists()


def test_a_server_ends_with_a_killed_session(server: Server) -> None:
    family = next(name for name, kind in SERVERS.items() if type(server) is kind)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, family],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as session:
        assert session.stdout is not None
        pid, folder = session.stdout.readline().split()
        session.kill()
    wait_until(lambda: not Path(folder).exists(), "the folder to be removed")
    assert not is_alive(int(pid))


def test_a_server_that_cannot_start_says_why(server: Server) -> None:
    broken = type(server)(settings={"no_such_setting": "1"})
    with pytest.raises(RuntimeError, match=r"(?s)ended while it started.*no_such_setting"):
        broken.start()
    folder = broken.folder
    broken.close()
    assert not folder.exists()


def test_a_missing_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    with pytest.raises(NotInstalled, match="apt-get install postgresql"):
        Postgres()
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(NotInstalled, match="apt-get install mariadb-server"):
        MariaDB()


def test_each_test_gets_an_empty_database(database: Database) -> None:
    engine = sa.create_engine(database.url)
    assert engine.dialect.name == database.name
    assert sa.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE left_behind (id integer PRIMARY KEY)"))
    engine.dispose()


def test_the_next_test_gets_another(database: Database) -> None:
    test_each_test_gets_an_empty_database(database)
