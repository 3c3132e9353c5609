"""How a worker and a process of its own making speak about runs: lines of JSON, which can make nobody run anything."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from dray.context import Context
from dray.job import Cancelled, Claim, Done, Failed, HandedBack, Parked, Skipped, Snoozed, Usage
from dray.report import Report
from dray.runner import Ran

_OUTCOMES: dict[str, Any] = {kind.__name__: kind for kind in (Done, Failed, Snoozed, Skipped, Parked, Cancelled, HandedBack)}
CHUNK = 65536


class Line:
    """One end of a socket: messages out, messages in, each a JSON object on a line."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._rest = b""
        self._lines: list[bytes] = []

    def say(self, **message: Any) -> bool:
        """Send a message; False: nobody is there to hear it."""
        try:
            self._end.sendall(msgspec.json.encode(message) + b"\n")
        except OSError:
            return False
        return True

    def hear(self) -> dict[str, Any] | None:
        """Wait for the next message; None: there will be none."""
        while not self._lines:
            try:
                data = self._end.recv(CHUNK)
            except OSError:
                return None
            if not data:
                return None
            *self._lines, self._rest = (self._rest + data).split(b"\n")
        message: dict[str, Any] = msgspec.json.decode(self._lines.pop(0))
        return message

    def close(self) -> None:
        self._end.close()


def claim_to(claim: Claim) -> dict[str, Any]:
    """A claim as JSON can carry it."""
    return {name: getattr(claim, name) for name in claim.__struct_fields__}


def claim_from(told: Mapping[str, Any]) -> Claim:
    return Claim(**told)


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
