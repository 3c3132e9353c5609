"""What a worker can do about a job while it runs: ask it to end, see where it is, and as a last resort end it."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from dray.context import Context
from dray.signals import TimedOut
from dray.stacks import coroutine_stack, thread_stack

T = TypeVar("T")


class Grip(Protocol):
    """A hold on one run, for other threads."""

    def time_out(self) -> None:
        """Its time is over: let it end by an exception in it, or as near to that as there is."""
        ...

    def cancel(self) -> None:
        """Somebody wants it cancelled."""
        ...

    def end(self, mark: Callable[[], None]) -> bool | None:
        """End it, whatever it does, and call `mark` just before. False: that cannot be done, but with the whole process. None:
        it has ended by itself."""
        ...

    def stack(self) -> str:
        """Where it is at this moment."""
        ...


class ThreadGrip:
    """On an ordinary function in a thread: an exception can be raised in it, between two lines of Python."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None  # that is inside
        self._raised = self._due = False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that may be interrupted; what is behind the call is not."""
        with self._lock:
            if self._due:
                raise TimedOut  # its time was over before it began: a hook has taken all of it
            self._thread = threading.get_ident()
        error: BaseException | None = None
        value: Any = None
        try:
            value = function(*args)
        except BaseException as raised:
            error = raised
        # The exception is sent once at most. If it is on its way still, it arrives in these lines, and is of no use any more.
        while True:
            try:
                self._leave()
                break
            except TimedOut:
                continue
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it would hold on to all that the run had, until somebody looks for such circles
        result: T = value
        return result

    def _leave(self) -> None:
        with self._lock:
            if self._raised and self._thread is not None:
                _raise_in(self._thread, None)
            self._thread = None

    def time_out(self) -> None:
        """Raise TimedOut in it, as soon as it is at a line of Python: a call into C is not interrupted."""
        with self._lock:
            self._due = True
            if self._thread is not None and not self._raised:
                self._raised = True
                _raise_in(self._thread, TimedOut)

    def cancel(self) -> None:
        """It sees that by itself, at its next checkpoint."""

    def end(self, mark: Callable[[], None]) -> bool | None:
        return False

    def stack(self) -> str:
        thread = self._thread
        return "" if thread is None else thread_stack(thread)


class LoopGrip:
    """On a coroutine: it is cancelled at its next await."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[Any],
        steps: Coroutine[Any, Any, Any],
        context: Context,
        thread: int,
    ) -> None:
        self._loop, self._task, self._steps, self._context, self._thread = loop, task, steps, context, thread

    def time_out(self) -> None:
        self._context.time_is_over = True
        self._loop.call_soon_threadsafe(self._task.cancel)

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)

    def end(self, mark: Callable[[], None]) -> bool | None:
        return False

    def stack(self) -> str:
        if asyncio.current_task(self._loop) is self._task:
            return thread_stack(self._thread)  # it keeps the loop from all else
        return coroutine_stack(self._steps)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread; None: take back one that has not arrived yet."""
    value = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), value)
