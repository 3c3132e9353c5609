"""What all long processes share: an end that a signal asks for, and waits that can be cut short."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


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
