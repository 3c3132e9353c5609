"""What every test may ask for: servers, started when first asked for, and an empty database of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from tests.servers import Database, MariaDB, NotInstalled, Postgres, Server, memory

ALL = ("sqlite", "postgresql", "mysql")


def chosen_databases() -> tuple[str, ...]:
    """Read DRAY_TEST_DATABASES, a list such as `sqlite,postgresql`; without it, all of them."""
    words = os.environ.get("DRAY_TEST_DATABASES", "").replace(",", " ").split()
    if unknown := set(words) - set(ALL):
        raise pytest.UsageError(f"DRAY_TEST_DATABASES: {sorted(unknown)} are none of {', '.join(ALL)}")
    return tuple(words) or ALL


DATABASES = chosen_databases()

# What is ignored here, as under `nohup` or in the background of a script, every program under test would ignore too. A handler
# is not inherited.
for ignored in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler if ignored is signal.SIGINT else lambda *_: None)

# The settings of whoever runs the tests must not reach the programs under test.
for name in [name for name in os.environ if name.startswith("DRAY_") and not name.startswith("DRAY_TEST_")]:
    del os.environ[name]


def started(make: type[Server], name: str) -> Iterator[Server]:
    if name not in DATABASES:
        pytest.skip(f"{name} is left out by DRAY_TEST_DATABASES")
    try:
        server = make(fast=True)
    except NotInstalled as missing:
        # At home a smaller round is better than none; in CI nothing may be left out in silence.
        if os.environ.get("CI"):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL for the whole session; what a test makes in it must have a name of its own."""
    yield from started(Postgres, "postgresql")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB for the whole session; what a test makes in it must have a name of its own."""
    yield from started(MariaDB, "mysql")


SERVED_BY = {"postgresql": "postgres_server", "mysql": "mariadb_server"}


@pytest.fixture
def database(empty_database: Database) -> Database:
    return empty_database


@pytest.fixture(params=DATABASES)
def empty_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database on each of the chosen servers in turn; it is dropped after the test."""
    if request.param == "sqlite":
        with TemporaryDirectory(prefix="dray-", dir=memory()) as folder:
            yield Database("sqlite", f"sqlite:///{folder}/dray.db", None)
        return
    server: Server = request.getfixturevalue(SERVED_BY[request.param])
    name = f"dray_{uuid4().hex[:12]}"
    yield Database(request.param, server.create_database(name), server)
    server.drop_database(name)
