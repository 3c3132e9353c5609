"""Running a command task: the command in a process group of its own, its output taken as it comes, its end in every way."""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dray.command import Command
from dray.context import Context
from dray.errors import CommandFailed
from dray.forks import close_in_forks
from dray.outside import warden
from dray.outside.capture import Capture
from dray.process import NO_ROOM, how_it_ended
from dray.signals import CancelRequested, Snooze, TimedOut

LIVE_AFTER = 1.0  # seconds until what is said is stored while the command runs; most are over by then
LATER = 5.0  # seconds until it is tried again when there was no room for one more process
LAST_WORDS = 0.5  # seconds in which what is left of the output is taken: what it has started may hold the stream open
CHUNK = 65536


class ProgramGrip:
    """On a command: signals to its process group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._group: int | None = None
        self._wanted: int | None = None  # a signal that was to be sent before it ran
        self._is_over = False
        self.timed_out = False  # it was asked to end for that
        self.late = False  # it was ended while the worker could not see to that, and counts as a crash
        self.cpu, self.memory, self.pid = 0.0, 0, 0  # what it has used, once it has ended

    def time_out(self) -> None:
        """Ask it to end, with SIGTERM."""
        self._send(signal.SIGTERM, lambda: setattr(self, "timed_out", True))

    def cancel(self) -> None:
        self._send(signal.SIGTERM)

    def end(self, mark: Callable[[], None]) -> bool | None:
        return True if self._send(signal.SIGKILL, mark) else None

    def stack(self) -> str:
        """The processes of its group: what they are and what they wait for is all that can be seen of a program."""
        group = self._group
        if group is None:
            return ""
        return "\n".join(_process(int(entry)) for entry in os.listdir("/proc") if entry.isdecimal() and _is_of(entry, group))

    def began(self, group: int) -> None:
        with self._lock:
            self._group = self.pid = group
            if self._wanted is not None:
                _signal_group(group, self._wanted)

    def ended(self) -> None:
        """It has ended: what is meant for it comes too late, and its number may be another's from now on."""
        with self._lock:
            self._group, self._is_over = None, True

    def _send(self, number: int, mark: Callable[[], None] = lambda: None) -> bool:
        """Send a signal, at once or as soon as it runs; `mark` is called before. False: it has ended."""
        with self._lock:
            if self._is_over:
                return False
            mark()
            if self._group is None:
                self._wanted = number
            else:
                _signal_group(self._group, number)
            return True


def _signal_group(group: int, number: int) -> None:
    with suppress(OSError):
        os.killpg(group, number)


def run(command: Command, values: Mapping[str, Any], context: Context, grip: ProgramGrip, page: int) -> None:
    """Run it for a job, to its end. Raises CommandFailed, TimedOut or CancelRequested when it has not done what it should, and
    Snooze when there was no room to start it. Exit code 0 is done, whatever was asked of it meanwhile. `page` is the number of
    the worker's `pulse`, which says when it has to be ended in any case."""
    log = _Log(command, context)
    capture = Capture(command.max_output, log.tell)
    try:
        code = _Program(command, values, context, grip, capture, log, page).run()
    except CommandFailed:
        log.end(kept=command.output in ("failure", "always"))
        raise
    log.end(kept=command.output in ("always", "failure" if code else "success"))
    if code:
        if context.cancel_requested:
            raise CancelRequested
        if grip.timed_out:
            raise TimedOut
        last = capture.last_line()
        how = how_it_ended(code)
        how = f"killed by {how}" if code < 0 else how
        raise CommandFailed(f"{how}: {last}" if last else how, code if code > 0 else None, capture.last_lines())


class _Log:
    """The lines it says, on their way to the log of the job: there while it runs, if it takes long, and kept as is wanted."""

    def __init__(self, command: Command, context: Context) -> None:
        self._context = context
        self._held: list[tuple[str, str]] | None = []
        self._began = time.monotonic()

    def tell(self, line: str, stream: str) -> None:
        if self._held is None:
            self._context.log(line, stream)
        else:
            self._held.append((line, stream))

    def look(self) -> None:
        """Begin to store what was said, if it is time."""
        if self._held is not None and time.monotonic() - self._began > LIVE_AFTER:
            self._release()

    def end(self, *, kept: bool) -> None:
        if kept:
            self._release()
        elif self._held is None:
            self._context.forget_log()

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for line, stream in held:
            self._context.log(line, stream)


