"""What holds in every test of a contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, TextClause, event

from tests.conftest import DATABASES, SERVED_BY
from tests.contract.yard import Yard
from tests.furnished import Furnished
from tests.mysql_syntax import mariadb_only
from tests.servers import Database


@pytest.fixture(autouse=True)
def _mysql_would_understand() -> Iterator[None]:
    """MariaDB stands for MySQL in the tests, so whatever is sent to it must be MySQL's language."""
    wrong: list[str] = []

    def look(connection: Connection, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        # What SQLAlchemy composes, it composes for the server it speaks to.
        ours = context.compiled is None or isinstance(context.compiled.statement, TextClause)
        if ours and connection.dialect.name in ("mysql", "mariadb"):
            wrong.extend(f"{found} in: {statement}" for found in mariadb_only(statement))

    event.listen(Engine, "before_cursor_execute", look)
    yield
    event.remove(Engine, "before_cursor_execute", look)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def furnished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Furnished]:
    known: dict[str, Furnished] = {}

    def of(name: str) -> Furnished:
        if name not in known:
            server = request.getfixturevalue(SERVED_BY[name]) if name in SERVED_BY else None
            known[name] = Furnished(name, server, tmp_path_factory.mktemp("furnished"))
        return known[name]

    return of


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, furnished: Callable[[str], Furnished]) -> Iterator[Database]:
    """A database with Dray's tables and nothing in them, on each of the chosen servers in turn."""
    with furnished(request.param).one() as database:
        yield database


@pytest.fixture
def yard(database: Database) -> Iterator[Yard]:
    """An empty database, one worker, and a clock that only the test moves."""
    yard = Yard(database)
    yield yard
    yard.store.close()
