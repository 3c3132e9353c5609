"""Run one claimed job and say what it came to. Nothing a task or a row does makes it raise."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dray.codec import Codec, sanitize
from dray.context import CancelRequested, Context, enter
from dray.errors import BadArguments, CodecError, Permanent
from dray.job import (
    Cancelled,
    Done,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    RetryIn,
    Skip,
    Skipped,
    Snooze,
    Snoozed,
    StopWorker,
)
from dray.report import Report
from dray.task import Definition, Registry

TRACEBACK_LIMIT = 20_000  # characters kept of one traceback: the end, which says what happened
ERROR_LIMIT = 2_000


class Ran(NamedTuple):
    """What a run came to, and whether the task asked for the end of its worker."""

    outcome: Outcome
    stop: bool = False


_NOTHING = Ran(Done())


class Prepared(NamedTuple):
    """A task that can be called, and its arguments."""

    definition: Definition
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Runner:
    """Runs jobs of the tasks in a registry. Without a clock, a store or a worker."""

    def __init__(self, registry: Registry, codec: Codec) -> None:
        self._registry, self._codec = registry, codec

    def definition(self, task: str) -> Definition | None:
        """The task, if it is known here."""
        return self._registry.find(task)

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
        return Prepared(definition, args, kwargs)

    def run(self, prepared: Prepared, context: Context) -> Ran:
        """Run a sync task in this thread."""
        leave = enter(context)
        try:
            value = prepared.definition.call(prepared.args, prepared.kwargs, context)
        except BaseException as error:  # also SystemExit: a task must not end its worker by accident
            return self._raised(error)
        finally:
            leave()
        return self._returned(value)

    async def arun(self, prepared: Prepared, context: Context) -> Ran:
        """Run an async task on this event loop."""
        leave = enter(context)
        try:
            value = await prepared.definition.call(prepared.args, prepared.kwargs, context)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                return self._raised(error)  # its own: something it waited for was cancelled
            # Cancelled by us: because an operator asked for it, or because the worker ends now.
            return Ran(Cancelled() if context.cancel_requested else HandedBack(why="the worker stopped"))
        except BaseException as error:
            return self._raised(error)
        finally:
            leave()
        return self._returned(value)

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

    def _raised(self, error: BaseException) -> Ran:
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
            case StopWorker():
                cause = error.__cause__
                if cause is None or isinstance(cause, StopWorker):
                    return Ran(_failed(error, permanent=True), stop=True)
                return Ran(self._raised(cause).outcome, stop=True)
            case _:
                return Ran(_failed(error, permanent=isinstance(error, Permanent)))


def _failed(error: BaseException, *, permanent: bool) -> Failed:
    text = _text(error)
    name = type(error).__name__
    return Failed(
        error=_short(f"{name}: {text}" if text else name),
        traceback=sanitize(_traceback(error))[-TRACEBACK_LIMIT:],
        permanent=permanent,
    )


def _short(words: object) -> str:
    """A text that can be stored and read, of whatever a task or an error has to say."""
    return sanitize(_text(words))[:ERROR_LIMIT]


def _text(words: object) -> str:
    try:
        return str(words)
    except Exception as second:
        return f"its text could not be read: {type(second).__name__}"


def _traceback(error: BaseException) -> str:
    """The traceback from the task on: how the worker got there helps nobody."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
            trace = trace.tb_next
        return "".join(traceback.format_exception(type(error), error, trace))
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
