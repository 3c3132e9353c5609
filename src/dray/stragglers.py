"""Hooks that go on past their time. Their threads cannot be ended but with the process: so they are counted, and stay few."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dray import events

MOST = 16  # until the process has to be replaced: each keeps what its run had, and what the hook waits for

_counting = threading.Lock()
_left: set[threading.Thread] = set()


def leave(thread: threading.Thread) -> None:
    """Go on without a thread that a hook has."""
    with _counting:
        _left.add(thread)


def count() -> int:
    """How many of these there are still, in this process."""
    with _counting:
        _left.difference_update([thread for thread in _left if not thread.is_alive()])
        return len(_left)


class Crowd:
    """Sees to it that they do not become too many; `on_crowd` is told why, once."""

    def __init__(self, on_crowd: Callable[[str], None]) -> None:
        self._on_crowd, self._has_told = on_crowd, False

    def look(self) -> None:
        """To be called now and then."""
        if self._has_told or (number := count()) < MOST:
            return
        self._has_told = True
        events.emit("hook.too_many", count=number)
        self._on_crowd(f"{number} hooks hang, and can only be ended with this process")
