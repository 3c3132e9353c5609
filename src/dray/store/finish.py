"""Ending runs, hundreds in one transaction: every write is fenced by (id, fence, state = running)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, insert

from dray.codec import sanitize
from dray.job import Change, Finish, Flag, Lease, Ready, Reason, State
from dray.lifecycle import heed
from dray.store.owed import Owed
from dray.store.tables import REASON, STATE, Tables

CHUNK_BYTES = 4_000_000  # in one statement: MariaDB takes packets of 16 MB unless told otherwise

_FIELDS = {
    "i": "int",
    "f": "int",
    "s": "int",
    "b": "int",  # attempts given back
    "c": "int",  # crashes added
    "ra": "int",  # microseconds it ran; null: it never started
    "ea": "int",  # microseconds since it ended
    "r": "text",
    "p": "text",
    "e": "text",
    "n": "text",
}
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
}


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
    _keep_attempts(connection, tables, (*staying, *ending), accepted)
    owed = _consequences(connection, tables, (*staying, *ending), accepted)
    if again and len(accepted) < len(finishes):
        before = _done_before(connection, tables, [one for one in ordered if one.claim.lease not in accepted])
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
        owed.gates(None if _keeps_group(change) else claim.group_hash, None if _keeps_limit(change) else claim.limit_hash)
    for halt in halting:
        connection.execute(insert(tables.halts).values(**halt))
    return owed


def _keeps_group(change: Change) -> bool:
    """Whether a job keeps its place at the head of its group: nobody passes it while it is tried again (S2.55)."""
    return not change.state.ended and change.reason not in (Reason.CHILDREN, Reason.GROUP) and not change.leaves_line


def _keeps_limit(change: Change) -> bool:
    """Whether a job keeps its share of a limit: only if it may be started at once."""
    return change.state is State.READY


# --- ends -----------------------------------------------------------------------------------------------------------------


def _end(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    if tables.dialect.name != "postgresql":
        return _end_in_steps(connection, tables, ending)
    statement = tables.text(_end_statement(tables))
    documents = _documents(map(_ended_row, ending))
    return {Lease(row[0], row[1]) for document in documents for row in connection.execute(statement, {"doc": document})}


def _end_in_steps(connection: Connection, tables: Tables, ending: Sequence[Finish]) -> set[Lease]:
    """Where one statement cannot move a row between tables: lock, copy, delete."""
    flags = _lock(connection, tables, [one.claim.lease for one in ending])
    mine = [one for one in ending if one.claim.lease in flags]
    if not mine:
        return set()
    copy = tables.text(_copy_statement(tables))
    gone = tables.text(tables.dialect.delete_ids("{jobs}"))
    for document in _documents(map(_ended_row, mine)):
        connection.execute(copy, {"doc": document})
        connection.execute(gone, {"doc": document})
    return {one.claim.lease for one in mine}


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
        row["e"] = sanitize(change.error)
    if change.note is not None:
        row["n"] = sanitize(change.note)
    return row


def _columns(tables: Tables) -> tuple[str, str]:
    names = tables.column_names
    return ", ".join(names), ", ".join(_ENDED.get(name, f"j.{name}") for name in names)


def _end_statement(tables: Tables) -> str:
    # What becomes NULL is left out until the very end: a NULL that passes through a subquery is text to PostgreSQL.
    kept = [name for name in tables.column_names if _ENDED.get(name) != "NULL"]
    made = ", ".join(f"{_ENDED[name]} AS {name}" if name in _ENDED else f"j.{name}" for name in kept)
    names = ", ".join(kept)
    return (
        "WITH d AS MATERIALIZED (SELECT d.*, {now} AS now FROM " + tables.dialect.rows(_FIELDS) + "),"
        f" gone AS (DELETE FROM {{jobs}} j USING d WHERE j.id = d.i AND j.fence = d.f AND {_RUNS}"
        # An array and not only a join, as for a claim.
        " AND j.id = ANY(ARRAY(SELECT i FROM d))"
        " RETURNING " + made.replace("t.now", "d.now") + ")"
        f" INSERT INTO {{history}} ({names}) SELECT {names} FROM gone RETURNING id, fence"
    )


def _copy_statement(tables: Tables) -> str:
    names, values = _columns(tables)
    join = "CROSS JOIN" if tables.dialect.returning else "STRAIGHT_JOIN"
    return (
        f"INSERT INTO {{history}} ({names}) SELECT {values} FROM (SELECT {{now}} AS now) AS t {join} "
        + tables.dialect.rows(_FIELDS)
        + f" {join} {{jobs}} j ON j.id = d.i AND j.fence = d.f AND j.state = 1".replace("CROSS JOIN", "JOIN")
    )


# --- moves back to a live state -------------------------------------------------------------------------------------------

_BY_ID = " AND j.id = ANY(ARRAY(SELECT d.i FROM {rows}))"  # for PostgreSQL, as above
_LOCK = "SELECT j.id, j.fence, j.flags FROM {rows} JOIN {jobs} j ON j.id = d.i AND j.fence = d.f WHERE " + _RUNS


def _with_rows(tables: Tables, template: str, columns: dict[str, str]) -> Any:
    return tables.text(template.replace("{rows}", tables.dialect.rows(columns)))


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
    document = msgspec.json.encode([{"i": lease.id, "f": lease.fence} for lease in leases]).decode()
    rows = connection.execute(_with_rows(tables, statement, {"i": "int", "f": "int"}), {"doc": document}).all()
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
}
_BACK = (
    "SET state = d.s, reason = d.rs, signature = d.sg, worker_id = NULL, started_at = NULL, claimed_at = NULL,"
    " ready_at = CASE WHEN d.s = 0 THEN {now} ELSE NULL END,"
    " run_at = CASE WHEN d.later = 1 THEN {now} + d.dl ELSE run_at END,"
    " group_held = CASE WHEN d.gh = 1 THEN group_held WHEN d.gh = 2 THEN 0 ELSE NULL END,"
    " limit_held = CASE WHEN d.lh = 1 THEN limit_held ELSE NULL END,"
    " attempt = attempt - d.b, crashes = CASE WHEN crashes < 32767 THEN crashes + d.c ELSE crashes END,"
    " snoozes = CASE WHEN snoozes < 2147483647 THEN snoozes + d.z ELSE snoozes END, flags = (flags & d.keep) | d.fl,"
    " result = COALESCE(d.r, result), report = COALESCE(d.p, report), error = COALESCE(d.e, error), note = d.n"
)
_PUT_BACK = f"UPDATE {{jobs}} AS j {_BACK} FROM {{rows}} WHERE j.id = d.i AND j.fence = d.f AND {_RUNS}"
_PUT_BACK_POSTGRESQL = _PUT_BACK + _BY_ID
_PUT_BACK_MYSQL = (
    f"UPDATE {{rows}} STRAIGHT_JOIN {{jobs}} j FORCE INDEX (PRIMARY) ON j.id = d.i AND j.fence = d.f {_BACK} WHERE j.state = 1"
)


def _put_back(connection: Connection, tables: Tables, staying: Sequence[Finish]) -> None:
    template = {"sqlite": _PUT_BACK, "postgresql": _PUT_BACK_POSTGRESQL}.get(tables.dialect.name, _PUT_BACK_MYSQL)
    statement = _with_rows(tables, template, _BACK_FIELDS)
    for document in _documents(_put_back_row(one) for one in staying):
        connection.execute(statement, {"doc": document})


def _documents(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The rows as JSON arrays, none of which is more than a server takes at once."""
    chunk: list[str] = []
    size = 0
    for row in rows:
        line = msgspec.json.encode(row)
        if chunk and size + len(line) > CHUNK_BYTES:
            yield f"[{','.join(chunk)}]"
            chunk, size = [], 0
        chunk.append(line.decode())
        size += len(line)
    if chunk:
        yield f"[{','.join(chunk)}]"


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
        "gh": 1 if _keeps_group(change) else 2 if change.reason is Reason.GROUP else 0,
        "lh": 1 if _keeps_limit(change) else 0,
        # Suspicion is over once it has run in sight; handing it back unstarted proves nothing.
        "keep": ~int(Flag.SUSPECT) if one.started else -1,
        "fl": int(Flag.SUSPECT) if change.suspect else 0,
        "r": change.result,
        "p": None if change.report is None else change.report.to_json(),
        "e": _storable(change.error),
        "n": _storable(change.note),
    }


