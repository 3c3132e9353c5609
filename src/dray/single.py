"""One running process for each name on this host: a file that the operating system locks, for as long as the process lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from io import FileIO
from pathlib import Path

from dray.errors import ConfigurationError
from dray.forks import close_in_forks

INHERITED = "DRAY_SINGLE_LOCK"  # how a process that begins anew knows the lock that it has already


class Single:
    """The right to be the only one of this name (S0.44).

    The lock is the system's: it cannot be taken twice, and goes with the process however that ends. The file stays, with the
    pid of whoever had it last (S0.45); to delete it while a process runs is the one way to have two (C21).
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.path = (_own_folder() if folder is None else folder) / f"{_as_file_name(name)}.pid"
        self._file: FileIO | None = None

    def take(self) -> bool:
        """Take it; False: another process has it. Raises ConfigurationError when the file cannot be opened."""
        number = self._inherited()
        while True:
            if number is None:
                number = self._open()
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
                return False
            if self._is_ours(number):
                break
            os.close(number)  # somebody has deleted it meanwhile: another may lock a new one
            number = None
        with contextlib.suppress(OSError):  # a full disk: the number is for people only
            os.ftruncate(number, 0)
            os.pwrite(number, f"{os.getpid()}\n".encode(), 0)
        # A fork that a task makes may outlive us, and would keep the lock; closed in there, it is still ours.
        self._file = close_in_forks(FileIO(number))
        return True

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A link could lead to any file of this user, and its content is going to be lost.
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be opened: {error.strerror}; give another --pid-dir") from error

    def _is_ours(self, number: int) -> bool:
        try:
            return os.path.samestat(os.fstat(number), os.stat(self.path, follow_symlinks=False))
        except OSError:
            return False

    def holder(self) -> str:
        """The pid of the process that has it, as far as can be known."""
        try:
            return self.path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def release(self) -> None:
        """Let another have it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def hand_on(self) -> None:
        """Keep it over the beginning of a new program in this process."""
        if self._file is not None:
            os.set_inheritable(self._file.fileno(), True)
            os.environ[INHERITED] = str(self._file.fileno())

    def _inherited(self) -> int | None:
        """The lock this process had before it began anew, if it is on the same file."""
        given = os.environ.pop(INHERITED, "")
        if not given.isdecimal() or not self._is_ours(int(given)):
            return None
        os.set_inheritable(int(given), False)
        return int(given)


def _own_folder() -> Path:
    """A folder of this user alone: the same from a terminal and from cron, and nothing that is cleared up."""
    folder = Path.home() / ".local/state/dray"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat(follow_symlinks=False)
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{folder} cannot be used: {error}; give a --pid-dir") from error
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(f"others may write to {folder}; give a --pid-dir")
    return folder


def _as_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", lambda found: f"%{ord(found[0]):02x}", name)
