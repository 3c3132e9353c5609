"""Ending runs, hundreds in one transaction: every write is fenced by (id, fence, state = running)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert

from dray.job import Change, Finish, Flag, Lease, Ready, Reason, State
from dray.lifecycle import SUCCEEDED, heed
from dray.store.attempts import done_before, keep_attempts
from dray.store.base import Finished
from dray.store.codes import REASON, STATE
from dray.store.history import BY_ID, COST, LAST_RUN, RUNS, cost, lock_running, move
from dray.store.notices import give
from dray.store.owed import Owed
from dray.store.rows import documents, storable, with_rows
from dray.store.tables import Tables


class Written(NamedTuple):
    """What a batch of ends came to, and what it owes."""

    finished: Finished
    owed: Owed


def finish(connection: Connection, tables: Tables, finishes: Sequence[Finish], *, again: bool = False) -> Written:
    """Write what became of these runs, in one transaction.

    `again`: an earlier try ended without an answer, so that its commit may have happened: what is found done already under
    the same fence is then not refused.
    """
    ordered = sorted(finishes, key=_id)  # ascending: nobody who locks many rows waits in a circle
    ending: list[Finish] = []
    staying: list[Finish] = []
    for one in ordered:
        (ending if one.change.state.ended else staying).append(one)
    refused: set[Lease] = set()
    if staying:
        asked = {one.claim.lease for one in staying}
        staying, turned = _heeded(connection, tables, staying)
        refused = asked.difference(one.claim.lease for one in (*staying, *turned))
        ending = sorted([*ending, *turned], key=_id) if turned else ending
        _put_back(connection, tables, staying)
    if ending:
        refused |= move(connection, tables, ending)
    written = [*staying, *ending]
    if telling := [one for one in written if one.change is not SUCCEEDED or one.recorded]:
        keep_attempts(connection, tables, telling, refused)
        give(connection, tables, telling, refused)
    owed = _consequences(connection, tables, written, refused)
    if again and refused:
        before = done_before(connection, tables, [one for one in ordered if one.claim.lease in refused])
        owed.ended |= {lease.id for lease in before}  # of their gates that try has left a note
        refused -= before
    ready = [Ready(one.claim.id, one.claim.queue, one.claim.priority) for one in staying if one.change.state is State.READY]
    return Written(Finished(finishes, refused, ready), owed)


def _id(one: Finish) -> int:
    return one.claim.id


def _consequences(connection: Connection, tables: Tables, finishes: Sequence[Finish], refused: set[Lease]) -> Owed:
    """What these runs leave to others."""
    owed, halting = Owed(), []
    for one in finishes:
        claim, change = one.claim, one.change
        if refused and claim.lease in refused:
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


# --- moves back to a live state -------------------------------------------------------------------------------------------


def _heeded(connection: Connection, tables: Tables, staying: Sequence[Finish]) -> tuple[list[Finish], list[Finish]]:
    """The moves that are still ours, changed where an operator has spoken meanwhile; second: those that now end."""
    flags = lock_running(connection, tables, [one.claim.lease for one in staying])
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
    **dict.fromkeys(COST, "int"),
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
    + ", ".join(f"{name} = CASE WHEN d.pd IS NULL THEN {name} ELSE {new} END" for name, new in LAST_RUN.items())
)
_PUT_BACK = f"UPDATE {{jobs}} AS j {_BACK} FROM {{rows}} WHERE j.id = d.i AND j.fence = d.f AND {RUNS}"
_PUT_BACK_POSTGRESQL = _PUT_BACK + BY_ID
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
        **dict(zip(COST, cost(one.usage), strict=True)),
    }


# --- the start ----------------------------------------------------------------------------------------------------------

_MARK = "UPDATE {jobs} SET started_at = {now} - :ago WHERE id = :i AND fence = :f AND state = 1 AND started_at IS NULL"


def mark_started(connection: Connection, tables: Tables, lease: Lease, ago: float) -> bool:
    """Write down that user code of this run has been reached, `ago` seconds ago. False: the lease is no longer ours."""
    values = {"i": lease.id, "f": lease.fence, "ago": round(ago * 1_000_000)}
    return connection.execute(tables.text(_MARK), values).rowcount == 1
