"""Databases with Dray's tables in them that one test leaves to the next: to make them takes longer than most tests do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, NullPool, create_engine, inspect

from dray.store import open_store
from tests.servers import Database, Server, memory


def make_tables(url: str) -> None:
    with closing(open_store(url, create_tables=True)) as store:
        store.ensure()


class Furnished:
    """Gives out databases of one server, or files; whoever has one has it for himself, without rows, its numbers begin at 1."""

    def __init__(self, name: str, server: Server | None, folder: Path) -> None:
        self.name = name
        self.server = server
        self.folder = folder
        self.tables: frozenset[str] = frozenset()
        self.free: list[tuple[str, str]] = []

    @contextmanager
    def one(self) -> Iterator[Database]:
        if self.server is None:
            with TemporaryDirectory(prefix="dray-", dir=memory()) as folder:
                shutil.copy(self._file(), f"{folder}/dray.db")
                yield Database(self.name, f"sqlite:///{folder}/dray.db", None)
            return
        name, url = self.free.pop() if self.free else self._new(self.server)
        yield Database(self.name, url, self.server)
        self.server.end_sessions(name)
        if self._clear(name, url):
            self.free.append((name, url))
        else:
            self.server.drop_database(name)

    def _file(self) -> Path:
        path = self.folder / "furnished.db"
        if not path.exists():
            make_tables(f"sqlite:///{path}")
        return path

    def _new(self, server: Server) -> tuple[str, str]:
        name = f"dray_{uuid4().hex[:12]}"
        url = server.create_database(name)
        make_tables(url)
        self.tables = self.tables or _tables(url)
        return name, url

    def _clear(self, name: str, url: str) -> bool:
        """Take everything out of it; False: it is not any more what it was, or nobody knows how to."""
        with _opened(url) as connection:
            if frozenset(inspect(connection).get_table_names()) != self.tables:
                return False
            _CLEAR[self.name](connection, name, sorted(self.tables))
        return True


@contextmanager
def _opened(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def _tables(url: str) -> frozenset[str]:
    with _opened(url) as connection:
        return frozenset(inspect(connection).get_table_names())


def _used(connection: Connection, tables: list[str]) -> list[str]:
    looks = (f"(SELECT '{table}' FROM {table} LIMIT 1)" for table in tables)
    return list(connection.exec_driver_sql(" UNION ALL ".join(looks)).scalars())


def _clear_postgresql(connection: Connection, name: str, tables: list[str]) -> None:
    if used := _used(connection, tables):
        connection.exec_driver_sql(f"TRUNCATE {', '.join(used)}")
    connection.exec_driver_sql(
        "SELECT setval(c.oid, 1, false) FROM pg_class c WHERE c.relkind = 'S' AND c.relnamespace = 'public'::regnamespace"
    )
    connection.exec_driver_sql(f"ALTER DATABASE {name} RESET ALL")


def _clear_mysql(connection: Connection, name: str, tables: list[str]) -> None:
    counted = connection.exec_driver_sql(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND auto_increment > 1"
    )
    for table in {*counted.scalars(), *_used(connection, tables)}:
        connection.exec_driver_sql(f"TRUNCATE {table}")


_CLEAR: Mapping[str, Any] = {"postgresql": _clear_postgresql, "mysql": _clear_mysql}
