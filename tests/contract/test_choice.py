"""Which of the ready jobs a claim takes, on every database: shares of queues, strict order, and only some tasks."""

from __future__ import annotations

from collections import Counter

import pytest

from dray.job import Cancelled, Failed, NewJob, State, name_hash
from dray.selection import Choice, Strict, TaskFilter, Weighted
from tests.contract.yard import Yard

rows = pytest.mark.rows
A, B, C = (name_hash(name) for name in "abc")


def fill(yard: Yard, queue: str, count: int, **options: object) -> None:
    job = NewJob(**{"task": "t", "queue": queue, "args": "{}", **options})  # type: ignore[arg-type]
    yard.store.add([job] * count)


def begin(yard: Yard, choice: Choice | None = None, tasks: TaskFilter | None = None) -> None:
    pickup = yard.store.pickup((), None, tasks or TaskFilter(), choice)
    pickup.clock = lambda: yard.steady
    yard.pickup = pickup


@rows("S3.25", "C53")
@pytest.mark.parametrize("batch", [1, 20])
def test_queues_get_their_shares_by_weight_and_batches_are_mixed(yard: Yard, batch: int) -> None:
    for queue in "abc":
        fill(yard, queue, 100)
    begin(yard, Weighted({A: 6, B: 3, C: 1}))
    order = [claim.queue for _ in range(100 // batch) for claim in yard.take(batch)]
    assert Counter(order) == {"a": 60, "b": 30, "c": 10}
    assert Counter(order[:20]) == {"a": 12, "b": 6, "c": 2}


@rows("C53")
def test_what_an_empty_queue_does_not_need_the_others_get(yard: Yard) -> None:
    fill(yard, "a", 3)
    fill(yard, "b", 50)
    begin(yard, Weighted({A: 100, B: 1}))
    assert Counter(claim.queue for claim in yard.take(20)) == {"a": 3, "b": 17}
    assert Counter(claim.queue for claim in yard.take(100)) == {"b": 33}
    assert yard.take(5) == []


@rows("S3.26", "C54")
def test_strict_empties_the_first_but_for_the_reserve(yard: Yard) -> None:
    for queue in "abc":
        fill(yard, queue, 60)
    begin(yard, Strict([B, A, C]))
    order = [claim.queue for _ in range(6) for claim in yard.take(10)]
    assert Counter(order) == {"b": 57, "a": 2, "c": 1} or Counter(order) == {"b": 57, "a": 1, "c": 2}
    order += [claim.queue for _ in range(20) for claim in yard.take(10)]
    assert Counter(order) == {"a": 60, "b": 60, "c": 60}


@rows("S3.26")
def test_within_a_queue_the_most_urgent_comes_first(yard: Yard) -> None:
    fill(yard, "a", 2, priority=500)
    fill(yard, "a", 2, priority=5)
    fill(yard, "b", 4, priority=1)
    begin(yard, Strict([A, B], reserve=0.0))
    assert [claim.priority for claim in yard.take(8)] == [5, 5, 500, 500, 1, 1, 1, 1]


@rows("C84")
def test_a_paused_queue_gets_no_share(yard: Yard) -> None:
    fill(yard, "a", 5)
    fill(yard, "b", 5)
    begin(yard, Weighted({A: 1, B: 1}))
    yard.pickup.paused = frozenset({A})
    assert Counter(claim.queue for claim in yard.take(10)) == {"b": 5}


@rows("S0.48")
def test_only_some_tasks_or_all_but_some(yard: Yard) -> None:
    for number in range(30):
        fill(yard, "q", 1, task="abc"[number % 3])
    begin(yard, tasks=TaskFilter(only=("a", "b")))
    assert Counter(claim.task for claim in yard.take(9)) == {"a": 5, "b": 4}
    begin(yard, tasks=TaskFilter(without=("a",)))
    assert Counter(claim.task for claim in yard.take(100)) == {"b": 6, "c": 10}
    assert yard.take(100) == []
    begin(yard)
    assert Counter(claim.task for claim in yard.take(100)) == {"a": 5}


@rows("S0.48")
def test_tasks_are_looked_for_among_the_first_thousand(yard: Yard) -> None:
    fill(yard, "q", 1000, task="common")
    fill(yard, "q", 1, task="rare")
    begin(yard, tasks=TaskFilter(only=("rare",)))
    assert yard.take() == []
    begin(yard)
    assert len(yard.take(1)) == 1
    begin(yard, tasks=TaskFilter(only=("rare",)))
    assert [claim.task for claim in yard.take()] == ["rare"]


def test_two_who_take_other_tasks_of_one_lane_do_not_keep_each_other_waiting(yard: Yard) -> None:
    for number in range(40):
        fill(yard, "q", 1, task="ab"[number % 2])
    other = yard.store.pickup((), None, TaskFilter(without=("a",)))
    begin(yard, tasks=TaskFilter(only=("a",)))
    for _ in range(4):
        assert {claim.task for claim in yard.take(5)} == {"a"}
        assert {claim.task for claim in yard.store.claim(yard.worker, other, 5)} == {"b"}


def test_weights_and_tasks_together(yard: Yard) -> None:
    for queue in "ab":
        for task in "xy":
            fill(yard, queue, 20, task=task)
    begin(yard, Weighted({A: 3, B: 1}), TaskFilter(only=("y",)))
    claims = yard.take(20)
    assert Counter(claim.queue for claim in claims) == {"a": 15, "b": 5}
    assert {claim.task for claim in claims} == {"y"}


@rows("S2.50", "C40")
def test_nothing_is_taken_but_what_is_ready(yard: Yard) -> None:
    fill(yard, "ended", 3)
    done, failed, cancelled = yard.take(3)
    yard.end(done)
    yard.end(failed, Failed(error="no", permanent=True))
    yard.end(cancelled, Cancelled())
    fill(yard, "a", 1, delay=3600.0)
    fill(yard, "a", 1, group="g")
    fill(yard, "a", 1, group="g")
    (running,) = yard.take()
    (held,) = [added.id for added in yard.store.add([NewJob(task="t", queue="a", args="{}")])]
    yard.store.desk.hold([held])
    assert yard.take() == []
    yard.end(running)
    assert [claim.group_held for claim in yard.take()] == [1]  # the next of its group, and nothing else


@rows("S3.28", "S3.21")
def test_what_waits_is_counted_queue_by_queue_and_in_all(yard: Yard) -> None:
    for queue, count in (("a", 3), ("b", 2)):
        fill(yard, queue, count)
    yard.take(1)
    counts = {one.queue: (one.ready, one.running) for one in yard.store.desk.queues()}
    assert counts == {"a": (2, 1), "b": (2, 0)}
    assert yard.store.desk.counts()[State.READY] == sum(ready for ready, _ in counts.values())


@rows("S4.26", "S4.28")
def test_every_failed_attempt_is_kept_with_its_reason_also_when_the_job_succeeds_in_the_end(yard: Yard) -> None:
    (id,) = [one.id for one in yard.store.add([NewJob(task="t", queue="q", args="{}", max_attempts=3)])]
    for number in (1, 2):
        yard.end(yard.take()[0], Failed(error=f"no {number}", traceback="where"), attempts=3)
        yard.clock.forward(61)
        yard.store.promote()
    yard.end(yard.take()[0])
    row = yard.store.desk.job(id)
    assert row is not None
    assert (row.state, row.attempt) == (State.SUCCEEDED, 3)
    assert [(one.attempt, one.error, one.traceback) for one in yard.store.desk.attempts(id)] == [
        (1, "no 1", "where"),
        (2, "no 2", "where"),
    ]
