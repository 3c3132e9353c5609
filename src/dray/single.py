"""One running process for each name on this host: a file that the operating system locks, for as long as the process lives."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from pathlib import Path

from dray.errors import ConfigurationError

INHERITED = "DRAY_SINGLE_LOCK"  # how a process that begins anew knows the lock that it has already


class Single:
    """The right to be the only one of this name (S0.44).

    The lock is the system's: it cannot be taken twice, and goes with the process however that ends. The file stays, with the
    pid of whoever had it last (S0.45); to delete it while a process runs is the one way to have two (C21).
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (_own_folder() if folder is None else folder) / f"{_as_file_name(name)}.pid"
        self._number: int | None = None

    def take(self) -> bool:
        """Take it; False: another process has it. Raises ConfigurationError when the file cannot be opened."""
        self._number = self._inherited()
        if self._number is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise ConfigurationError(f"{self.path} cannot be opened: {error.strerror}; give another --pid-dir") from error
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._number)
            self._number = None
            return False
        os.ftruncate(self._number, 0)
        os.pwrite(self._number, f"{os.getpid()}\n".encode(), 0)
        return True

    def holder(self) -> str:
        """The pid of the process that has it, as far as can be known."""
        try:
            return self.path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let another have it."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def hand_on(self) -> None:
        """Keep it over the beginning of a new program in this process."""
        if self._number is not None:
            os.set_inheritable(self._number, True)
            os.environ[INHERITED] = str(self._number)

    def _inherited(self) -> int | None:
        """The lock this process had before it began anew, if it is on the same file."""
        given = os.environ.pop(INHERITED, "")
        if not given.isdecimal():
            return None
        number = int(given)
        try:
            if not os.path.samestat(os.fstat(number), os.stat(self.path)):
                return None
            os.set_inheritable(number, False)
        except OSError:
            return None
        return number


def _own_folder() -> Path:
    """A folder of this user alone, that outlives deploys."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "dray" if given else Path(tempfile.gettempdir()) / f"dray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be used: {error.strerror}; give a --pid-dir") from error
    if owner != os.getuid():
        raise ConfigurationError(f"{folder} belongs to somebody else; give a --pid-dir")
    return folder


def _as_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", lambda found: f"%{ord(found[0]):02x}", name)
