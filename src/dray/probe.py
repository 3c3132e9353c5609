"""Whether a worker is well, for those who start and stop processes, and a file that says so. Over HTTP: `dray.probe_port`."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dray import wholefile
from dray.errors import ConfigurationError

LIVE_WITHIN = 60.0  # seconds in which a loop has to come round; a silent database may hold it up for half of that
WRITE_EVERY = 1.0  # seconds between two writes of the file
OLD_AFTER = 10.0  # seconds after which a file says nothing any more


class Vital:
    """What a worker's loop says of itself, and what follows from it.

    lease_age   seconds since the last beat that surely arrived
    wants       whether it would take jobs at this moment
    within      seconds in which the database has to have answered, and a beat to have arrived
    """

    def __init__(self, lease_age: Callable[[], float], wants: Callable[[], bool], within: float) -> None:
        self._lease_age, self._wants, self._within = lease_age, wants, within
        self._turned = self._answered = time.monotonic()
        self.worker_id = 0

    def turned(self) -> None:
        """The loop has come round."""
        self._turned = time.monotonic()

    def answered(self) -> None:
        """The database has given jobs, or said that there are none."""
        self._answered = time.monotonic()

    def facts(self) -> dict[str, Any]:
        """Whether it is live and ready, and if not, why."""
        now = time.monotonic()
        still = now - self._turned
        live = still < LIVE_WITHIN
        why = None if live else f"the loop has not come round for {still:.0f} s"
        if live and self.worker_id == 0:
            why = "it is not registered yet"
        elif live and (age := self._lease_age()) > self._within:
            why = f"no sign of life has reached the database for {age:.0f} s"
        elif live and self._wants() and (silence := now - self._answered) > self._within:
            why = f"the database has not answered for {silence:.0f} s"
        return {"live": live, "ready": why is None, "worker": self.worker_id, "pid": os.getpid(), "why": why}


def write(path: Path, facts: Callable[[], dict[str, Any]]) -> None:
    """Keep a file fresh that says the same, in a thread. Raises ConfigurationError when it cannot be written."""
    try:
        _replace(path, facts())
    except OSError as error:
        raise ConfigurationError(f"no probe at {path}: {error.strerror}") from error

    def keep() -> None:
        while True:
            time.sleep(WRITE_EVERY)
            with contextlib.suppress(Exception):  # it grows old, which says enough
                _replace(path, facts())

    threading.Thread(target=keep, name="dray-probe-file", daemon=True).start()


def _replace(path: Path, told: dict[str, Any]) -> None:
    wholefile.replace(path, json.dumps({"at": time.time(), **told}) + "\n")


def read(path: Path) -> dict[str, Any]:
    """What a file says now. One that nobody keeps fresh, or that cannot be read, says that nothing is well."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        age = time.time() - told["at"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"live": False, "ready": False, "why": f"{path} cannot be read: {error}"}
    if not -OLD_AFTER <= age <= OLD_AFTER:  # a clock that was set back, behind which nobody has written, says nothing either
        return {**told, "live": False, "ready": False, "why": f"{path} was last written {age:.0f} s ago"}
    return told
