"""Ending runs, hundreds in one transaction: every write is fenced by (id, fence, state = running)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert

from dray.job import Change, Finish, Flag, Lease, Ready, Reason, State, Usage
from dray.lifecycle import heed
from dray.store.attempts import done_before, keep_attempts
from dray.store.codes import REASON, STATE, document
from dray.store.notices import give
from dray.store.owed import Owed
from dray.store.rows import by_leases, documents, lease_document, storable, with_rows
from dray.store.tables import Tables

# What the last run cost, and what the hooks said of it; nothing, where there was none.
USAGE_FIELDS = dict.fromkeys(("pd", "cp", "m0", "m1", "k0", "k1"), "int")
_USAGE = {
    "pid": "d.pd",
    "cpu_us": "d.cp",
    "memory_before": "d.m0",
    "memory_after": "d.m1",
    "peak_before": "d.k0",
    "peak_after": "d.k1",
}
_FIELDS = {
    "i": "int",
    "f": "int",
    "s": "int",
    "b": "int",  # attempts given back
    "c": "int",  # crashes added
    "ra": "int",  # microseconds it ran; null: it never started
    "ea": "int",  # microseconds since it ended
    **USAGE_FIELDS,
}
# What most ends do not say. Batches without any of it have a statement of their own: to read a field that is not there costs
# a database as much as one that is.
_RARE = dict.fromkeys(("r", "p", "e", "n", "md"), "text") | {"fl": "int"}  # the flags are added
# Still running, but not by the index of running jobs: that one is short only as long as nobody keeps an old snapshot open.
_RUNS = "j.state + 0 = 1"
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
    **{name: f"CASE WHEN d.pd IS NULL THEN j.{name} ELSE {new} END" for name, new in _USAGE.items()},
}
_PLAIN = dict.fromkeys(("result", "report", "error", "note"), "NULL") | {"flags": "j.flags", "metadata": "j.metadata"}


class Written(NamedTuple):
    """What a batch of ends came to, and what it owes. What is not in `accepted` had lost its lease."""

    accepted: set[Lease]
    ready: list[Ready]
    owed: Owed


def finish(connection: Connection, tables: Tables, finishes: Sequence[Finish], *, again: bool = False) -> Written:
    """Write what became of these runs, in one transaction.

    `again`: an earlier try ended without an answer, so that its commit may have happened: what is found done already under
    the same fence then counts as accepted.
    """
    ordered = sorted(finishes, key=lambda one: one.claim.id)  # ascending: nobody who locks many rows waits in a circle
    staying = [one for one in ordered if not one.change.state.ended]
    ending = [one for one in ordered if one.change.state.ended]
    accepted: set[Lease] = set()
    ready: list[Ready] = []
    if staying:
        staying, turned = _heeded(connection, tables, staying)
        ending = sorted([*ending, *turned], key=lambda one: one.claim.id) if turned else ending
        _put_back(connection, tables, staying)
        accepted |= {one.claim.lease for one in staying}
        ready += [
            Ready(one.claim.id, one.claim.queue, one.claim.priority) for one in staying if one.change.state is State.READY
        ]
    if ending:
        accepted |= _end(connection, tables, ending)
    keep_attempts(connection, tables, (*staying, *ending), accepted)
    give(connection, tables, (*staying, *ending), accepted)
    owed = _consequences(connection, tables, (*staying, *ending), accepted)
    if again and len(accepted) < len(finishes):
        before = done_before(connection, tables, [one for one in ordered if one.claim.lease not in accepted])
        owed.ended |= {lease.id for lease in before}  # of their gates that try has left a note
        accepted |= before
    return Written(accepted, ready, owed)


def _consequences(connection: Connection, tables: Tables, finishes: Sequence[Finish], accepted: set[Lease]) -> Owed:
    """What these runs leave to others."""
    owed, halting = Owed(), []
    all_ours = len(accepted) == len(finishes)
    for one in finishes:
        claim, change = one.claim, one.change
        if not all_ours and claim.lease not in accepted:
            continue
        if claim.group_hash is None and claim.limit_hash is None and change.state.ended:
            owed.ended.add(claim.id)  # as most do
            continue
        if change.state.ended:
            owed.ended.add(claim.id)
            if claim.threshold is not None:
                owed.coverers.add(claim.id)
        if change.reason is Reason.CHILDREN:
            owed.waiting.add(claim.id)  # perhaps they have all ended already (C66)
        if change.state is State.FAILED and claim.flags & Flag.HALT and claim.group_hash is not None:
            halting.append({"group_hash": claim.group_hash, "job_id": claim.id, "at": tables.now()})
        owed.gates(None if _keeps_group(one) else claim.group_hash, None if _keeps_limit(change) else claim.limit_hash)
    for halt in halting:
        connection.execute(insert(tables.halts).values(**halt))
    return owed


def _keeps_group(one: Finish) -> bool:
    """Whether a job keeps its place at the head of its group: nobody passes it while it is tried again (S2.55)."""
    change = one.change
    return (
        not one.claim.out_of_turn
        and not change.state.ended
        and change.reason not in (Reason.CHILDREN, Reason.GROUP)
        and not change.leaves_line
    )


def _keeps_limit(change: Change) -> bool:
    """Whether a job keeps its share of a limit: only if it may be started at once."""
    return change.state is State.READY


# --- ends -----------------------------------------------------------------------------------------------------------------


def _end(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Move those that are still ours to the history."""
    if tables.dialect.name == "mysql":
        return _end_in_steps(connection, tables, ending)
    rows = [_ended_row(one) for one in ending]
    plain = _are_plain(rows)
    end = _end_at_once if tables.dialect.name == "postgresql" else _end_alone
    return {Lease(row[0], row[1]) for part in documents(rows) for row in end(connection, tables, part, plain)}


