"""What it was measured on, and who else was using it meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
DISTRIBUTIONS = ("dray", "SQLAlchemy", "msgspec", "psycopg", "PyMySQL")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for one in found:
        # A child is listed under the thread that started it.
        for listed in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, listed.read_text().split())
    return found


def cpus(pid: int) -> dict[int, float]:
    """Seconds of CPU of each member of a process tree, with what it collected from children that have ended."""
    found = {}
    for one in tree(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            found[one] = sum(map(int, fields[11:15])) / TICK
    return found


def cpu(pid: int) -> float:
    return sum(cpus(pid).values())


class Memory(NamedTuple):
    """MiB in memory of a process tree. RSS counts what its members share for each of them, PSS once in all."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    found = {"Rss:": 0, "Pss:": 0}
    for one in tree(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, *rest = line.split()
                if name in found:
                    found[name] += int(rest[0])  # kB, which are KiB
    return Memory(found["Rss:"] / 1024, found["Pss:"] / 1024)


def _busy() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    # What the host gave to other guests is gone as well.
    return (user + nice + system + irq + softirq + steal) / TICK


class Watch:
    """Counts what all others used since it was made: a figure without it says little on a shared machine."""

    def __init__(self) -> None:
        self._began, self._all, self._own = time.monotonic(), _busy(), cpu(os.getpid())

    def others(self) -> float:
        """In processors: 1.0 is one of them, all the time."""
        passed = time.monotonic() - self._began
        return max(0.0, (_busy() - self._all - (cpu(os.getpid()) - self._own)) / passed)


def facts() -> dict[str, str]:
    """The machine, in a few words."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in info if line.startswith("model name")), platform.machine())
    folder = tempfile.gettempdir()
    told = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=False).stdout.split()
    return {
        "processor": model,
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "data on": f"{folder} ({told[-1] if told else 'unknown'})",
        "system": f"{platform.system()} {platform.release()}",
        "load at the start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """What was installed."""
    found = {"Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
