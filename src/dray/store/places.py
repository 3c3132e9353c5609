"""Putting jobs where they have to wait next: one statement for all that come to stand in the same place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, TextClause, update

from dray.job import Ready, State
from dray.stations import Place, enter
from dray.store.codes import REASON, STATE
from dray.store.owed import Owed
from dray.store.tables import Tables

# What has to be read of a job, under its lock, to know where it goes. `id` first.
COLUMNS = ("id", "queue", "priority", "flags", "group_hash", "group_held", "limit_hash", "limit_held")


class Traveller(NamedTuple):
    """A job on its way, its row locked by this transaction."""

    id: int
    queue: str
    priority: int
    flags: int
    group_hash: int | None
    group_held: int | None
    limit_hash: int | None
    limit_held: int | None


@dataclass(slots=True)
class Placed:
    """What came of it: jobs that are ready now, the gates whose lines some have joined, and what has to be looked at again
    later, since somebody else had it locked."""

    ready: list[Ready] = field(default_factory=list)
    owed: Owed = field(default_factory=Owed)
    locked: Owed = field(default_factory=Owed)

    def add(self, other: Placed) -> None:
        self.ready += other.ready
        self.owed.add(other.owed)
        self.locked.add(other.locked)


def columns_of(place: Place, tables: Tables) -> dict[str, Any]:
    """What is written into the row of a job that comes to stand here."""
    return {
        "state": STATE[place.state],
        "reason": None if place.reason is None else REASON[place.reason],
        "ready_at": tables.now() if place.state is State.READY else None,
        "group_held": place.group_held,
        "limit_held": place.limit_held,
    }


def send_on(
    connection: Connection,
    tables: Tables,
    travellers: Sequence[Traveller],
    expected: ColumnElement[bool] | TextClause,
    values: Mapping[str, Any] | None = None,
) -> Placed:
    """Send locked jobs, which are as `expected`, to their next station; `values` are written with that."""
    places: defaultdict[Place, list[Traveller]] = defaultdict(list)
    for one in travellers:
        places[enter(one)].append(one)
    jobs, placed = tables.jobs, Placed()
    for place, some in places.items():
        mine = update(jobs).where(jobs.c.id.in_(sorted(one.id for one in some)), expected)
        connection.execute(tables.dialect.by_primary_key(mine).values(**columns_of(place, tables), **(values or {})))
        placed.add(arrived(place, some))
    return placed


def arrived(place: Place, some: Sequence[Traveller]) -> Placed:
    """What comes of it that these jobs stand there now: those that joined a line may be the first of it, those that gave
    something back may let others go on."""
    placed = Placed()
    if place.state is State.READY:
        placed.ready = [Ready(one.id, one.queue, one.priority) for one in some]
        return placed
    for one in some:
        joins_limit = place.limit_held is not None or one.limit_held is not None
        joins_group = place.group_held != one.group_held
        placed.owed.gates(one.group_hash if joins_group else None, one.limit_hash if joins_limit else None)
    return placed
