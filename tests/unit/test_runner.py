"""One run: whatever a task or a row does, an outcome comes out, and nothing is raised."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dray import Context, Dray, Permanent, Report, RetryIn, Skip, Snooze, StopWorker, Task, current_job
from dray.context import CancelRequested
from dray.job import Cancelled, Claim, Done, Failed, Outcome, Parked, Skipped, Snoozed
from dray.runner import ERROR_LIMIT, TRACEBACK_LIMIT, Prepared, Ran, Runner

CODEC_WORDS = "the stored args cannot be read: "


@pytest.fixture
def app() -> Dray:
    return Dray("sqlite:///is/not/opened.db")


def context(task: str, **facts: Any) -> Context:
    texts: dict[str, Any] = {"queue": "q", "task": task, "args": "{}", "key": None, "owner": None}
    return Context(Claim(**{**dict.fromkeys(Claim.__struct_fields__, 1), **texts, **facts}))


def run(app: Dray, function: Callable[..., Any], payload: str = "{}", **facts: Any) -> Ran:
    """Register the function and run it once, sync or async."""
    app.task(name="t")(function)
    here = context("t", **facts)
    prepared = app.runner.prepare(here, payload)
    assert isinstance(prepared, Prepared)
    if prepared.definition.is_async:
        return asyncio.run(app.runner.arun(prepared, here))
    return app.runner.run(prepared, here)


def raising(error: BaseException | Callable[[], BaseException], cause: BaseException | None = None) -> Callable[[], None]:
    def task() -> None:
        raise (error if isinstance(error, BaseException) else error()) from cause

    return task


def araising(error: BaseException, cause: BaseException | None = None) -> Callable[[], Coroutine[Any, Any, None]]:
    async def task() -> None:
        await asyncio.sleep(0)
        raise error from cause

    return task


# --- what it returns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, "x", [1, None], {"a": 1.5}, True, 0, "", []])
def test_what_a_task_returns_is_its_result(app: Dray, value: Any) -> None:
    ran = run(app, lambda: value)
    assert isinstance(ran.outcome, Done)
    assert ran.outcome.result is not None
    assert app.codec.decode(ran.outcome.result) == value
    assert not ran.stop


@pytest.mark.rows("S3.8", "S3.47")
def test_nothing_is_no_result_and_a_report_is_a_report(app: Dray) -> None:
    assert run(app, lambda: None).outcome == Done()
    report = Report.warning("2 of 3", Report.error("row 3"))
    assert run(Dray("sqlite:///x.db"), lambda: report).outcome == Done(report=report)


@pytest.mark.rows("C34")
@pytest.mark.parametrize("value", [object(), print, {object(): 1}, "\ud800", b"x" * 2_000_000, Report.info("x", data=object())])
def test_a_result_that_cannot_be_stored_does_not_turn_a_success_into_a_second_run(app: Dray, value: Any) -> None:
    outcome = run(app, lambda: value).outcome
    assert isinstance(outcome, Done)
    assert (outcome.result, outcome.report) == (None, None)
    assert "not stored" in (outcome.note or "")
    assert len(outcome.note or "") <= ERROR_LIMIT


class Hostile:
    """A value that fights back when it is looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_result_that_cannot_be_looked_at_does_not_either(app: Dray) -> None:
    assert run(app, lambda: Hostile()).outcome == Done(note="the result was not stored: __class__")


# --- what it raises -------------------------------------------------------------------------------------------------------

YEAR = 10 * 365 * 86400.0

SIGNALS: list[tuple[BaseException, Outcome]] = [
    (Snooze(30), Snoozed(delay=30)),
    (Snooze(1.5, "not yet"), Snoozed(delay=1.5, why="not yet")),
    (Snooze(-5), Snoozed(delay=0)),
    (Snooze(math.nan), Snoozed(delay=0)),
    (Snooze(math.inf), Snoozed(delay=YEAR)),
    (RetryIn(30), Failed(error="the task asked to be tried again", retry_in=30)),
    (RetryIn(0, "busy"), Failed(error="busy", retry_in=0)),
    (RetryIn(-1, "busy"), Failed(error="busy", retry_in=0)),
    (Skip("nothing to do"), Skipped(why="nothing to do")),
    (Skip("nul \x00"), Skipped(why="nul \ufffd")),
    (CancelRequested(), Cancelled()),
]


@pytest.mark.rows("S2.42", "S2.44", "S2.47", "S0.33")
@pytest.mark.parametrize(("signal", "outcome"), SIGNALS)
def test_what_a_signal_says_becomes_of_it(signal: BaseException, outcome: Outcome) -> None:
    assert run(Dray("sqlite:///x.db"), raising(signal)) == Ran(outcome)
    assert run(Dray("sqlite:///x.db"), araising(signal)) == Ran(outcome)


