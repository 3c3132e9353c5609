"""When each job ran, by the one clock of the machine: eight bytes for each in a file that all processes have mapped.

Every system that is measured marks its jobs here, at about a microsecond each, so that rates and waits mean the same for all.
Needs nothing but Python: the peers' programs import it too.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

VARIABLE = "BENCH_STAMPS"  # tells a worker where the file is


class Stamps:
    """The file, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._process = 0

    def mark(self, number: int) -> None:
        """This job runs now. If it runs twice, the later run is what counts."""
        if self._process != os.getpid():
            self._begin()
        self._slots[0] = self._slots[number + 1] = time.monotonic_ns()

    @property
    def latest(self) -> int:
        """When anything was marked last; 0 if nothing was. Costs nothing to look at, unlike `times`."""
        return self._slots[0]

    def _begin(self) -> None:
        # By process id: a fork made after this file was mapped begins on its own.
        self._process = os.getpid()
        (self.path.parent / f"{self._process}.cpu").write_text(str(time.process_time()))

    def begun(self) -> dict[int, float]:
        """Seconds of CPU that each process had used when it came to its first job."""
        return {int(path.stem): float(path.read_text()) for path in self.path.parent.glob("*.cpu")}

    def times(self) -> list[int]:
        """Nanoseconds for each job; 0 for one that has not run."""
        return self._slots[1:].tolist()


@contextmanager
def made(jobs: int) -> Iterator[Stamps]:
    """A file for so many jobs, none of which has run."""
    with TemporaryDirectory(prefix="dray-bench-") as folder:
        path = Path(folder) / "stamps"
        path.write_bytes(bytes(8 * (jobs + 1)))
        yield Stamps(path)


def told() -> Stamps | None:
    """The file that this worker was told of; none where nothing is measured by it."""
    path = os.environ.get(VARIABLE)
    return Stamps(Path(path)) if path else None
