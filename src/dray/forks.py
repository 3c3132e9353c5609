"""What a fork of this process must not keep, the locks and sockets by which others see that we are gone; and where it ends."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Protocol, TypeVar
from weakref import WeakSet


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)
_ours: WeakSet[Closable] = WeakSet()


def close_in_forks(end: C) -> C:
    """Let forks of this process close it: else nobody else would notice when we die."""
    _ours.add(end)
    return end


def end_copy(home: int, error: BaseException | None = None) -> None:
    """End this process if it is not the one of this number, but a fork that a task has made and let come back: it is a copy of
    all that waits here, and would run it a second time. It ends as a script would, by its SystemExit or with this error."""
    if os.getpid() == home:
        return
    code = error.code if isinstance(error, SystemExit) else None if error is None else 1
    try:
        if error is not None and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else 0 if code is None else 1)


def _close() -> None:
    for end in list(_ours):
        with suppress(OSError):
            end.close()


os.register_at_fork(after_in_child=_close)
