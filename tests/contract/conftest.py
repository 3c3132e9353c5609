"""What holds in every test of a contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, TextClause, event

from tests.contract.yard import Yard
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


@pytest.fixture
def yard(database: Database) -> Iterator[Yard]:
    """An empty database, one worker, and a clock that only the test moves."""
    yard = Yard(database)
    yield yard
    yard.store.close()
