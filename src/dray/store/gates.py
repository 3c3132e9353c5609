"""Letting jobs out of the lines of groups and limits.

Somebody comes to hold something here, in `follow`, and when a job that its group stands still for is run again.

Whoever lets somebody out locks the gate first and looks in a statement of its own afterwards, so that it sees what all before
it have done. What holds a gate is counted among the jobs themselves; nothing is counted in the gate's row, which is only there
to be locked. Those who give something back need no lock: the number of those who hold can only fall.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, and_, delete, select

from dray.errors import BadOption
from dray.options import Limit
from dray.rates import Start, counting
from dray.stations import GROUP, LIMIT, Held, gate_hash
from dray.store.codes import BLOCKED, document
from dray.store.owed import Owed
from dray.store.places import COLUMNS, Placed, Traveller, send_on
from dray.store.rows import by_ids
from dray.store.tables import Tables

KINDS = {GROUP: 1, LIMIT: 2}

# --- locks ----------------------------------------------------------------------------------------------------------------


class Gate(NamedTuple):
    """A gate whose row is locked by this transaction."""

    hash: int
    rule: str | None
    spent: str | None
    opens_at: int | None = None

    @property
    def limit(self) -> Limit:
        """Its numbers. Of a rule that a hand has written and nobody can read: one at a time, to be on the safe side."""
        try:
            return Limit.parse("limit", self.rule or "1")
        except BadOption:
            return Limit("limit", 1)

    @property
    def starts(self) -> list[Start]:
        """The starts that a rate has counted: when, and how many."""
        try:
            return msgspec.json.decode(self.spent or "[]", type=list[tuple[int, int]])
        except msgspec.DecodeError:
            return []

    @property
    def per(self) -> int:
        """The time of its rate, in microseconds."""
        return round(self.limit.per * 1_000_000)

    def starts_since(self, now: int) -> list[Start]:
        """Those that count still at this instant."""
        return counting(self.starts, now, self.per)


_LOCK = {
    "sqlite": "SELECT {columns} FROM {rows} JOIN {gates} g ON g.gate_hash = d.i",
    "postgresql": (
        "SELECT {columns} FROM {brief} b, {gates} g WHERE g.gate_hash = ANY(ARRAY(SELECT d.i FROM {rows}))"
        " ORDER BY g.gate_hash FOR NO KEY UPDATE OF g"
    ),
    "mysql": ("SELECT {columns} FROM {rows} STRAIGHT_JOIN {gates} g FORCE INDEX (PRIMARY) ON g.gate_hash = d.i FOR UPDATE"),
}
_COLUMNS = "g.gate_hash, g.rule, g.spent, g.opens_at"


def lock(connection: Connection, tables: Tables, kind: str, hashes: Iterable[int]) -> list[Gate]:
    """Lock these gates in ascending order; those that somebody waits at and that are not there yet are made."""
    wanted = sorted(set(hashes))
    found = _locked(connection, tables, wanted)
    missing = sorted(set(wanted).difference(gate.hash for gate in found))
    if not missing:
        return found
    _make(connection, tables, kind, missing)
    # All anew: a lock on the new ones alone would be out of order.
    return _locked(connection, tables, wanted)


def stand_in_order(connection: Connection, tables: Tables, groups: Iterable[str]) -> None:
    """Lock these groups before jobs are inserted into them, so that their ids and their commits are in one order.

    Only for short transactions of our own: all others who do so wait for this one.
    """
    names = {gate_hash(GROUP, name) or 0: name for name in groups}
    gates = tables.gates
    there = set(connection.execute(select(gates.c.gate_hash).where(gates.c.gate_hash.in_(sorted(names)))).scalars())
    insert, otherwise = tables.dialect.insert_new
    statement = f"{insert} {{gates}} (gate_hash, kind, name, made_at) VALUES (:h, {KINDS[GROUP]}, :name, {{now}}){otherwise}"
    for hash in sorted(names.keys() - there):
        connection.execute(tables.text(statement), {"h": hash, "name": names[hash]})
    _locked(connection, tables, sorted(names))


def _locked(connection: Connection, tables: Tables, hashes: Sequence[int]) -> list[Gate]:
    template = _LOCK[tables.dialect.name].replace("{rows}", tables.dialect.ids()).replace("{columns}", _COLUMNS)
    template = template.replace("{brief}", tables.dialect.brief)
    rows = connection.execute(tables.text(template), {"doc": document(hashes)})
    return [Gate(*row) for row in rows]


def _make(connection: Connection, tables: Tables, kind: str, hashes: Sequence[int]) -> None:
    """Write the rows of gates, named as the jobs name them that wait there. Of two who do it at once one does."""
    insert, otherwise = tables.dialect.insert_new
    first = (
        f"(SELECT w.id FROM {{jobs}} w WHERE w.{kind}_hash = d.i AND w.{kind}_held = {int(Held.WAITS)}"
        f" ORDER BY w.{_ORDER[kind]}, w.id LIMIT 1)"
    )
    latest = (
        f"(SELECT r.limit_rule FROM {{jobs}} r WHERE r.limit_hash = d.i AND r.limit_held = {int(Held.WAITS)}"
        " ORDER BY r.id DESC LIMIT 1)"
    )
    statement = (
        f"{insert} {{gates}} (gate_hash, kind, name, rule, made_at)"
        f" SELECT d.i, {KINDS[kind]}, j.{kind}_name, {latest if kind == LIMIT else 'NULL'}, {{now}}"
        f" FROM {tables.dialect.ids()} JOIN {{jobs}} j ON j.id = {first}{otherwise}"
    )
    connection.execute(tables.text(statement), {"doc": document(hashes)})


_ORDER = {GROUP: "group_rank", LIMIT: "priority"}

# --- groups ---------------------------------------------------------------------------------------------------------------

_LINE = f"{{jobs}} w WHERE w.group_hash = d.i AND w.group_held = {int(Held.WAITS)}"
# Scalar, each with its LIMIT: of an EXISTS MySQL would make a table of all that wait anywhere.
_HEADLESS = (
    "(SELECT h.id FROM {jobs} h WHERE h.group_hash = d.i AND h.group_held >= 1 LIMIT 1) IS NULL"
    " AND (SELECT s.job_id FROM {halts} s WHERE s.group_hash = d.i LIMIT 1) IS NULL"
)
_OPEN = f"SELECT d.i FROM {{rows}} WHERE (SELECT w.id FROM {_LINE} LIMIT 1) IS NOT NULL AND {_HEADLESS}"
_FIRST = f"SELECT (SELECT w.id FROM {_LINE} ORDER BY w.group_rank, w.id LIMIT 1) FROM {{rows}} WHERE {_HEADLESS}"


def open_groups(connection: Connection, tables: Tables, groups: Sequence[int]) -> list[int]:
    """Those of these groups in which somebody waits and nobody is at the head."""
    return [row[0] for row in connection.execute(by_ids(tables, _OPEN), {"doc": document(groups)})]


def let_heads(connection: Connection, tables: Tables, groups: Sequence[int]) -> Placed:
    """Let the first of each group's line to its head, unless somebody is there or the group stands still (S2.58, S2.60)."""
    # Only of those that are locked: one that has no row yet has got somebody since we looked, who owes a look himself.
    locked = [gate.hash for gate in lock(connection, tables, GROUP, groups)]
    found = connection.execute(by_ids(tables, _FIRST), {"doc": document(locked)})
    return let_out(connection, tables, GROUP, sorted(row[0] for row in found if row[0] is not None))


