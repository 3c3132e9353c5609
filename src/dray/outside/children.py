"""The worker's side of isolated jobs: processes that are kept ready, one run in each at a time."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dray import events
from dray.context import Context
from dray.forks import close_in_forks
from dray.job import Claim, Died, Snoozed, Usage
from dray.options import Isolate
from dray.outside.wire import Line, ran_from
from dray.process import how_it_ended
from dray.pulse import Pulse
from dray.runner import Ran
from dray.settings import SETTINGS, Origin, Settings

GROWN = 128 * 1024  # KiB that a process may have grown by, until another takes its place
STACK_WAIT = 2.0  # seconds that a stack is waited for
START_PATIENCE = 60.0  # seconds that a process may take to import the app
LATER = (1.0, 60.0)  # seconds until a job is tried again that found no process: at first, at most
Failing = Callable[[Ran], None]

# It finds Dray where the worker has found it. Not by a variable: that would go on to whatever a job starts.
_BEGIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dray.outside.child import main; main()"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a child has to know: where the app is, and which settings stand over its own. It goes by pipe: it has passwords."""

    app: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def plan_of(settings: Settings, where: str | None) -> Plan | None:
    """The plan for an app that is at `where`, with what the command line has put over its settings; None: nobody knows."""
    given = {name: getattr(settings, name) for name in SETTINGS if settings.source(name).origin is Origin.COMMAND_LINE}
    return None if where is None else Plan(app=where, settings=given)


class Child:
    """One process."""

    def __init__(self, plan: Plan, pulse: Pulse) -> None:
        ours, theirs = socket.socketpair()
        self._stacks, stacks = os.pipe()
        numbers = theirs.fileno(), stacks, *pulse.numbers
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, str(Path(__file__).parents[2]), *map(str, numbers), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
                start_new_session=True,  # a Ctrl-C is for the worker; and whatever it starts is in a group with it
            )
        except OSError:
            ours.close()
            os.close(self._stacks)
            raise
        finally:
            theirs.close()
            os.close(stacks)
        self._looking = threading.Lock()  # at its stack: the pipe stays open as long
        self._closed = False
        self.line = Line(ours, is_gone=self.has_ended)
        self.line.say(app=plan.app, path=sys.path, settings=dict(plan.settings))
        self.runs = 0
        self.first_size = 0  # KiB after its first run
        self.size = 0
        self._ready: bool | None = None
        self.broken: str | None = None

    def has_ended(self) -> bool:
        """Whether it is dead. It is not buried by that: until then its number, and that of its group, are nobody else's."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_until_ready(self) -> bool:
        """Whether it has become ready; if not, `broken` says why."""
        if self._ready is None:
            told = self.line.hear(START_PATIENCE)
            self._ready = told is not None and "ready" in told
            if not self._ready:
                late = not self.has_ended()
                self.broken = (told or {}).get("broken") or (
                    "it takes too long to import the app" if late else "it ended at once"
                )
        return self._ready

    def send(self, number: int) -> None:
        """Send a signal to it alone."""
        if self.process.returncode is None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End it, and whatever it has started."""
        if self.process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def stack(self) -> str:
        """Where it is, as the interpreter says it even when the run keeps it from everybody else."""
        with self._looking:
            if self._closed or self.has_ended():
                return ""
            self.send(signal.SIGUSR1)
            text, deadline = b"", time.monotonic() + STACK_WAIT
            while (left := deadline - time.monotonic()) > 0:
                # Once it has begun to speak it does not take long.
                if not select.select([self._stacks], [], [], 0.05 if text else left)[0]:
                    break
                data = os.read(self._stacks, 65536)
                if not data:
                    break
                text += data
        return _turned(text.decode(errors="replace"))

    def close(self) -> None:
        """End it, if it has not ended."""
        self.kill()
        self.line.close()
        self.process.wait()
        with self._looking:
            if not self._closed:
                os.close(self._stacks)
            self._closed = True


class ChildGrip:
    """On one run in a child: what is meant for it never reaches the run after it."""

    def __init__(self, child: Child) -> None:
        self._child, self._number = child, child.runs + 1
        self._lock = threading.Lock()
        self._over = False

    def time_out(self) -> None:
        with self._lock:
            if not self._over:
                self._child.send(signal.SIGALRM)

    def cancel(self) -> None:
        self._child.line.say(cancel=self._number)

    def end(self, mark: Callable[[], None]) -> bool | None:
        with self._lock:
            if self._over:
                return None
            mark()
            self._child.kill()
        return True

    def stack(self) -> str:
        return "" if self._over else self._child.stack()

    def release(self) -> None:
        """The run is over."""
        with self._lock:
            self._over = True


