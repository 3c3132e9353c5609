"""The rules of a job's life: which moves are legal, how long it waits, what becomes of it after a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from dray.errors import BadOption
from dray.job import (
    Cancelled,
    Change,
    Died,
    Done,
    Failed,
    Flag,
    HandedBack,
    Outcome,
    Parked,
    Reason,
    Skipped,
    Snoozed,
    State,
)
from dray.lifecycle import DEFAULT_RETRY, LONGEST_DELAY, MOVES, Retry, can, decide, heed
from dray.report import Report


class Job(NamedTuple):
    attempt: int = 1
    crashes: int = 0
    max_attempts: int | None = 3
    flags: int = 0
    follows: bool = False
    out_of_turn: bool = False


MINUTE = Retry(attempts=3, wait=lambda attempt: 60.0 * attempt)
FAILED, SUCCEEDED, CANCELLED, READY, RETRYING, SCHEDULED, BLOCKED = (
    State.FAILED,
    State.SUCCEEDED,
    State.CANCELLED,
    State.READY,
    State.RETRYING,
    State.SCHEDULED,
    State.BLOCKED,
)
GOOD, BAD = Report.info("fine"), Report.warning("hm", Report.error("deep"))
FAIL = int(Flag.FAIL_ON_CRASH)
DEATH = "its worker died"


# --- decide ---------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S2.38", "S2.41")
@pytest.mark.parametrize(
    ("job", "outcome", "change"),
    [
        # It returned.
        (Job(), Done(), Change(state=SUCCEEDED)),
        (Job(), Done(result="1", note="n"), Change(state=SUCCEEDED, result="1", note="n")),
        (Job(3), Done(result="1"), Change(state=SUCCEEDED, result="1")),
        (Job(99, max_attempts=1), Done(), Change(state=SUCCEEDED)),
        (Job(), Done(report=GOOD), Change(state=SUCCEEDED, report=GOOD)),
        (Job(), Done(report=BAD, result="1"), Change(state=FAILED, report=BAD, result="1", error="deep")),
        (Job(), Skipped(why="empty"), Change(state=SUCCEEDED, note="skipped: empty")),
        # It failed, with attempts left, with none, and without end.
        (Job(1), Failed(error="e"), Change(state=RETRYING, delay=60, error="e")),
        (Job(2), Failed(error="e", traceback="t"), Change(state=RETRYING, delay=120, error="e", traceback="t")),
        (Job(3), Failed(error="e", traceback="t"), Change(state=FAILED, error="e", traceback="t")),
        (Job(4), Failed(error="e"), Change(state=FAILED, error="e")),
        (Job(50, max_attempts=None), Failed(error="e"), Change(state=RETRYING, delay=3000, error="e")),
        (Job(1, max_attempts=1), Failed(error="e"), Change(state=FAILED, error="e")),
        (Job(1), Failed(error="e", permanent=True), Change(state=FAILED, error="e")),
        (Job(1), Failed(error="e", retry_in=5), Change(state=RETRYING, delay=5, error="e")),
        (Job(1), Failed(error="e", retry_in=0), Change(state=READY, error="e")),
        (Job(3), Failed(error="e", retry_in=5), Change(state=FAILED, error="e")),
        (Job(1), Failed(error="e", retry_in=5, permanent=True), Change(state=FAILED, error="e")),
        (Job(1), Failed(error="e", report=BAD), Change(state=RETRYING, delay=60, error="e", report=BAD)),
        (Job(3), Failed(error="e", report=BAD), Change(state=FAILED, error="e", report=BAD)),
        # It is not done, and this start does not count.
        (Job(3), Snoozed(delay=9, why="w"), Change(state=SCHEDULED, delay=9, counted=False, snoozed=True, note="w")),
        (Job(3), HandedBack(why="w"), Change(state=READY, counted=False, note="w")),
        (
            Job(3),
            Parked(why="w", signature=7),
            Change(state=BLOCKED, reason=Reason.UNKNOWN_TASK, counted=False, signature=7, note="w"),
        ),
        (Job(3), Cancelled(), Change(state=CANCELLED, note="cancelled while running")),
        (Job(3), Cancelled(why="expired"), Change(state=CANCELLED, note="expired")),
        # Its worker died: attempts do not matter, deaths do.
        (Job(3), Died(started=False), Change(state=READY, counted=False, suspect=True, note=DEATH)),
        (Job(3, 2), Died(started=False), Change(state=READY, counted=False, suspect=True, note=DEATH)),
        (Job(3), Died(started=True), Change(state=READY, counted=False, crashed=True, note=DEATH)),
        (Job(1, 1), Died(started=True), Change(state=READY, counted=False, crashed=True, note=DEATH)),
        (Job(1, 2), Died(started=True), Change(state=FAILED, crashed=True, error=f"worker died 3 times ({DEATH})")),
        (
            Job(1, 5),
            Died(started=True, how="SIGKILL"),
            Change(state=FAILED, crashed=True, error="worker died 6 times (SIGKILL)"),
        ),
        (Job(1, 0, 3, FAIL), Died(started=False), Change(state=READY, counted=False, note=DEATH)),
        (
            Job(1, 0, 3, FAIL),
            Died(started=True, how="SIGKILL"),
            Change(state=FAILED, crashed=True, error='SIGKILL while this job ran, and its task says on_crash="fail"'),
        ),
        (Job(1, 0, 3, FAIL), Failed(error="e"), Change(state=RETRYING, delay=60, error="e")),
    ],
)
def test_what_becomes_of_a_job_after_a_run(job: Job, outcome: Outcome, change: Change) -> None:
    assert decide(job, outcome, MINUTE, lambda: 0.5) == change


EVERY_OUTCOME: list[Outcome] = [
    Done(),
    Done(report=BAD),
    Skipped(why="w"),
    Failed(error="e"),
    Failed(error="e", permanent=True),
    Failed(error="e", retry_in=1.0),
    Snoozed(delay=1),
    Parked(why="w"),
    Cancelled(),
    HandedBack(),
    Died(started=True),
    Died(started=False),
]


@pytest.mark.parametrize("attempt", [0, 1, 3, 4, 2**31, -1])
@pytest.mark.parametrize("crashes", [0, 1, 2, 3, 2**15 - 1])
@pytest.mark.parametrize("max_attempts", [None, 1, 3, 0, -5])
def test_every_decision_is_a_legal_move_whatever_stands_in_the_row(
    attempt: int, crashes: int, max_attempts: int | None
) -> None:
    for flags in (0, FAIL, int(Flag.SUSPECT), int(Flag.CANCEL | Flag.HELD)):
        for outcome in EVERY_OUTCOME:
            change = decide(Job(attempt, crashes, max_attempts, flags), outcome)
            for heeded in (change, heed(change, flags)):
                assert can(State.RUNNING, heeded.state)
                assert 0 <= heeded.delay <= LONGEST_DELAY
                assert not (heeded.state.ended and heeded.delay)
                assert (heeded.reason is not None) == (heeded.state is BLOCKED)
                # Who waits has a time; who does not has none.
                assert (heeded.delay > 0) <= (heeded.state in (SCHEDULED, RETRYING))


def test_a_retry_policy_that_raises_is_replaced_and_named() -> None:
    def broken(attempt: int) -> float:
        raise ZeroDivisionError("oh")

    change = decide(Job(), Failed(error="e", traceback="t"), Retry.of(broken), lambda: 0.0)
    assert (change.state, change.delay, change.error) == (RETRYING, 5.0, "e")
    assert change.traceback == "t\nthe retry policy raised ZeroDivisionError('oh'); the default was used"


@pytest.mark.parametrize("answer", ["soon", None, object()])
def test_a_retry_policy_that_gives_no_number_is_replaced(answer: Any) -> None:
    change = decide(Job(), Failed(error="e"), Retry.of(lambda attempt: answer), lambda: 0.0)
    assert (change.state, change.delay) == (RETRYING, 5.0)


# --- heed -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", EVERY_OUTCOME)
def test_what_an_operator_said_meanwhile_is_heeded(outcome: Outcome) -> None:
    change = decide(Job(), outcome, MINUTE)
    assert heed(change, 0) == change
    assert heed(change, int(Flag.SUSPECT | Flag.FAIL_ON_CRASH)) == change
    cancelled, held = heed(change, int(Flag.CANCEL)), heed(change, int(Flag.HELD))
    if change.state.ended:  # a success that comes first stays a success (P6)
        assert cancelled == held == change
        return
    assert (cancelled.state, cancelled.reason, cancelled.delay) == (CANCELLED, None, 0)
    assert cancelled.counted == change.counted
    assert heed(change, int(Flag.CANCEL | Flag.HELD)).state is CANCELLED
    if change.state is READY:
        assert held == msgspec.structs.replace(change, state=BLOCKED, reason=Reason.HELD, leaves_line=True)
    else:  # it is looked at when it would become ready; nobody has to wait for it meanwhile
        assert held == msgspec.structs.replace(change, leaves_line=True)


def test_one_that_follows_goes_back_into_the_line_of_its_group() -> None:
    """Nobody knows how far the head has come, so it must not be ready beside it."""
    follower = Job(follows=True)
    for outcome in (HandedBack(), Died(started=False), Died(started=True)):
        change = decide(follower, outcome)
        assert (change.state, change.reason, change.counted) == (BLOCKED, Reason.GROUP, False)
        assert heed(change, int(Flag.HELD)).reason is Reason.HELD
    # What was run in its turn is judged as any other.
    assert decide(follower, Failed(error="boom", retry_in=0.0)).state is READY
    assert decide(follower, Done()).state is SUCCEEDED


# --- retry policies -------------------------------------------------------------------------------------------------------


def waits(retry: Retry, count: int) -> list[float]:
    return [retry.delay(attempt, lambda: 0.0) for attempt in range(1, count + 1)]


@pytest.mark.rows("S2.49")
def test_exponential_waits_1_2_4_8_16_minutes_and_no_longer() -> None:
    retry = Retry.exponential()
    assert waits(retry, 8) == [60, 120, 240, 480, 960, 960, 960, 960]
    assert [60 * min(16, 2 ** (n - 1)) for n in range(1, 30)] == waits(retry, 29)
    assert retry.attempts is None
    assert waits(retry, 3000)[-1] == 960
    assert retry.delay(2**40, lambda: 0.0) == 960
    assert retry.delay(-3, lambda: 0.0) == 60


@pytest.mark.rows("S0.33")
def test_once_is_one_more_try_after_a_minute() -> None:
    retry = Retry.once()
    assert (retry.attempts, waits(retry, 1)) == (2, [60])
    assert waits(Retry.once(after=5), 1) == [5]
    assert decide(Job(1, max_attempts=retry.attempts), Failed(error="e"), retry).state is RETRYING
    assert decide(Job(2, max_attempts=retry.attempts), Failed(error="e"), retry).state is FAILED


@pytest.mark.rows("S4.24")
def test_linear_starts_two_at_once_and_each_other_two_hours_later_than_the_one_before() -> None:
    retry = Retry.linear()
    assert retry.attempts == 9
    # Execution k (3 to 9) starts not before 2 h x (k - 2) after the one before it.
    assert waits(retry, 8) == [0, *(7200 * (k - 2) for k in range(3, 10))]
    changes = [decide(Job(attempt, max_attempts=9), Failed(error="e"), retry) for attempt in range(1, 10)]
    assert [change.state for change in changes] == [READY, *[RETRYING] * 7, FAILED]


def test_none_and_lists_of_delays() -> None:
    assert Retry.none().attempts == 1
    assert Retry.after() == Retry.none()
    listed = Retry.after(1, 10, 100)
    assert (listed.attempts, waits(listed, 5)) == (4, [1, 10, 100, 100, 100])
    assert listed.delay(0, lambda: 0.0) == listed.delay(-9, lambda: 0.0) == 1


def test_a_policy_is_made_of_what_people_write() -> None:
    own: Callable[[int], float] = lambda attempt: attempt * 2.0  # noqa: E731
    assert Retry.of(listed := Retry.after(3)) is listed
    assert (Retry.of(4).attempts, waits(Retry.of(4), 3)) == (4, [5, 10, 20])
    assert (Retry.of([1, 2]).attempts, waits(Retry.of((1, 2)), 2)) == (3, [1, 2])
    assert Retry.of([]) == Retry.none()
    assert (Retry.of(own).attempts, waits(Retry.of(own), 2)) == (None, [2, 4])
    for wrong in (True, False, 0, -1):
        with pytest.raises(BadOption):
            Retry.of(wrong)


def test_the_default_is_from_five_seconds_to_sixteen_minutes_with_jitter_twenty_times() -> None:
    assert DEFAULT_RETRY.attempts == 20
    assert waits(DEFAULT_RETRY, 9) == [5, 10, 20, 40, 80, 160, 320, 640, 960]
    assert DEFAULT_RETRY.delay(1, lambda: 1.0) == 4
    assert DEFAULT_RETRY.delay(1, lambda: 0.5) == 4.5
    assert all(4 <= DEFAULT_RETRY.delay(1) <= 5 for _ in range(100))


@pytest.mark.parametrize(
    ("given", "wait"),
    [(-1.0, 0.0), (math.nan, 0.0), (math.inf, LONGEST_DELAY), (-math.inf, 0.0), (1e30, LONGEST_DELAY), (7, 7.0)],
)
def test_a_wait_is_never_negative_and_never_absurd(given: float, wait: float) -> None:
    assert Retry.of(lambda attempt: given).delay(1, lambda: 0.0) == wait


@pytest.mark.parametrize(("name", "value"), [("jitter", -0.1), ("jitter", 1.1), ("attempts", 0), ("attempts", -1)])
def test_what_makes_no_policy_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=name.removesuffix("s")):
        Retry(**{"attempts": 3, "wait": lambda attempt: 1.0, name: value})


# --- moves ----------------------------------------------------------------------------------------------------------------


def test_can_knows_the_moves_and_no_others() -> None:
    legal = {(move.before, move.after) for move in MOVES}
    for before in State:
        for after in State:
            assert can(before, after) == ((before, after) in legal)
    assert {move.after for move in MOVES if move.before is None} == {READY, SCHEDULED, BLOCKED}


@pytest.mark.rows("S2.39")
def test_an_end_is_left_only_by_a_retry() -> None:
    left = {(move.before, move.after) for move in MOVES if move.before is not None and move.before.ended}
    assert left == {(before, after) for before in (FAILED, CANCELLED, SUCCEEDED) for after in (READY, BLOCKED)}
    assert all(move.by.startswith("retry") for move in MOVES if move.before is not None and move.before.ended)


@pytest.mark.rows("S2.40")
def test_only_a_claim_starts_a_run() -> None:
    assert [(move.before, move.by) for move in MOVES if move.after is State.RUNNING] == [(READY, "claim")]


def test_every_live_state_can_be_left_and_cancelled_or_ended() -> None:
    for state in State:
        if not state.ended:
            assert can(state, CANCELLED)
        reachable, todo = {state}, [state]
        while todo:
            before = todo.pop()
            for move in MOVES:
                if move.before is before and move.after not in reachable:
                    reachable.add(move.after)
                    todo.append(move.after)
        assert {SUCCEEDED, FAILED} <= reachable
