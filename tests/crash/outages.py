"""A crew at work while its database comes and goes: nothing may be lost, repeated, or put down to a death."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from statistics import median

from tests.crash.audit import Story, audit, report, summary
from tests.crash.crew import Crew, Hand
from tests.crash.ledger import Ledger
from tests.crash.receipt import Event, steady
from tests.crash.shop import FULL
from tests.servers import wait_until

WORKERS, PRODUCERS = 2, 2
TRAFFIC = 15  # ends of runs between two outages, at least
PROMPT = 0.5  # seconds in which a told worker starts a job, on a machine that is busy; it looks by itself every SELDOM
SELDOM = 8.0
LATE = 1_000_000_000  # from here on the numbers of jobs that are added when all is over


def look_seldom(crew: Crew) -> dict[str, float]:
    """What a worker's plan has instead where others can tell it of a job: then only that explains a prompt start."""
    return {"poll": SELDOM} if crew.plan.url.startswith("postgresql") else {}


Outage = Callable[[random.Random], int]  # lasts as long as the call; gives how often the database was cut off


class Weather:
    """Outages at random moments while jobs are added and drained."""

    def __init__(self, crew: Crew, chance: random.Random, *, url: str | None = None) -> None:
        self.crew, self.chance = crew, chance
        self.ledger = Ledger(crew.plan.url)
        self.outages: list[tuple[float, int]] = []  # when each began, and how often the database was cut off in it
        there = {} if url is None else {"url": url}
        self.workers = crew.hire_workers(WORKERS, **there, **look_seldom(crew))
        self.producers = [crew.hire("produce", **there) for _ in range(PRODUCERS)]
        crew.shop.add(LATE - 2, "hold", count=2)  # two runs that see all of it
        self.see_traffic()

    def strike(self, outage: Outage, seconds: float, least: int = 2) -> None:
        """Outages one after another, for so long and at least so many; then everything drains."""
        until = steady() + seconds
        while steady() < until or len(self.outages) < least:
            self.wait(self.chance.uniform(0.0, 0.4))
            began = steady()
            self.outages.append((began, outage(self.chance)))
            self.see_back()
        self.crew.plan.gate(FULL).unlink(missing_ok=True)
        self.crew.stop("produce")
        for hand in self.workers:
            self.crew.plan.gate(hand.name).touch()
        wait_until(lambda: self.ledger.live() == 0, "all jobs to end", 60)

    def wait(self, seconds: float) -> None:
        until = steady() + seconds
        wait_until(lambda: steady() > until, "a moment to pass", seconds + 10)

    def see_traffic(self) -> None:
        """Until every worker has ended some runs."""
        before = len(self.crew.account().ends)
        wait_until(lambda: len(self.crew.account().ends) > before + TRAFFIC, "some traffic", 30)

    def see_back(self) -> None:
        """Until everybody who was cut off is back, and jobs run again."""

        def all_back() -> bool:
            account = self.crew.account()
            return all(
                len(account.of("store.away", one.name)) == len(account.of("store.back", one.name)) for one in self.workers
            )

        wait_until(all_back, "the workers to be back", 30)
        self.see_traffic()

    def told_once(self) -> None:
        """A worker says that an outage has begun, and then that it is over, and never says more than there were."""
        account = self.crew.account()
        ends = [begin for begin, _ in self.outages[1:]] + [float("inf")]
        for hand in self.workers:
            away, back = account.of("store.away", hand.name), account.of("store.back", hand.name)
            news = [event.name for event in sorted(away + back, key=lambda event: event.time)]
            assert news == ["store.away", "store.back"] * len(away), (hand.name, away, back)
            cuts = 0
            for (_, count), end in zip(self.outages, ends, strict=True):
                cuts += count
                assert sum(event.time < end for event in away) <= cuts, (hand.name, self.outages, away)

    def away(self, hand: Hand) -> list[Event]:
        return self.crew.account().of("store.away", hand.name)

    def still_hears(self) -> float:
        """Each worker in turn is told of jobs: their starts come sooner than a look of its own would; the median delay."""
        delays = []
        for turn in range(len(self.workers)):
            for number in range(3):
                began = steady()
                (id,) = self.crew.shop.add(LATE + 10 * turn + number, "plain")
                wait_until(lambda id=id: bool(self.crew.account().starts[id]), "a job to be told of", SELDOM / 2)
                delays.append(self.crew.account().starts[id][0].time - began)
            if turn < len(self.workers) - 1:
                hand = self.workers[turn]
                hand.send(signal.SIGTERM)
                wait_until(lambda hand=hand: hand.code is not None, "a worker to end", 30)
        assert sorted(delays)[-2] < PROMPT, delays
        return median(delays)

    def end(self) -> Story:
        """Stop everybody, and audit with no death that anything may be put down to."""
        self.crew.stop("work")
        self.crew.look_after()
        assert [hand.code for hand in self.workers] == [0] * len(self.workers), self.crew.tails()
        account = self.crew.account()
        assert account.of("rescue.dead_worker") == []
        assert account.of("result.dropped") == []
        self.told_once()
        story = Story(account=account, rows=self.ledger.rows(), ttl=self.crew.plan.ttl)
        told = [len(self.away(hand)) for hand in self.workers]
        refused = len(account.refused)
        print(f"\n{len(self.outages)} outages, noticed {told} times; {refused} calls refused\n{summary(story)}")
        wrongs = audit(story)
        assert not wrongs, report(story, wrongs)
        return story
