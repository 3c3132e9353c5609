"""A worker process as its tender sees it: what it says of itself, what it prints, what it is told.

They speak over a socket of their own, in lines of JSON (C75). The worker says `{"worker": ID}` when it has registered,
`{"running": N, "slots": N, "jobs": [[id, task, seconds], ...], "leaving": false}` when that changes, and `"bye"` at an orderly
end. The tender says `{"order": "retire"}`, `"stop"`, `"now"` or `"who"`; when it is gone, the worker ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from dray import pids
from dray.folder import Folder
from dray.tending.planning import Member, Stage
from dray.tending.relay import Outlet, Relay

VARIABLE = "DRAY_TENDER_FD"  # tells a worker the number of its end of the socket
MUTE_AFTER = 10.0  # seconds after which a command that says nothing of itself counts as a worker that is up
LINGERS = 10.0  # seconds a process may live on after its last word
LONGEST = 65_536  # bytes of a line
SHOWN = 5  # jobs that a worker names


def spawn(
    words: Sequence[str],
    outlets: tuple[Outlet, Outlet],
    folder: Folder,
    *,
    pass_on: tuple[int, ...] = (),
    variables: Mapping[str, str] | None = None,
) -> tuple[int, tuple[Relay, Relay]]:
    """Start a process without a shell, in a session of its own, in the folder as it is now; gives its pid and what comes out of
    it. Raises OSError."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    (out, out_end), (error, error_end) = os.pipe(), os.pipe()
    try:
        process = subprocess.Popen(
            [folder.of(words[0]), *words[1:]],
            cwd=folder.now(),
            stdin=subprocess.DEVNULL,
            stdout=out_end,
            stderr=error_end,
            env=environment | dict(variables or {}),
            pass_fds=pass_on,
            # Ctrl-C is for the tender: it stops them in good order. And whatever a worker starts can be ended with it.
            start_new_session=True,
        )
    except BaseException:
        os.close(out)
        os.close(error)
        raise
    finally:
        os.close(out_end)
        os.close(error_end)
    process.returncode = 0  # it is collected with all others: this object must not wait for it
    return process.pid, (Relay(out, outlets[0]), Relay(error, outlets[1]))


class Hired:
    """One worker process, from its start until it has been collected. Raises OSError when it cannot be started."""

    def __init__(self, words: Sequence[str], outlets: tuple[Outlet, Outlet], folder: Folder, now: float) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            number = theirs.fileno()
            try:
                variables = {VARIABLE: str(number)}
                self.pid, self.relays = spawn(words, outlets, folder, pass_on=(number,), variables=variables)
            except BaseException:
                self._socket.close()
                raise
        self._began = self._heard = now
        self._rest = b""
        self.worker_id = 0
        self.running, self.slots = 0, 1
        self.jobs: list[tuple[int, str, float]] = []  # some of those it runs: id, task, and when it was started
        self.memory = 0
        self.outdated = False
        self.asked: str | None = None  # why it was told to end
        self._leaves = False  # it ends by itself
        self.said_bye = False

    @property
    def socket(self) -> int:
        return self._socket.fileno()

    @property
    def speaks(self) -> bool:
        """Whether it has ever said something of itself."""
        return self.worker_id > 0

    @property
    def output(self) -> int:
        """Bytes it has written."""
        return sum(relay.count for relay in self.relays)

    def age(self, now: float) -> float:
        return now - self._began

    def was_up(self, now: float) -> bool:
        """Whether it has got as far as to work, whatever it does now."""
        return self.speaks or self.age(now) >= MUTE_AFTER

    def stage(self, now: float) -> Stage:
        if self.asked is not None or self._leaves or self.said_bye:
            return Stage.LEAVING
        return Stage.UP if self.was_up(now) else Stage.STARTING

    def member(self, now: float) -> Member:
        """What the plan needs to know of it."""
        return Member(
            pid=self.pid,
            stage=self.stage(now),
            running=self.running,
            slots=self.slots,
            age=self.age(now),
            output=self.output,
            memory=self.memory,
            outdated=self.outdated,
        )

    def measure(self) -> None:
        """Look how much memory it has; where the system does not say, it has none."""
        self.memory = pids.memory(self.pid) or self.memory

    # --- what it says ---------------------------------------------------------------------------------------------------

    def hear(self, now: float) -> bool:
        """Take what it has said; False when it will say nothing more."""
        try:
            came = self._socket.recv(LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            came = b""
        *lines, self._rest = (self._rest + came).split(b"\n")
        if len(self._rest) > LONGEST:
            self._rest = b""
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # whoever that is, it is none of our workers
                self._take(json.loads(line), now)
        return bool(came)

    def _take(self, said: Any, now: float) -> None:
        self._heard = now
        if said == "bye":
            self.said_bye = True
        elif "worker" in said:
            self.worker_id = int(said["worker"])
        else:
            self.running, self.slots = int(said["running"]), int(said["slots"])
            self._leaves = bool(said.get("leaving"))
            self.jobs = [(int(id), str(task), now - float(since)) for id, task, since in said["jobs"][:SHOWN]]

    def lingers(self, now: float) -> bool:
        """Whether it has said its last word long ago, and a thread or the like keeps it alive."""
        return self.said_bye and now - self._heard > LINGERS

    # --- what it is told ------------------------------------------------------------------------------------------------

    def retire(self, why: str) -> None:
        """Let it end what it runs, however long that takes, and start nothing more."""
        self._tell("retire", why)

    def stop(self, why: str) -> None:
        """The same within its grace period.

        Told by word and not by a signal where it listens: whoever signals a whole group or a control group reaches the
        workers as well, and a second signal would mean that they cut off what they run.
        """
        self._tell("stop", why)

    def stop_now(self, why: str) -> None:
        """Let it give back what it runs."""
        self._tell("now", why)

    def ask(self) -> None:
        """Ask what it does just now."""
        self._order("who")

    def kill(self) -> None:
        """End it and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _tell(self, order: str, why: str) -> None:
        self.asked = self.asked or why
        if not (self.speaks and self._order(order)):
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and is yet to be collected
                os.kill(self.pid, signal.SIGTERM)

    def _order(self, order: str) -> bool:
        try:
            self._socket.send(json.dumps({"order": order}).encode() + b"\n")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Pass on its last words, and close all that led to it."""
        for relay in self.relays:
            relay.close()
        self._socket.close()
