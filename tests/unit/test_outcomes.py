"""Every outcome with every retry policy, attempt and hook; and the policies of the systems before ours."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from dray.codec import Codec
from dray.context import Context, current_job
from dray.errors import BadOption, Permanent
from dray.hooks import Ended, Hooks
from dray.job import Claim, Failed, Skipped, Snoozed, State
from dray.lifecycle import Retry, decide
from dray.report import Report
from dray.runner import Prepared, Ran, Runner
from dray.signals import RetryIn, Skip, Snooze, StopWorker
from dray.task import Registry, TaskOptions

rows = pytest.mark.rows


def claim(attempt: int = 1, most: int | None = None, task: str = "task") -> Claim:
    return Claim(1, 1, attempt, 0, 0, most, 0, 100, "q", task, "{}", None, None, 0, 0)


def run(body: Callable[[], Any], attempt: int = 1, *, asynchronous: bool = False, **options: Any) -> Ran:
    """Run a task with this body and these options of a task."""
    registry = Registry()
    if asynchronous:

        async def task() -> Any:
            return body()
    else:

        def task() -> Any:
            return body()

    registry.add(task, TaskOptions(**options))
    runner = Runner(registry, Codec(), hook_limit=0.2)
    context = Context(claim(attempt, task=options.get("name", "task")))
    prepared = runner.prepare(context, "{}")
    assert isinstance(prepared, Prepared)
    return asyncio.run(runner.arun(prepared, context)) if asynchronous else runner.run(prepared, context)


def raising(error: BaseException) -> Callable[..., Any]:
    def body(*_: Any) -> None:
        raise error.with_traceback(None)  # else it would be longer each time

    return body


def stop_worker(cause: BaseException | None) -> Callable[..., Any]:
    def body(*_: Any) -> None:
        raise StopWorker from cause

    return body


# --- every outcome, policy, attempt and hook -------------------------------------------------------------------------------


class Case(NamedTuple):
    body: Callable[..., Any]
    final: State | None  # what becomes of it whatever the policy; None: the policy decides
    delay: float | None = None  # that the task itself asks for
    stops: bool = False
    counted: bool = True
    fails: bool = True


CASES = {
    "returns": Case(lambda: 1, State.SUCCEEDED, fails=False),
    "good report": Case(lambda: Report.info("fine"), State.SUCCEEDED, fails=False),
    "bad report": Case(lambda: Report.error("bad"), State.FAILED, fails=False),
    "raises": Case(raising(ValueError("boom")), None),
    "Permanent": Case(raising(Permanent("no")), State.FAILED),
    "Snooze": Case(raising(Snooze(30)), State.SCHEDULED, delay=30, counted=False, fails=False),
    "RetryIn": Case(raising(RetryIn(7)), None, delay=7),
    "Skip": Case(raising(Skip("nothing to do")), State.SUCCEEDED, fails=False),
    "StopWorker": Case(stop_worker(None), State.FAILED, stops=True),
    "StopWorker from an error": Case(stop_worker(ValueError("boom")), None, stops=True),
    "StopWorker from Permanent": Case(stop_worker(Permanent("no")), State.FAILED, stops=True),
    "StopWorker from Snooze": Case(stop_worker(Snooze(30)), State.SCHEDULED, 30, stops=True, counted=False, fails=False),
    "SystemExit": Case(raising(SystemExit(3)), None),
}
POLICIES = {
    "none": Retry.none(),
    "once": Retry.once(after=60),
    "exponential": Retry.exponential(first=60, cap=960),
    "linear": Retry.linear(immediate=2, step=7200, attempts=9),
    "list": Retry.after(5, 10),
    "function": Retry.of(lambda attempt: attempt * 3.0),
}
HOOKS: dict[str, dict[str, Any]] = {
    "no hook": {},
    "hooks that do nothing": {"before_run": lambda ctx: None, "on_error": lambda ctx, error: None, "metadata": lambda ctx: {}},
    "on_error that raises": {"on_error": raising(OSError("the log is full"))},
    "metadata that raises": {"metadata": raising(OSError("no host"))},
}


@rows("S2.42", "S2.44", "S2.45", "S2.46", "S2.47", "S2.48", "S2.13", "C22", "C26", "C30", "C32", "C34", "S0.53")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_every_outcome_under_every_policy_at_every_attempt(name: str, hooks: str, asynchronous: bool) -> None:
    case = CASES[name]
    for policy, attempt in itertools.product(POLICIES.values(), (1, 2, 3, 9, 20)):
        ran = run(case.body, attempt, asynchronous=asynchronous, retry=policy, **HOOKS[hooks])
        change = decide(claim(attempt, policy.attempts), ran.outcome, policy, chance=lambda: 0.0)
        left = policy.attempts is None or attempt < policy.attempts
        delay = policy.delay(attempt, lambda: 0.0) if case.delay is None else case.delay
        waits = State.RETRYING if delay > 0 else State.READY
        assert ran.stop is case.stops
        assert change.state is (case.final or (waits if left else State.FAILED)), (policy, attempt)
        assert change.counted is case.counted
        if change.state in (State.RETRYING, State.SCHEDULED):
            assert change.delay == delay
        if case.fails and hooks == "on_error that raises":
            assert "the log is full" in (change.traceback or "")  # kept beside the first, which decides


# --- the policies of the systems before ours -------------------------------------------------------------------------------


def delays(policy: Retry, executions: int) -> list[float | None]:
    """Seconds between each execution that fails and the next; None: there is no next."""
    told: list[float | None] = []
    for attempt in range(1, executions + 1):
        change = decide(claim(attempt, policy.attempts), Failed(error="e"), policy, chance=lambda: 0.0)
        told.append(None if change.state is State.FAILED else change.delay)
    return told


@rows("S0.33")
def test_one_more_try_after_a_minute() -> None:
    assert delays(Retry.once(after=60), 2) == [60, None]


@rows("S2.49", "S2.48")
def test_one_two_four_eight_sixteen_minutes_and_on() -> None:
    assert delays(Retry.exponential(first=60, cap=960), 8) == [60, 120, 240, 480, 960, 960, 960, 960]
    assert delays(Retry.exponential(first=60, cap=960), 2000)[-1] == 960  # without end


@rows("S4.22", "S4.23", "S4.24", "S4.25", "C42", "C43")
def test_nine_executions_two_of_them_at_once_then_two_hours_more_each_time() -> None:
    assert delays(Retry.linear(immediate=2, step=7200, attempts=9), 9) == [0, *(7200 * k for k in range(1, 8)), None]
    assert sum(delay or 0 for delay in delays(Retry.linear(), 9)) == 56 * 3600


def test_never_again() -> None:
    assert delays(Retry.none(), 1) == [None]


# --- classes of exceptions -------------------------------------------------------------------------------------------------


@rows("S2.42", "S2.43", "S4.27", "C33", "C41")
@pytest.mark.parametrize(
    ("options", "error", "permanent"),
    [
        ({}, TypeError("deep in a library"), False),
        ({"permanent_on": [TypeError]}, TypeError("x"), True),
        ({"permanent_on": TypeError}, TypeError("x"), True),
        ({"permanent_on": [LookupError]}, KeyError("x"), True),
        ({"permanent_on": [LookupError]}, ValueError("x"), False),
        ({"retry_on": [OSError]}, TimeoutError("x"), False),
        ({"retry_on": [OSError]}, ValueError("x"), True),
        ({"retry_on": [OSError], "permanent_on": [FileNotFoundError]}, FileNotFoundError("x"), True),
        ({"retry_on": [OSError], "permanent_on": [FileNotFoundError]}, TimeoutError("x"), False),
        ({"retry_on": [KeyError], "permanent_on": [LookupError]}, KeyError("x"), False),
        ({"retry_on": [KeyError], "permanent_on": [LookupError]}, IndexError("x"), True),
        ({"retry_on": [OSError]}, Permanent("x"), True),
    ],
)
def test_the_nearest_class_that_is_named_decides(options: dict[str, Any], error: BaseException, permanent: bool) -> None:
    outcome = run(raising(error), **options).outcome
    assert isinstance(outcome, Failed)
    assert outcome.permanent is permanent


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"permanent_on": ["ValueError"]}, "classes of exceptions"),
        ({"permanent_on": [int]}, "classes of exceptions"),
        ({"permanent_on": [OSError], "retry_on": [OSError]}, "OSError is in permanent_on and in retry_on"),
        ({"notify_at": 0}, "1 or more"),
        ({"notify_at": True}, "1 or more"),
        ({"before_run": "log"}, "before_run must be a function"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadOption, match=told):
        run(lambda: None, **options)


def fingerprint(body: Callable[[], Any], **options: Any) -> int | None:
    outcome = run(body, **options).outcome
    assert isinstance(outcome, Failed)
    return outcome.fingerprint


def test_what_fails_in_the_same_place_in_the_same_way_has_one_fingerprint() -> None:
    def fail(number: int) -> None:
        if number == 2:
            number += 1  # another line
            raise ValueError(f"row {number}")
        raise ValueError(f"row {number}")

    def elsewhere() -> None:
        raise ValueError("row 1")

    assert fingerprint(lambda: fail(1)) == fingerprint(lambda: fail(2))
    assert fingerprint(lambda: fail(1)) != fingerprint(elsewhere)
    assert fingerprint(lambda: fail(1)) != fingerprint(raising(KeyError("row 1")))
    assert fingerprint(lambda: fail(1)) != fingerprint(lambda: fail(1), name="another task")


# --- hooks -----------------------------------------------------------------------------------------------------------------


@rows("S2.11", "S0.36")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_before_run_is_a_part_of_the_run(asynchronous: bool) -> None:
    ran = []
    outcome = run(lambda: ran.append(1), asynchronous=asynchronous, before_run=raising(LookupError("no database"))).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "LookupError: no database"
    assert ran == []
    assert isinstance(run(lambda: None, asynchronous=asynchronous, before_run=raising(Skip("holiday"))).outcome, Skipped)


@rows("S2.13", "S2.45", "S2.46", "C34")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_on_error_may_say_what_becomes_of_a_failure(asynchronous: bool) -> None:
    def closed(ctx: Context, error: BaseException) -> None:
        assert str(error) == "boom"
        assert current_job() is ctx or asynchronous
        raise StopWorker from error

    ran = run(raising(ValueError("boom")), asynchronous=asynchronous, on_error=closed)
    assert ran.stop
    assert isinstance(ran.outcome, Failed)
    assert (ran.outcome.error, ran.outcome.permanent) == ("ValueError: boom", False)
    assert isinstance(run(raising(ValueError("x")), asynchronous=asynchronous, on_error=raising(Snooze(5))).outcome, Snoozed)
    given_up = run(raising(ValueError("x")), asynchronous=asynchronous, on_error=raising(Permanent("give up"))).outcome
    assert isinstance(given_up, Failed)
    assert given_up.permanent


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_on_error_is_not_called_for_what_is_no_failure(asynchronous: bool) -> None:
    called: list[object] = []
    for body in (lambda: 1, raising(Snooze(1)), raising(Skip("x"))):
        run(body, asynchronous=asynchronous, on_error=lambda ctx, error: called.append(error))
    assert called == []


@rows("S2.14", "C99")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_metadata_is_kept_and_its_mistakes_cost_nothing(asynchronous: bool) -> None:
    seen: list[dict[str, Any]] = []

    def body() -> None:
        job = current_job()
        assert job is not None
        seen.append(dict(job.metadata))

    hooks = [
        lambda ctx: {"host": "a"},
        raising(OSError("no")),
        lambda ctx: None,
        lambda ctx: 7,
        lambda ctx: {"tries": ctx.attempt},
    ]
    assert not isinstance(run(body, asynchronous=asynchronous, metadata=hooks).outcome, Failed)
    assert seen == [{"host": "a", "tries": 1}]


def test_hooks_of_the_app_stand_around_those_of_the_task() -> None:
    called: list[str] = []

    def named(name: str) -> Callable[..., None]:
        return lambda *_: called.append(name)

    app, own = (
        Hooks.of(before_run=named("app"), after_run=named("app")),
        Hooks.of(before_run=named("task"), after_run=named("task")),
    )
    context = Context(claim())
    (app | own).begin(context)
    (app | own).ended(context, Ended(State.SUCCEEDED, 0.1))
    assert called == ["app", "task", "task", "app"]


@rows("S2.12", "C34")
def test_an_after_run_that_raises_keeps_no_other_from_being_called() -> None:
    called: list[str] = []
    hooks = Hooks.of(after_run=[lambda *_: called.append("first"), raising(SystemExit(1)), raising(ValueError("x"))])
    hooks.ended(Context(claim()), Ended(State.SUCCEEDED, 0.1))
    assert called == ["first"]


def test_async_hooks_serve_sync_tasks_and_sync_hooks_async_ones() -> None:
    called: list[str] = []

    async def before(ctx: Context) -> None:
        await asyncio.sleep(0)
        called.append(ctx.task)

    for asynchronous in (False, True):
        run(lambda: None, asynchronous=asynchronous, before_run=[before, lambda ctx: called.append("sync")])
    assert called == ["task", "sync"] * 2


def test_an_async_on_error_that_hangs_has_its_limit() -> None:
    async def hang(ctx: Context, error: BaseException) -> None:
        await asyncio.sleep(3600)

    outcome = run(raising(ValueError("boom")), asynchronous=True, on_error=hang).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "ValueError: boom"
    assert "TimeoutError" in (outcome.traceback or "")
