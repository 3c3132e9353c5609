"""Run one claimed job and say what it came to. Nothing a task or a row does makes it raise."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dray.codec import Codec, sanitize
from dray.context import Context, enter
from dray.durations import show_duration
from dray.errors import BadArguments, CodecError, CommandFailed, Permanent
from dray.forks import end_copy
from dray.hooks import Hooks
from dray.job import (
    Cancelled,
    Done,
    Failed,
    Outcome,
    Parked,
    Skipped,
    Snoozed,
    name_hash,
)
from dray.report import Report
from dray.signals import CancelRequested, RetryIn, Signal, Skip, Snooze, StopWorker, TimedOut
from dray.task import Definition, Registry

TRACEBACK_LIMIT = 20_000  # characters kept of one traceback: the end, which says what happened
ERROR_LIMIT = 2_000


class Ran(NamedTuple):
    """What a run came to, and whether the task asked for the end of its worker."""

    outcome: Outcome
    stop: bool = False


Call = Callable[..., Any]


def plainly(function: Call, *arguments: Any) -> Any:
    """Call a function that nobody is going to interrupt."""
    return function(*arguments)


_NOTHING = Ran(Done())

Failing = Callable[[Ran], None]


class Prepared(NamedTuple):
    """A task that can be called, its arguments, and the hooks around it; None: there are none."""

    definition: Definition
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    hooks: Hooks | None = None


class Runner:
    """Runs jobs of the tasks in a registry. Without a clock, a store or a worker.

    hooks       of all tasks; each may have its own beside them
    hook_limit  seconds that a hook after the run may take
    """

    def __init__(self, registry: Registry, codec: Codec, *, hook_limit: float = 10.0) -> None:
        self._registry, self._codec = registry, codec
        self.hooks = Hooks()
        self.hook_limit = hook_limit

    def definition(self, task: str) -> Definition | None:
        """The task, if it is known here."""
        return self._registry.find(task)

    def metadata(self, said: Mapping[str, Any]) -> str:
        """What hooks said of a job, as it is stored; if it cannot be, the reason stands in its place."""
        try:
            return self._codec.check(dict(said), what="metadata")
        except Exception as error:
            return self._codec.check({"error": _short(f"the metadata was not stored: {_text(error)}")}, what="metadata")

    def prepare(self, context: Context, payload: str) -> Prepared | Ran:
        """Find the task and read its arguments; or say why that cannot be (C10, C35)."""
        definition = self._registry.find(context.task)
        if definition is None:
            return Ran(Parked(why=f"no task {context.task!r} is registered in this worker"))
        try:
            args, kwargs = self._codec.decode_call(payload)
            definition.bind(args, kwargs)
        except CodecError as error:
            return Ran(Failed(error=_short(error), permanent=True))
        except BadArguments as error:
            # Only a mismatch of the call itself: another version of the code may well be able to take it.
            return Ran(Parked(why=_short(error), signature=definition.signature_number))
        return Prepared(definition, args, kwargs, self.hooks.beside(definition.defaults.hooks))

    def run(self, prepared: Prepared, context: Context, failing: Failing = lambda ran: None, call: Call = plainly) -> Ran:
        """Run a sync task in this thread, the task itself by `call`. `failing` is told what the run has come to, if it failed
        and hooks may change that: should one of them hang or end the process, this is what counts."""
        hooks, home = prepared.hooks, os.getpid()
        leave = enter(context)
        try:
            if hooks is not None:
                hooks.begin(context)
            value = call(prepared.definition.call, prepared.args, prepared.kwargs, context)
            end_copy(home)
        except BaseException as error:  # also SystemExit: a task must not end its worker by accident
            end_copy(home, error)
            ran = self._raised(error, prepared.definition)
            if hooks is None or not hooks.on_error or not isinstance(ran.outcome, Failed):
                return ran
            failing(ran)
            return self._after_hooks(ran, hooks.failed(context, error), prepared.definition)
        finally:
            leave()
        return self._returned(value)

    async def arun(self, prepared: Prepared, context: Context, failing: Failing = lambda ran: None) -> Ran:
        """Run an async task on this event loop."""
        hooks, home = prepared.hooks, os.getpid()
        leave = enter(context)
        try:
            if hooks is not None:
                await hooks.abegin(context)
            value = await prepared.definition.call(prepared.args, prepared.kwargs, context)
            end_copy(home)
        except BaseException as error:
            end_copy(home, error)
            task = asyncio.current_task()
            ours = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
            if ours and context.time_is_over:
                assert task is not None
                task.uncancel()
                error = TimedOut().with_traceback(error.__traceback__)
            elif ours and context.cancel_requested:
                return Ran(Cancelled())
            # Else it is something it waited for, or it has cancelled itself, as libraries do: a failure like any other. Handed
            # back it would run again at once, uncounted, for ever.
            ran = self._raised(error, prepared.definition)
            if hooks is None or not hooks.on_error or not isinstance(ran.outcome, Failed):
                return ran
            await asyncio.to_thread(failing, ran)  # it writes to the database
            return self._after_hooks(ran, await hooks.afailed(context, error, self.hook_limit), prepared.definition)
        finally:
            leave()
        return self._returned(value)

    def _after_hooks(self, ran: Ran, raised: BaseException | None, definition: Definition) -> Ran:
        """What a failure becomes by what a hook raised: a signal or Permanent decides, any other mistake is kept with it."""
        if raised is None:
            return ran
        if isinstance(raised, Signal | Permanent):
            return self._raised(raised, definition)
        assert isinstance(ran.outcome, Failed)
        both = f"{ran.outcome.traceback or ''}\nand then a hook failed:\n{sanitize(_traceback(raised, chain=False))}"
        return Ran(dataclasses.replace(ran.outcome, traceback=both[-TRACEBACK_LIMIT:]), stop=ran.stop)

    def _returned(self, value: object) -> Ran:
        if value is None:
            return _NOTHING
        try:
            if isinstance(value, Report):
                value.to_json()
                return Ran(Done(report=value))
            return Ran(Done(result=self._codec.check(value, what="result")))
        except Exception as error:
            # The work is done. That what it gave cannot be kept, or even looked at, is no reason to do it twice.
            return Ran(Done(note=_short(f"the result was not stored: {_text(error)}")))

    def _raised(self, error: BaseException, definition: Definition) -> Ran:
        match error:
            case Snooze():
                why = None if error.why is None else _short(error.why)
                return Ran(Snoozed(delay=_seconds(error.delay), why=why, leave_line=error.leave_line))
            case RetryIn():
                return Ran(Failed(error=_short(error.why), retry_in=_seconds(error.delay)))
            case Skip():
                return Ran(Skipped(why=_short(error.why)))
            case CancelRequested():
                return Ran(Cancelled())
            case TimedOut():
                return Ran(_timed_out(error, definition))
            case StopWorker():
                cause = error.__cause__
                if cause is None or isinstance(cause, StopWorker):
                    return Ran(_failed(error, definition, permanent=True), stop=True)
                return Ran(self._raised(cause, definition).outcome, stop=True)
            case _:
                permanent = isinstance(error, Permanent) or definition.defaults.is_permanent(type(error))
                return Ran(_failed(error, definition, permanent=permanent))


def _timed_out(error: BaseException, definition: Definition) -> Failed:
    limit = definition.defaults.timeout
    failed = _failed(error, definition, permanent=definition.defaults.is_permanent(TimedOut))
    return (
        failed if limit is None else dataclasses.replace(failed, error=f"TimedOut: it ran longer than {show_duration(limit)}")
    )


def _failed(error: BaseException, definition: Definition, *, permanent: bool) -> Failed:
    text = _text(error)
    name = type(error).__name__
    return Failed(
        error=_short(f"{name}: {text}" if text else name),
        traceback=_told(error),
        permanent=permanent,
        fingerprint=_fingerprint(error, definition.name),
    )


def _told(error: BaseException) -> str:
    """Where it was raised; of a command, what it said last."""
    told = error.said if isinstance(error, CommandFailed) else _traceback(error)
    return sanitize(told)[-TRACEBACK_LIMIT:]


def _fingerprint(error: BaseException, task: str) -> int:
    """A number for the kind of error and the function it was raised in: without lines, which move with each release, and
    without its text, which names what was worked on."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            place = f"{os.path.basename(code.co_filename)}:{code.co_qualname}"
        trace = trace.tb_next
    kind = type(error)
    return name_hash(f"{task}\0{kind.__module__}.{kind.__qualname__}\0{place}")


def _short(words: object) -> str:
    """A text that can be stored and read, of whatever a task or an error has to say."""
    return sanitize(_text(words))[:ERROR_LIMIT]


def _text(words: object) -> str:
    try:
        return str(words)
    except Exception as second:
        return f"its text could not be read: {type(second).__name__}"


def _traceback(error: BaseException, *, chain: bool = True) -> str:
    """The traceback from the task on: how the worker got there helps nobody."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace, chain=chain))
    except Exception as second:
        return f"the traceback could not be made: {type(second).__name__}"


_HERE = __file__.removesuffix("runner.py")


def _seconds(value: object) -> float:
    """A delay as a task gave it; what is no sensible number means: at once."""
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), 10 * 365 * 86400.0) if seconds == seconds else 0.0
