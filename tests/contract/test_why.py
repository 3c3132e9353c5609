"""P8: every job says why it does not run, whatever keeps it, and what to do about that; on every database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dray.job import Done, Failed, Flag, Parked, Snoozed
from dray.why import Cause, ask
from tests.contract.yard import Yard

BAD = Failed(error="boom", permanent=True)


def why(yard: Yard, id: int) -> list[Cause]:
    desk = yard.store.desk
    return ask(desk, yard.store.roster.listing(), desk.controls()).causes(id)


def parents(yard: Yard) -> int:
    parent = yard.add()
    return yard.add(after=(parent,))


def failed_parent(yard: Yard) -> int:
    id = parents(yard)
    yard.end(yard.take()[0], BAD)
    return id


def group(yard: Yard) -> int:
    yard.add(group="g")
    return yard.add(group="g")


def halted(yard: Yard) -> int:
    yard.add(group="g", flags=int(Flag.HALT))
    id = yard.add(group="g")
    yard.end(yard.take()[0], BAD)
    return id


def limit(yard: Yard) -> int:
    yard.add(limit="l", limit_rule="1")
    return yard.add(limit="l", limit_rule="1")


def rate(yard: Yard) -> int:
    yard.add(limit="l", limit_rule="1/60")
    id = yard.add(limit="l", limit_rule="1/60")
    yard.end(yard.take()[0])
    return id


def held(yard: Yard) -> int:
    id = yard.add()
    yard.store.desk.hold([id], "ann is looking")
    return id


def unknown_task(yard: Yard) -> int:
    id = yard.add()
    yard.end(yard.take()[0], Parked(why="no such task"))
    return id


def children(yard: Yard) -> int:
    id = yard.add()
    (claim,) = yard.take()
    yard.add(parent=claim.lease)
    yard.end(claim, Done(), flags=Flag.SPAWNED)
    return id


def covered(yard: Yard) -> int:
    yard.add(group="g", threshold=1)
    id = yard.add(group="g", threshold=2)
    yard.store.cover(yard.take()[0])
    return id


def paused(yard: Yard) -> int:
    yard.store.desk.pause("q", "the server is away")
    return yard.add()


def no_worker(yard: Yard) -> int:
    yard.store.roster.leave(yard.worker)
    return yard.add()


def priority(yard: Yard) -> int:
    yard.store.roster.leave(yard.worker)
    yard.store.roster.register(host="here", pid=1, queues="q", concurrency=1, priorities="0-10")
    return yard.add(priority=20)


def ready(yard: Yard) -> int:
    yard.add()
    yard.clock.forward(1)
    return yard.add()


def running(yard: Yard) -> int:
    id = yard.add()
    yard.take()
    return id


def lost(yard: Yard) -> int:
    id = running(yard)
    yard.store.roster.leave(yard.worker)
    return id


def retrying(yard: Yard) -> int:
    id = yard.add()
    yard.end(yard.take()[0], Failed(error="boom", retry_in=60.0))
    return id


def snoozed(yard: Yard) -> int:
    id = yard.add()
    yard.end(yard.take()[0], Snoozed(delay=60.0))
    return id


def due(yard: Yard) -> int:
    id = yard.add(delay=60.0)
    yard.clock.forward(61)
    return id


def expires(yard: Yard) -> int:
    return yard.add(delay=60.0, expires_in=90.0)


def failed(yard: Yard) -> int:
    id = yard.add()
    yard.end(yard.take()[0], BAD)
    return id


KINDS: list[tuple[Callable[[Yard], int], str, str]] = [
    (parents, "parents", "it waits for job 1 to succeed, which is ready"),
    (failed_parent, "parents", "it needs job 1 to succeed, which failed"),
    (group, "group", "group 'g' is busy: job 1 is ready"),
    (halted, "halted", "group 'g' stands still, since job 1 of it failed"),
    (limit, "limit", "limit 'l' (1) is full: jobs 1"),
    (rate, "rate", "limit 'l' (1/60) allows the next start in"),
    (held, "held", "an operator holds it: ann is looking"),
    (unknown_task, "unknown task", "it is parked, because no worker knows its task"),
    (children, "children", "waits for its child, job 2 (ready)"),
    (covered, "covered", "job 1 of its group does its work too"),
    (paused, "paused", "queue 'q' is paused (the server is away), until somebody resumes it"),
    (no_worker, "no worker", "no worker is alive that takes queue 'q'"),
    (priority, "no worker", "no worker of queue 'q' takes priority 20; they take 0-10"),
    (ready, "ready", "1 of its queue and priority have waited longer"),
    (running, "running", "it runs since"),
    (lost, "rescue", "which is gone; the next pass of rescue takes it back"),
    (retrying, "retrying", "attempt 1 failed: boom; the next is in 1m"),
    (snoozed, "scheduled", "it is scheduled: it may start in 1m"),
    (due, "due", "it was due 1s ago"),
    (expires, "scheduled", "it may start in 1m"),
    (failed, "ended", "it failed"),
]


@pytest.mark.rows("C27", "C35", "C45", "C84", "S2.72")
@pytest.mark.parametrize(("make", "kind", "text"), KINDS, ids=[make.__name__.replace("_", "-") for make, _, _ in KINDS])
def test_a_job_says_what_keeps_it(yard: Yard, make: Callable[[Yard], int], kind: str, text: str) -> None:
    causes = why(yard, make(yard))
    assert causes[0].kind == kind
    assert text in causes[0].text
    assert causes[0].depth == 0


def test_a_chain_is_followed_to_its_end_and_each_job_is_named_once(yard: Yard) -> None:
    first = yard.add(group="g")
    second = yard.add(group="g")
    third = yard.add(after=(second, first))
    chain = [(cause.job_id, cause.depth) for cause in why(yard, third)]
    assert chain == [(third, 0), (third, 0), (first, 1), (second, 1)]
    expiring = yard.add(delay=60.0, expires_in=90.0)
    assert [cause.kind for cause in why(yard, expiring)] == ["scheduled", "expires"]


def test_what_a_lost_settle_left_is_said_so(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])
        id = yard.add(group="g")
    (cause,) = why(yard, id)
    assert cause.kind == "settling"
    assert "the next sweep" in cause.text
