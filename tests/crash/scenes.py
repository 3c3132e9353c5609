"""Scenes that several stories begin or end with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.crash.audit import Story, audit, report
from tests.crash.crew import Crew, Hand
from tests.crash.ledger import RUNNING, Ledger
from tests.crash.receipt import Start
from tests.servers import wait_until


def held(crew: Crew) -> list[Start]:
    """The runs that wait at a gate now."""
    account = crew.account()
    kinds = {intent.n + offset: intent.kind for intent in account.intents for offset in range(intent.count)}
    return [
        start
        for starts in account.starts.values()
        for start in starts
        if kinds[start.n] == "hold" and (start.id, start.fence) not in account.ends
    ]


def first_holder(crew: Crew, **different: Any) -> tuple[Hand, Hand]:
    """Hire a worker, let it take two gated jobs, then hire a second."""
    (first,) = crew.hire_workers(1, **different)
    crew.shop.add(1, "hold", count=2)
    wait_until(lambda: len(held(crew)) == 2, "both long jobs to run")
    (second,) = crew.hire_workers(1)
    return first, second


def runs_of(crew: Crew, hand: Hand) -> Callable[[], bool]:
    return lambda: len([start for start in held(crew) if start.holder == hand.name]) == 2


def busy_worker(crew: Crew, ledger: Ledger) -> Hand:
    """A worker that runs two gated jobs and has fetched others ahead."""
    crew.shop.add(1, "plain", 0.001, count=400)
    crew.shop.add(1001, "hold", count=2)
    crew.shop.add(2001, "plain", 0.001, count=40)
    hand = crew.hire("work")
    fetched = lambda: len(held(crew)) == 2 and claimed(ledger) > 2  # noqa: E731
    wait_until(fetched, "a worker that runs two jobs and has fetched more", 30)
    return hand


def claimed(ledger: Ledger) -> int:
    return sum(row.state == RUNNING for row in ledger.rows())


def check(story: Story) -> None:
    wrongs = audit(story)
    assert not wrongs, report(story, wrongs)


def nobody_is_left(crew: Crew, ledger: Ledger) -> None:
    wait_until(lambda: crew.survivors() == [], "the heartbeat processes to end with their workers", 10)
    assert ledger.alive() == set()


def all_done_once(crew: Crew, ledger: Ledger, ttl: float, lost: list[Hand]) -> Story:
    """Drain, stop, and audit with these workers as the only ones that anything may be put down to."""
    wait_until(lambda: ledger.live() == 0, "all jobs to end", 30)
    crew.stop("work")
    ids = {id: hand.name for id, (_, pid) in ledger.workers().items() for hand in lost if hand.pid == pid}
    story = Story(account=crew.account(), rows=ledger.rows(), worker_names=ids, ttl=ttl)
    check(story)
    nobody_is_left(crew, ledger)
    return story
