"""The process that runs isolated jobs, one after the other: what crashes, leaks or hangs in them stays here.

Its first argument is the number of a socket to its worker. It hears once what it needs, then a run after the other:

    {"app": "shop:app", "path": [...], "settings": {...}}     which app, where from, with which settings over its own
    {"run": {...}, "memory": 0}     a claim; and how many bytes this process may use meanwhile, 0: as many as there are
    {"cancel": true}                somebody wants the run cancelled
    {"recorded": true}              what was said to be failing is on record

and says: {"ready": true} or {"broken": "..."}, {"line": [kind, text]}, {"failing": {...}}, and at last {"ran": {...}, ...}.
SIGALRM means that the time of the run is over, SIGUSR1 shows where it is. When the worker is gone, it ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import Any, TypeVar

from dray.app import Dray
from dray.context import Context
from dray.discover import import_app
from dray.job import Claim
from dray.meter import Meter
from dray.runner import Ran
from dray.signals import TimedOut
from dray.wire import Line, claim_from, ran_to, result_to

T = TypeVar("T")


class Interrupt:
    """Raises TimedOut in the run of this moment when its time is over, wherever it is, also in a sleep."""

    def __init__(self) -> None:
        self._inside = False
        self._on_loop: Callable[[], None] | None = None
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._inside:
            return
        self._inside = False  # once
        if self._on_loop is None:
            raise TimedOut
        self._on_loop()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that may be interrupted."""
        self._on_loop, self._inside = None, True
        try:
            return function(*args)
        finally:
            self._inside = False

    @contextlib.contextmanager
    def on_loop(self, cancel: Callable[[], None]) -> Iterator[None]:
        """On an event loop it is asked to cancel instead."""
        self._on_loop, self._inside = cancel, True
        try:
            yield
        finally:
            self._inside = False


class Child:
    """One worker, one app, one run at a time, in the main thread, where signals arrive."""

    def __init__(self, line: Line, app: Dray) -> None:
        self._line, self._app = line, app
        self._todo: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._recorded: SimpleQueue[bool] = SimpleQueue()
        self._interrupt = Interrupt()
        self._meter = Meter()
        self._context: Context | None = None

    def work(self) -> None:
        """Run what comes. The thread that listens ends the process when nobody speaks any more."""
        threading.Thread(target=self._listen, name="dray-line", daemon=True).start()
        while True:
            told = self._todo.get()
            self._line.say(**self._run(claim_from(told["run"]), told["memory"]))

    def _listen(self) -> None:
        while (told := self._line.hear()) is not None:
            if "run" in told:
                self._todo.put(told)
            elif "recorded" in told:
                self._recorded.put(True)
            elif "cancel" in told and (context := self._context) is not None:
                context.request_cancel()
        os._exit(0)

    def _run(self, claim: Claim, memory: int) -> dict[str, Any]:
        context = self._context = Context(claim, lambda claim, kind, text: self._say_line(kind, text))
        before, began = self._meter.begin(), time.process_time()
        with _at_most(memory):
            ran = self._perform(context, claim.args)
        self._context = None
        usage = self._meter.end(before, time.process_time() - began)
        said = context.metadata
        return result_to(ran, context, usage, self._app.runner.metadata(said) if said else None)

    def _perform(self, context: Context, payload: str) -> Ran:
        runner = self._app.runner
        prepared = runner.prepare(context, payload)
        if isinstance(prepared, Ran):
            return prepared
        if not prepared.definition.is_async:
            return runner.run(prepared, context, self._failing, self._interrupt.call)

        async def on_loop() -> Ran:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()

            def cancel() -> None:
                context.time_is_over = True
                assert task is not None
                loop.call_soon_threadsafe(task.cancel)

            with self._interrupt.on_loop(cancel):
                return await runner.arun(prepared, context, self._failing)

        return asyncio.run(on_loop())

    def _failing(self, ran: Ran) -> None:
        """Wait until a failure is on record: only then may a hook be called that could take this process down."""
        self._line.say(failing=ran_to(ran))
        self._recorded.get()

    def _say_line(self, kind: str, text: str) -> None:
        self._line.say(line=[kind, text])


@contextlib.contextmanager
def _at_most(memory: int) -> Iterator[None]:
    """Let allocations fail beyond so many bytes: as a MemoryError, while there is still room to tell of it."""
    if not memory:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        gc.collect()


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, let it be this process, and not the worker or somebody's database."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def main() -> None:
    """Be the child of a worker."""
    end = socket.socket(fileno=int(sys.argv[1]))
    stacks = int(sys.argv[2])
    for number in (end.fileno(), stacks):
        os.set_inheritable(number, False)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)  # its worker decides
    # In C, without the interpreter: also of a run that keeps it from everybody else.
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    _be_the_first_to_go()
    line = Line(end)
    plan = line.hear()
    if plan is None:
        return
    try:
        sys.path[:] = plan["path"]
        app = import_app(plan["app"])
        app.override(plan["settings"])
        app.learn_types()
    except Exception as error:
        line.say(broken=f"{type(error).__name__}: {error}")
        return
    child = Child(line, app)
    gc.freeze()
    line.say(ready=True)
    child.work()
