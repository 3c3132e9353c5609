"""The worker's side of isolated jobs: processes that are kept ready, one run in each at a time."""

from __future__ import annotations

import contextlib
import os
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
from dray.job import Claim, Died, Failed, Usage
from dray.options import Isolate
from dray.runner import Ran
from dray.settings import SETTINGS, Origin, Settings
from dray.wire import Line, claim_to, ran_from

GROWN = 128 * 1024  # KiB that a process may have grown by, until another takes its place
STACK_WAIT = 2.0  # seconds that a stack is waited for
Failing = Callable[[Ran], None]

# It finds Dray where the worker has found it. Not by a variable: that would go on to whatever a job starts.
_BEGIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from dray.child import main; main()"


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
    """One process; a grip on the run that is in it."""

    def __init__(self, plan: Plan) -> None:
        ours, theirs = socket.socketpair()
        self._stacks, stacks = os.pipe()
        os.set_blocking(self._stacks, False)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, str(Path(__file__).parents[1]), str(theirs.fileno()), str(stacks)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), stacks),
                start_new_session=True,  # a Ctrl-C is for the worker
            )
        os.close(stacks)
        self.line = Line(ours)
        self.line.say(app=plan.app, path=sys.path, settings=dict(plan.settings))
        self.runs = 0
        self.first_size = 0  # KiB after its first run
        self.size = 0
        self._ready: bool | None = None
        self.broken: str | None = None

    def wait_until_ready(self) -> bool:
        """Whether it has become ready; if not, `broken` says why."""
        if self._ready is None:
            told = self.line.hear()
            self._ready = told is not None and "ready" in told
            if not self._ready:
                self.broken = (told or {}).get("broken") or "it ended at once"
        return self._ready

    def time_out(self) -> None:
        self._signal(signal.SIGALRM)

    def cancel(self) -> None:
        self.line.say(cancel=True)

    def end(self) -> bool:
        self._signal(signal.SIGKILL)
        return True

    def stack(self) -> str:
        """Where it is, as the interpreter says it even when the run keeps it from everybody else."""
        self._signal(signal.SIGUSR1)
        text, deadline = b"", time.monotonic() + STACK_WAIT
        while time.monotonic() < deadline:
            try:
                text += os.read(self._stacks, 65536)
            except BlockingIOError:
                if text:
                    break
                time.sleep(0.01)
            except OSError:
                break
        return _turned(text.decode(errors="replace"))

    def close(self) -> None:
        """End it, if it has not ended."""
        self.line.close()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._stacks)

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(OSError):
                os.kill(self.process.pid, number)


class Children:
    """Processes for isolated runs: one more is kept ready than are in use, up to `most`.

    plan    None: nobody knows where the app is, so nothing can be isolated
    """

    def __init__(self, plan: Plan | None, most: int) -> None:
        self._plan, self._most = plan, most
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._count = 0
        self._over = False

    def prepare(self) -> None:
        """Start one now, so that the first run need not wait for it."""
        with self._lock:
            if self._plan is None or self._over or self._idle or self._count >= self._most:
                return
            self._count += 1
        try:
            child = Child(self._plan)
        except OSError as error:
            events.emit("child.failed", why=error)
            with self._lock:
                self._count -= 1
            return
        self._keep(child)

    def take(self) -> Child | str:
        """A process to run something in, or why there is none."""
        with self._lock:
            child = self._idle.pop() if self._idle else None
            if child is None:
                self._count += 1
        if child is None:
            if self._plan is None:
                return "nobody knows which app to import in it: start the worker with `dray worker -A module:attribute`"
            try:
                child = Child(self._plan)
            except OSError as error:
                return str(error)
        if child.wait_until_ready():
            return child
        self._drop(child)
        return child.broken or "it ended at once"

    def give_back(self, child: Child, isolate: Isolate) -> None:
        """Keep it for the next run, unless it has done enough, has grown, or has ended."""
        grown = child.size - child.first_size > GROWN
        if grown or child.runs >= isolate.jobs or child.process.poll() is not None:
            self._drop(child)
        else:
            self._keep(child)

    def discard(self, child: Child) -> int:
        """Be rid of one that has ended; gives how it did: its exit code, or minus a signal."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(1.0)
        self._drop(child)
        return child.process.returncode

    def stop(self) -> None:
        with self._lock:
            self._over, idle = True, self._idle
            self._idle = []
        for child in idle:
            child.close()

    def _keep(self, child: Child) -> None:
        with self._lock:
            if not self._over:
                self._idle.append(child)
                return
        child.close()

    def _drop(self, child: Child) -> None:
        with self._lock:
            self._count -= 1
        child.close()


class RanElsewhere(NamedTuple):
    """What a run in a child came to, what it has used, and its metadata as it is stored."""

    ran: Ran
    usage: Usage | None = None
    metadata: str | None = None


def run(child: Child, claim: Claim, context: Context, isolate: Isolate, failing: Failing) -> RanElsewhere:
    """Run a job in a child to its end."""
    child.runs += 1
    child.line.say(run=claim_to(claim), memory=isolate.bytes)
    while (told := child.line.hear()) is not None:
        if "line" in told:
            context.log(told["line"][1], told["line"][0])
        elif "failing" in told:
            failing(ran_from(told["failing"]))
            child.line.say(recorded=True)
        elif "ran" in told:
            usage = Usage(*told["usage"])
            child.size = usage.memory_after
            child.first_size = child.first_size or child.size
            context.spawned = context.spawned or told["spawned"]
            return RanElsewhere(ran_from(told["ran"]), usage, told["metadata"])
    return RanElsewhere(Ran(Died(started=True, how="its own process died")))


def how_it_died(code: int) -> str:
    """What the exit code of a process says to people."""
    if code >= 0:
        return f"its own process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its own process died ({name}{', out of memory?' if name == 'SIGKILL' else ''})"


def not_started(why: str) -> Ran:
    """The outcome of a run that found no process to be in."""
    return Ran(Failed(error=f"no process could be started for it: {why}"))


def _turned(text: str) -> str:
    """The stack of the main thread, which is the run, with its last call last, as everywhere else."""
    blocks = text.strip().split("\n\n")
    main = next((block for block in reversed(blocks) if "most recent call first" in block), "")
    head, _, rest = main.partition("\n")
    return "\n".join(reversed(rest.splitlines())) if head else ""
