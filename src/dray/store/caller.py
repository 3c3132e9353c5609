"""The caller's own transaction: finding its connection, and noticing when it commits."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import RootTransaction

from dray.errors import BadOption
from dray.store.owed import Owed
from dray.store.settle import Settler
from dray.store.wakeup import Bell

KINDS = "an SQLAlchemy Session, Connection, AsyncSession or AsyncConnection"


def connection_of(target: Any) -> Connection:
    """The connection of a Session or Connection, in a transaction the caller will end. Raises BadOption for anything else."""
    if isinstance(target, Connection):
        return target
    found = target.connection() if callable(getattr(target, "connection", None)) else None
    if not isinstance(found, Connection):
        raise BadOption(f"app.transaction() takes {KINDS}, not {type(target).__name__}")
    return found


@dataclass(slots=True)
class _Pending:
    """What is to be done when a transaction has committed."""

    queues: set[str] = field(default_factory=set)
    owed: Owed = field(default_factory=Owed)
    notes: list[int] = field(default_factory=list)


class Announcer:
    """Settles and rings for jobs of a caller's transaction once it has committed, forgets them when it rolls back (S2.32)."""

    def __init__(self, bell: Bell, settler: Settler) -> None:
        self._bell, self._settler = bell, settler
        self._pending: weakref.WeakKeyDictionary[RootTransaction, _Pending] = weakref.WeakKeyDictionary()
        self._watched: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._lock = threading.Lock()

    def after_commit(self, connection: Connection, queues: set[str], owed: Owed, number: int | None) -> None:
        """Ring for these queues, and settle, when the outermost transaction of this connection has committed."""
        transaction = connection.get_transaction()
        if not isinstance(transaction, RootTransaction):
            return
        with self._lock:
            pending = self._pending.setdefault(transaction, _Pending())
            pending.queues |= queues
            pending.owed.add(owed)
            pending.notes += [] if number is None else [number]
            if connection in self._watched:
                return
            self._watched.add(connection)
        event.listen(connection, "commit", self._committing)
        event.listen(connection, "rollback", self._rolled_back)

    def _committing(self, connection: Connection) -> None:
        # The event comes before the commit itself, and there is none behind it: somebody watches for its end.
        transaction = connection.get_transaction()
        if isinstance(transaction, RootTransaction) and (pending := self._pending.pop(transaction, None)):

            def settle() -> None:
                self._settler.settle(pending.owed, pending.notes)

            self._bell.ring_when(lambda: not transaction.is_active, pending.queues, settle)

    def _rolled_back(self, connection: Connection) -> None:
        transaction = connection.get_transaction()
        if isinstance(transaction, RootTransaction):
            self._pending.pop(transaction, None)
