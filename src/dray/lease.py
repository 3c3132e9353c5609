"""The worker's own life in the database: its row, the process that beats for it, and what it may still do."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from dray import events, heartbeat
from dray.errors import StoreError
from dray.pulse import Pulse, Term
from dray.store.roster import Roster

START_UNTIL = 0.6  # of the TTL: beyond it no job is started
GUARDS_PER_TTL = 40  # looks at the lease's age in one TTL
TICK = 1.0  # seconds between two signs of life on the page that the heart looks at, at most
ORDERS = frozenset({"beat", "death"})  # what a heart has to say depends on the worker's id; all else it needs before
HEART_PATIENCE = 30.0  # seconds one waits for the heartbeat process to start, at most


class WorkerLease:
    """What entitles this process to hold jobs: a row that somebody keeps moving.

    ttl     seconds after which others give up on a worker whose row stands still
    beat    seconds between two moves of the row
    pulse   by which the heart sees that Python still runs here, and everybody when what runs has to end
    former  the worker that this process was before it began anew, if it could not say goodbye
    on_wake     called, from a thread, when something may be ready
    on_lost     called, from a thread, when the row says that this worker is dead
    on_cut_off  called, from a thread, again and again, while `must_end`
    """

    def __init__(
        self,
        roster: Roster,
        *,
        ttl: float,
        beat: float,
        listen: bool,
        pulse: Pulse,
        former: int = 0,
        on_wake: Callable[[], None],
        on_lost: Callable[[], None],
        on_cut_off: Callable[[], None] = lambda: None,
    ) -> None:
        self._roster, self._ttl, self._beat, self._listen, self._pulse = roster, ttl, beat, listen, pulse
        self._on_wake, self._on_lost, self._on_cut_off = on_wake, on_lost, on_cut_off
        self._held = heartbeat.steady()  # when the last beat that arrived was sent
        self._term = Term(pulse.page, ttl)
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._guard: threading.Thread | None = None
        self._over = threading.Event()
        self.worker_id = 0
        self._former = former  # the life before this one, whose row nobody moves any more

    def take(self, *, queues: str, concurrency: int, priorities: str | None = None, tasks: str | None = None) -> int:
        """Start a heart, register this process as a worker, and give the worker's id."""
        if self._child is None:
            self._start_heart()
        # Only then the row: on a busy machine a process can take longer to start than others wait for its first beat.
        self._ready.wait(HEART_PATIENCE)
        sent = heartbeat.steady()
        self.worker_id = self._roster.register(
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=queues,
            concurrency=concurrency,
            priorities=priorities,
            tasks=tasks,
        )
        self._held = sent
        self._term.begin(sent)
        self._tell_heart()
        if self._former:
            with contextlib.suppress(StoreError):  # then others find it silent
                self._roster.leave(self._former)  # what it held is free now, and not after a TTL
            self._former = 0
        if self._guard is None:
            self._guard = threading.Thread(target=self._watch, name="dray-guard", daemon=True)
            self._guard.start()
        return self.worker_id

    def age(self) -> float:
        """Seconds since the last beat that surely arrived was sent."""
        return heartbeat.steady() - self._held

    def may_start(self) -> bool:
        """Whether a job may be started: nobody can have given up on us yet, nor will before it has had a moment."""
        return self.age() < self._ttl * START_UNTIL

    def must_end(self) -> bool:
        """Whether what runs has to end at once, because others may be about to take over.

        That is looked up on the page, where the heart writes it: what it says may lie unread behind a call into C that has kept
        all threads of this process from running.
        """
        return self._term.is_over()

    def give_up(self) -> None:
        """Stop the heart and say goodbye. What is still held is free from then on."""
        self.end()
        self._roster.leave(self.worker_id)

    def end(self) -> None:
        """Stop the heart; there is nothing to say goodbye for, or nobody to say it to."""
        self._over.set()
        self._stop_heart()

    def abandon(self) -> None:
        """End the heart without a word: the row is not ours any more, and the heart may be what failed."""
        if self.worker_id == 0:
            return  # it is a new one already, for a worker that has yet to be registered
        child, self._child = self._child, None
        self._former, self.worker_id = self.worker_id, 0
        if child is not None:
            child.kill()
            child.wait()
            with contextlib.suppress(OSError):
                assert child.stdin is not None
                child.stdin.close()

    def _watch(self) -> None:
        """In a thread, because the worker's own may hang in the database, as they do when the network falls silent."""
        while not self._over.wait(min(TICK, self._ttl / GUARDS_PER_TTL)):
            self._pulse.tick()
            if self.must_end():
                self._on_cut_off()

    def _start_heart(self) -> None:
        self._ready.clear()
        plan = {
            **self._plan(ORDERS, kept=False),
            "parent": os.getpid(),
            "period": self._beat,
            "listen": self._listen,
            **self._pulse.plan(self._ttl),
        }
        # -P: the folder of that file must not become a place to import from, its names would hide others.
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(Path(heartbeat.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._pulse.numbers,
            start_new_session=True,  # a signal to the worker's group leaves a witness
        )
        self._say(plan)
        if self.worker_id:
            self._tell_heart()
        threading.Thread(target=self._hear, args=(self._child,), name="dray-lease", daemon=True).start()

    def _tell_heart(self) -> None:
        """Say for which worker to beat."""
        self._say(self._plan(ORDERS, kept=True))

    def _plan(self, words: Collection[str], *, kept: bool) -> dict[str, object]:
        plan = self._roster.heartbeat_plan(self.worker_id)
        return {word: value for word, value in plan.items() if (word in words) is kept}

    def _say(self, order: Mapping[str, object]) -> None:
        child = self._child
        if child is None:
            return
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it has died: that is noticed where it is heard
            child.stdin.write(json.dumps(order).encode() + b"\n")
            child.stdin.flush()

    def _stop_heart(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(OSError):
            assert child.stdin is not None
            child.stdin.write(b"q\n")
            child.stdin.close()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _hear(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        with child.stdout as lines:
            for line in lines:
                if self._child is child:  # an old heart speaks of a worker that is no more
                    self._obey(line)
        if self._child is child:  # nobody has stopped it
            events.emit("heart.died", worker_id=self.worker_id, code=child.poll())
            self._start_another(child)

    def _start_another(self, dead: subprocess.Popen[bytes]) -> None:
        """A heart in place of one that has died: as soon as there is room for a process, whose lack it may have died of."""
        while True:
            time.sleep(min(1.0, self._beat))
            if self._child is not dead:
                return
            with contextlib.suppress(OSError):
                self._start_heart()

    def _obey(self, line: bytes) -> None:
        word, _, rest = line.decode(errors="replace").rstrip("\n").partition(" ")
        match word:
            case "r":
                self._ready.set()
            case "b":
                self._held = max(self._held, float(rest))
            case "n":
                self._on_wake()
            case "a":
                events.emit("store.refused", worker_id=self.worker_id, why=rest)
            case "l":
                self._on_lost()
