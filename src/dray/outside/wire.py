"""How a worker and a process of its own making speak about runs: lines of JSON, which can make nobody run anything.

Every message about a run has its number, `n`: what was said of another run counts for nothing.
"""

from __future__ import annotations

import dataclasses
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dray.context import Context
from dray.forks import close_in_forks
from dray.job import Cancelled, Done, Failed, HandedBack, Parked, Skipped, Snoozed, Usage
from dray.report import Report
from dray.runner import Ran

_OUTCOMES: dict[str, Any] = {kind.__name__: kind for kind in (Done, Failed, Snoozed, Skipped, Parked, Cancelled, HandedBack)}
CHUNK = 65536
LOOK_EVERY = 1.0  # seconds between looks whether the other side is still there


class Line:
    """One end of a socket: messages out, messages in, each a JSON object on a line. Several threads may speak, one listens.

    is_gone     whether the process at the other end has ended; a fork of it may hold its end open
    look_in     seconds until that has to be asked again, at most
    """

    def __init__(
        self, end: socket.socket, is_gone: Callable[[], bool], look_in: Callable[[], float] = lambda: LOOK_EVERY
    ) -> None:
        self._end, self._is_gone, self._look_in = close_in_forks(end), is_gone, look_in
        self._speaking = threading.Lock()
        self._rest = b""
        self._lines: list[bytes] = []

    def say(self, **message: Any) -> bool:
        """Send a message; False: nobody is there to hear it."""
        line = msgspec.json.encode(message) + b"\n"
        try:
            with self._speaking:
                self._end.sendall(line)
        except OSError:
            return False
        return True

    def hear(self, patience: float = float("inf")) -> dict[str, Any] | None:
        """Wait for the next message, at most so many seconds; None: there is none, or will be none."""
        deadline = time.monotonic() + patience
        while not self._lines:
            data = self._receive(deadline)
            if not data:
                return None
            *self._lines, self._rest = (self._rest + data).split(b"\n")
        message: dict[str, Any] = msgspec.json.decode(self._lines.pop(0))
        return message

    def _receive(self, deadline: float) -> bytes:
        while True:
            left = deadline - time.monotonic()
            over = left <= 0 or self._is_gone()  # asked first: what was said before the end can still be heard
            try:
                if select.select([self._end], [], [], 0 if over else min(left, LOOK_EVERY, max(self._look_in(), 0)))[0]:
                    return self._end.recv(CHUNK)
            except (OSError, ValueError):
                return b""
            if over:
                return b""

    def close(self) -> None:
        self._end.close()


def ran_to(ran: Ran) -> dict[str, Any]:
    """What a run came to, as JSON can carry it."""
    outcome = ran.outcome
    facts = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
    if isinstance(report := facts.get("report"), Report):
        facts["report"] = report.to_json()
    return {"kind": type(outcome).__name__, "facts": facts, "stop": ran.stop}


def ran_from(told: Mapping[str, Any]) -> Ran:
    facts = dict(told["facts"])
    if facts.get("report") is not None:
        facts["report"] = Report.from_json(facts["report"])
    return Ran(_OUTCOMES[told["kind"]](**facts), stop=told["stop"])


def result_to(ran: Ran, context: Context, usage: Usage, metadata: str | None) -> dict[str, Any]:
    """All that a worker has to know of a run that has ended elsewhere."""
    return {"ran": ran_to(ran), "spawned": context.spawned, "usage": list(usage), "metadata": metadata}
