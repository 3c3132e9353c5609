"""The receipt: what was meant to be added, what was added, and what ran, written by those who did it.

It is a file beside the database which Dray never sees. Everybody appends; a line is one write, so that a process killed at
any moment leaves whole lines only.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


def steady() -> float:
    """Seconds, by the clock that is the same in all processes of a machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Receipt:
    """The end of the file to which lines are appended."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)

    def event(self, holder: str, name: str, facts: Mapping[str, Any]) -> None:
        self.write("event", holder, steady(), name, json.dumps(dict(facts), default=str))


class Intent(NamedTuple):
    """A producer is about to add jobs n, n+1, ... in one call."""

    n: int
    count: int
    kind: str


class Start(NamedTuple):
    """User code of a job was reached."""

    n: int
    id: int
    fence: int
    holder: str
    time: float


class End(NamedTuple):
    """User code of a job is over: done, failed or snoozed, as far as it knows."""

    n: int
    id: int
    fence: int
    holder: str
    time: float
    outcome: str


class Event(NamedTuple):
    """Something that a process of Dray said of itself."""

    holder: str
    time: float
    name: str
    facts: dict[str, Any]


@dataclass
class Account:
    """A receipt, read."""

    intents: list[Intent] = field(default_factory=list)
    added: dict[int, int] = field(default_factory=dict)  # n -> id
    needs: dict[int, list[int]] = field(default_factory=dict)  # n -> the ids of those that have to end first
    refused: dict[int, str] = field(default_factory=dict)  # n of the intent -> what the producer was told
    starts: dict[int, list[Start]] = field(default_factory=lambda: defaultdict(list))  # by id, as they happened
    ends: dict[tuple[int, int], End] = field(default_factory=dict)  # by id and fence
    events: list[Event] = field(default_factory=list)
    lines: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))  # by n, for people

    def of(self, name: str, holder: str | None = None) -> list[Event]:
        """The events of a name, from one holder or from all."""
        return [event for event in self.events if event.name == name and holder in (None, event.holder)]

    def running(self, holder: str) -> list[Start]:
        """What a holder has started and not ended."""
        return [
            start
            for starts in self.starts.values()
            for start in starts
            if start.holder == holder and (start.id, start.fence) not in self.ends
        ]


def read(path: Path, last: int | None = None) -> Account:
    """Read what stands on a receipt so far, or only so many bytes at its end."""
    account = Account()
    for line in _lines(path, last):
        _take(account, line)
    for starts in account.starts.values():
        starts.sort(key=lambda start: start.time)
    return account


def _lines(path: Path, last: int | None) -> list[str]:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        cut = last is not None and last < size
        file.seek(size - last if last is not None and cut else 0)
        lines = file.read().decode().split("\n")
    # The last piece is empty, or a line that is just being written; the first may be the end of one.
    return lines[1 if cut else 0 : -1]


def _take(account: Account, line: str) -> None:
    word, *rest = line.split(" ")
    if word == "event":
        holder, at, name, facts = line.split(" ", 4)[1:]
        account.events.append(Event(holder, float(at), name, json.loads(facts)))
        return
    n = int(rest[0])
    account.lines[n].append(line)
    match word:
        case "intend":
            account.intents.append(Intent(n, int(rest[1]), rest[2]))
        case "added":
            account.added.update({n + offset: int(id) for offset, id in enumerate(rest[1:])})
        case "needs":
            account.needs[n] = list(map(int, rest[1:]))
        case "refused":
            account.refused[n] = rest[1]
        case "start":
            start = Start(n, int(rest[1]), int(rest[2]), rest[3], float(rest[4]))
            account.starts[start.id].append(start)
        case "end":
            end = End(n, int(rest[1]), int(rest[2]), rest[3], float(rest[4]), rest[5])
            account.ends[end.id, end.fence] = end
