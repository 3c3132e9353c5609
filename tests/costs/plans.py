"""Which index each statement goes by, asked of the database in the moment before it is run, with the values it is run with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Engine, event

SCAN = "scan"  # the table itself, from end to end
ALL = " (all)"  # behind an index: from end to end, or as far as a LIMIT lets it
_EXPLAINED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|\()", re.IGNORECASE)
_NAMED = re.compile(r"""[`"]?dray_(\w+)[`"]?(?:\s+(?:AS\s+)?(\w+))?""")


@contextmanager
def explained(engine: Engine) -> Iterator[list[tuple[str, str]]]:
    """Each statement within the block, in order, and how it finds its rows: by `jobs.ready`, by `jobs.id workers.id`.

    `id` stands for the primary key. A statement that is run for many sets of values is looked at once.
    """
    found: list[tuple[str, str]] = []
    ways = {"sqlite": _sqlite, "postgresql": _postgresql}.get(engine.dialect.name, _mysql)

    def before(_: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        if _EXPLAINED.match(statement) and "pg_notify" not in statement:
            with closing(cursor.connection.cursor()) as other:
                found.append((statement, " ".join(sorted(set(ways(other, statement, values[0] if many else values))))))

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", before)


def _aliases(statement: str) -> dict[str, str]:
    """Short names of the tables, by what they are called in a statement."""
    called = {}
    for table, alias in _NAMED.findall(statement):
        called[f"dray_{table}"] = table
        if alias:
            called.setdefault(alias, table)
    return called


def _way(table: str, index: str | None, *, whole: bool = False) -> str:
    if index is None:
        return f"{table}.{SCAN}"
    short = re.sub(rf"^dray_{table}_", "", index)
    return f"{table}.{'id' if short in ('PRIMARY', 'pkey') else short}{ALL if whole else ''}"


# --- the three ways of telling --------------------------------------------------------------------------------------------

_DETAIL = re.compile(r"(SCAN|SEARCH) (\w+)(?: USING (?:COVERING )?(?:INDEX (\w+)|(INTEGER PRIMARY KEY)))?")


def _sqlite(cursor: Any, statement: str, values: Any) -> Iterator[str]:
    called = _aliases(statement)
    for *_, detail in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall():
        told = _DETAIL.match(detail)
        if told and told[2] in called:
            table = called[told[2]]
            index = "PRIMARY" if told[4] or (told[3] or "").startswith("sqlite_autoindex") else told[3]
            yield _way(table, index, whole=told[1] == "SCAN")


def _postgresql(cursor: Any, statement: str, values: Any) -> Iterator[str]:
    cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
    told = cursor.fetchone()[0]
    plans = told if isinstance(told, list) else json.loads(told)
    yield from _of_nodes(plans[0]["Plan"], "")


def _of_nodes(node: dict[str, Any], table: str) -> Iterator[str]:
    name = node.get("Relation Name", "")
    table = name.removeprefix("dray_") if name else table  # a bitmap of an index stands below the scan of its table
    if node["Node Type"] == "Seq Scan":
        yield _way(table, None)
    elif "Index Name" in node:
        yield _way(table, node["Index Name"], whole="Index Cond" not in node)
    for below in node.get("Plans", ()):
        yield from _of_nodes(below, table)


def _mysql(cursor: Any, statement: str, values: Any) -> Iterator[str]:
    cursor.execute(f"EXPLAIN {statement}", values)
    names = [column[0] for column in cursor.description]
    yield from _of_lines((dict(zip(names, row, strict=True)) for row in cursor.fetchall()), _aliases(statement))


def _of_lines(lines: Iterable[dict[str, Any]], called: dict[str, str]) -> Iterator[str]:
    for line in lines:
        table = called.get(line["table"])
        if table is not None and line["select_type"] != "INSERT" and line["type"] is not None:
            yield _way(table, line["key"], whole=line["type"] == "index")
