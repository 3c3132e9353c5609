"""Where the jobs are that a filter lets through: the ways to the newest of them, whatever the number of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    TextClause,
    column,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union_all,
)

from dray.job import State, name_hash
from dray.stations import GROUP, gate_hash
from dray.store.codes import EPOCH, REASON, STATE, UNUSUAL, WAITING
from dray.store.filters import DEEP, Filter
from dray.store.tables import Tables

FEW = 50_000  # so many rows of one state can still be gathered from an index and sorted
SOON = 1000  # if more than so many of a queue are ready, it is taken to be met with soon
SLACK = 60_000_000  # microseconds: ids and creation times are in the same order but for clocks that were set
LAST = 2**63 - 1  # behind every id
OWN = {"waiting": WAITING, "state": UNUSUAL}  # indexes of some states only

Condition = ColumnElement[bool] | TextClause


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One way to some of the jobs.

    index     has these rows by state and id, behind what they have in common; the state is then not among the conditions
    gather    take all there are from the index of their state, and sort them
    """

    table: Table
    conditions: list[Condition]
    state: State | None = None
    index: str | None = None
    gather: bool = False

    @property
    def ended(self) -> bool:
        return self.table.name.endswith("history")


def newest(
    connection: Connection, tables: Tables, wanted: Filter, limit: int, before: int | None
) -> list[tuple[Look, Select[Any]]]:
    """The ids of the newest jobs before this id, in one query for each way to them; not more than `limit` from each."""
    low, before = _bounds(connection, tables, wanted, before)
    return [(look, _ids(tables, look, low, before).limit(limit)) for look in _looks(connection, tables, wanted)]


def is_in(state: State) -> TextClause:
    """The condition for a state, written out: a partial index needs the very words it was made with."""
    some = next((f"{_one_of(some)} AND " for some in OWN.values() if state in some), "")
    return text(f"{some}state = {STATE[state]}")


def _one_of(states: Collection[State]) -> str:
    return f"state IN ({', '.join(str(STATE[state]) for state in states)})"


def capped(state: State, table: Table, cap: int, *more: Condition) -> Select[Any]:
    """Count the rows of a state up to the cap plus one."""
    some = select(literal_column("1").label("one")).select_from(table).where(is_in(state), *more).limit(cap + 1).subquery()
    return select(func.count()).select_from(some)


def _ids(tables: Tables, look: Look, low: int, before: int | None) -> Select[Any]:
    table, id = look.table, look.table.c.id
    query = select(id).where(*look.conditions)
    if look.index is not None and look.state is not None:
        query = tables.dialect.by_index(query, table, f"{table.name}_{look.index}")
        if tables.dialect.name == "postgresql" and not low:
            return _in_index_order(query, look, LAST if before is None else before)
        # Not in the words of an index of its own, which SQLite would prefer to that of the queue or task.
        query = query.where(is_in(look.state) if look.index in OWN else text(f"state = {STATE[look.state]}"))
    # The sum keeps planners from walking along the ids.
    key = id + literal_column("0") if look.gather else id
    if low:
        query = query.where(key >= low)
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc())


def _in_index_order(query: Select[Any], look: Look, before: int) -> Select[Any]:
    """The same for PostgreSQL, in words that no other index fits. It believes that 50 rows are soon met with, and would rather
    walk back along the ids, perhaps through millions of others. And it guesses by the state alone how many come before a place:
    below the lowest state it expects none, and takes any index at all."""
    assert look.index is not None
    assert look.state is not None
    table = look.table
    code: ColumnElement[int] = literal_column(str(STATE[look.state]))
    if look.index in OWN:
        query = query.where(text(_one_of(OWN[look.index])))
    place = tuple_(table.c.state, table.c.id) <= tuple_(code, literal_column(str(before - 1)))
    return query.where(place, table.c.state >= code).order_by(table.c.state.desc(), table.c.id.desc())


def _looks(connection: Connection, tables: Tables, wanted: Filter) -> Iterator[Look]:
    states = wanted.possible_states()
    for table, ended in ((tables.jobs, False), (tables.history, True)):
        conditions = _conditions(tables, table, wanted)
        if states is None and not _by_state(connection, tables, wanted, ended):
            yield Look(table=table, conditions=conditions)
            continue
        for state in State:
            if state.ended is ended and (states is None or state in states):
                yield _look(connection, tables, wanted, state, conditions)


def _by_state(connection: Connection, tables: Tables, wanted: Filter, ended: bool) -> bool:
    """Whether jobs in any state are found better state by state than by walking back along the ids."""
    if wanted.selective or wanted.is_deep or (wanted.queue is None and wanted.task is None):
        return False
    if ended:
        return True
    # Of live jobs there is no index by queue or task, each claim would pay for it. Those of a queue that many are ready in are
    # met with soon; there may be few of another, far back.
    return wanted.queue is not None and _is_few(connection, tables.jobs, wanted, State.READY, SOON)