def _end_at_once(connection: Connection, tables: Tables, rows: str, plain: bool) -> Sequence[Any]:
    statement = tables.query(_end_statement(tables, plain=plain), ("id", "fence"))
    return connection.execute(statement, {"doc": rows}).all()


def _end_alone(connection: Connection, tables: Tables, rows: str, plain: bool) -> Sequence[Any]:
    """Where nobody else writes meanwhile: what could be copied is what may be deleted."""
    statement = tables.query(_copy_statement(tables, plain=plain), ("id", "fence"))
    moved = connection.execute(statement, {"doc": rows}).all()
    if moved:
        gone = tables.text(tables.dialect.delete_ids("{jobs}"))
        connection.execute(gone, {"doc": document(row[0] for row in moved)})
    return moved


def _end_in_steps(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Where others do, and one statement cannot move a row between tables: lock, copy, delete."""
    flags = _lock(connection, tables, [one.claim.lease for one in ending])
    mine = [one for one in ending if one.claim.lease in flags]
    if not mine:
        return set()
    rows = [_ended_row(one) for one in mine]
    copy = tables.text(_copy_statement(tables, plain=_are_plain(rows)))
    gone = tables.text(tables.dialect.delete_ids("{jobs}"))
    for part in documents(rows):
        connection.execute(copy, {"doc": part})
    connection.execute(gone, {"doc": document(one.claim.id for one in mine)})
    return {one.claim.lease for one in mine}


def _are_plain(rows: Iterable[dict[str, Any]]) -> bool:
    return all(map(_RARE.keys().isdisjoint, rows))


def _ended_row(one: Finish) -> dict[str, Any]:
    claim, change = one.claim, one.change
    row: dict[str, Any] = {
        "i": claim.id,
        "f": claim.fence,
        "s": STATE[change.state],
        "b": 0 if change.counted else 1,
        "c": 1 if change.crashed else 0,
        "ra": round(one.ran * 1_000_000) if one.started else None,
        "ea": round(one.ended_ago * 1_000_000),
    }
    if change.result is not None:
        row["r"] = change.result
    if change.report is not None:
        row["p"] = change.report.to_json()
    if change.error is not None:
        row["e"] = storable(change.error)
    if change.note is not None:
        row["n"] = storable(change.note)
    if change.told:
        row["fl"] = int(Flag.TOLD)
    if one.usage is not None:
        row |= _usage_row(one.usage)
    if one.metadata is not None:
        row["md"] = one.metadata
    return row


def _usage_row(usage: Usage) -> dict[str, Any]:
    cpu = None if usage.cpu is None else round(usage.cpu * 1_000_000)
    return {
        "pd": usage.pid,
        "cp": cpu,
        "m0": usage.memory_before,
        "m1": usage.memory_after,
        "k0": usage.peak_before,
        "k1": usage.peak_after,
    }


def _given(*, plain: bool) -> tuple[dict[str, str], dict[str, str]]:
    """The fields that rows have, and what becomes of the columns."""
    return (_FIELDS, _ENDED | _PLAIN) if plain else (_FIELDS | _RARE, _ENDED)


def _end_statement(tables: Tables, *, plain: bool) -> str:
    fields, ended = _given(plain=plain)
    # What becomes NULL is left out until the very end: a NULL that passes through a subquery is text to PostgreSQL.
    kept = [name for name in tables.column_names if ended.get(name) != "NULL"]
    made = ", ".join(f"{ended[name]} AS {name}" if name in ended else f"j.{name}" for name in kept)
    names = ", ".join(kept)
    return (
        "WITH d AS MATERIALIZED (SELECT d.*, {now} AS now FROM " + tables.dialect.rows(fields) + "),"
        f" gone AS (DELETE FROM {{jobs}} j USING d WHERE j.id = d.i AND j.fence = d.f AND {_RUNS}"
        # An array and not only a join, as for a claim.
        " AND j.id = ANY(ARRAY(SELECT i FROM d))"
        " RETURNING " + made.replace("t.now", "d.now") + ")"
        f" INSERT INTO {{history}} ({names}) SELECT {names} FROM gone RETURNING id, fence"
    )


def _copy_statement(tables: Tables, *, plain: bool) -> str:
    fields, ended = _given(plain=plain)
    names, rows = tables.column_names, tables.dialect.rows(fields)
    insert = f"INSERT INTO {{history}} ({', '.join(names)}) SELECT {', '.join(ended.get(name, f'j.{name}') for name in names)}"
    if tables.dialect.name == "mysql":
        return (
            f"{insert} FROM (SELECT {{now}} AS now) AS t STRAIGHT_JOIN {rows}"
            " STRAIGHT_JOIN {jobs} j ON j.id = d.i AND j.fence = d.f AND j.state = 1"
        )
    # MATERIALIZED: else a field is looked for in the document again wherever it is used.
    return (
        f"WITH d AS MATERIALIZED (SELECT * FROM {rows}) {insert} FROM (SELECT {{now}} AS now) AS t CROSS JOIN d"
        " JOIN {jobs} j ON j.id = d.i AND j.fence = d.f AND j.state = 1 RETURNING id, fence"
    )


# --- moves back to a live state -------------------------------------------------------------------------------------------

_BY_ID = " AND j.id = ANY(ARRAY(SELECT d.i FROM {rows}))"  # for PostgreSQL, as above
_LOCK = "SELECT j.id, j.fence, j.flags FROM {rows} JOIN {jobs} j ON j.id = d.i AND j.fence = d.f WHERE " + _RUNS


def _lock(connection: Connection, tables: Tables, leases: Iterable[Lease]) -> dict[Lease, int]:
    """Lock the rows that are still ours, and give the flags they have by now."""
    match tables.dialect.name:
        case "sqlite":
            statement = _LOCK
        case "postgresql":
            statement = _LOCK + _BY_ID + " ORDER BY j.id FOR NO KEY UPDATE OF j"
        case _:
            by_key = _LOCK.replace(" JOIN ", " STRAIGHT_JOIN ").replace(" ON ", " FORCE INDEX (PRIMARY) ON ")
            statement = by_key + " FOR UPDATE"
    document = lease_document(leases)
    rows = connection.execute(by_leases(tables, statement), {"doc": document}).all()
    return {Lease(row[0], row[1]): row[2] for row in rows}


def _heeded(connection: Connection, tables: Tables, staying: Sequence[Finish]) -> tuple[list[Finish], list[Finish]]:
    """The moves that are still ours, changed where an operator has spoken meanwhile; second: those that now end."""
    flags = _lock(connection, tables, [one.claim.lease for one in staying])
    live: list[Finish] = []
    ended: list[Finish] = []
    for one in staying:
        if one.claim.lease in flags:
            heeded = one._replace(change=heed(one.change, flags[one.claim.lease]))
            (ended if heeded.change.state.ended else live).append(heeded)
    return live, ended


_BACK_FIELDS = {
    "i": "int",
    "f": "int",
    "s": "int",
    "rs": "int",
    "sg": "int",
    "later": "int",  # 1: it waits for its time, so many microseconds
    "dl": "int",
    "b": "int",  # attempts given back
    "c": "int",  # crashes added
    "z": "int",  # snoozes added
    "gh": "int",  # 1: it keeps its place in its group, 2: it goes back into the line
    "lh": "int",  # 1: it keeps its limit
    "keep": "int",  # flags that stay
    "fl": "int",  # flags that are added
    "r": "text",
    "p": "text",
    "e": "text",
    "n": "text",
    **USAGE_FIELDS,
    "md": "text",
}
_BACK = (
    "SET state = d.s, reason = d.rs, signature = d.sg, worker_id = NULL, started_at = NULL, claimed_at = NULL,"
    " ready_at = CASE WHEN d.s = 0 THEN {now} ELSE NULL END,"
    " run_at = CASE WHEN d.later = 1 THEN {now} + d.dl ELSE run_at END,"
    " group_held = CASE WHEN d.gh = 1 THEN group_held WHEN d.gh = 2 THEN 0 ELSE NULL END,"
    " limit_held = CASE WHEN d.lh = 1 THEN limit_held ELSE NULL END,"
    " attempt = attempt - d.b, crashes = CASE WHEN crashes < 32767 THEN crashes + d.c ELSE crashes END,"
    " snoozes = CASE WHEN snoozes < 2147483647 THEN snoozes + d.z ELSE snoozes END, flags = (flags & d.keep) | d.fl,"
    " result = COALESCE(d.r, result), report = COALESCE(d.p, report), error = COALESCE(d.e, error), note = d.n,"
    " metadata = COALESCE(d.md, metadata), "
    + ", ".join(f"{name} = CASE WHEN d.pd IS NULL THEN {name} ELSE {new} END" for name, new in _USAGE.items())
)
_PUT_BACK = f"UPDATE {{jobs}} AS j {_BACK} FROM {{rows}} WHERE j.id = d.i AND j.fence = d.f AND {_RUNS}"
_PUT_BACK_POSTGRESQL = _PUT_BACK + _BY_ID
_PUT_BACK_MYSQL = (
    f"UPDATE {{rows}} STRAIGHT_JOIN {{jobs}} j FORCE INDEX (PRIMARY) ON j.id = d.i AND j.fence = d.f {_BACK} WHERE j.state = 1"
)


def _put_back(connection: Connection, tables: Tables, staying: Sequence[Finish]) -> None:
    template = {"sqlite": _PUT_BACK, "postgresql": _PUT_BACK_POSTGRESQL}.get(tables.dialect.name, _PUT_BACK_MYSQL)
    statement = with_rows(tables, template, _BACK_FIELDS)
    for part in documents(_put_back_row(one) for one in staying):
        connection.execute(statement, {"doc": part})


def _put_back_row(one: Finish) -> dict[str, Any]:
    claim, change = one.claim, one.change
    return {
        "i": claim.id,
        "f": claim.fence,
        "s": STATE[change.state],
        "rs": None if change.reason is None else REASON[change.reason],
        "sg": change.signature,
        "later": 1 if change.state in (State.SCHEDULED, State.RETRYING) else 0,
        "dl": round(change.delay * 1_000_000),
        "b": 0 if change.counted else 1,
        "c": 1 if change.crashed else 0,
        "z": 1 if change.snoozed else 0,
        "gh": 1 if _keeps_group(one) else 2 if change.reason is Reason.GROUP else 0,
        "lh": 1 if _keeps_limit(change) else 0,
        # Suspicion is over once it has run in sight; handing it back unstarted proves nothing.
        "keep": ~int(Flag.SUSPECT) if one.started else -1,
        "fl": (int(Flag.SUSPECT) if change.suspect else 0) | (int(Flag.TOLD) if change.told else 0),
        "r": change.result,
        "p": None if change.report is None else change.report.to_json(),
        "e": storable(change.error),
        "n": storable(change.note),
        "md": one.metadata,
        **({} if one.usage is None else _usage_row(one.usage)),
    }


# --- the start ----------------------------------------------------------------------------------------------------------

_MARK = "UPDATE {jobs} SET started_at = {now} - :ago WHERE id = :i AND fence = :f AND state = 1 AND started_at IS NULL"


def mark_started(connection: Connection, tables: Tables, lease: Lease, ago: float) -> bool:
    """Write down that user code of this run has been reached, `ago` seconds ago. False: the lease is no longer ours."""
    values = {"i": lease.id, "f": lease.fence, "ago": round(ago * 1_000_000)}
    return connection.execute(tables.text(_MARK), values).rowcount == 1
