"""Finding what nobody settled: by the notes that a crash leaves behind, and by going round all that waits, a slice at a time.

The notes are exact and cost nothing beside a million jobs that wait rightly. The round finds what has no note: the first edges
of a database, rows that were changed by a hand, and mistakes of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from sqlalchemy import Connection

from dray.stations import GROUP, LIMIT
from dray.store.connect import Database
from dray.store.cover import coverers_in
from dray.store.gates import hashes_after
from dray.store.limits import open_again, opening
from dray.store.owed import Owed
from dray.store.settle import Settler
from dray.store.tables import Tables

SLICE = 500  # gates or jobs that are looked at with one statement
EVERY = 10.0  # seconds between the beginnings of two rounds
BUDGET = 0.05  # seconds that a part of the round may take
LOWEST = -(2**63)

# Also of jobs that have ended: who waits no longer is seen by its id, and a slice stays a slice.
_WAITING = "SELECT DISTINCT e.job_id FROM {edges} e WHERE e.job_id > :after ORDER BY e.job_id LIMIT :slice"


class Part(NamedTuple):
    """One kind of thing that the round goes through, by ascending numbers."""

    name: str
    look: Callable[[Connection, Tables, int, int], Sequence[int]]  # numbers behind the second last, so many at most
    owe: Callable[[set[int]], Owed]


def _gates(kind: str, connection: Connection, tables: Tables, after: int, limit: int) -> Sequence[int]:
    return hashes_after(connection, tables, kind, after, limit)


def _waiting(connection: Connection, tables: Tables, after: int, limit: int) -> Sequence[int]:
    return connection.execute(tables.text(_WAITING), {"after": after, "slice": limit}).scalars().all()


PARTS = (
    Part("groups", partial(_gates, GROUP), lambda some: Owed(groups=some)),
    Part("limits", partial(_gates, LIMIT), lambda some: Owed(limits=some)),
    Part("waiting", _waiting, lambda some: Owed(waiting=some)),
)


@dataclass(slots=True)
class Round:
    """How far one process has come with its round, and when it last came to the end of it."""

    database: Database
    tables: Tables
    settler: Settler
    clock: Callable[[], float] = time.monotonic
    part: int = 0
    after: int = LOWEST
    began: float = 0.0
    took: float | None = None  # seconds of the last whole round: so old may be what it has not found yet
    found: int = 0  # jobs that it made ready, which nobody else had
    _fresh: bool = field(default=True)

    def is_due(self) -> bool:
        """Whether it is time to go on: a round that is done soon need not be begun again at once."""
        return not self._fresh or self.took is None or self.clock() - self.began >= EVERY

    def go_on(self, budget: float = BUDGET) -> int:
        """Look at some more of what waits, for so many seconds; gives how many jobs that made ready."""
        until, found = self.clock() + budget, 0
        while True:
            found += self._slice()
            if self._fresh or self.clock() >= until:
                break
        self.found += found
        return found

    def _slice(self) -> int:
        if self._fresh:
            self.began, self._fresh = self.clock(), False
        part = PARTS[self.part]
        some = self.database.once(lambda connection: part.look(connection, self.tables, self.after, SLICE))
        owed = part.owe(set(some))
        if some and part.name == "groups":
            owed.coverers |= set(self.database.once(lambda connection: coverers_in(connection, self.tables, some)))
        ready = self.settler.settle(owed)
        if len(some) == SLICE:
            self.after = some[-1]
        else:
            self.part, self.after = (self.part + 1) % len(PARTS), LOWEST
            if self.part == 0:
                self.took, self._fresh = self.clock() - self.began, True
        return len(ready)


def open_rates(database: Database, tables: Tables, settler: Settler) -> float | None:
    """Let start what a rate allows by now; gives the seconds until it allows the next (None: nobody waits for that)."""
    wait = database.once(lambda connection: opening(connection, tables))
    while wait is not None and wait <= 0:
        if not settler.transact(lambda connection: open_again(connection, tables)):
            return None  # somebody else is at it just now
        wait = database.once(lambda connection: opening(connection, tables))
    return wait