@pytest.mark.parametrize("wrong", [None, "soon", [], object()])
def test_a_signal_with_something_odd_in_it_is_still_that_signal(app: Dray, wrong: Any) -> None:
    for number, (signal, kind) in enumerate(
        [(Snooze(wrong, wrong), Snoozed), (RetryIn(wrong, wrong), Failed), (Skip(wrong), Skipped)]
    ):
        outcome = run(Dray("sqlite:///x.db"), raising(signal)).outcome
        assert isinstance(outcome, kind), number
        text = outcome.error if isinstance(outcome, Failed) else outcome.why
        assert text is None or isinstance(text, str)


def test_a_task_cannot_eat_a_signal_by_accident(app: Dray) -> None:
    def task() -> None:
        try:
            raise Snooze(5)
        except Exception:
            return

    assert run(app, task).outcome == Snoozed(delay=5)


RAISED: list[BaseException] = [ValueError("boom"), KeyError("k"), MemoryError(), RecursionError("deep"), TimeoutError("slow")]
RAISED += [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("base"), StopIteration(1)]
RAISED += [ExceptionGroup("many", [ValueError("one")])]


@pytest.mark.parametrize("error", RAISED)
def test_any_exception_is_a_failure_and_none_gets_out(error: BaseException) -> None:
    for task in (raising(error), araising(error)):
        if isinstance(error, StopIteration | KeyboardInterrupt | SystemExit) and task.__code__.co_flags & 0x80:
            continue  # Python itself turns the first into a RuntimeError, and ends the loop for the others: see below
        outcome = run(Dray("sqlite:///x.db"), task).outcome
        error.__traceback__ = None  # it is raised once more
        assert isinstance(outcome, Failed)
        assert not outcome.permanent
        text = str(error)
        assert outcome.error == (f"{type(error).__name__}: {text}" if text else type(error).__name__)
        assert type(error).__name__ in (outcome.traceback or "")
        assert "test_runner.py" in (outcome.traceback or "")
        assert "runner.py" not in (outcome.traceback or "").replace("test_runner.py", "")


@pytest.mark.rows("S2.42")
def test_permanent_is_final_and_so_is_what_derives_from_it(app: Dray) -> None:
    class Gone(Permanent): ...

    for error in (Permanent("no"), Gone("no")):
        outcome = run(Dray("sqlite:///x.db"), raising(error)).outcome
        assert isinstance(outcome, Failed)
        assert outcome.permanent


@pytest.mark.rows("S2.45")
@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (None, (Failed, True)),
        (ValueError("x"), (Failed, False)),
        (Permanent("x"), (Failed, True)),
        (Snooze(3), (Snoozed, None)),
        (Skip("x"), (Skipped, None)),
        (RetryIn(3), (Failed, False)),
    ],
)
def test_stop_worker_is_judged_by_its_cause(cause: BaseException | None, expected: tuple[type, bool | None]) -> None:
    for task in (raising(StopWorker("bye"), cause), araising(StopWorker("bye"), cause)):
        ran = run(Dray("sqlite:///x.db"), task)
        assert ran.stop
        assert (type(ran.outcome), getattr(ran.outcome, "permanent", None)) == expected


def test_causes_that_go_in_a_circle_come_to_an_end(app: Dray) -> None:
    one, two = StopWorker("one"), StopWorker("two")
    one.__cause__, two.__cause__ = two, one
    ran = run(app, raising(lambda: one, two))
    assert ran.stop
    assert isinstance(ran.outcome, Failed)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_words_is_named_all_the_same(app: Dray) -> None:
    outcome = run(app, raising(Mute())).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "Mute: its text could not be read: RuntimeError"
    assert outcome.traceback


def test_what_is_kept_of_an_error_is_short_and_can_be_stored(app: Dray) -> None:
    outcome = run(app, raising(ValueError("x" * 1_000_000 + "\x00\ud800"))).outcome
    assert isinstance(outcome, Failed)
    assert len(outcome.error) == ERROR_LIMIT
    assert len(outcome.traceback or "") <= TRACEBACK_LIMIT
    (outcome.error + (outcome.traceback or "")).encode()
    assert "\x00" not in outcome.error + (outcome.traceback or "")


# --- what cannot be run ---------------------------------------------------------------------------------------------------


def test_an_unknown_task_is_parked(app: Dray) -> None:
    ran = app.runner.prepare(context("gone"), "not even json")
    assert ran == Ran(Parked(why="no task 'gone' is registered in this worker"))


@pytest.mark.parametrize(
    "payload",
    ["", "{", "null", "[]", "1", '{"a":1}', '{"x":[]}', '{"a":[{"$no":1}]}', "\x00", '{"k":{"x":NaN}}', "[" * 100_000],
)
def test_a_broken_payload_is_a_failure_for_good(app: Dray, payload: str) -> None:
    app.task(name="t")(lambda *args, **kwargs: None)
    ran = app.runner.prepare(context("t"), payload)
    assert isinstance(ran, Ran)
    assert isinstance(ran.outcome, Failed)
    assert ran.outcome.permanent
    assert ran.outcome.error.startswith(CODEC_WORDS)
    assert ran.outcome.error.count("cannot be read") == 1
    assert len(ran.outcome.error) <= ERROR_LIMIT