def unblock_group(connection: Connection, tables: Tables, group: int) -> tuple[list[int], Owed]:
    """Let a group go on without the failed jobs that it stands still for; gives their ids."""
    halts = tables.halts
    mine = halts.c.group_hash == group
    ids = sorted(connection.execute(select(halts.c.job_id).where(mine)).scalars())
    if ids:
        connection.execute(delete(halts).where(mine, halts.c.job_id.in_(ids)))
    return ids, Owed(groups={group})


_NEXT = "SELECT j.{kind}_hash FROM {{jobs}} j{index} WHERE j.{kind}_hash > :after ORDER BY j.{kind}_hash LIMIT 1"
_JUMPS = (
    "WITH RECURSIVE g(h, n) AS (SELECT MIN(j.{kind}_hash), 1 FROM {{jobs}} j WHERE j.{kind}_hash > :after"
    " UNION ALL SELECT (SELECT MIN(j.{kind}_hash) FROM {{jobs}} j WHERE j.{kind}_hash > g.h), g.n + 1"
    " FROM g WHERE g.h IS NOT NULL AND g.n < :limit) SELECT h FROM g WHERE h IS NOT NULL ORDER BY h"
)


def hashes_after(connection: Connection, tables: Tables, kind: str, after: int, limit: int) -> list[int]:
    """The gates that live jobs name, ascending, behind this one: from gate to gate through the index, however many jobs wait at
    each."""
    if tables.dialect.name != "mysql":
        statement = tables.text(_JUMPS.format(kind=kind))
        return list(connection.execute(statement, {"after": after, "limit": limit}).scalars())
    # It goes straight to a place in the index only if it is told that in numbers, and would read all jobs behind each gate.
    index = tables.dialect.quote(f"{tables.prefix}jobs_{kind}")
    statement = tables.text(_NEXT.format(kind=kind, index=f" FORCE INDEX ({index})"))
    found: list[int] = []
    while len(found) < limit:
        following = connection.execute(statement, {"after": found[-1] if found else after}).scalar()
        if following is None:
            break
        found.append(following)
    return found


