"""Disks that run full and files that turn read-only, for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Waits for the end of the tests, however they end, and takes the disk away.
GUARD = 'read -r _; umount -l "$1"; rmdir "$1"'


class NoDisk(RuntimeError):
    """This process may not mount anything."""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own in memory, mounted at a folder; raises NoDisk where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "dray", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        raise NoDisk
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "guard", str(folder)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        guard.communicate(timeout=30)


class FullDisk:
    """Takes all the room that is left on a disk, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"

    def begin(self) -> None:
        with open(self._ballast, "ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        pass

    def end(self) -> None:
        self._ballast.unlink(missing_ok=True)


class Immutable:
    """Lets nobody write a file any more, whoever has it open."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    @classmethod
    def works(cls, folder: Path) -> bool:
        """Whether this process may do that, and the file system knows of it."""
        probe = folder / "probe"
        probe.touch()
        one = cls(probe)
        if shutil.which("chattr") is None or not one.begin():
            return False
        try:
            probe.write_bytes(b"x")
        except PermissionError:
            return True
        finally:
            one.end()
        return False

    def begin(self) -> bool:
        return self._turn("+i")

    def end(self) -> bool:
        return self._turn("-i")

    def _turn(self, flag: str) -> bool:
        there = [str(path) for path in self._paths if path.exists()]
        return subprocess.run(["chattr", flag, *there], capture_output=True).returncode == 0