@pytest.mark.rows("C35", "S2.43", "S2.51")
@pytest.mark.parametrize("payload", ["{}", '{"a":[1,2,3]}', '{"k":{"y":1}}', '{"a":[1],"k":{"x":1}}'])
def test_arguments_that_do_not_fit_are_parked_for_whoever_can_take_them(app: Dray, payload: str) -> None:
    app.task(name="t")(lambda x: None)
    ran = app.runner.prepare(context("t"), payload)
    assert isinstance(ran, Ran)
    assert isinstance(ran.outcome, Parked)
    assert ran.outcome.signature == app.registry.known()["t"]
    assert "the signature is t(x)" in ran.outcome.why
    assert len(ran.outcome.why) <= ERROR_LIMIT


def test_a_type_error_inside_the_task_is_an_ordinary_failure(app: Dray) -> None:
    def helper(x: int) -> None: ...

    def task(x: int) -> None:
        broken: Any = helper
        broken()  # the very words of a call that does not bind

    outcome = run(app, task, '{"a":[1]}').outcome
    assert isinstance(outcome, Failed)
    assert not outcome.permanent
    assert "missing 1 required positional argument" in outcome.error


def test_a_class_that_does_not_validate_any_more_is_an_ordinary_failure(app: Dray) -> None:
    class Strict(Task):
        x: int

        def validate(self) -> None:
            if self.x < 5:
                raise ValueError("too small")

        def run(self, ctx: Context) -> int:
            return self.x

    app.task(Strict)
    here = context("Strict")
    prepared = app.runner.prepare(here, '{"k":{"x":1}}')
    assert isinstance(prepared, Prepared)
    outcome = app.runner.run(prepared, here).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == "ValueError: too small"


def test_a_former_name_still_runs(app: Dray) -> None:
    app.task(name="new", aliases=["old"])(lambda: 7)
    prepared = app.runner.prepare(context("old"), "{}")
    assert isinstance(prepared, Prepared)
    assert app.runner.run(prepared, context("old")).outcome == Done(result="7")


# --- the current job, and cancelling --------------------------------------------------------------------------------------


def test_the_current_job_is_there_while_it_runs_and_not_after(app: Dray) -> None:
    seen: list[Any] = []

    def task() -> None:
        here = current_job()
        assert here is not None
        seen.append((here.id, here.attempt, here.fence, here.key))
        raise ValueError

    run(app, task, id=7, attempt=2, fence=5, key="k")
    assert seen == [(7, 2, 5, "k")]
    assert current_job() is None


def test_each_async_job_sees_itself(app: Dray) -> None:
    async def task() -> int:
        await asyncio.sleep(0)
        here = current_job()
        assert here is not None
        return here.id

    app.task(name="t")(task)

    async def both() -> list[Ran]:
        runs = []
        for id in (1, 2, 3):
            here = context("t", id=id)
            prepared = app.runner.prepare(here, "{}")
            assert isinstance(prepared, Prepared)
            runs.append(app.runner.arun(prepared, here))
        return await asyncio.gather(*runs)

    assert [ran.outcome for ran in asyncio.run(both())] == [Done(result=str(id)) for id in (1, 2, 3)]


def test_a_checkpoint_ends_a_run_that_was_asked_to_end(app: Dray) -> None:
    reached: list[str] = []

    def task() -> None:
        here = current_job()
        assert here is not None
        here.check()
        reached.append("first")
        here.request_cancel()
        here.check()
        reached.append("second")

    assert run(app, task).outcome == Cancelled()
    assert reached == ["first"]


@pytest.mark.parametrize("asked", [True, False])
def test_an_async_run_that_is_cancelled_is_so_only_if_somebody_asked_for_it(app: Dray, asked: bool) -> None:
    async def story() -> Ran:
        started = asyncio.Event()

        async def task() -> None:
            started.set()
            await asyncio.Event().wait()

        app.task(name="t")(task)
        here = context("t")
        prepared = app.runner.prepare(here, "{}")
        assert isinstance(prepared, Prepared)
        running = asyncio.create_task(app.runner.arun(prepared, here))
        await started.wait()
        if asked:
            here.request_cancel()
        running.cancel()
        return await running

    outcome = asyncio.run(story()).outcome
    if asked:
        assert outcome == Cancelled()
    else:
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("CancelledError")


def test_an_async_run_that_cancels_itself_has_failed() -> None:
    """Handed back it would run again at once, uncounted, for ever."""

    async def task() -> None:
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    async def more() -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel()
        await asyncio.sleep(0)

    for itself in (task, more):
        outcome = run(Dray("sqlite:///is/not/opened.db"), itself).outcome
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("CancelledError")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_async_task_cannot_end_the_loop(app: Dray, error: BaseException) -> None:
    outcome = run(app, araising(error)).outcome
    assert isinstance(outcome, Failed)


def test_a_runner_needs_no_app() -> None:
    app = Dray("sqlite:///x.db")
    app.task(name="t")(lambda: 1)
    runner = Runner(app.registry, app.codec)
    assert runner.definition("t") is app.registry.get("t")
    assert runner.definition("u") is None