def prune_gates(connection: Connection, tables: Tables, older_than: float, limit: int = 1000) -> int:
    """Delete the rows of gates that no live job names, and that count no starts. Whoever waits for such a row finds it gone,
    and makes it anew."""
    gates, jobs = tables.gates, tables.jobs
    groups = select(jobs.c.id).where(jobs.c.group_hash == gates.c.gate_hash).exists()
    limits = select(jobs.c.id).where(jobs.c.limit_hash == gates.c.gate_hash).exists()
    before = tables.fixed_now() - round(older_than * 1_000_000)
    idle = select(gates.c.gate_hash, gates.c.rule, gates.c.spent, tables.now().label("now"))
    idle = idle.where(gates.c.made_at < before, ~groups, ~limits).order_by(gates.c.gate_hash).limit(limit)
    rows = connection.execute(tables.dialect.lock(idle))
    hashes = [row[0] for row in rows if not Gate(*row[:3]).starts_since(row.now)]
    if not hashes:
        return 0
    # Looked at again under the lock: somebody may have joined since.
    gone = delete(gates).where(gates.c.gate_hash.in_(hashes), ~groups, ~limits)
    return connection.execute(gone).rowcount


def let_out(connection: Connection, tables: Tables, kind: str, ids: Sequence[int]) -> Placed:
    """Let these out of their lines, if they still stand there: an operator may have been faster."""
    if not ids:
        return Placed()
    columns = ", ".join(f"j.{name}" for name in (*COLUMNS, "state"))
    # Nobody waits here for a caller's transaction, which may be long: whom it has is let out later, and keeps his place.
    lock = tables.text(tables.dialect.lock_ids("{jobs}", columns, skip=True))
    locked = connection.execute(lock, {"doc": document(ids)}).all()
    place = COLUMNS.index(f"{kind}_held")
    still = [row for row in locked if row[place] == Held.WAITS and row[-1] == BLOCKED]
    let = [Traveller(*(*row[:place], int(Held.HOLDS), *row[place + 1 : -1])) for row in still]
    held = tables.jobs.c[f"{kind}_held"]
    placed = send_on(connection, tables, let, and_(tables.jobs.c.state == BLOCKED, held == int(Held.WAITS)))
    if len(locked) < len(ids):
        missed = set(ids) - {row[0] for row in locked}
        hashes = select(tables.jobs.c[f"{kind}_hash"]).where(tables.jobs.c.id.in_(sorted(missed)))
        found = {hash for hash in connection.execute(hashes).scalars() if hash is not None}
        (placed.locked.groups if kind == GROUP else placed.locked.limits).update(found)
    return placed
