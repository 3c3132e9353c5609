"""The process that runs isolated jobs, one after the other: what crashes, leaks or hangs in them stays here.

Its arguments are the numbers of a socket to its worker and of a pipe for stacks, of the worker's page and line (see `pulse` and
`lifeline`), and the worker's pid. It hears once what it needs, then a run after the other, each with a number `n`:

    {"app": "shop:app", "path": [...], "settings": {...}}     which app, where from, with which settings over its own
    {"run": [...], "n": 1, "memory": 0}     a claim; and how many bytes this process may use meanwhile, 0: as many as there are
    {"cancel": 1}                           somebody wants this run cancelled
    {"recorded": 1}                         what was said to be failing is on record

and says: {"ready": true} or {"broken": "..."}, {"began": true, "n": 1}, {"line": [kind, text], "n": 1},
{"failing": {...}, "n": 1}, and at last {"ran": {...}, ..., "n": 1}. SIGALRM means that the time of the run is over, SIGUSR1
shows where it is. When the worker is gone, or others may be about to take over what it runs, it ends at once.
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

import msgspec

from dray.app import Dray
from dray.context import Context
from dray.discover import import_app
from dray.job import Claim
from dray.lifeline import end_group, hold_on
from dray.meter import Meter
from dray.outside.wire import Line, ran_to, result_to
from dray.pulse import Term
from dray.runner import Ran
from dray.signals import TimedOut

T = TypeVar("T")

DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)  # its worker decides


class Interrupt:
    """Raises TimedOut in the run of this moment when its time is over, wherever it is, also in a sleep."""

    def __init__(self) -> None:
        self._inside = self._due = False
        self._on_loop: Callable[[], None] | None = None

    def begin(self) -> None:
        """A run begins; what the last one did with the signal counts for nothing."""
        self._inside = self._due = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if not self._inside:
            self._due = True  # in a hook before it
            return
        self._inside = False  # once
        if self._on_loop is None:
            raise TimedOut
        self._on_loop()

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that may be interrupted."""
        self._on_loop, self._inside = None, True
        try:
            if self._due:
                raise TimedOut
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

    def __init__(self, line: Line, is_over: Callable[[], bool]) -> None:
        self._line, self._is_over = line, is_over
        self._todo: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._recorded: SimpleQueue[int] = SimpleQueue()
        self._interrupt = Interrupt()
        self._meter = Meter()
        self._run: tuple[int, Context] | None = None
        self._cancelled = 0  # the last run that somebody wanted cancelled

    def listen(self) -> None:
        """From now on somebody listens, and ends the process when nobody speaks any more."""
        threading.Thread(target=self._listen, name="dray-line", daemon=True).start()

    def next(self) -> dict[str, Any]:
        """The next that is to be done."""
        return self._todo.get()

    def work(self, app: Dray) -> None:
        """Run what comes."""
        while True:
            told = self.next()
            number = told["n"]
            self._line.say(**self._perform(app, msgspec.convert(told["run"], Claim), number, told["memory"]), n=number)

    def _listen(self) -> None:
        try:
            while (told := self._line.hear()) is not None and not self._is_over():  # what was said before may be heard late
                if "recorded" in told:
                    self._recorded.put(told["recorded"])
                elif "cancel" in told:
                    self._cancelled = told["cancel"]
                    if (run := self._run) is not None and run[0] == self._cancelled:
                        run[1].request_cancel()
                else:
                    self._todo.put(told)
        finally:
            end_group()  # what the job has started goes with it

    def _perform(self, app: Dray, claim: Claim, number: int, memory: int) -> dict[str, Any]:
        context = Context(claim, lambda claim, kind, text: self._say_line(number, kind, text))
        self._interrupt.begin()
        self._run = number, context
        if self._cancelled == number:
            context.request_cancel()
        self._line.say(began=True, n=number)
        before, began = self._meter.begin(alone=True), time.process_time()
        with _at_most(memory):
            ran = self._call(app, context, claim.args, number)
        self._run = None
        usage = self._meter.end(before, time.process_time() - began)
        said = context.metadata
        return result_to(ran, context, usage, app.runner.metadata(said) if said else None)

    def _call(self, app: Dray, context: Context, payload: str, number: int) -> Ran:
        runner = app.runner
        prepared = runner.prepare(context, payload)
        if isinstance(prepared, Ran):
            return prepared

        def failing(ran: Ran) -> None:
            """Wait until a failure is on record: only then may a hook be called that could take this process down."""
            self._line.say(failing=ran_to(ran), n=number)
            while self._recorded.get() != number:
                pass

        if not prepared.definition.is_async:
            return runner.run(prepared, context, failing, self._interrupt.call)

        async def on_loop() -> Ran:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()

            def cancel() -> None:
                context.time_is_over = True
                assert task is not None
                loop.call_soon_threadsafe(task.cancel)

            with self._interrupt.on_loop(cancel):
                return await runner.arun(prepared, context, failing)

        return asyncio.run(on_loop())

    def _say_line(self, number: int, kind: str, text: str) -> None:
        self._line.say(line=[kind, text], n=number)


@contextlib.contextmanager
def _at_most(memory: int) -> Iterator[None]:
    """Let allocations fail beyond so many bytes: as a MemoryError, while there is still room to tell of it."""
    if not memory:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        gc.collect()


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, let it be this process, and not the worker or somebody's database."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _take_no_signals() -> None:
    """Signals are for the worker. Not ignored, which would go on to whatever a job starts; and not so in forks."""
    for number in DEAF_TO:
        signal.signal(number, _nothing)
    os.register_at_fork(after_in_child=_take_signals)


def _take_signals() -> None:
    for number in DEAF_TO:
        if signal.getsignal(number) is _nothing:
            signal.signal(number, signal.SIG_DFL)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The worker has heard it as well."""


def main() -> None:
    """Be the child of a worker."""
    end, (stacks, page, lifeline, parent) = socket.socket(fileno=int(sys.argv[1])), map(int, sys.argv[2:])
    for number in (end.fileno(), stacks, page, lifeline):
        os.set_inheritable(number, False)
    hold_on(lifeline)
    _take_no_signals()
    # In C, without the interpreter: also of a run that keeps it from everybody else.
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    _be_the_first_to_go()
    term = Term(page)  # looked at by a thread here, since worker and heart may both be frozen
    line = Line(end, is_gone=lambda: os.getppid() != parent or term.is_over(), look_in=term.left)
    child = Child(line, term.is_over)
    child.listen()  # before the app is imported, which may hang
    plan = child.next()
    try:
        sys.path[:] = plan["path"]
        app = import_app(plan["app"])
        app.override(plan["settings"])
        app.learn_types()
    except Exception as error:
        line.say(broken=f"{type(error).__name__}: {error}")
        return
    gc.freeze()
    line.say(ready=True)
    child.work(app)
