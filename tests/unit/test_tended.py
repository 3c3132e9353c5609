"""What a worker says to its tender and hears from it, over a socket, with a worker that only has the attributes of one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from dray.tending.hired import VARIABLE
from dray.tending.tended import tender_line, under_tender
from tests.servers import wait_until

rows = pytest.mark.rows


@dataclass
class Stand:
    """In the place of a worker; notes what it is told."""

    worker_id: int = 0
    concurrency: int = 2
    slots: Any = field(default_factory=lambda: SimpleNamespace(running=[]))
    standing: Any = field(default_factory=lambda: SimpleNamespace(ends=False))
    told: list[str] = field(default_factory=list)

    def retire(self, why: str) -> None:
        self.told.append("retire")

    def stop(self, why: str) -> None:
        self.told.append(f"stop: {why}")

    def stop_now(self, why: str) -> None:
        self.told.append("stop now")


@dataclass
class Tender:
    """The other end."""

    line: socket.socket
    rest: bytes = b""

    def hears(self) -> Any:
        while b"\n" not in self.rest:
            came = self.line.recv(65_536)
            assert came, "it has hung up"
            self.rest += came
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def says(self, *orders: str) -> None:
        for order in orders:
            self.line.sendall(json.dumps({"order": order}).encode() + b"\n")


@pytest.fixture
def ends() -> Iterator[tuple[Tender, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield Tender(ours), theirs


def job(id: int) -> Any:
    return SimpleNamespace(claim=SimpleNamespace(id=id, task="send"), started=None)


@rows("S1.32", "C75")
def test_it_says_who_it_is_what_it_does_and_goodbye(ends: tuple[Tender, socket.socket]) -> None:
    tender, line = ends
    worker = Stand()
    with under_tender(line, worker):  # type: ignore[arg-type]
        worker.worker_id = 7
        assert tender.hears() == {"worker": 7}
        assert tender.hears() == {"running": 0, "slots": 2, "leaving": False, "jobs": []}
        worker.slots.running = [job(1)]
        assert tender.hears() == {"running": 1, "slots": 2, "leaving": False, "jobs": [[1, "send", 0.0]]}
        worker.slots.running = [job(number) for number in range(9)]
        said = tender.hears()
        assert (said["running"], len(said["jobs"])) == (9, 5)
        worker.worker_id = 8  # it was given up on, and has begun a new life
        assert tender.hears() == {"worker": 8}
        worker.standing.ends = True
        while not said["leaving"]:
            said = tender.hears()
    while said != "bye":
        said = tender.hears()
    assert worker.told == []


def test_it_obeys_what_it_understands(ends: tuple[Tender, socket.socket]) -> None:
    tender, line = ends
    worker = Stand(worker_id=7)
    with under_tender(line, worker):  # type: ignore[arg-type]
        first = [tender.hears(), tender.hears()]
        tender.line.sendall(b'nonsense\n{"order": "dance"}\n[]\n')
        tender.says("retire", "stop", "now", "who")
        assert tender.hears() == first[1], "asked, it says the same again"
        assert worker.told == ["retire", "stop: its tender stops", "stop now"]


def test_without_its_tender_it_ends(ends: tuple[Tender, socket.socket]) -> None:
    tender, line = ends
    worker = Stand(worker_id=7)
    with under_tender(line, worker) as working:  # type: ignore[arg-type]
        assert working is worker
        tender.line.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: worker.told != [], "it to be told")
    assert worker.told == ["stop: its tender is gone"]


def test_behind_an_error_there_is_no_goodbye(ends: tuple[Tender, socket.socket]) -> None:
    tender, line = ends
    with pytest.raises(RuntimeError), under_tender(line, Stand(worker_id=7)):  # type: ignore[arg-type]
        raise RuntimeError
    line.shutdown(socket.SHUT_WR)
    assert b"bye" not in tender.line.recv(65_536)


@pytest.mark.parametrize("number", [None, "", "x", "-1", "999999"])
def test_most_workers_have_no_tender(monkeypatch: pytest.MonkeyPatch, number: str | None) -> None:
    if number is not None:
        monkeypatch.setenv(VARIABLE, number)
    assert tender_line() is None
    assert VARIABLE not in os.environ


def test_the_line_is_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    monkeypatch.setenv(VARIABLE, str(theirs.detach()))
    with ours:
        line = tender_line()
        assert line is not None
        with line:
            assert not line.get_inheritable()
            assert VARIABLE not in os.environ
