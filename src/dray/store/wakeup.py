"""Telling sleeping workers that something is ready. A hint and nothing more: who misses it finds the job by looking."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from dray.errors import DrayError
from dray.job import Ready, name_hash
from dray.store.connect import Database
from dray.store.tables import Tables

DEBOUNCE = 0.01  # seconds between two notifications of one process
_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
FAREWELL = 1.0  # seconds an ending process waits for its last notification


def channel(tables: Tables) -> str:
    """The PostgreSQL channel of these tables."""
    place = f"{tables.schema or ''}.{tables.prefix}"
    return f"dray_{name_hash(place) & 0xFFFFFFFF:08x}"


class _Later(NamedTuple):
    """What waits for a caller's commit."""

    committed: Callable[[], bool]
    queues: set[str]
    then: Callable[[], None]


class Bell:
    """Rings for ready jobs: in this process at once, on PostgreSQL for the others too.

    NOTIFY within the writer's transaction makes all commits of the database stand in line, so it is sent afterwards: the first
    after a silence by the writer itself, on the connection it has in hand, since each change of threads or connections costs
    an idle worker as much time again; all others by a thread, for many jobs at once.
    """

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database = database
        self._channel = channel(tables)
        self._afar = tables.dialect.name == "postgresql"
        self._listeners: list[Callable[[], None]] = []
        self._reset()
        _BELLS.add(self)

    def _reset(self) -> None:
        self._queues: set[str] = set()
        self._later: list[_Later] = []
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._sent = float("-inf")

    @property
    def wakes(self) -> bool:
        """Whether other processes hear of what is ready: MySQL has no way to tell them."""
        return self._database.dialect.name != "mysql"

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener whenever this process makes a job ready; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def ring(self, ready: Iterable[Ready]) -> None:
        """Say that these jobs are ready. Never waits and never fails."""
        queues = {one.queue for one in ready}
        if queues:
            self._ring(queues)

    def ring_by(self, connection: Connection, ready: Iterable[Ready]) -> None:
        """The same by a connection that has just committed them: at once, if there has been nothing to say for a moment. Never
        fails either: the jobs are there, whatever becomes of a hint.
        """
        queues = {one.queue for one in ready}
        if not queues:
            return
        if not (self._afar and self._takes_turn()):
            self._ring(queues)
            return
        self._tell_here()
        try:
            self._send(connection, queues)
        except DBAPIError as error:
            if self._database.dialect.is_away(error):
                connection.invalidate()

    def _takes_turn(self) -> bool:
        """Whether it is the caller who sends: nobody else does, or has done so for a moment."""
        with self._wake:
            now = time.monotonic()
            if self._busy or self._queues or now - self._sent < DEBOUNCE:
                return False
            self._sent = now
            return True

    def _send(self, connection: Connection, queues: set[str]) -> None:
        payloads = [str(name_hash(queue)) for queue in sorted(queues)]
        connection.execute(_NOTIFY, {"channel": self._channel, "payloads": payloads})

    def ring_when(self, committed: Callable[[], bool], queues: set[str], then: Callable[[], None]) -> None:
        """Ring, and then do something, as soon as the caller's own transaction, which is just being committed, is over."""
        with self._wake:
            self._later.append(_Later(committed, queues, then))
            self._start()
            self._wake.notify()

    def _tell_here(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _ring(self, queues: set[str]) -> None:
        self._tell_here()
        if self._afar:
            with self._wake:
                self._queues |= queues
                self._start()
                self._wake.notify()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dray-bell", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queues and not self._later:
                    self._busy = False
                    self._wake.wait()
                self._busy = True
                queues, self._queues = self._queues, set()
            self._look_for_commits()
            if queues:
                self._notify(queues)
                time.sleep(DEBOUNCE)

    def _look_for_commits(self) -> None:
        """A commit takes a millisecond or so; a thread that watches for its end costs less than a hook that does not exist."""
        with self._wake:
            waiting, self._later = self._later, []
        over = [one for one in waiting if one.committed()]
        still = [one for one in waiting if one not in over]
        for one in over:
            if one.queues:
                self._ring(one.queues)
            one.then()
        if still:
            with self._wake:
                self._later += still
            time.sleep(0.0005)

    def _notify(self, queues: set[str]) -> None:
        try:
            self._database.once(lambda connection: self._send(connection, queues))
        except DrayError:
            return  # the database is away: workers look by themselves when it is back

    def flush(self, timeout: float = FAREWELL) -> None:
        """Wait until what was rung has been sent, at most so long (seconds)."""
        deadline = time.monotonic() + timeout
        while (self._queues or self._later or self._busy) and time.monotonic() < deadline:
            time.sleep(0.002)


_BELLS: weakref.WeakSet[Bell] = weakref.WeakSet()


@atexit.register
def _flush_all() -> None:
    for bell in list(_BELLS):
        if bell._thread is not None:
            bell.flush()


def _reset_all() -> None:
    for bell in list(_BELLS):
        bell._reset()


os.register_at_fork(after_in_child=_reset_all)