def _look(connection: Connection, tables: Tables, wanted: Filter, state: State, conditions: list[Condition]) -> Look:
    """The way to the jobs of one state."""
    table = tables.history if state.ended else tables.jobs
    index = None if wanted.selective or wanted.is_deep else _index(tables, wanted, state)
    if index is not None:
        return Look(table=table, conditions=conditions, state=state, index=index)
    if not wanted.selective and _is_few(connection, table, wanted, state, FEW):
        return Look(table=table, conditions=[is_in(state), *conditions], gather=True)
    # Of a state that millions are in, the newest are found by walking back along the ids; an index would gather them all first.
    return Look(table=table, conditions=[text(f"state + 0 = {STATE[state]}"), *conditions])


def _index(tables: Tables, wanted: Filter, state: State) -> str | None:
    """The index that has the wanted jobs of a state in the order of their ids."""
    if state.ended:
        if wanted.task is not None:  # of a queue there may be many tasks, a task is mostly in one queue
            return "task"
        if wanted.queue is not None:
            return "queue"
        return "state" if state in UNUSUAL else None
    return "waiting" if state in WAITING and tables.dialect.partial_indexes else None


def _is_few(connection: Connection, table: Table, wanted: Filter, state: State, few: int) -> bool:
    if state is State.RUNNING:
        return True  # never more than the workers have room for
    mine = [table.c.queue_hash == name_hash(wanted.queue)] if state is State.READY and wanted.queue is not None else []
    count: int = connection.execute(capped(state, table, few, *mine)).scalar_one()
    return count <= few


def _deep_conditions(table: Table, wanted: Filter) -> Iterator[Condition]:
    if wanted.group is not None:
        yield table.c.group_hash == gate_hash(GROUP, wanted.group)
        yield table.c.group_name == wanted.group
    if wanted.text is not None:
        yield or_(*[some.icontains(wanted.text, autoescape=True) for some in (table.c.args, table.c.error)])


def _conditions(tables: Tables, table: Table, wanted: Filter) -> list[Condition]:
    conditions: list[Condition] = []
    for name in ("queue", "task", "key"):
        value = getattr(wanted, name)
        if value is not None:
            text_column = table.c["job_key" if name == "key" else name]
            # By the exact name (C50): the hash finds it, the name itself has the last word.
            conditions += [table.c[f"{name}_hash"] == name_hash(value), text_column == value]
    if wanted.owner is not None:
        conditions.append(table.c.owner == wanted.owner)
    if wanted.worker_id is not None:
        conditions.append(table.c.worker_id == wanted.worker_id)
        if table is tables.jobs:
            conditions.append(is_in(State.RUNNING))  # only running jobs have a worker, and they have an index
    if wanted.reason is not None:
        conditions.append(table.c.reason == REASON[wanted.reason])
    conditions += _deep_conditions(table, wanted)
    if wanted.label is not None:
        conditions.append(table.c.id.in_(_labelled(tables, *wanted.label)))
    if wanted.since is not None:
        conditions.append(table.c.created_at >= _microseconds(wanted.since))
    if wanted.until is not None:
        conditions.append(table.c.created_at < _microseconds(wanted.until))
    return conditions


def _labelled(tables: Tables, name: str, value: str) -> Select[Any]:
    labels = tables.labels
    exact = labels.c.name == name, labels.c.value == value
    return select(labels.c.job_id).where(labels.c.label_hash == name_hash(f"{name}={value}"), *exact)


def _bounds(connection: Connection, tables: Tables, wanted: Filter, before: int | None) -> tuple[int, int | None]:
    """The ids between which a filter by time has to look."""
    low = 0
    if wanted.since is not None:
        low = _first_id_since(connection, tables, _microseconds(wanted.since) - SLACK)
    if wanted.until is not None:
        end = _first_id_since(connection, tables, _microseconds(wanted.until) + SLACK)
        before = end if before is None else min(before, end)
    if wanted.is_deep:
        low = max(low, _newest_id(connection, tables) - DEEP)
    return low, before


def _newest_id(connection: Connection, tables: Tables) -> int:
    newest = union_all(*[select(func.max(table.c.id).label("id")) for table in (tables.jobs, tables.history)]).subquery()
    return connection.execute(select(func.max(newest.c.id))).scalar() or 0


def _first_id_since(connection: Connection, tables: Tables, moment: int) -> int:
    """The id from which on jobs were created at this moment or later: a bisection, two dozen probes."""
    low, high = 0, _newest_id(connection, tables) + 1
    while low < high:
        middle = (low + high) // 2
        nearest = [
            select(table.c.id, table.c.created_at).where(table.c.id >= middle).order_by(table.c.id).limit(1).subquery()
            for table in (tables.jobs, tables.history)
        ]
        query = union_all(*[select(one) for one in nearest]).order_by(column("id")).limit(1)
        row = connection.execute(query).first()
        if row is None or row.created_at >= moment:
            high = middle
        else:
            low = row.id + 1
    return low


def _microseconds(moment: datetime) -> int:
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
