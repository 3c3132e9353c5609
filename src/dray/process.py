"""What all long processes share: an end that a signal asks for, and waits that can be cut short."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


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
def on_stop_signal(first: Callable[[str], None], again: Callable[[str], None]) -> Iterator[None]:
    """Call `first` with the signal's name at the first TERM, INT or QUIT, and `again` at every later one.

    Both are called between two bytecodes of the main thread and may only set flags.
    """
    before: dict[signal.Signals, Any] = {}
    seen = 0

    def ask(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        (first if seen == 1 else again)(signal.Signals(number).name)

    for number in STOPPING:
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
