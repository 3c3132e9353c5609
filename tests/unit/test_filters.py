"""What people may ask lists for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dray.errors import BadFilter
from dray.job import Reason, State
from dray.store.filters import FILTERS, Filter

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_words_become_a_filter() -> None:
    words = {
        "state": "failed, retrying",
        "queue": "mail",
        "task": "send",
        "key": "k",
        "owner": "ann",
        "worker": "12",
        "label": "shop=north=1",
        "since": "1h30m",
        "until": "2024-02-29T11:00Z",
        "reason": "held",
        "group": "customer-7",
        "text": "time out",
    }
    assert set(words) == set(FILTERS)
    assert Filter.parse(words, NOW) == Filter(
        states=frozenset({State.FAILED, State.RETRYING}),
        queue="mail",
        task="send",
        key="k",
        owner="ann",
        worker_id=12,
        label=("shop", "north=1"),
        since=NOW - timedelta(minutes=90),
        until=NOW - timedelta(hours=1),
        reason=Reason.HELD,
        group="customer-7",
        text="time out",
    )


def test_values_that_are_no_words_are_taken_as_they_are() -> None:
    words = {"states": [State.READY], "worker_id": 3, "label": ("a", "b"), "since": NOW}
    expected = Filter(states=frozenset({State.READY}), worker_id=3, label=("a", "b"), since=NOW)
    assert Filter.parse(words) == expected


def test_empty_words_do_not_matter() -> None:
    assert Filter.parse({"state": "", "queue": None, "since": ""}) == Filter()


@pytest.mark.rows("C90")
@pytest.mark.parametrize("name", ["args", "id", "1; DROP TABLE jobs", "queue_hash", "", "State", "__class__"])
def test_a_column_that_is_not_in_the_list_is_refused(name: str) -> None:
    with pytest.raises(BadFilter, match="allowed: state, queue"):
        Filter.parse({name: "x"})


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("state", "gone"),
        ("state", "failed,"),
        ("reason", "bad luck"),
        ("worker", "x"),
        ("worker", 10**30),
        ("worker", []),
        ("label", "shop"),
        ("since", "yesterday"),
        ("since", "2024-02-29T11:00"),
        ("until", datetime(2024, 1, 1)),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, word: Any) -> None:
    with pytest.raises(BadFilter, match=name):
        Filter.parse({name: word}, NOW)


def test_a_reason_is_one_of_blocked_jobs() -> None:
    blocked, ready = frozenset({State.BLOCKED}), frozenset({State.READY})
    assert Filter(reason=Reason.HELD).possible_states() == blocked
    assert Filter(reason=Reason.HELD, states=blocked | ready).possible_states() == blocked
    assert Filter(reason=Reason.HELD, states=ready).possible_states() == frozenset()
    assert Filter().possible_states() is None
