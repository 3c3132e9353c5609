"""Processes of this host by their numbers: whether there is one, how old, since numbers are used again (C18), and how large."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
ENDED = "ZX"  # states of a process that has ended, though nobody has taken note of it yet


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lives; `age` in seconds, None where the system does not say."""

    age: float | None


def memory(pid: int) -> int | None:
    """How many bytes a process has in memory; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE
    return None


def find(pid: int) -> Process | None:
    """The process of this number, whoever owns it; None: there is none, or it has ended."""
    if pid <= 0:
        return None  # these mean groups of processes
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # there is one, of somebody else
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Behind the name, which may have blanks and brackets in it.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in ENDED:
            return None
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return Process(time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    return Process(None)
