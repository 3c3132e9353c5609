"""What runs cost this process: memory and processor time, before and after each (S2.77, S2.78)."""

from __future__ import annotations

import os
import resource
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

from dray import pids
from dray.job import Usage

T = TypeVar("T")

FRESH = 0.001  # seconds a look at the memory is good for: many short jobs share one

_RESIDENT, _PEAK = b"VmRSS:", b"VmHWM:"


class Memory(NamedTuple):
    """Of the whole process, in KiB: what it has in memory now, and the most since the last run that was alone began."""

    now: int
    peak: int


class Meter:
    """Measures runs. Memory is that of the process: of jobs that run beside each other, each sees what all of them use."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._last = Memory(0, 0)
        self._at = float("-inf")
        self._status, self._reset = _open("/proc/self/status", os.O_RDONLY), _open("/proc/self/clear_refs", os.O_WRONLY)
        for number in (self._status, self._reset):
            if number is not None:
                weakref.finalize(self, os.close, number)

    def begin(self, *, alone: bool) -> Memory:
        """A run begins. If none other is under way, the highest use of memory is counted anew."""
        before = self._memory()
        if alone and before.peak > before.now:
            self._forget_peak()
        return before

    def end(self, before: Memory, cpu: float | None) -> Usage:
        """It has ended, having used so many seconds of a processor."""
        after = self._memory()
        return Usage(self._pid, cpu, before.now, after.now, before.peak, max(after.peak, after.now))

    def _memory(self) -> Memory:
        now = time.monotonic()
        if now - self._at >= FRESH:
            self._last, self._at = self._look(), now
        return self._last

    def _look(self) -> Memory:
        if self._status is None:
            peak = _most_kib()
            return Memory(peak, peak)
        text = os.pread(self._status, 4096, 0)
        return Memory(_kib(text, _RESIDENT), _kib(text, _PEAK))

    def _forget_peak(self) -> None:
        if self._reset is not None:
            try:
                os.write(self._reset, b"5")
            except OSError:  # not every container allows it: the peak is then that of the whole life of the process
                self._reset = None
            self._at = float("-inf")


class _Resident:
    """How many bytes this process has in memory. A look is good for a moment: a limit is not asked for each job."""

    EVERY = 0.05  # seconds

    def __init__(self) -> None:
        self._value, self._at = 0, float("-inf")

    def __call__(self) -> int:
        now = time.monotonic()
        if now - self._at >= self.EVERY:
            self._value, self._at = self._look(), now
        return self._value

    def _look(self) -> int:
        return pids.memory(os.getpid()) or _most_kib() * 1024


resident = _Resident()


def _open(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None


def _most_kib() -> int:
    """The most that this process has ever had in memory: all that is known where there is no /proc."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def _kib(text: bytes, name: bytes) -> int:
    start = text.find(name)
    return int(text[start + len(name) : text.index(b"kB", start)]) if start >= 0 else 0


class Stopwatch:
    """Counts the processor time of a coroutine: only its own steps, though it shares the thread with others."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self.seconds = 0.0
        self._clock = clock

    def timed(self, awaitable: Awaitable[T]) -> Awaitable[T]:
        """The same awaitable, its steps counted."""
        return _Timed(awaitable, self)

    def drive(self, steps: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """Go through the steps, passing on whatever is sent or thrown in."""
        step: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            began = self._clock()
            try:
                given = step()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.seconds += self._clock() - began
            try:
                sent = yield given
            except BaseException as error:
                step = _thrower(steps, error)
            else:
                step = _sender(steps, sent)


class _Timed(Awaitable[T]):
    def __init__(self, awaitable: Awaitable[T], watch: Stopwatch) -> None:
        self._awaitable, self._watch = awaitable, watch

    def __await__(self) -> Generator[Any, Any, T]:
        return self._watch.drive(self._awaitable.__await__())


def _thrower(steps: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


def _sender(steps: Generator[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: steps.send(value)
