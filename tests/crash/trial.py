"""A trial by kill -9: workers and producers are killed at random moments while jobs are added and drained."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.audit import Death, Story
from tests.crash.crew import EXIT_LOST, Crew, Hand, Mode
from tests.crash.ledger import Ledger
from tests.crash.receipt import read, steady
from tests.crash.shop import FULL
from tests.servers import wait_until

WORKERS, PRODUCERS = 3, 2
QUEUE = 60  # jobs that have not ended: with more than that nobody adds any
ASK_EVERY = 0.1  # seconds between looks at the queue
# Seconds that starting a rescued job may take, on top of the promise; and what a slow machine adds to it, as a part of the
# time that the slowest start of a worker took (less than a second where nobody else is at work).
ALLOWANCE, SLOWNESS = 1.5, 0.5
SPARE_FOR = 15  # kills
TAIL = 200_000  # bytes of the receipt in which to look for those who run something now


@dataclass(frozen=True)
class Stroke:
    """One kill: which roles it hits, and whether a witness is left."""

    worker: Mode | None
    producer: bool


MIXTURE = (
    Stroke("witness", False),
    Stroke("family", False),
    Stroke("witness", False),
    Stroke("family", False),
    Stroke(None, True),
    Stroke("witness", True),
    Stroke("family", True),
)


def strokes(count: int, chance: random.Random) -> list[Stroke]:
    """So many from the mixture, which has each kind of kill, in random order."""
    chosen = [MIXTURE[number % len(MIXTURE)] for number in range(count)]
    chance.shuffle(chosen)
    return chosen


class Trial:
    """One database, one crew, a number of kills."""

    def __init__(self, crew: Crew, *, kills: int, seed: int) -> None:
        self.crew, self.kills = crew, kills
        self.ledger = Ledger(crew.plan.url)
        self._chance = random.Random(seed)
        self.queue = 0
        self._strokes = 0
        self._spared: Hand | None = None
        self.slowest = 0.0  # seconds that a worker needed to start

    def run(self) -> None:
        """Kill, then let everything drain."""
        self.crew.hire_workers(WORKERS)
        for _ in range(PRODUCERS):
            self.crew.hire("produce")
        longest = min(8.0, 5.0 + self.crew.plan.ttl / 6)
        for stroke in strokes(self.kills, self._chance):
            due = time.monotonic() + self._chance.uniform(0.1, 1.0) * longest
            self._watch_until(lambda due=due: time.monotonic() >= due, "the next kill")
            self._strike(stroke)
        self.crew.stop("produce")
        self.queue = self.ledger.live()
        self.drain()

    def drain(self, seconds: float = 120.0) -> None:
        """Wait until every job has ended."""
        limit = 2 * self.crew.plan.ttl + seconds
        self._watch_until(lambda: self.queue == 0, "all jobs to end", limit)

    def _strike(self, stroke: Stroke) -> None:
        self._strokes += 1
        if stroke.worker is not None:
            self._kill(self._victim(), stroke.worker)
        if stroke.producer:
            self._kill(self._chance.choice(self.crew.present("produce")), "family")

    def _victim(self) -> Hand:
        """Any worker, or, every other time, the one that runs the most: a kill of an idle worker proves little.

        One is spared for a while: with a long TTL nobody would live long enough to see that a beat stands still.
        """
        workers = self.crew.present("work")
        self._chance.shuffle(workers)
        if self._spared not in workers or self._strokes % min(SPARE_FOR, self.kills) == 0:
            self._spared = workers[-1]
        workers.remove(self._spared)
        if self._chance.random() < 0.5:
            return workers[0]
        account = read(self.crew.plan.receipt, last=TAIL)
        return max(workers, key=lambda hand: len(account.running(hand.name)))

    def _kill(self, hand: Hand, mode: Mode) -> None:
        self.crew.kill(hand, mode)
        self.crew.hire(hand.role)

    def _watch_until(self, fact: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Wait; meanwhile replace workers that lost their lease, and mind the queue."""
        asked = 0.0

        def look() -> bool:
            nonlocal asked
            now = time.monotonic()
            for hand in self.crew.look_after():
                assert hand.code == EXIT_LOST, f"{hand.name} ended by itself, exit {hand.code}:\n{hand.tail()}"
                self.crew.hire(hand.role)
            if now - asked >= ASK_EVERY:
                asked = now
                self._mind_the_queue()
            return fact()

        wait_until(look, what, seconds)

    def _mind_the_queue(self) -> None:
        self.queue = self.ledger.live()
        full = self.crew.plan.gate(FULL)
        if self.queue > QUEUE:
            full.touch()
        else:
            full.unlink(missing_ok=True)

    def story(self) -> Story:
        """Everything that the audit has to know."""
        account = self.crew.account()
        workers = [hand for hand in self.crew.hands if hand.role == "work"]
        started = {event.holder: event for event in account.of("worker.started")}
        starts = [started[hand.name].time - hand.hired for hand in workers if hand.name in started]
        self.slowest = max(starts, default=0.0)
        names = {hand.pid: hand.name for hand in workers}
        deaths = {}
        for hand in workers:
            if hand.ended is not None and (hand.mode is not None or hand.code == EXIT_LOST):
                deaths[hand.name] = Death(hand.ended, hand.mode or "lease lost", hand.gone or hand.ended)
        return Story(
            account=account,
            rows=self.ledger.rows(),
            deaths=deaths,
            lives={hand.name: (started[hand.name].time, hand.ended or steady()) for hand in workers if hand.name in started},
            worker_names={id: names[pid] for id, (_, pid) in self.ledger.workers().items() if pid in names},
            ttl=self.crew.plan.ttl,
            allowance=ALLOWANCE + SLOWNESS * self.slowest,
        )
