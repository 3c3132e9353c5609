"""What a transaction owes: whom its facts may let go on. Kept in a row of its own until it has been settled.

The row is written with the facts and deleted when their consequences have been drawn, so a process that dies in between
leaves a note of what is to be done. It names what was touched, never what to do: settling looks at the rows, and may be
repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from dray.store.tables import Tables

NOTES = 500  # that are settled in one go


@dataclass(slots=True)
class Owed:
    """What was touched. Notes of it are read by other versions of this code, too.

    ended     jobs that ended: others may wait for them
    waiting   jobs that wait for others: perhaps those have ended already
    coverers  jobs that ended and may have done the work of others
    groups    hashes of groups whose head has gone, or that somebody has joined
    rulings   new jobs that say how much their limit allows
    limits    hashes of limits of which a share was given back, or that somebody has joined
    """

    ended: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    coverers: set[int] = field(default_factory=set)
    groups: set[int] = field(default_factory=set)
    rulings: set[int] = field(default_factory=set)
    limits: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    @property
    def only_ends(self) -> bool:
        """Whether nothing was touched but jobs that ended."""
        return not any(getattr(self, each.name) for each in fields(self) if each.name != "ended")

    def add(self, other: Owed) -> None:
        """Owe this, too."""
        for each in fields(self):
            getattr(self, each.name).update(getattr(other, each.name))

    def gates(self, group_hash: int | None, limit_hash: int | None) -> None:
        """Owe a look at the gates of a job."""
        if group_hash is not None:
            self.groups.add(group_hash)
        if limit_hash is not None:
            self.limits.add(limit_hash)

    def to_json(self) -> str:
        return msgspec.json.encode({each.name: sorted(getattr(self, each.name)) for each in fields(self)}).decode()

    @classmethod
    def from_json(cls, text: str) -> Owed | None:
        """What was noted; None for what cannot be read here, since a hand or a newer version has written it."""
        try:
            found = msgspec.json.decode(text, type=dict[str, list[int]])
        except msgspec.DecodeError:
            return None
        if found.keys() - {each.name for each in fields(cls)}:
            return None
        return cls(**{name: set(keys) for name, keys in found.items()})


def note(connection: Connection, tables: Tables, owed: Owed) -> int | None:
    """Write down what this transaction owes, and give the number of the note; None: it owes nothing."""
    if not owed:
        return None
    key = connection.execute(insert(tables.unsettled).values(at=tables.now(), owed=owed.to_json())).inserted_primary_key
    assert key is not None
    return int(key[0])


def forget(connection: Connection, tables: Tables, notes: Iterable[int]) -> None:
    """Delete notes: all that they name has been settled."""
    unsettled = tables.unsettled
    connection.execute(delete(unsettled).where(unsettled.c.id.in_(sorted(notes))))


def stay_with(connection: Connection, tables: Tables, notes: Sequence[int]) -> None:
    """Say that what these notes name is being settled still."""
    if notes:
        unsettled = tables.unsettled
        connection.execute(update(unsettled).where(unsettled.c.id.in_(sorted(notes))).values(at=tables.now()))


def old_notes(tables: Tables, older_than: float) -> ColumnElement[bool]:
    """Notes that nobody has settled for so many seconds: whoever left them has died, or hangs."""
    return tables.unsettled.c.at < tables.fixed_now() - round(older_than * 1_000_000)


def left_behind(connection: Connection, tables: Tables, older_than: float, after: int = 0) -> dict[int, Owed | None]:
    """Notes that nobody has settled for so many seconds, by their numbers, the oldest first, behind this one. None: it cannot
    be read here."""
    unsettled, old = tables.unsettled, old_notes(tables, older_than)
    rows = connection.execute(
        select(unsettled.c.id, unsettled.c.owed).where(old, unsettled.c.id > after).order_by(unsettled.c.id).limit(NOTES)
    )
    return {row[0]: Owed.from_json(row[1]) for row in rows}
