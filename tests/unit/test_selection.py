"""Which queue is taken from next: shares by weight, strict order with a reserve, and which tasks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dray.errors import BadOption
from dray.job import name_hash
from dray.selection import RESERVE, Strict, TaskFilter, Weighted, choice_of, read_queues, route, spread

rows = pytest.mark.rows


@rows("S3.25", "C53")
@pytest.mark.parametrize("batch", [1, 7, 100, 500])
def test_shares_follow_the_weights_exactly_in_the_long_run(batch: int) -> None:
    weights, taken = {1: 5, 2: 3, 3: 2}, Counter[int]()
    choice = Weighted(weights)
    while taken.total() < 10_000:
        shares = choice.shares([1, 2, 3], batch)
        assert sum(number for _, number in shares) == batch
        taken.update(dict(shares))
    for queue, weight in weights.items():
        assert abs(taken[queue] - taken.total() * weight / 10) <= 2


@given(st.lists(st.tuples(st.sets(st.integers(1, 6), min_size=1), st.integers(1, 600)), max_size=60))
@example([({1, 2, 3}, 500), ({1, 2}, 500), ({1, 2, 3}, 1), ({1, 3}, 7), ({1, 2, 3}, 2)] * 20)
def test_whatever_is_empty_meanwhile_all_that_is_wanted_is_given_out(steps: list[tuple[set[int], int]]) -> None:
    for choice in (Weighted({1: 1, 2: 10, 3: 100}), Strict([3, 1, 2])):
        for queues, wanted in steps:
            shares = choice.shares(sorted(queues), wanted)
            assert sum(number for _, number in shares) == wanted
            assert {queue for queue, _ in shares} <= queues
            assert all(number > 0 for _, number in shares)


@rows("S3.25", "C53")
def test_a_weight_of_nothing_is_off() -> None:
    choice = Weighted({1: 0, 2: 1})
    assert choice.shares([1, 2], 10) == [(2, 10)]
    assert choice.shares([1], 10) == []
    with pytest.raises(BadOption, match="every queue has the weight 0"):
        choice_of("weighted", {"a": 0})


@rows("S3.26", "C54")
@pytest.mark.parametrize("batch", [1, 10, 100])
def test_strict_takes_the_first_and_keeps_its_reserve_for_the_others(batch: int) -> None:
    choice, taken = Strict([1, 2, 3]), Counter[int]()
    while taken.total() < 10_000:
        taken.update(dict(choice.shares([1, 2, 3], batch)))
    assert abs(taken[1] - 10_000 * (1 - RESERVE)) <= batch
    assert abs(taken[2] - taken[3]) <= batch
    assert choice.shares([2], 5) == [(2, 5)]


@rows("S3.27")
def test_with_one_queue_there_is_nothing_to_choose() -> None:
    for choice in (Weighted({1: 9}), Strict([1])):
        assert choice.shares([1], 3) == [(1, 3)]


def test_lists_are_spread_evenly() -> None:
    assert "".join(spread(["aaaaaa", "bb"])) == "aabaabaa"
    assert spread([[], [1], []]) == [1]


@rows("S3.21")
@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["mail:5", "reports"], {"mail": 5, "reports": 1}),
        (["a:b"], {"a:b": 1}),
        (["a:b:0"], {"a:b": 0}),
        ([], {}),
    ],
)
def test_queues_are_read_with_their_weights(given: list[str], found: dict[str, int]) -> None:
    assert read_queues(given) == found


@rows("S3.21", "S3.24")
@pytest.mark.parametrize("given", [["a", "a:2"], [""], ["a:1000001"]])
def test_wrong_queues_are_told(given: list[str]) -> None:
    with pytest.raises(BadOption):
        read_queues(given)


def test_wrong_strategies_are_told() -> None:
    with pytest.raises(BadOption, match="priority, weighted, strict"):
        choice_of("random", {})
    with pytest.raises(BadOption, match="in an order"):
        choice_of("strict", {})
    assert choice_of("priority", {"a": 1}) is None
    strict = choice_of("strict", {"a": 1, "b": 9, "c": 1})
    assert isinstance(strict, Strict)
    assert strict.order == [name_hash(name) for name in "bac"]


@rows("S0.48")
@pytest.mark.parametrize(
    ("tasks", "shown", "takes"),
    [
        (TaskFilter(), None, "abc"),
        (TaskFilter(only=("a", "b")), "only a, b", "ab"),
        (TaskFilter(without=("a",)), "not a", "bc"),
        (TaskFilter(only=("a",), without=("c",)), "only a", "a"),
    ],
)
def test_tasks_in_and_out(tasks: TaskFilter, shown: str | None, takes: str) -> None:
    assert "".join(task for task in "abc" if tasks.takes(task)) == takes
    assert tasks.show() == shown
    assert [TaskFilter.parse(shown).takes(task) for task in "abc"] == [tasks.takes(task) for task in "abc"]
    assert bool(tasks) is (shown is not None)


def test_a_task_is_not_in_and_out_at_once() -> None:
    with pytest.raises(BadOption, match="at once"):
        TaskFilter(("a",), ("a",))


@rows("S3.22", "S3.23")
def test_routes_go_by_name_and_then_by_pattern() -> None:
    routes = {"send_*": "mail", "send_invoice": "invoices", "*_slow": "slow"}
    assert [route(task, routes) for task in ("send_invoice", "send_letter", "very_slow", "other")] == [
        "invoices",
        "mail",
        "slow",
        None,
    ]