class Children:
    """Processes for isolated runs: one more is kept ready than are in use, up to `most`.

    plan    None: nobody knows where the app is, so nothing can be isolated
    pulse   by which they see when they have to end
    """

    def __init__(self, plan: Plan | None, most: int, pulse: Pulse) -> None:
        self._plan, self._most, self._pulse = plan, most, close_in_forks(pulse)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._count = 0
        self._failed = 0  # starts in a row that came to nothing
        self._over = False

    def prepare(self) -> None:
        """Start one now, so that the next run need not wait for it; not after one that came to nothing."""
        with self._lock:
            if self._plan is None or self._over or self._idle or self._failed or self._count >= self._most:
                return
        with contextlib.suppress(OSError):
            self._keep(self._start(self._plan))

    def take(self) -> Child | Ran:
        """A process to run something in, ready; or what becomes of a job that has found none: it comes again later."""
        child = self._take_idle()
        why = "nobody knows which app to import in it: start the worker with `dray worker -A module:attribute`"
        if child is None and self._plan is not None:
            try:
                child = self._start(self._plan)
            except OSError as error:
                why = str(error)
        if child is not None:
            if child.wait_until_ready():
                self._failed = 0
                return child
            self.drop(child)
            why = child.broken or why
        self._failed += 1
        events.emit("child.failed", why=why, failed=self._failed)
        delay = min(LATER[0] * 2 ** min(self._failed - 1, 10), LATER[1])
        return Ran(Snoozed(delay=delay, why=f"no process could be started for it: {why}"))

    def _take_idle(self) -> Child | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                child = self._idle.pop()
            if not child.has_ended():
                return child
            self.drop(child)  # somebody has killed it while it waited

    def give_back(self, child: Child, isolate: Isolate) -> None:
        """Keep it for the next run, unless it has done enough, has grown, or has ended."""
        grown = child.size - child.first_size > GROWN
        if grown or child.runs >= isolate.jobs or child.has_ended():
            self.drop(child)
        else:
            self._keep(child)

    def drop(self, child: Child) -> None:
        """Be rid of it."""
        with self._lock:
            self._count -= 1
        child.close()

    def stop(self) -> None:
        with self._lock:
            self._over, idle = True, self._idle
            self._idle = []
        for child in idle:
            self.drop(child)

    def _start(self, plan: Plan) -> Child:
        with self._lock:
            self._count += 1
        try:
            return Child(plan, self._pulse)
        except OSError:
            with self._lock:
                self._count -= 1
            raise

    def _keep(self, child: Child) -> None:
        with self._lock:
            if not self._over:
                self._idle.append(child)
                return
        self.drop(child)


class RanElsewhere(NamedTuple):
    """What a run in a child came to, what it has used, and its metadata as it is stored."""

    ran: Ran
    usage: Usage | None = None
    metadata: str | None = None


def run(child: Child, claim: Claim, context: Context, isolate: Isolate, failing: Failing) -> RanElsewhere:
    """Run a job in a child to its end."""
    child.runs += 1
    number, began = child.runs, False
    child.line.say(run=claim, n=number, memory=isolate.bytes)
    while (told := child.line.hear()) is not None:
        if told.get("n") != number:
            continue  # of a run before, which had left a thread behind
        if "began" in told:
            began = True
        elif "line" in told:
            context.log(told["line"][1], told["line"][0])
        elif "failing" in told:
            failing(ran_from(told["failing"]))
            child.line.say(recorded=number)
        elif "ran" in told:
            usage = Usage(*told["usage"])
            child.size = usage.memory_after
            child.first_size = child.first_size or child.size
            context.spawned = context.spawned or told["spawned"]
            return RanElsewhere(ran_from(told["ran"]), usage, told["metadata"])
    return RanElsewhere(Ran(Died(started=began, how=_how_it_died(child))))


def _how_it_died(child: Child) -> str:
    """What the end of a process says to people."""
    deadline = time.monotonic() + 1.0
    while not child.has_ended():  # the end of its words may come a moment before its own
        if time.monotonic() > deadline:
            return "its own process does not speak any more"
        time.sleep(0.01)
    child.close()
    code = child.process.returncode
    how = how_it_ended(code)
    if code >= 0:
        return f"its own process ended with {how}"
    return f"its own process died ({how}{', out of memory?' if code == -signal.SIGKILL else ''})"


def _turned(text: str) -> str:
    """The stack of the main thread, which is the run, with its last call last, as everywhere else."""
    blocks = text.strip().split("\n\n")
    main = next((block for block in reversed(blocks) if "most recent call first" in block), "")
    head, _, rest = main.partition("\n")
    return "\n".join(reversed(rest.splitlines())) if head else ""