def _storable(text: str | None) -> str | None:
    # One character that the database refuses would cost the whole batch, now and at each further try.
    return None if text is None else sanitize(text)


# --- side rows ------------------------------------------------------------------------------------------------------------


def _keep_attempts(connection: Connection, tables: Tables, finishes: Sequence[Finish], accepted: set[Lease]) -> None:
    """Keep what went wrong, attempt by attempt. A run that succeeded has all there is to say on the job itself."""
    rows = [
        {
            "i": one.claim.id,
            "f": one.claim.fence,
            "a": one.claim.attempt,
            "w": one.claim.worker_id,
            "s": STATE[one.change.state],
            "ea": round(one.ended_ago * 1_000_000),
            "ra": round(one.ran * 1_000_000),
            "e": _storable(one.change.error or one.change.note),
            "t": _storable(one.change.traceback),
        }
        for one in finishes
        if (one.change.error is not None or one.change.crashed) and one.claim.lease in accepted
    ]
    statement = _with_rows(tables, _KEEP_ATTEMPTS, _ATTEMPT_FIELDS)
    for document in _documents(rows):
        connection.execute(statement, {"doc": document})


_ATTEMPT_FIELDS = dict.fromkeys(("i", "f", "a", "w", "s", "ea", "ra"), "int") | {"e": "text", "t": "text"}
_KEEP_ATTEMPTS = (
    "INSERT INTO {attempts} (job_id, fence, attempt, state, worker_id, started_at, finished_at, error, traceback)"
    " SELECT d.i, d.f, d.a, d.s, d.w, n.now - d.ea - d.ra, n.now - d.ea, d.e, d.t FROM (SELECT {now} AS now) AS n, {rows}"
)


