"""Servers that keep what they promise and may be stopped, for the stories about crashes and outages."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.crash.wire import Wire
from tests.servers import Database, MariaDB, Postgres, Server

SERVERS: dict[str, type[Server]] = {"postgresql": Postgres, "mysql": MariaDB}
SHARED = {"postgresql": "postgres_server", "mysql": "mariadb_server"}


def own_server(request: pytest.FixtureRequest, name: str) -> Iterator[Server]:
    # The session's server says whether there can be one; ours keeps its promises (fsync), and may be stopped.
    request.getfixturevalue(SHARED[name])
    with SERVERS[name]() as server:
        yield server


@pytest.fixture(scope="session")
def own_postgresql(request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from own_server(request, "postgresql")


@pytest.fixture(scope="session")
def own_mysql(request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from own_server(request, "mysql")


def on_server(request: pytest.FixtureRequest, name: str) -> Iterator[Database]:
    server: Server = request.getfixturevalue(f"own_{name}")
    if not server.running:
        server.start()
    database = f"dray_{uuid4().hex[:12]}"
    yield Database(name, server.create_database(database), server)
    if not server.running:  # the story broke off while it was down
        server.start()
    server.drop_database(database)


@pytest.fixture(params=["sqlite", *SERVERS])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database whose commits survive a power cut."""
    if request.param == "sqlite":
        if "sqlite" not in os.environ.get("DRAY_TEST_DATABASES", "sqlite"):
            pytest.skip("sqlite is left out by DRAY_TEST_DATABASES")
        yield Database("sqlite", f"sqlite:///{tmp_path}/dray.db", None)
    else:
        yield from on_server(request, request.param)


@pytest.fixture(params=SERVERS)
def stoppable(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database on a server that can be stopped."""
    yield from on_server(request, request.param)


@pytest.fixture
def wire(stoppable: Database) -> Iterator[Wire]:
    """A network to the stoppable database."""
    wire = Wire(stoppable.url)
    yield wire
    wire.close()


@pytest.fixture
def first_of_a_container() -> Iterator[tuple[str, ...]]:
    words = ("unshare", "--pid", "--fork", "--kill-child")
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a process 1 of one's own needs the right to unshare: {error}")
    return words
