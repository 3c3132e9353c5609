"""Which of the ready jobs a claim takes, on every database: shares of queues, strict order, and only some tasks."""

from __future__ import annotations

from collections import Counter

import pytest

from dray.job import NewJob, name_hash
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
