"""How far a worker fetches ahead, and how long it waits: rules without a clock of their own."""

from __future__ import annotations

import pytest

from dray.pace import AT_ONCE, FIRST_POLL, FLUSH_AFTER, FLUSH_AT, LAST_POLL, Pace


def after(pace: Pace, *, jobs: int, seconds: float, rounds: int = 20) -> Pace:
    now = 0.0
    for _ in range(rounds):
        pace.finished(jobs, now)
        now += seconds
    return pace


def test_slow_jobs_are_not_fetched_ahead() -> None:
    assert after(Pace(concurrency=4, most=500), jobs=1, seconds=1.0).target() == 4


def test_fast_jobs_are_fetched_by_the_hundred_and_never_more_than_allowed() -> None:
    fast = after(Pace(concurrency=4, most=500), jobs=200, seconds=0.05)
    assert 300 < fast.target() <= 504
    assert after(Pace(concurrency=4, most=50), jobs=500, seconds=0.05).target() == 54


def test_slowness_is_believed_at_once() -> None:
    pace = after(Pace(concurrency=4, most=500), jobs=200, seconds=0.05)
    pace.finished(1, 10.0)
    assert pace.target() < 10


@pytest.mark.rows("S3.37")
def test_an_idle_worker_looks_more_and_more_seldom_and_soon_again_once_there_was_something() -> None:
    pace = Pace(concurrency=1, most=1)
    waits = [pace.empty() for _ in range(20)]
    assert FIRST_POLL * 0.9 <= waits[0] <= FIRST_POLL * 1.1
    assert LAST_POLL * 0.9 <= waits[-1] <= LAST_POLL * 1.1
    pace.woken()
    assert pace.empty() <= FIRST_POLL * 1.1


def test_outcomes_are_written_after_a_moment_or_when_they_are_many() -> None:
    pace = Pace(concurrency=1, most=1)
    assert pace.flush_in(1, 0.0) > 0
    assert pace.flush_in(FLUSH_AT, 0.0) <= 0
    assert pace.flush_in(1, FLUSH_AFTER[0]) <= 0


def test_where_writing_is_dear_it_is_done_more_seldom_but_not_too_seldom() -> None:
    pace = Pace(concurrency=1, most=1)
    pace.wrote(0.02)
    assert pace.flush_in(1, 0.01) > 0
    pace.wrote(60.0)
    assert pace.flush_in(1, FLUSH_AFTER[1]) <= 0


def test_the_half_of_what_is_here_runs_while_the_other_half_is_written() -> None:
    fast = after(Pace(concurrency=10, most=1000), jobs=1000, seconds=0.05)
    assert (fast.target(), fast.at_once()) == (1010, 500)
    assert Pace(concurrency=10, most=1000).at_once() == FLUSH_AT


def test_who_has_run_dry_hopes_for_more_and_is_soon_told_better() -> None:
    pace = Pace(concurrency=10, most=1000)
    targets = []
    for turn in range(5):
        pace.ran_dry(10, 0.001, turn / 1000)
        targets.append(pace.target())
    assert targets == [20, 50, 170, 650, 1010]
    pace.finished(10, 1.0)
    assert pace.target() < 15


def test_what_takes_long_is_not_fetched_ahead_because_nothing_was_left() -> None:
    pace = Pace(concurrency=2, most=1000)
    pace.ran_dry(2, 60.0, 60.0)
    assert pace.target() == 2
    pace.ran_dry(2, 0.05, 61.0)
    assert pace.target() == 4


def test_a_claim_is_worth_it_by_then_when_it_is_as_large_as_it_gets() -> None:
    huge = after(Pace(concurrency=10, most=10_000), jobs=10_000, seconds=0.05)
    assert huge.target() > 4 * AT_ONCE
    assert huge.is_worth_it(AT_ONCE)
    assert not huge.is_worth_it(AT_ONCE - 1)
    assert huge.at_once() == AT_ONCE
