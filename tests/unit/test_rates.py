"""What a rate remembers: never much, and never too little for any stretch of its time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray.rates import KEPT, Start, counting, thinned

PER = 60_000_000


def give(starts: list[Start], now: int, wanted: int, rate: int, per: int) -> tuple[list[Start], int]:
    """Let start as many as are wanted and allowed; gives what is remembered then, and how many these were."""
    left = counting(starts, now, per)
    some = min(wanted, rate - sum(count for _, count in left))
    assert some >= 0
    return thinned([*left, (now, some)] if some else left, per), some


@pytest.mark.rows("S4.16")
@given(
    steps=st.lists(st.tuples(st.integers(0, PER // 20), st.integers(0, 9)), min_size=1, max_size=400),
    rate=st.integers(1, 2000),
    per=st.sampled_from([1000, 1_000_000, 999_983, PER]),
)
def test_no_stretch_of_its_time_sees_more_starts_than_the_rate_and_few_pairs_are_kept(
    steps: list[tuple[int, int]], rate: int, per: int
) -> None:
    now, starts, allowed = 10**15, list[Start](), list[Start]()
    for pause, wanted in steps:
        now += pause * per // PER
        # As many as could start if all were remembered for a little longer than has to be.
        longest = per + -(-per // KEPT)
        least = rate - sum(count for at, count in allowed if at > now - longest)
        starts, some = give(starts, now, wanted, rate, per)
        assert some >= min(wanted, least), "it forgets no later than that"
        allowed.append((now, some))
        assert sum(count for at, count in allowed if at > now - per) <= rate
        assert len(starts) <= KEPT + 1
        assert [at for at, _ in starts] == sorted(at for at, _ in starts)


def test_few_starts_are_remembered_as_they_were() -> None:
    starts = [(10**15 + number, 1) for number in range(KEPT)]
    assert thinned(starts, PER) == starts


def test_a_busy_rate_comes_back_to_all_of_it() -> None:
    now, starts = 10**15, list[Start]()
    for _ in range(10_000):
        now += PER // 9000
        starts, _ = give(starts, now, 1, 10_000, PER)
    assert len(starts) <= KEPT + 1
    assert counting(starts, now + PER, PER) == []


def test_after_a_clock_was_set_back_starts_count_for_their_time_and_no_longer() -> None:
    starts = counting([(2 * 10**15, 3)], 10**15, PER)
    assert starts == [(10**15, 3)]
    assert counting(starts, 10**15 + PER, PER) == []
