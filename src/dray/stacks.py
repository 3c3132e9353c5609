"""Where the threads of this process are at this moment."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any


def stack_of(frame: FrameType | None) -> str:
    """A stack as a traceback shows it, the call that runs last."""
    return "" if frame is None else "".join(traceback.format_stack(frame))


def thread_stack(ident: int) -> str:
    """The stack of one thread; empty if it has ended."""
    return stack_of(sys._current_frames().get(ident))


def coroutine_stack(coroutine: Any) -> str:
    """Where a coroutine waits: its frame, that of what it awaits, and so on."""
    frames = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def all_stacks(titles: Mapping[int, str]) -> str:
    """The stacks of all threads but the one that asks, those first that have a title of their own.

    titles      what to call a thread, by its ident; the others go by their names
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    order = sorted(frames, key=lambda ident: (ident not in titles, names.get(ident) or ""))
    told = (f"{titles.get(ident) or names.get(ident) or ident}:\n{stack_of(frames[ident])}" for ident in order)
    return "\n".join(told)