class _Program:
    """One run of a program."""

    def __init__(
        self,
        command: Command,
        values: Mapping[str, Any],
        context: Context,
        grip: ProgramGrip,
        capture: Capture,
        log: _Log,
        page: int,
    ) -> None:
        self._command, self._grip, self._capture, self._log, self._page = command, grip, capture, log, page
        self._words, self._input = command.render(values), command.input(values)
        about = {"JOB_ID": context.id, "ATTEMPT": context.attempt, "TASK": context.task, "QUEUE": context.queue}
        self._env = {**os.environ, **{f"DRAY_{name}": str(value) for name, value in about.items()}, **command.env}
        self._facts: dict[str, Any] = {}  # what the warden has said
        self._said = b""
        self._alone = False  # the warden has no more to say

    def run(self) -> int:
        # Whatever may be missing is asked for before it runs.
        try:
            selector = selectors.DefaultSelector()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    process = self._start(theirs)
                except BaseException:
                    ours.close()
                    selector.close()
                    raise
        except OSError as error:
            if error.errno == errno.E2BIG:  # which does not pass
                raise CommandFailed(f"{self._words[0]} could not be started: {error.strerror}") from error
            raise Snooze(LATER, f"there was no room to start it: {error}") from error
        close_in_forks(ours)
        try:
            with selector, ours:
                self._follow(process, ours, selector)
        except BaseException:
            self._grip.end(lambda: None)
            raise
        finally:
            self._grip.ended()
            ours.close()  # whatever went wrong: the warden ends what it watches
            for file in (process.stdin, process.stdout, process.stderr):
                if file is not None:
                    with suppress(OSError):
                        file.close()
            process.wait()
        return self._code()

    def _code(self) -> int:
        """Its exit code, if it has come to one."""
        if self._facts.get("errno") in NO_ROOM:
            raise Snooze(LATER, f"there was no room to start it: {self._facts['error']}")
        if "error" in self._facts:
            raise CommandFailed(f"{self._words[0]} could not be started: {self._facts['error']}")
        if "late" in self._facts:
            self._grip.late = True
            raise Snooze(LATER, "others could soon have taken it over")  # which is no failure, and nobody's last word
        if "status" not in self._facts:
            raise CommandFailed("it was lost: the process that watched it is gone", said=self._capture.last_lines())
        self._grip.cpu, self._grip.memory = self._facts["cpu"], self._facts["memory"]
        return os.waitstatus_to_exitcode(self._facts["status"])

    def _start(self, life: socket.socket) -> subprocess.Popen[bytes]:
        number, page, parent = life.fileno(), self._page, os.getpid()
        words = [str(number), str(page), str(parent), self._command.folder or "", *self._words]
        return subprocess.Popen(
            # -I and -S: it needs nothing but the interpreter.
            [sys.executable, "-I", "-S", str(Path(warden.__file__)), *words],
            stdin=subprocess.PIPE if self._input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(number, page),
            env=self._env,
            start_new_session=True,
            bufsize=0,
        )

    def _follow(self, process: subprocess.Popen[bytes], life: socket.socket, selector: selectors.BaseSelector) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        selector.register(process.stdout, selectors.EVENT_READ, "stdout")
        selector.register(process.stderr, selectors.EVENT_READ, "stderr")
        selector.register(life, selectors.EVENT_READ, "life")
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, "stdin")
        until = float("inf")
        while (left := until - time.monotonic()) > 0 and selector.get_map():
            for key, _ in selector.select(min(left, LIVE_AFTER / 4)):
                file: Any = key.fileobj
                match key.data:
                    case "stdin":
                        self._write(file, selector)
                    case "life":
                        self._hear(life, selector)
                    case stream:
                        self._read(file, stream, selector)
            self._log.look()
            if self._alone and until == float("inf"):
                self._grip.ended()
                until = time.monotonic() + LAST_WORDS
        self._capture.close()

    def _write(self, stdin: Any, selector: selectors.BaseSelector) -> None:
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input[:CHUNK]) :]
        except BlockingIOError:
            return
        except OSError:  # it does not want to know
            self._input = b""
        if not self._input:
            selector.unregister(stdin)
            stdin.close()

    def _read(self, file: Any, stream: str, selector: selectors.BaseSelector) -> None:
        data = os.read(file.fileno(), CHUNK)
        if data:
            self._capture.feed(stream, data)
        else:
            selector.unregister(file)

    def _hear(self, life: socket.socket, selector: selectors.BaseSelector) -> None:
        data = life.recv(4096)
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            self._facts |= json.loads(line)
            if "pid" in self._facts and not self._grip.pid:
                self._grip.began(self._facts["pid"])
        if not data or "status" in self._facts or "error" in self._facts:
            if not data and "status" not in self._facts:
                self._grip.end(lambda: None)  # nobody watches over it any more
            selector.unregister(life)
            self._alone = True


def _is_of(entry: str, group: int) -> bool:
    try:
        return os.getpgid(int(entry)) == group
    except OSError:
        return False


def _process(pid: int) -> str:
    """A process in one line: its number, state, what it waits for in the kernel, and its command line."""
    parts = []
    for name in ("stat", "wchan", "cmdline"):
        with suppress(OSError):
            parts.append(Path(f"/proc/{pid}/{name}").read_bytes())
            continue
        parts.append(b"")
    state = parts[0].rpartition(b")")[2].split()[:1]
    words = parts[2].rstrip(b"\0").replace(b"\0", b" ")[:300]
    return b" ".join([str(pid).encode(), *state, parts[1] or b"-", words]).decode(errors="replace")