def _done_before(connection: Connection, tables: Tables, finishes: Sequence[Finish]) -> set[Lease]:
    """Those that an earlier try has written. A job may also have been rescued meanwhile, which leaves the fence as it is."""
    document = msgspec.json.encode([{"i": one.claim.id, "f": one.claim.fence} for one in finishes]).decode()
    statement = (
        "SELECT h.id, h.fence, h.state, h.snoozes FROM {rows} JOIN {history} h ON h.id = d.i AND h.fence = d.f UNION ALL"
        " SELECT j.id, j.fence, j.state, j.snoozes FROM {rows} JOIN {jobs} j ON j.id = d.i AND j.fence = d.f WHERE j.state <> 1"
    )
    rows = connection.execute(_with_rows(tables, statement, {"i": "int", "f": "int"}), {"doc": document}).all()
    found = {Lease(row[0], row[1]): (row[2], row[3]) for row in rows}
    statement = "SELECT a.job_id, a.fence, a.error FROM {rows} JOIN {attempts} a ON a.job_id = d.i AND a.fence = d.f"
    kept = connection.execute(_with_rows(tables, statement, {"i": "int", "f": "int"}), {"doc": document}).all()
    errors = {Lease(row[0], row[1]): row[2] for row in kept}
    return {
        lease for one in finishes if (lease := one.claim.lease) in found and _was_written(one, *found[lease], errors.get(lease))
    }


def _was_written(one: Finish, state: int, snoozes: int, error: str | None) -> bool:
    """Whether it was this end that changed the job, by the trace which only it leaves."""
    change = one.change
    if change.error is not None:
        return error == _storable(change.error)
    if change.snoozed:
        return snoozes > one.claim.snoozes
    # What was given back unstarted is where a rescue would have put it, too.
    return state == STATE[change.state] if change.state.ended else True


_MARK = "UPDATE {jobs} SET started_at = {now} - :ago WHERE id = :i AND fence = :f AND state = 1 AND started_at IS NULL"


def mark_started(connection: Connection, tables: Tables, lease: Lease, ago: float) -> bool:
    """Write down that user code of this run has been reached, `ago` seconds ago. False: the lease is no longer ours."""
    values = {"i": lease.id, "f": lease.fence, "ago": round(ago * 1_000_000)}
    return connection.execute(tables.text(_MARK), values).rowcount == 1
