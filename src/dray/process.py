"""What long processes share: signals that only set flags, waits that can be cut short, a new life in the same process."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn

from dray import first
from dray.folder import Folder

NO_ROOM = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}  # why no process can be started just now; it passes
PATIENT = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
LAST_WORDS = 0.5  # seconds for them: whoever should read them may not do so, and holds up who writes


class Inbox:
    """A sleep that anybody can cut short: another thread, or a signal."""

    def __init__(self) -> None:
        self._said: SimpleQueue[None] = SimpleQueue()  # the only one that may also be used in a signal handler

    def nudge(self) -> None:
        """Something happened: look around."""
        self._said.put(None)

    def wait(self, seconds: float) -> None:
        """At most so long; less if anybody nudges, or has done so since the last wait."""
        with contextlib.suppress(Empty):
            if seconds > 0:
                self._said.get(timeout=seconds)
            while True:
                self._said.get_nowait()


@contextmanager
def on_signals(
    first: Callable[[str], None],
    again: Callable[[str], None],
    others: Mapping[signal.Signals, Callable[[], None]] | None = None,
) -> Iterator[None]:
    """Call `first` with the signal's name at the first TERM, INT or QUIT, and `again` at every later one; and for `others` what
    stands there. A hang-up that somebody has told this process to ignore, as nohup does, stays ignored.

    All are called between two bytecodes of the main thread and should only set flags.
    """
    before: dict[signal.Signals, Any] = {}
    seen = 0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        (first if seen == 1 else again)(signal.Signals(number).name)

    def heed(number: int, _frame: FrameType | None) -> None:
        heeded[signal.Signals(number)]()

    heeded = dict(others or {})
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        heeded.pop(signal.SIGHUP, None)
    for number in STOPPING:
        before[number] = signal.signal(number, ask)
    for number in heeded:
        before[number] = signal.signal(number, heed)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PATIENT)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


def leave(code: int, say: Callable[[], None] = lambda: None) -> NoReturn:
    """End this process at once, whatever its threads do, and whether or not there is still time to `say` something."""
    try:
        _say_last(say)
    finally:
        os._exit(code)


def end_by(seconds: float, code: int) -> None:
    """From now on this process has so long to end by itself: a thread of a job, which it would wait for, may never do so."""

    def end() -> None:
        time.sleep(seconds)
        leave(code)

    threading.Thread(target=end, name="dray-end", daemon=True).start()


def restart(folder: Folder) -> NoReturn:
    """Begin the same command anew in this process, under its pid: with the code that is now where it was started."""
    folder.enter()
    _say_last()
    hold_signals()
    interpreter = folder.of(sys.executable)
    os.execv(interpreter, [interpreter, *sys.orig_argv[1:]])


def hold_signals() -> None:
    """Let signals wait that would end a process which does not expect them yet; `on_signals` takes them."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PATIENT)


def how_it_ended(code: int) -> str:
    """An exit code for people; a negative one is a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def bury() -> None:
    """Take note of the ends of what a former life of this process had started: nobody else does."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say_last(say: Callable[[], None] = lambda: None) -> None:
    def write() -> None:
        say()
        _flush()

    # A job that waits in a print, for a reader who does not read, has the lock that a flush needs.
    writer = threading.Thread(target=write, name="dray-last-words", daemon=True)
    writer.start()
    writer.join(LAST_WORDS)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


@contextmanager
def signals_in_a_pipe(numbers: Iterable[signal.Signals]) -> Iterator[int]:
    """Give a descriptor from which signals can be read as bytes, for a loop that waits on descriptors anyway.

    A hang-up that somebody has told this process to ignore, as nohup does, stays ignored.
    """
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, _let_it_wake) for number in numbers if number not in ignored}
    first.release()
    try:
        yield reading
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reading)
        os.close(writing)


def read_signals(number: int) -> list[signal.Signals]:
    """The signals that have come since this was asked last."""
    with contextlib.suppress(BlockingIOError):
        return [signal.Signals(one) for one in os.read(number, 1024)]
    return []


def _let_it_wake(_number: int, _frame: FrameType | None) -> None:
    """The byte in the pipe says it all; but without a handler there would be none."""
