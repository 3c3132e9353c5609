"""Where rows are measured: each time an empty database, on servers that write a commit to disk before they say so."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.redis_server import Redis
from tests.servers import MariaDB, NotInstalled, Postgres, Server

SQL = ("sqlite", "postgresql", "mariadb")  # where Dray lives
NAMES = (*SQL, "redis")
_SERVERS: dict[str, type[Server]] = {"postgresql": Postgres, "mariadb": MariaDB, "redis": Redis}


@dataclass(frozen=True, slots=True)
class Bed:
    """One kind of database."""

    name: str
    version: str
    # Empty each time: what one row leaves behind, in tables, caches and statistics, is no burden to the next.
    fresh: Callable[[], AbstractContextManager[str]]

    def analyze(self, url: str) -> None:
        """What a server that has been up for a minute would have done by itself: count what is in the tables."""
        if self.name == "postgresql":
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute("ANALYZE")


@contextmanager
def made(names: list[str], say: Callable[[str], None]) -> Iterator[list[Bed]]:
    """The databases of these names; a server that is not installed is said and left out."""
    with ExitStack() as stack:
        beds = []
        for name in names:
            if name == "sqlite":
                beds.append(Bed(name, sqlite3.sqlite_version, _file))
                continue
            try:
                server = stack.enter_context(_SERVERS[name]())
            except NotInstalled as missing:
                say(f"left out: {missing}")
                continue
            beds.append(_on(name, server))
        yield beds


@contextmanager
def _file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dray-bench-") as folder:
        yield f"sqlite:///{Path(folder) / 'bench.db'}"


def _on(name: str, server: Server) -> Bed:
    numbers = itertools.count()

    @contextmanager
    def fresh() -> Iterator[str]:
        database = f"bench_{next(numbers)}"
        yield server.create_database(database)
        server.drop_database(database)

    return Bed(name, _version(name, server), fresh)


def _version(name: str, server: Server) -> str:
    if isinstance(server, Redis):
        return server.version()
    ((version,),) = server.execute("SHOW server_version" if name == "postgresql" else "SELECT version()")
    return str(version).split()[0]
