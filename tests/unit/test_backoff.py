"""How long one waits after workers that died young."""

from __future__ import annotations

import pytest

from dray.tending.backoff import Backoff


def waits(backoff: Backoff, deaths: int) -> list[float]:
    """What is waited after each of so many deaths at the start, each as soon as it may be."""
    now, waited = 1000.0, []
    for _ in range(deaths):
        assert backoff.died(now, age=0.3, was_up=False, failed=True)
        waited.append(backoff.left(now))
        now += backoff.left(now) + 0.3
    return waited


@pytest.mark.rows("C79")
def test_each_death_at_the_start_doubles_the_wait_up_to_a_minute() -> None:
    assert waits(Backoff(lambda: 0.0), 10) == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60])
    assert waits(Backoff(lambda: 1.0), 2) == pytest.approx([0.375, 0.75]), "not all tenders at the same moment"


def test_several_that_were_started_together_are_one_try() -> None:
    backoff = Backoff(lambda: 0.0)
    for _ in range(4):
        backoff.died(1000.0, age=0.3, was_up=False, failed=True)
    assert backoff.left(1000.0) == 0.5
    assert backoff.say(1000.0, "exit code 2") == "4 workers died at start, the last with exit code 2; next try in 0.5s"


def test_one_that_was_up_may_die_once_in_a_while() -> None:
    backoff = Backoff(lambda: 0.0)
    assert not backoff.died(1000.0, age=300.0, was_up=True, failed=True)
    assert not backoff.died(1070.0, age=70.0, was_up=True, failed=True)
    assert backoff.left(1070.0) == 0.0
    assert backoff.died(1100.0, age=30.0, was_up=True, failed=True)
    assert backoff.say(1100.0, "SIGKILL") == "1 worker died within a minute, the last with SIGKILL; next try in 0.5s"


def test_who_ends_in_good_order_but_at_once_would_have_to_be_started_all_the_time() -> None:
    backoff = Backoff(lambda: 0.0)
    assert not backoff.died(1000.0, age=300.0, was_up=True, failed=False)
    assert backoff.died(1001.0, age=0.5, was_up=True, failed=False)
    assert backoff.say(1001.0, "exit code 0") == "1 worker ended at once, the last with exit code 0; next try in 0.5s"


def test_it_is_forgotten_when_one_has_lived_well() -> None:
    backoff = Backoff(lambda: 0.0)
    waits(backoff, 6)
    last = 1000.0 + 0.5 + 1 + 2 + 4 + 8 + 5 * 0.3
    backoff.lived(last + 30, 300.0)
    assert backoff.is_wary, "that one had been there before"
    backoff.lived(last + 70, 30.0)
    assert backoff.is_wary
    backoff.lived(last + 100, 65.0)
    assert not backoff.is_wary
    backoff.died(last + 200, age=0.1, was_up=False, failed=True)
    assert backoff.left(last + 200) == 0.5
