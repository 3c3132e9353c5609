"""Shares of limits: how many more may start, of those that wait, and when the next may if a rate forbids it now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, func, select, update

from dray.options import Limit
from dray.rates import Start, thinned
from dray.stations import LIMIT, Held
from dray.store.codes import READY, document
from dray.store.gates import Gate, let_out, lock
from dray.store.owed import Owed
from dray.store.places import Placed
from dray.store.rows import by_ids
from dray.store.tables import Tables

AT_ONCE = 100  # lines that are looked at with one statement
MOST = 1000  # that are let through of one line at once
_LINE = f"{{jobs}} w WHERE w.limit_hash = d.i AND w.limit_held = {int(Held.WAITS)}"
_HELD = f"SELECT count(*) FROM {{jobs}} h WHERE h.limit_hash = d.i AND h.limit_held = {int(Held.HOLDS)}"
_WAITED_FOR = f"SELECT d.i FROM {{rows}} WHERE (SELECT w.id FROM {_LINE} LIMIT 1) IS NOT NULL"
_COUNTS = f"SELECT d.i, ({_HELD}) AS held, {{unstarted}} AS unstarted, {{now}} AS now FROM {{rows}}"
_UNSTARTED = f"({_HELD} AND h.state = {READY})"  # reads the jobs themselves: only where a rate has to know
_FIRST = (
    f"SELECT * FROM (SELECT w.id FROM {{jobs}} w WHERE w.limit_hash = %d AND w.limit_held = {int(Held.WAITS)}"
    " ORDER BY w.priority, w.id LIMIT %d) AS l"
)
_FIRST_OF_EACH = (
    "SELECT d.h, l.id FROM {rows} CROSS JOIN LATERAL (SELECT w.id FROM {jobs} w WHERE w.limit_hash = d.h"
    f" AND w.limit_held = {int(Held.WAITS)} ORDER BY w.priority, w.id LIMIT d.n) AS l"
)
_OTHERS = (
    "SELECT j.id FROM {rows} JOIN {jobs} j ON j.id = d.i JOIN {gates} g ON g.gate_hash = j.limit_hash"
    " WHERE g.rule <> j.limit_rule"
)
_NAMED = (
    "SELECT j.id, j.limit_hash FROM {rows} JOIN {jobs} j ON j.id = d.i WHERE j.limit_hash IS NOT NULL UNION ALL"
    " SELECT h.id, h.limit_hash FROM {rows} JOIN {history} h ON h.id = d.i WHERE h.limit_hash IS NOT NULL"
)
# By the ids, not by the index of limits, in which a million may wait: newer ones there are few. The sum says so.
_NEWEST = "SELECT j.id, j.limit_rule FROM {table} j WHERE j.id >= :id AND j.limit_hash + 0 = :hash ORDER BY j.id DESC LIMIT 1"


def waited_for(connection: Connection, tables: Tables, limits: Sequence[int]) -> list[int]:
    """Those of these limits for which somebody waits."""
    return [row[0] for row in connection.execute(by_ids(tables, _WAITED_FOR), {"doc": document(limits)})]


def give_shares(connection: Connection, tables: Tables, limits: Sequence[int]) -> Placed:
    """Give the free shares of these limits to those that wait for them, the most urgent first."""
    gates = lock(connection, tables, LIMIT, limits)
    rated = any("/" in (gate.rule or "") for gate in gates)
    template = _COUNTS.replace("{unstarted}", _UNSTARTED if rated else "0")
    counts = connection.execute(by_ids(tables, template), {"doc": document(limits)}).all()
    taken = {row[0]: row for row in counts}
    rooms = [_room(gate, *taken[gate.hash][1:]) for gate in gates]
    chosen = _first_of(connection, tables, rooms)
    for room in rooms:
        room.use(len(chosen.get(room.gate.hash, ())))
        _remember(connection, tables, room)
    placed = let_out(connection, tables, LIMIT, sorted(id for ids in chosen.values() for id in ids))
    placed.owed.limits |= {hash for hash, ids in chosen.items() if len(ids) == MOST}  # there may be room for more
    return placed


def other_rules(connection: Connection, tables: Tables, ids: Sequence[int]) -> list[int]:
    """Those of these new jobs that bring other numbers for their limit than it has."""
    return sorted(connection.execute(by_ids(tables, _OTHERS), {"doc": document(ids)}).scalars())


def take_rules(connection: Connection, tables: Tables, ids: Sequence[int]) -> Placed:
    """Let the limits of these jobs have the numbers of the newest enqueue: of these, or of one that came after them.

    To be done twice. Who enqueues before the first has committed finds the numbers as they were, and perhaps that they are his
    own; the second finds him.
    """
    named = connection.execute(by_ids(tables, _NAMED), {"doc": document(ids)}).all()
    last = {hash: id for id, hash in sorted((row[0], row[1]) for row in named)}
    gates, changed = tables.gates, set[int]()
    for gate in lock(connection, tables, LIMIT, last):
        rule = _newest_rule(connection, tables, gate.hash, last[gate.hash])
        if rule is not None and rule != gate.rule:
            connection.execute(update(gates).where(gates.c.gate_hash == gate.hash).values(rule=rule))
            changed.add(gate.hash)
    return Placed(owed=Owed(limits=changed))


def _newest_rule(connection: Connection, tables: Tables, hash: int, since: int) -> str | None:
    """The numbers that the newest job with this limit brought, from this one on, whether it has ended or not."""
    found: list[tuple[int, str | None]] = []
    for place in ("{jobs}", "{history}"):
        rows = connection.execute(tables.text(_NEWEST.replace("{table}", place)), {"id": since, "hash": hash})
        found += [(row[0], row[1]) for row in rows]
    return max(found)[1] if found else None


def opening(connection: Connection, tables: Tables) -> float | None:
    """Seconds until a rate allows the next start of a job that waits for it; None: nobody waits for that."""
    first = connection.execute(select(func.min(tables.gates.c.opens_at) - tables.now())).scalar()
    return None if first is None else first / 1_000_000


def open_again(connection: Connection, tables: Tables, limit: int = 500) -> tuple[int, Owed]:
    """Owe a look at the limits of which a rate allows more starts by now; gives how many these are."""
    gates = tables.gates
    due = select(gates.c.gate_hash).where(gates.c.opens_at <= tables.fixed_now()).order_by(gates.c.gate_hash).limit(limit)
    hashes = sorted(connection.execute(tables.dialect.lock(due)).scalars())
    if hashes:
        connection.execute(update(gates).where(gates.c.gate_hash.in_(hashes)).values(opens_at=None))
    return len(hashes), Owed(limits=set(hashes))


# --- how much room there is ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Room:
    """What a limit allows at this moment.

    spent    the starts of the last `per` seconds: when, and how many
    """

    gate: Gate
    rule: Limit
    now: int
    free: int
    spent: list[Start]
    used: int = 0

    def use(self, count: int) -> None:
        self.used = count

    @property
    def opens_at(self) -> int | None:
        """When a rate will allow more, if it is what keeps the next one."""
        if self.rule.rate is None or self.used < self.free:
            return None
        first = self._starts[0][0] if self._starts else self.now
        return first + self.gate.per

    @property
    def _starts(self) -> list[Start]:
        return [*self.spent, *([(self.now, self.used)] if self.used else [])]

    def spent_now(self) -> str:
        return msgspec.json.encode(thinned(self._starts, self.gate.per)).decode()


def _room(gate: Gate, held: int, unstarted: int, now: int) -> _Room:
    rule = gate.limit
    free = 2**31 if rule.most is None else rule.most - held
    spent: list[Start] = []
    if rule.rate is not None:
        spent = gate.starts_since(now)
        # Those let through long ago that nobody has started yet would else start together with as many new ones.
        free = min(free, rule.rate - max(sum(count for _, count in spent), unstarted))
    return _Room(gate, rule, now, max(0, free), spent)


def _first_of(connection: Connection, tables: Tables, rooms: Iterable[_Room]) -> dict[int, list[int]]:
    """The first of each line, as many as there is room for."""
    open_ones = [room for room in rooms if room.free > 0]
    chosen: dict[int, list[int]] = {}
    for hash, id in _looked_up(connection, tables, open_ones):
        chosen.setdefault(hash, []).append(id)
    return chosen


def _looked_up(connection: Connection, tables: Tables, rooms: Sequence[_Room]) -> Iterator[tuple[int, int]]:
    if tables.dialect.name == "postgresql":
        lines = [{"h": room.gate.hash, "n": min(room.free, MOST)} for room in rooms]
        statement = tables.text(_FIRST_OF_EACH.replace("{rows}", tables.dialect.rows({"h": "int", "n": "int"})))
        rows = connection.execute(statement, {"doc": msgspec.json.encode(lines).decode()})
        yield from ((row[0], row[1]) for row in rows)
        return
    # The others have no LATERAL: one look for each line, many of them in one statement.
    names = tables.names()
    for start in range(0, len(rooms), AT_ONCE):
        looks = [
            f"SELECT {room.gate.hash} AS h, x.id FROM ({_FIRST % (room.gate.hash, min(room.free, MOST))}) AS x"
            for room in rooms[start : start + AT_ONCE]
        ]
        for row in connection.exec_driver_sql(" UNION ALL ".join(looks).format_map(names)).all():
            yield row[0], row[1]


def _remember(connection: Connection, tables: Tables, room: _Room) -> None:
    if room.rule.rate is None or (room.used == 0 and room.opens_at == room.gate.opens_at):
        return
    gates = tables.gates
    values = {"spent": room.spent_now(), "opens_at": room.opens_at}
    connection.execute(update(gates).where(gates.c.gate_hash == room.gate.hash).values(**values))
