"""What is measured at scale: a worker's and an operator's pieces of work, as the worker and `Admin` do them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

from benchmarks.tasks import on
from dray.admin import Admin
from dray.job import Claim, Done, Finish
from dray.lifecycle import Retry, decide
from tests.costs.counters import Meter

BATCH = 100
ONE_MORE, COUNTED, TIMED = 1, 3, 5  # times each is done: to warm up, with counters, by the clock


class Reading(NamedTuple):
    """What one piece of work cost."""

    work: float
    ms: float


class Hand:
    """A worker's and an operator's hold on one database."""

    def __init__(self, url: str) -> None:
        self.app, self.task = on(url)
        self.store, self.admin = self.app.store, Admin(self.app)
        self.meter = Meter(self.store.database.engine)
        self.worker = self.store.roster.register(host="here", pid=os.getpid(), queues="*", concurrency=BATCH)
        self._left: list[Claim] = []
        self._page_end: int | None = None

    def enqueue(self) -> None:
        self.app.enqueue_many(self.task.bind(number, "a small note") for number in range(BATCH))

    def claim(self) -> None:
        """As a worker does that comes to the queues: it asks what there is, and knows no floor."""
        pickup = self.store.pickup([])
        while len(self._left) < BATCH and (claims := self.store.claim(self.worker, pickup, BATCH - len(self._left))):
            self._left += claims

    def finish(self) -> None:
        self.store.finish(ended(self._left))
        self._left = []

    def promote(self) -> None:
        self.store.promote(BATCH)

    def look(self) -> None:
        self._page_end = self.admin.jobs()[-1].id

    def next_page(self) -> None:
        self.admin.jobs(before=self._page_end)


def ended(claims: Sequence[Claim]) -> list[Finish]:
    """These runs succeeded."""
    return [Finish(claim, decide(claim, Done(result="1"), Retry.none()), ran=0.001) for claim in claims]


@contextmanager
def hold(url: str) -> Iterator[Hand]:
    hand = Hand(url)
    try:
        yield hand
    finally:
        hand.app.close()


class Operation(NamedTuple):
    """One piece of work, and what has to be done before and after it without being measured."""

    name: str
    work: Callable[[Hand], object]
    before: Callable[[Hand], object] = lambda hand: None
    after: Callable[[Hand], object] = lambda hand: None

    def read(self, hand: Hand) -> Reading:
        works, times = [], []
        for turn in range(ONE_MORE + COUNTED + TIMED):
            self.before(hand)
            if ONE_MORE <= turn < ONE_MORE + COUNTED:
                with hand.meter.count() as cost:
                    self.work(hand)
                works.append(cost.work)
            else:
                began = time.perf_counter()
                self.work(hand)
                times.append(1000 * (time.perf_counter() - began))
            self.after(hand)
        return Reading(median(works), median(times[ONE_MORE:]))


def _lists(words: str, name: str = "") -> Operation:
    return Operation(name or f"list {words}", lambda hand: hand.admin.jobs(words))


OPERATIONS = (
    Operation("claim 100", Hand.claim, before=Hand.enqueue, after=Hand.finish),
    Operation("finish 100", Hand.finish, before=lambda hand: (hand.enqueue(), hand.claim())),
    Operation("promote 100", Hand.promote),
    _lists("", "list"),
    Operation("list, next page", Hand.next_page, before=Hand.look),
    _lists("state:ready"),
    _lists("state:failed"),
    _lists("state:scheduled"),
    _lists("queue:default"),
    _lists("queue:rare"),
    _lists("task:rare"),
    _lists("queue:rare state:failed"),
    _lists("task:none"),
    Operation("stats", lambda hand: hand.admin.stats()),
)
