"""An SQLite file that somebody keeps locked: who that is, and that it is waited for, said once each time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dray import events

SAY_AFTER = 1.0  # seconds: what is over by then is the turn of another, as it should be
# Where SQLite locks what is going to be written: in the -shm file of a log, and in the file itself where there is none.
_IN_LOG, _IN_FILE = range(120, 121), range(0x4000_0000, 0x4000_0200)


class Locked:
    """One file, as those see it who wait for it."""

    def __init__(self, file: str | None) -> None:
        self._file = file or "the database"
        self._has_told = False

    def lasts(self, waited: float, patience: float) -> None:
        """It has been waited for so long by now, and will be for `patience` (seconds) at most."""
        if waited >= SAY_AFTER and not self._has_told:
            self._has_told = True
            events.emit("store.locked", file=self._file, by=holder(self._file) or "another process", patience=patience)

    def is_over(self) -> None:
        """It has been had."""
        self._has_told = False

    def say(self, patience: float) -> str:
        """What was waited for in vain, and what to do about it."""
        who = holder(self._file)
        remedy = "let it commit, or end it" if who else "look who has a transaction open on it"
        return f"stayed locked for {patience:g} s{f' by {who}' if who else ''}; {remedy}"


def holder(file: str) -> str | None:
    """The process that has an SQLite file locked for writing, as `process 4471 (python3)`; None where that cannot be seen."""
    with suppress(OSError, ValueError):
        both = (f"{file}-shm", _IN_LOG), (file, _IN_FILE)
        places = {_name(path): where for path, where in both if os.path.exists(path)}
        for line in Path("/proc/locks").read_text().splitlines():
            # 3: POSIX  ADVISORY  WRITE 16003 fe:00:2401134 120 120; one that waits has an arrow in front of its kind.
            _, kind, _, mode, pid, name, first, *_ = line.split()
            if kind == "POSIX" and mode == "WRITE" and int(first) in places.get(name, ()) and int(pid) > 0:
                return f"process {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return None


def _name(path: str) -> str:
    """A file as the system names it among its locks."""
    found = os.stat(path)
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
