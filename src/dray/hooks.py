"""Hooks: an application's own functions around every run (S2.11-S2.14).

    before_run(ctx)         before the task; what it raises counts as raised by the task
    on_error(ctx, error)    when a run has failed, before it is decided what becomes of it: a signal or Permanent that it raises
                            says so; any other exception is kept beside the first one, and changes nothing
    after_run(ctx, ended)   once the end is committed: nothing it does can make the work be done a second time
    metadata(ctx)           at the start: values to be kept with the job, as a dict

They are called in the thread of the run; those of the app before those of the task at the start, behind them at the end. For
async tasks they may be async functions, and others are called in a thread. One that hangs after the run is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dray import events, stragglers
from dray.context import Context
from dray.errors import BadOption
from dray.job import State, Usage

Hook = Callable[..., Any]
KINDS = ("before_run", "after_run", "on_error", "metadata")


class Ended(NamedTuple):
    """What a run has come to, as it is in the database now.

    seconds     that it took
    error       what was wrong, if it failed
    """

    state: State
    seconds: float
    error: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Some hooks, each kind in the order of their calls at the start of a run."""

    before_run: tuple[Hook, ...] = ()
    after_run: tuple[Hook, ...] = ()
    on_error: tuple[Hook, ...] = ()
    metadata: tuple[Hook, ...] = ()

    exist: bool = field(default=False, init=False)  # whether there are any

    def __post_init__(self) -> None:
        for name in KINDS:
            for hook in getattr(self, name):
                if not callable(hook):
                    raise BadOption(f"{name} must be a function, got {hook!r:.300}")
        object.__setattr__(self, "exist", bool(self.before_run or self.after_run or self.on_error or self.metadata))

    def beside(self, other: Hooks) -> Hooks | None:
        """These before the others; None: there are none at all. Asked of each job, so mostly nothing is made anew."""
        if not other.exist:
            return self if self.exist else None
        return self | other if self.exist else other

    def __or__(self, other: Hooks) -> Hooks:
        return Hooks(*(getattr(self, name) + getattr(other, name) for name in KINDS))

    @classmethod
    def of(cls, **given: Hook | Sequence[Hook] | None) -> Hooks:
        """Hooks from options, each a function or a list of them. Raises BadOption."""
        return cls(
            **{
                name: () if hooks is None else tuple(hooks) if isinstance(hooks, list | tuple) else (hooks,)
                for name, hooks in given.items()
            }
        )

    # --- in a thread ----------------------------------------------------------------------------------------------------

    def begin(self, context: Context) -> None:
        """Everything before the task; raises what `before_run` raises."""
        for hook in self.metadata:
            try:
                _keep(context, _called(hook, context))
            except Exception as error:
                _failed_to("metadata", context, error)  # what it would have said is missing, and nothing else (C99)
        for hook in self.before_run:
            _called(hook, context)

    def failed(self, context: Context, error: BaseException) -> BaseException | None:
        """Call `on_error`; gives what the first that raised has raised."""
        for hook in reversed(self.on_error):
            try:
                _called(hook, context, error)
            except BaseException as raised:
                return raised
        return None

    def ended(self, context: Context, ended: Ended) -> None:
        """Call `after_run`; one that raises keeps no other from being called."""
        for hook in reversed(self.after_run):
            try:
                _called(hook, context, ended)
            except BaseException as error:
                _failed_to("after_run", context, error)

    # --- on an event loop -----------------------------------------------------------------------------------------------

    async def abegin(self, context: Context) -> None:
        for hook in self.metadata:
            try:
                _keep(context, await _acalled(hook, context))
            except Exception as error:
                _failed_to("metadata", context, error)
        for hook in self.before_run:
            await _acalled(hook, context)

    async def afailed(self, context: Context, error: BaseException, limit: float) -> BaseException | None:
        for hook in reversed(self.on_error):
            try:
                await asyncio.wait_for(_acalled(hook, context, error), limit)
            except BaseException as raised:
                return raised
        return None

    async def aended(self, context: Context, ended: Ended, limit: float) -> None:
        for hook in reversed(self.after_run):
            try:
                await asyncio.wait_for(_acalled(hook, context, ended), limit)
            except Exception as error:
                _failed_to("after_run", context, error)


def _called(hook: Hook, *arguments: object) -> Any:
    value = hook(*arguments)
    return asyncio.run(_result(value)) if inspect.isawaitable(value) else value


async def _acalled(hook: Hook, *arguments: object) -> Any:
    if inspect.iscoroutinefunction(hook):
        return await hook(*arguments)
    return await _in_a_thread(lambda: _called(hook, *arguments))


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    """Like `asyncio.to_thread`, in a thread that nobody waits for: one that hangs must not keep the process from ending."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def take(box: tuple[Any, BaseException | None]) -> None:
        if not done.done():
            done.set_result(box)

    def run() -> None:
        box: tuple[Any, BaseException | None]
        try:
            box = call(), None
        except BaseException as error:  # in a box, since a future takes no StopIteration
            box = None, error
        with contextlib.suppress(RuntimeError):  # it took so long that the loop is gone
            loop.call_soon_threadsafe(take, box)

    thread = threading.Thread(target=run, name="dray-hook", daemon=True)
    thread.start()
    try:
        value, error = await done
    except asyncio.CancelledError:  # its time is over
        stragglers.leave(thread)
        raise
    if error is not None:
        raise error
    return value


async def _result(value: Awaitable[Any]) -> Any:
    return await value


def _keep(context: Context, said: object) -> None:
    if said is None:
        return
    if not isinstance(said, Mapping):
        raise TypeError(f"a metadata hook must give a dict, not {type(said).__name__}")
    context.metadata.update(said)


def _failed_to(hook: str, context: Context, error: BaseException) -> None:
    events.emit("hook.failed", hook=hook, job_id=context.id, task=context.task, error=f"{type(error).__name__}: {error}")
