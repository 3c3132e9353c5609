"""A page of memory that a worker shares with its heart and with the processes of its jobs: whether Python still runs in the
worker, and by when it has to; and by when all that runs for it has to have ended.

A call into C that keeps the interpreter's lock, such as a regular expression that backtracks for hours, stops every thread of
the worker: also the one that ends what runs for too long, and the one that ends everything before others take over. The heart
sees the page stand still, and does it for them. It loads this module as a file, so this imports nothing of Dray.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable

LIVE_UNTIL = 0.9  # of the TTL: beyond it others may soon take over, and what runs must have ended
REFUSED_FOR = 2.0  # seconds a refusal proves that the database is away for everybody
HANGS_AFTER = 5.0  # seconds without a line of Python, behind the last limit of a run, after which nobody there will end it
STILL = 2.0  # the same once others may take over
LAST_WORDS = 2.0  # seconds it has to say where it was
LOOK_EVERY = 1.0
NEVER, LOST = float("inf"), float("-inf")
_END, _TICK, _DUE, _SIZE = 0, 8, 16, 24  # the warden of a command also knows that the end comes first
_INSTANT = struct.Struct("d")
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds by a clock that also runs while the machine sleeps, the same in all processes."""
    return time.clock_gettime(_STEADY)


class Term:
    """By when all that runs for a worker has to have ended, because others may be about to take over.

    It is on the page, so that whoever runs something sees to it himself: the worker may be frozen, and its heart with it. A
    database that refuses connections is away for everybody: nobody can take over, and whoever comes back first has to watch for
    a full TTL. So an outage kills nobody; silence, which may be our network alone, does. Instants are by `steady`.
    """

    def __init__(self, page: int, ttl: float = NEVER) -> None:
        self._memory, self._ttl = mmap.mmap(page, _SIZE), ttl

    def begin(self, at: float) -> None:
        """The worker's life in the database has begun: by the worker itself, before there is anybody who beats for it."""
        _INSTANT.pack_into(self._memory, _END, at + self._ttl * LIVE_UNTIL)

    def beaten(self, sent: float, *, alive: bool) -> None:
        """A beat that was sent then has arrived, and found that the worker is, or is not, alive to others."""
        if alive:
            self._put_off(sent + self._ttl * LIVE_UNTIL)
        else:
            _INSTANT.pack_into(self._memory, _END, LOST)

    def refuse(self, at: float) -> None:
        """The database has refused us then."""
        self._put_off(at + max(REFUSED_FOR, self._ttl / 10))

    def left(self) -> float:
        """Seconds until the end; 0 or less when it is over."""
        return self._end() - steady()

    def is_over(self) -> bool:
        return self.left() <= 0

    def _end(self) -> float:
        return float(_INSTANT.unpack_from(self._memory, _END)[0])

    def _put_off(self, at: float) -> None:
        if (end := self._end()) != LOST:
            _INSTANT.pack_into(self._memory, _END, max(at, end))


class Pulse:
    """The worker's side of it. It also has the end of the pipe that breaks with the worker: see `lifeline`.

    numbers     of the page, and of the pipe's other end, which is for everybody else
    """

    def __init__(self) -> None:
        self.page, (line, ours) = _anonymous(), os.pipe()
        self.numbers = self.page, line
        for number in self.numbers:
            weakref.finalize(self, os.close, number)
        os.set_blocking(line, False)
        self._ours = open(ours, "wb", buffering=0)  # noqa: SIM115  for as long as we live
        weakref.finalize(self, self._ours.close)
        os.truncate(self.page, _SIZE)
        self._memory = mmap.mmap(self.page, _SIZE)
        _INSTANT.pack_into(self._memory, _END, NEVER)
        self._lock = threading.Lock()
        self._expect(NEVER)
        self.tick()

    def plan(self, ttl: float) -> dict[str, float]:
        """What a heart has to know of it."""
        return {"page": self.page, "line": self.numbers[1], "ttl": ttl}

    def close(self) -> None:
        """Let go of the line, in a fork: it breaks when nobody holds it."""
        self._ours.close()

    def tick(self) -> None:
        """A line of Python runs here."""
        _INSTANT.pack_into(self._memory, _TICK, time.monotonic())

    def expect(self, at: float) -> None:
        """A run has begun that has to have ended by then, on the monotonic clock."""
        with self._lock:
            (due,) = _INSTANT.unpack_from(self._memory, _DUE)
            if at < due:
                self._expect(at)

    def expect_of(self, ends: Callable[[], Iterable[float]]) -> None:
        """What all that runs now is expected to have ended by."""
        with self._lock:  # whoever begins meanwhile either is among them, or comes after us
            self._expect(min(ends(), default=NEVER))

    def _expect(self, at: float) -> None:
        _INSTANT.pack_into(self._memory, _DUE, at)


class Watch:
    """The heart's side of it: sees to it that a worker in which Python stands still ends when it has to.

    page    the number under which the heart has the page
    worker  process id of the worker, the heart's parent
    frozen  whether somebody has stopped the worker by a signal
    gone    whether the worker has ended
    """

    def __init__(self, page: int, worker: int, *, frozen: Callable[[], bool], gone: Callable[[], bool]) -> None:
        self._memory = mmap.mmap(page, _SIZE, prot=mmap.PROT_READ)
        self._worker, self._frozen, self._gone = worker, frozen, gone
        self._tick, self._still, self._looked = 0.0, 0.0, time.monotonic()

    def keep(self, has_lost: Callable[[], bool], cut: Callable[[], None], ttl: float) -> None:
        """Look until the worker is gone. In a thread of its own: a silent network may hold up all others of the heart.

        has_lost    whether others may be about to take over what the worker runs
        cut         ends what runs for it in other processes: a frozen worker cannot
        ttl         seconds of its lease: what is left of a short one is soon over
        """
        while not self._gone():
            time.sleep(min(LOOK_EVERY, ttl * (1 - LIVE_UNTIL) / 4))
            still = self.still()
            if min(still, self.late()) > HANGS_AFTER:
                self.end("a job goes on past its last limit", signal.SIGABRT)
            elif still > STILL and has_lost():
                self.end("others may be about to take over its jobs", signal.SIGKILL)
            elif has_lost() and self._frozen():
                cut()

    def still(self) -> float:
        """Seconds in which no line of Python has run in the worker, as far as was seen from here.

        Time in which somebody had frozen it does not count, nor all of a long time between two looks: then it was we who were
        frozen, or the machine slept.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * LOOK_EVERY), now
        (tick,) = _INSTANT.unpack_from(self._memory, _TICK)
        if tick != self._tick or self._frozen():
            self._tick, self._still = tick, 0.0
        else:
            self._still += passed
        return self._still

    def late(self) -> float:
        """Seconds since a run should have ended; below 0 when there is time left."""
        (due,) = _INSTANT.unpack_from(self._memory, _DUE)
        return time.monotonic() - float(due)

    def end(self, why: str, first: signal.Signals) -> None:
        """End the worker; by SIGABRT it says where it is, if somebody has enabled that."""
        told = f"dray: worker process {self._worker} is ended: no line of Python has run in it for seconds, and {why}\n"
        with contextlib.suppress(OSError):
            os.write(2, told.encode())
        deadline = time.monotonic() + LAST_WORDS
        while not self._gone():
            os.kill(self._worker, first if time.monotonic() < deadline else signal.SIGKILL)
            time.sleep(0.1)


def _anonymous() -> int:
    """A file that has no name, and is gone with the last who has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dray-pulse")
    number, path = tempfile.mkstemp(prefix="dray-pulse-")
    os.unlink(path)
    return number
