"""A worker's side of being tended: it says what it does, and ends when it is told to, or when its tender is gone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from dray.forks import close_in_forks
from dray.tending.hired import SHOWN, VARIABLE
from dray.worker import Worker

GLANCE = 0.1  # seconds between two looks at what the worker does
IDLE_GLANCE = 0.25  # the same while it does nothing: a look costs a tenth of a millisecond
NAMES_EVERY = 1.0  # seconds between two messages that differ only in the names of jobs
GOODBYE = 2.0  # seconds for the last word


def tender_line() -> socket.socket | None:
    """The line to our tender, if we have one. To be asked for first of all: no program that is started shall hold it."""
    number = os.environ.pop(VARIABLE, None)
    if number is None or not number.isdigit():
        return None
    try:
        line = socket.socket(fileno=int(number))
    except OSError:  # a variable that was left over
        return None
    line.set_inheritable(False)
    return close_in_forks(line)


@contextmanager
def under_tender(line: socket.socket | None, worker: Worker) -> Iterator[Worker]:
    """Speak with the tender while the worker works."""
    if line is None:
        yield worker
        return
    tended = Tended(line, worker)
    tended.start()
    try:
        yield worker
    except BaseException:
        tended.end(goodbye=False)
        raise
    tended.end(goodbye=True)


class Tended:
    """A thread beside a worker that speaks with the tender (C75); `dray.tending.hired` says in which words."""

    def __init__(self, line: socket.socket, worker: Worker) -> None:
        self._line, self._worker = line, worker
        self._heard = select.poll()
        self._heard.register(line, select.POLLIN)
        self._over = threading.Event()
        self._goodbye = False
        self._rest = b""
        self._id = 0
        self._told: object = None
        self._named: list[int] = []
        self._when = 0.0
        self._thread = threading.Thread(target=self._run, name="dray-tended", daemon=True)

    def start(self) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # what jobs print is passed on as it comes
        self._thread.start()

    def end(self, *, goodbye: bool) -> None:
        """The worker has ended, in good order or not; returns when the tender has been told so, or cannot be."""
        self._goodbye = goodbye
        self._over.set()
        self._thread.join(GOODBYE)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                if not self._listen(IDLE_GLANCE if self._is_idle() else GLANCE):
                    break
                self._tell()
            else:
                if self._goodbye:
                    self._say("bye")
                return
        self._worker.stop("its tender is gone")
        _print_nowhere()
        while not self._over.wait(GLANCE):
            _print_nowhere()

    def _is_idle(self) -> bool:
        return self._id > 0 and not self._worker.slots.running and not self._worker.standing.ends

    def _listen(self, seconds: float) -> bool:
        """Wait for a word, and obey it; False when there is nobody any more."""
        if not self._heard.poll(seconds * 1000):
            return True
        came = self._line.recv(65_536)
        *lines, self._rest = (self._rest + came).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a newer tender may know other words
                self._obey(json.loads(line)["order"])
        return bool(came)

    def _obey(self, order: str) -> None:
        match order:
            case "retire":
                self._worker.retire("its tender replaces it")
            case "stop":
                self._worker.stop("its tender stops")
            case "now":
                self._worker.stop_now("its tender stops now")
            case "who":
                self._told = None

    def _tell(self) -> None:
        """Say what has changed; names alone not too often."""
        worker = self._worker
        if not worker.worker_id:
            return
        if worker.worker_id != self._id:
            self._id = worker.worker_id
            self._say({"worker": self._id})
        running = list(worker.slots.running)
        state = (len(running), worker.concurrency, worker.standing.ends)
        named = running[:SHOWN]
        now = time.monotonic()
        ids = [item.claim.id for item in named]
        if state == self._told and (ids == self._named or now - self._when < NAMES_EVERY):
            return
        self._told, self._named, self._when = state, ids, now
        jobs = [[item.claim.id, item.claim.task, round(now - (item.started or now), 3)] for item in named]
        self._say({"running": state[0], "slots": state[1], "leaving": state[2], "jobs": jobs})

    def _say(self, what: Any) -> None:
        self._line.sendall(json.dumps(what).encode() + b"\n")


def _print_nowhere() -> None:
    """Where the tender read our output nobody does any more: a task that prints something must not fail because of that."""
    for number in (1, 2):
        poll = select.poll()
        poll.register(number, 0)
        if any(what & select.POLLERR for _, what in poll.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
