"""The way into the history: hundreds of ended jobs are moved by one statement, each only while its lease is ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from dray.job import Finish, Flag, Lease, State, Usage
from dray.lifecycle import SUCCEEDED
from dray.store.codes import STATE, document
from dray.store.rows import Value, bound, by_leases, lease_document, packed, storable, values
from dray.store.tables import Tables

# Still running, but not by the index of running jobs: that one is short only as long as nobody keeps an old snapshot open.
RUNS = "j.state + 0 = 1"
BY_ID = " AND j.id = ANY(ARRAY(SELECT d.i FROM {rows}))"  # for PostgreSQL: an array and not only a join, as for a claim

# What the last run cost: nothing, where there was none.
COST = ("pd", "cp", "m0", "m1", "k0", "k1")
LAST_RUN = {
    "pid": "d.pd",
    "cpu_us": "d.cp",
    "memory_before": "d.m0",
    "memory_after": "d.m1",
    "peak_before": "d.k0",
    "peak_after": "d.k1",
}
_NO_COST = (None,) * len(COST)

_FIELDS = {
    "i": "int",
    "f": "int",
    "ra": "int",  # microseconds it ran; null: it never started
    "ea": "int",  # microseconds since it ended
    **dict.fromkeys(COST, "int"),
}
# What there is to say of an end that is no plain success. Batches of nothing else have a statement of their own.
_RARE = {
    "s": "int",
    "b": "int",  # attempts given back
    "c": "int",  # crashes added
    "fl": "int",  # flags added
    **dict.fromkeys(("r", "p", "e", "n", "md"), "text"),
}
# How a column of an ended job is made; every other column is taken over as it is.
_ENDED = {
    "state": "d.s",
    "reason": "NULL",
    "ready_at": "NULL",
    "attempt": "j.attempt - d.b",
    "crashes": "CASE WHEN j.crashes < 32767 THEN j.crashes + d.c ELSE j.crashes END",  # no row makes a batch fail
    "started_at": "CASE WHEN d.ra IS NULL THEN j.started_at ELSE t.now - d.ea - d.ra END",
    "finished_at": "t.now - d.ea",
    "group_held": "NULL",
    "limit_held": "NULL",
    "result": "d.r",
    "report": "d.p",
    "error": "d.e",
    "note": "d.n",
    "flags": "CASE WHEN d.fl IS NULL THEN j.flags ELSE j.flags | d.fl END",  # not | 0: MySQL's sums of bits have no sign
    "metadata": "COALESCE(d.md, j.metadata)",
    **{name: f"CASE WHEN d.pd IS NULL THEN j.{name} ELSE {new} END" for name, new in LAST_RUN.items()},
}
_PLAIN = {
    **dict.fromkeys(("result", "report", "error", "note"), "NULL"),
    **{name: f"j.{name}" for name in ("attempt", "crashes", "flags", "metadata")},
    "state": str(STATE[State.SUCCEEDED]),
}


def move(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Move those that are still ours, in ascending order of their ids; gives those that are not."""
    match tables.dialect.name:
        case "postgresql":
            return _move_at_once(connection, tables, ending)
        case "mysql":
            return _move_locked(connection, tables, ending)
        case _:
            return _move_alone(connection, tables, ending)


