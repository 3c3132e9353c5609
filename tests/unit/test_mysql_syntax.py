"""Nothing that only MariaDB understands is meant for MySQL.

Here: the schema, the words of the dialect and the names. The contract tests look at every statement they send.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MYSQL

from dray.store import schema
from dray.store.dialects import MYSQL
from dray.store.tables import Tables
from tests.mysql_syntax import mariadb_only

STORE = Path(schema.__file__).parent

# Where syntax that MySQL lacks may stand, and why MySQL never sees it.
NOT_FOR_MYSQL = {
    "add._insert_document": "only where `dialect.returning`",
    "claim._CHOSEN": "PostgreSQL's",
    "history._move_statement": "PostgreSQL's",
}


def strings(source: str) -> Iterator[tuple[str, str]]:
    """Give every string in a module except docstrings, each with the function or constant it belongs to."""
    for statement in ast.parse(source).body:
        owner = getattr(statement, "name", "")
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            owner = target.id if isinstance(target, ast.Name) else ""
        said = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
                yield owner, node.value


def test_no_template_is_in_the_language_of_mariadb() -> None:
    found = {
        f"{path.stem}.{owner}": what
        for path in sorted(STORE.glob("*.py"))
        for owner, value in strings(path.read_text())
        if (what := mariadb_only(value))
    }
    unknown = {place: what for place, what in found.items() if place not in NOT_FOR_MYSQL}
    assert not unknown, f"MySQL 8 has no such thing; if it never sees this, say so in NOT_FOR_MYSQL: {unknown}"
    assert found.keys() == NOT_FOR_MYSQL.keys()


def test_the_schema_is_in_the_language_of_mysql() -> None:
    printed = schema.sql(Tables(MYSQL), "mysql")
    assert not [(statement, what) for statement in printed.split(";") if (what := mariadb_only(statement))]


def test_the_dialect_is_that_of_mysql() -> None:
    rows = MYSQL.rows({"i": "int", "t": "text"})
    for words in (MYSQL.now, MYSQL.given_now, MYSQL.begin, rows, *MYSQL.setup):
        assert not mariadb_only(words)


def test_no_column_has_a_name_that_mysql_reserves() -> None:
    tables = Tables(MYSQL).metadata.tables.values()
    assert not {column.name for table in tables for column in table.columns} & RESERVED_WORDS_MYSQL


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("INSERT INTO t (a) VALUES (1) RETURNING id", ["RETURNING"]),
        ("CREATE OR REPLACE TABLE t (a int)", ["CREATE OR REPLACE of anything but a view"]),
        ("CREATE OR REPLACE SQL SECURITY INVOKER VIEW v AS SELECT 1", []),
        ("ALTER TABLE t ADD COLUMN IF NOT EXISTS a int", ["IF NOT EXISTS of a column or index"]),
        ("CREATE INDEX IF NOT EXISTS i ON t (a)", ["IF NOT EXISTS of a column or index"]),
        ("CREATE TABLE IF NOT EXISTS t (a int)", []),
        ("ALTER TABLE t DROP COLUMN IF EXISTS a", ["IF EXISTS of a column or index"]),
        ("DROP VIEW IF EXISTS v", []),
        ("SELECT a FROM t FOR UPDATE WAIT 5", ["WAIT n"]),
        ("SELECT a FROM t FOR UPDATE SKIP LOCKED", []),
        ("SELECT a AS rank FROM t", ["the name rank"]),
        ("SELECT a AS `rank`, 'RETURNING', CAST(b AS SIGNED) FROM t", []),
    ],
)
def test_what_mysql_lacks_is_seen(statement: str, wrong: list[str]) -> None:
    assert mariadb_only(statement) == wrong
