"""After a commit: whoever changed a fact draws its consequences, each in a short transaction of its own.

Facts first, then settle: the fact is committed before anybody looks what may go on because of it. So of two that act at the
same time the later sees both, and neither has to lock what the other writes. Every step may be repeated at any time, by
anybody; what a crash left undone is found by its note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection

from dray import events
from dray.errors import StoreError, StoreUnavailable
from dray.job import Ready
from dray.store import cover, edges, gates, limits
from dray.store.base import unheard
from dray.store.connect import Database
from dray.store.owed import Owed, forget, left_behind, note, stay_with
from dray.store.places import Placed
from dray.store.tables import Tables
from dray.store.wakeup import Bell

T = TypeVar("T")

CHUNK = 500  # keys that are settled in one transaction
LEFT_AFTER = 1.0  # seconds after which a note is taken for one that nobody settles any more


class Step(NamedTuple):
    """One kind of consequence.

    takes   the field of `Owed` whose keys it works off
    look    which of these keys need anything: without a lock, since mostly none does
    act     draw the consequences, in one transaction; gives what is ready now, and what is owed next
    times   how often
    """

    takes: str
    look: Callable[[Connection, Tables, Sequence[int]], Sequence[int]]
    act: Callable[[Connection, Tables, Sequence[int]], Placed]
    times: int = 1

    def run(self, database: Database, tables: Tables, keys: Sequence[int]) -> Iterator[Callable[[Connection], Placed]]:
        """The transactions that it takes."""
        if wanted := database.once(lambda connection: self.look(connection, tables, keys)):
            for _ in range(self.times):
                yield lambda connection: self.act(connection, tables, wanted)


class Release(NamedTuple):
    """The step of those who wait for others. They may be any number, and are settled in slices."""

    dependents: edges.Dependents
    takes: str = "ended"

    def run(self, database: Database, tables: Tables, keys: Sequence[int]) -> Iterator[Callable[[Connection], Placed]]:
        """The transactions that it takes."""
        if first := database.once(lambda connection: self.dependents.look(connection, tables, keys)):
            for some in edges.slices(database.once, tables, keys, first):
                yield partial(edges.release, tables=tables, waits=some)


class Settler:
    """Runs transactions that change facts, and settles what they owe."""

    def __init__(self, database: Database, tables: Tables, bell: Bell) -> None:
        self._database, self._tables, self._bell = database, tables, bell
        self._dependents = edges.Dependents()
        # In the order in which jobs pass the stations: what one step lets go on, the next may let through.
        self._steps = (
            Release(self._dependents),
            Step("waiting", self._dependents.still_waiting, edges.look_again),
            Step("coverers", cover.ended_coverers, cover.uncover),
            Step("groups", gates.open_groups, gates.let_heads),
            Step("rulings", limits.other_rules, limits.take_rules, times=2),
            Step("limits", limits.waited_for, limits.give_shares),
        )

    def transact(self, work: Callable[[Connection], tuple[T, Owed]], waits: Callable[[], None] = unheard) -> T:
        """Run a transaction that gives a result and what it owes; give the result when that has been settled. `waits` is called
        when it cannot begin at once.

        Once it has committed, no trouble with the database is raised: the facts stand, and what follows is found by its note.
        """

        def noted(connection: Connection) -> tuple[T, Owed, int | None]:
            result, owed = work(connection)
            return result, owed, self.note(connection, owed)

        result, owed, number = self._database.transact(noted, waits)
        self.settle(owed, () if number is None else (number,))
        return result

    def note(self, connection: Connection, owed: Owed) -> int | None:
        """Write down what a transaction owes, as a part of it.

        Ends alone are noted only while there are edges: plain jobs leave no notes (docs/decisions/009).
        """
        if owed.only_ends and not self._dependents.seen:
            return None
        return note(connection, self._tables, owed)

    def settle(self, owed: Owed, notes: Iterable[int] = ()) -> list[Ready]:
        """Let go on what may go on now, tell workers of it, delete the notes; gives what is ready.

        Never raises StoreError: the notes then stay, for the next sweep.
        """
        if not owed:
            return []
        try:
            return self._settle(owed, tuple(notes))
        except StoreError as error:
            events.emit("settle.failed", why=error)
            return []

    def _settle(self, owed: Owed, notes: Sequence[int]) -> list[Ready]:
        ready: list[Ready] = []
        locked, notes = Owed(), list(notes)
        for placed in self._work_off(owed, notes):
            self._bell.ring(placed.ready)
            ready += placed.ready
            locked.add(placed.locked)
        if not locked:
            if notes:
                self._database.once(lambda connection: forget(connection, self._tables, notes))
        elif not notes:
            # Somebody's long transaction has what we would have let go on. It is not waited for: the sweep comes by again.
            self._database.once(lambda connection: note(connection, self._tables, locked))
        return ready

    def sweep(self, older_than: float = LEFT_AFTER) -> int:
        """Settle what was left behind by a process that died; gives how many jobs that made ready.

        Each note is tried once: one that cannot be settled, or read, stays for the next time and keeps nothing else waiting.
        """
        found = after = 0
        while notes := self._left_behind(older_than, after):
            after = max(notes)
            known = {number: owed for number, owed in notes.items() if owed is not None}
            together = Owed()
            for owed in known.values():
                together.add(owed)
            try:
                found += len(self._settle(together, tuple(known)))
            except StoreUnavailable:
                raise
            except StoreError:
                found += sum(len(self.settle(owed, (number,))) for number, owed in known.items())
        return found

    def _left_behind(self, older_than: float, after: int) -> dict[int, Owed | None]:
        return self._database.once(lambda connection: left_behind(connection, self._tables, older_than, after))

    def _work_off(self, owed: Owed, notes: list[int]) -> Iterator[Placed]:
        left = Owed()
        left.add(owed)
        # Always the first step that has anything to do: who may be the first of a line is asked when all have joined it whom
        # others' ends let go on.
        while step := next((step for step in self._steps if getattr(left, step.takes)), None):
            keys = sorted(getattr(left, step.takes))
            getattr(left, step.takes).clear()
            for start in range(0, len(keys), CHUNK):
                for number, work in enumerate(step.run(self._database, self._tables, keys[start : start + CHUNK])):
                    placed, more = self._database.transact(partial(self._act, work=work, notes=notes if number else ()))
                    notes += [] if more is None else [more]
                    left.add(placed.owed)
                    if placed.ready or placed.locked:
                        yield placed

    def _act(
        self, connection: Connection, work: Callable[[Connection], Placed], notes: Sequence[int]
    ) -> tuple[Placed, int | None]:
        """Draw some consequences, and note what they owe themselves: of who has left one line, the note that led to him says
        nothing about the next. `notes`: of what takes long, so that nobody thinks that it was left behind."""
        placed = work(connection)
        stay_with(connection, self._tables, notes)
        return placed, note(connection, self._tables, placed.owed)