def _move_at_once(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    plain = all(map(_is_plain, ending))
    template = tables.kept(("move", plain), partial(_move_statement, tables, plain=plain))
    statement = tables.query(template, ("i", "f"))
    return {Lease(*row) for part in _packed(ending, plain=plain) for row in connection.execute(statement, {"doc": part})}


def _move_alone(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Where nobody else writes meanwhile: what could be copied is what may be deleted."""
    lost: set[Lease] = set()
    if _copy_bound(connection, tables, ending) < len(ending):
        lost = _without(ending, lock_running(connection, tables, [one.claim.lease for one in ending]))
    _delete(connection, tables, [one for one in ending if one.claim.lease not in lost] if lost else ending)
    return lost


def _move_locked(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Where others do, and one statement cannot move a row between tables: lock, copy, delete."""
    held = lock_running(connection, tables, [one.claim.lease for one in ending])
    if len(held) == len(ending):
        lost: set[Lease] = set()
    else:
        lost = _without(ending, held)
        ending = [one for one in ending if one.claim.lease in held]
    _copy(connection, tables, ending)
    _delete(connection, tables, ending)
    return lost


def _without(ending: Sequence[Finish], ours: Iterable[Lease]) -> set[Lease]:
    return {one.claim.lease for one in ending}.difference(ours)


def _copy(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> None:
    plain = all(map(_is_plain, ending))
    statement = tables.text(tables.kept(("copy", plain), partial(_copy_statement, tables, plain=plain)))
    for part in _packed(ending, plain=plain):
        connection.execute(statement, {"doc": part})


def _copy_bound(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> int:
    """The same on SQLite, to which each field that it has to find in a document is dearer than all it does with it: here its
    values are bound. Gives how many rows these were."""
    plain = all(map(_is_plain, ending))
    fields, _ = _given(plain=plain)
    copied = 0
    for some in bound(_rows(ending, plain=plain), len(fields)):
        statement = tables.kept(
            ("copy bound", plain, some.size), partial(_copy_bound_statement, tables, some.size, plain=plain)
        )
        assert tables.clock is not None  # it has no clock of its own
        copied += connection.exec_driver_sql(statement, (*some.values, tables.clock())).rowcount
    return copied


def _delete(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> None:
    if ending:
        gone = tables.text(tables.dialect.delete_ids("{jobs}"))
        connection.execute(gone, {"doc": document(one.claim.id for one in ending)})


def lock_running(connection: Connection, tables: Tables, leases: Iterable[Lease]) -> dict[Lease, int]:
    """Lock the rows that are still ours, and give the flags they have by now."""
    match tables.dialect.name:
        case "sqlite":
            statement = _LOCK
        case "postgresql":
            statement = _LOCK + BY_ID + " ORDER BY j.id FOR NO KEY UPDATE OF j"
        case _:
            by_key = _LOCK.replace(" JOIN ", " STRAIGHT_JOIN ").replace(" ON ", " FORCE INDEX (PRIMARY) ON ")
            statement = by_key + " FOR UPDATE"
    rows = connection.execute(by_leases(tables, statement), {"doc": lease_document(leases)})
    return {Lease(row[0], row[1]): row[2] for row in rows}


_LOCK = "SELECT j.id, j.fence, j.flags FROM {rows} JOIN {jobs} j ON j.id = d.i AND j.fence = d.f WHERE " + RUNS


# --- what is sent ---------------------------------------------------------------------------------------------------------


def _packed(ending: Sequence[Finish], *, plain: bool) -> Iterable[str]:
    return packed(_given(plain=plain)[0], _rows(ending, plain=plain))


def _rows(ending: Sequence[Finish], *, plain: bool) -> list[tuple[Value, ...]]:
    return list(map(_row, ending)) if plain else [_row(one) + _rare(one) for one in ending]


def _is_plain(one: Finish) -> bool:
    return one.change is SUCCEEDED and one.metadata is None


def _row(one: Finish) -> tuple[Value, ...]:
    claim, ran = one.claim, round(one.ran * 1_000_000) if one.started else None
    return (claim.id, claim.fence, ran, round(one.ended_ago * 1_000_000)) + cost(one.usage)  # noqa: RUF005  half the time


def _rare(one: Finish) -> tuple[Value, ...]:
    change = one.change
    return (
        STATE[change.state],
        0 if change.counted else 1,
        1 if change.crashed else 0,
        int(Flag.TOLD) if change.told else None,
        change.result,
        None if change.report is None else change.report.to_json(),
        storable(change.error),
        storable(change.note),
        one.metadata,
    )


def cost(usage: Usage | None) -> tuple[Value, ...]:
    """What a run cost, in the order of `COST`."""
    if usage is None:
        return _NO_COST
    pid, cpu, before, after, peak_before, peak_after = usage  # not *rest: to make that list takes as long as all else
    return pid, None if cpu is None else round(cpu * 1_000_000), before, after, peak_before, peak_after


def _given(*, plain: bool) -> tuple[dict[str, str], dict[str, str]]:
    """The fields that rows have, and what becomes of the columns."""
    return (_FIELDS, _ENDED | _PLAIN) if plain else (_FIELDS | _RARE, _ENDED)


def _move_statement(tables: Tables, *, plain: bool) -> str:
    fields, ended = _given(plain=plain)
    # What becomes NULL is left out until the very end: a NULL that passes through a subquery is text to PostgreSQL.
    kept = [name for name in tables.column_names if ended.get(name) != "NULL"]
    made = ", ".join(f"{ended[name]} AS {name}" if name in ended else f"j.{name}" for name in kept)
    names = ", ".join(kept)
    return (
        "WITH d AS MATERIALIZED (SELECT d.*, {now} AS now FROM " + tables.dialect.rows(fields) + "),"
        f" gone AS (DELETE FROM {{jobs}} j USING d WHERE j.id = d.i AND j.fence = d.f AND {RUNS}"
        + BY_ID.replace("{rows}", "d")
        + " RETURNING "
        + made.replace("t.now", "d.now")
        + f"), moved AS (INSERT INTO {{history}} ({names}) SELECT {names} FROM gone RETURNING id, fence)"
        # What comes back is what was not moved: mostly nothing.
        " SELECT i, f FROM d EXCEPT SELECT id, fence FROM moved"
    )


def _copy_statement(tables: Tables, *, plain: bool) -> str:
    fields, ended = _given(plain=plain)
    return (
        f"{_into_history(tables, ended)} FROM (SELECT {{now}} AS now) AS t STRAIGHT_JOIN {tables.dialect.rows(fields)}"
        " STRAIGHT_JOIN {jobs} j ON j.id = d.i AND j.fence = d.f AND j.state = 1"
    )


def _copy_bound_statement(tables: Tables, size: int, *, plain: bool) -> str:
    fields, ended = _given(plain=plain)
    statement = (
        f"{_into_history(tables, ended)} FROM {values(fields, size)} CROSS JOIN (SELECT ? AS now) AS t"
        " JOIN {jobs} j ON j.id = d.i AND j.fence = d.f AND j.state = 1"
    )
    return statement.format_map(tables.names())


def _into_history(tables: Tables, ended: Mapping[str, str]) -> str:
    names = tables.column_names
    return f"INSERT INTO {{history}} ({', '.join(names)}) SELECT {', '.join(ended.get(name, f'j.{name}') for name in names)}"
