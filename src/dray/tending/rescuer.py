"""Frees what dead workers held, at once: `dray rescue` as a process of its own, because a tender keeps no connection."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Sequence

from dray import events
from dray.folder import Folder
from dray.tending.hired import spawn
from dray.tending.relay import Outlet, Relay

PATIENCE = 60.0  # seconds that one may take: a silent network could hold it up for ever, and with it the end of the tender


class Rescuer:
    """One rescue at a time, in the order of the deaths. That one fails is only reported: the sweep of any worker does it too.

    words   the command, to which the worker's id is added
    folder  where it is started
    """

    def __init__(self, words: Sequence[str], outlet: Outlet, folder: Folder) -> None:
        self._words, self._outlet, self._folder = tuple(words), outlet, folder
        self._waiting: deque[int] = deque()
        self._worker_id = 0
        self._began = 0.0
        self.pid = 0  # of the process that runs
        self.relays: tuple[Relay, ...] = ()

    @property
    def is_idle(self) -> bool:
        return not self.pid and not self._waiting

    def add(self, worker_id: int) -> None:
        """Rescue what this worker held."""
        self._waiting.append(worker_id)

    def turn(self) -> bool:
        """Start the next one, if it is time; says whether it has."""
        if self.pid and time.monotonic() - self._began > PATIENCE:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)  # its end is heard of like any other
        if self.pid or not self._waiting:
            return False
        self._began = time.monotonic()
        self._worker_id = self._waiting.popleft()
        words = [*self._words, "--worker", str(self._worker_id), "--yes"]
        try:
            self.pid, self.relays = spawn(words, (self._outlet, self._outlet), self._folder)
        except OSError as error:
            events.emit("tend.not_rescued", worker_id=self._worker_id, why=str(error))
            return False
        return True

    def ended(self, how: str | None) -> None:
        """Its process is gone; `how` is None when all went well."""
        for relay in self.relays:
            relay.close()
        self.pid, self.relays = 0, ()
        if how is not None:
            events.emit("tend.not_rescued", worker_id=self._worker_id, why=how)
