"""Ending jobs that nobody runs: because of a parent, of their children, of their time, or of the job that did their work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, insert, literal, literal_column, null, select

from dray.job import Flag
from dray.store.codes import BLOCKED, FAILED, document
from dray.store.notices import give_ended
from dray.store.owed import Owed
from dray.store.places import Placed
from dray.store.rows import by_ids
from dray.store.tables import Tables


def end_waiting(
    connection: Connection, tables: Tables, ends: Mapping[int, tuple[int, str | None]], reason: int, flags: int = 0
) -> Placed:
    """End locked jobs that wait for this reason: the state of each, and a note (None: it keeps its own)."""
    alike: defaultdict[tuple[int, str | None], list[int]] = defaultdict(list)
    for id, end in ends.items():
        alike[end].append(id)
    for (state, note), ids in alike.items():
        said = {} if note is None else {"note": note}
        carry(connection, tables, tables.jobs, tables.history, ids, (BLOCKED,), ended(tables, state, flags) | said)
    failed = [id for id, (state, _) in ends.items() if state == FAILED]
    give_ended(connection, tables, failed)
    _halt(connection, tables, failed)
    return Placed(owed=Owed(ended=set(ends), coverers=set(ends)))  # they may have done the work of others


_HALT = (
    "INSERT INTO {halts} (group_hash, job_id, at) SELECT h.group_hash, h.id, {now} FROM {rows} JOIN {history} h ON h.id = d.i"
    f" WHERE h.group_hash IS NOT NULL AND (h.flags & {int(Flag.HALT)}) <> 0"
)


def _halt(connection: Connection, tables: Tables, failed: Collection[int]) -> None:
    """Let the groups stand still of those that have failed because of others, where that was asked for."""
    if failed:
        connection.execute(by_ids(tables, _HALT), {"doc": document(sorted(failed))})


def ended(tables: Tables, state: int, flags: int = 0) -> dict[str, Any]:
    """What is written into a job that ends now and holds nothing any more; `flags` are added."""
    gone = dict.fromkeys(("reason", "ready_at", "group_held", "limit_held", "covered_by"))
    flagged = {"flags": tables.jobs.c.flags.bitwise_or(flags)} if flags else {}
    return {**gone, **flagged, "state": state, "finished_at": tables.now()}


def carry(
    connection: Connection,
    tables: Tables,
    source: Table,
    target: Table,
    ids: Collection[int],
    states: Collection[int],
    values: Mapping[str, Any],
) -> None:
    """Carry locked rows from one table to the other, changing some of their columns."""
    if not ids:
        return
    mine = select(*[_expression(source, column.name, values).label(column.name) for column in source.c])
    # The sums keep SQLite and PostgreSQL from looking through all jobs of these states, by their index, for those with the ids.
    mine = mine.where(source.c.id.in_(sorted(ids)), (source.c.state + literal_column("0")).in_(states))
    connection.execute(insert(target).from_select([column.name for column in source.c], mine))
    short = source.name.removeprefix(tables.prefix)
    expected = f"j.state + 0 IN ({', '.join(map(str, states))})"
    gone = tables.text(tables.dialect.delete_ids(f"{{{short}}}", where=expected))
    connection.execute(gone, {"doc": document(sorted(ids))})


def _expression(source: Table, name: str, values: Mapping[str, Any]) -> ColumnElement[Any]:
    column = source.c[name]
    if name not in values:
        return column
    value = values[name]
    if value is None:
        return null()
    return value if isinstance(value, ColumnElement) else literal(value, column.type)
