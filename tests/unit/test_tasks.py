"""Registering tasks, checking calls and options: what is wrong is told in the producer, before anything is written."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from dray import Context, Dray, Permanent, Retry, Task
from dray.cli.example import _failed
from dray.errors import BadArguments, BadOption, CodecError, TaskError, UnknownTask
from dray.examples import EXAMPLE, example
from dray.job import Added, Claim, Flag, NewJob, State
from dray.options import Options
from dray.task import Definition


class Counting:
    """A store that takes note of what is added, and cannot do anything else."""

    def __init__(self) -> None:
        self.jobs: list[NewJob] = []

    def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        self.jobs += jobs
        return [Added(id, State.READY) for id in range(len(self.jobs) - len(jobs) + 1, len(self.jobs) + 1)]


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def app(store: Counting) -> Dray:
    app = Dray("sqlite:///is/not/opened.db")
    fake: Any = store
    app._store = fake
    return app


def add(a: int, b: int = 2, *, c: int = 3) -> int:
    return a + b + c


def definition(app: Dray, name: str) -> Definition:
    return app.registry.get(name)


def context(**facts: Any) -> Context:
    texts: dict[str, Any] = {"queue": "q", "task": "t", "args": "{}", "key": None, "owner": None}
    return Context(Claim(**{**dict.fromkeys(Claim.__struct_fields__, 1), **texts, **facts}))


# --- registration ---------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S3.9")
def test_a_task_is_still_an_ordinary_function(app: Dray) -> None:
    task = app.task(add)
    assert task(1, 2, c=4) == 7
    assert (task.__name__, task.__doc__, repr(task)) == ("add", None, "<task add>")
    assert task.task is definition(app, "add")


def test_a_task_has_a_name_of_its_own_if_given_one(app: Dray) -> None:
    app.task(name="sums.add", aliases=["plus", "add"])(add)
    assert [one.name for one in app.registry] == ["sums.add"]
    assert {*app.registry.known()} == {"sums.add", "plus", "add", EXAMPLE}
    for name in ("sums.add", "plus", "add"):
        assert app.registry.find(name) is definition(app, "sums.add")
    assert app.using().bind("plus", 1).job.task == "sums.add"  # a new job is stored under the new name


def test_what_is_true_of_all_jobs_of_a_task(app: Dray, store: Counting) -> None:
    app.task(name="a", queue="mail", priority=7, retry=4, on_crash="fail")(add)
    app.enqueue("a", 1)
    app.using(queue="other", priority=8, max_attempts=9).enqueue("a", 1)
    first, second = store.jobs
    assert (first.queue, first.priority, first.max_attempts, first.flags) == ("mail", 7, 4, Flag.FAIL_ON_CRASH)
    assert (second.queue, second.priority, second.max_attempts, second.flags) == ("other", 8, 9, Flag.FAIL_ON_CRASH)


@pytest.mark.rows("C10")
def test_two_tasks_cannot_share_a_name(app: Dray) -> None:
    app.task(name="same", aliases=["former"])(add)
    for options in ({"name": "same"}, {"name": "former"}, {"name": "new", "aliases": ["same"]}, {"aliases": ["former"]}):
        with pytest.raises(TaskError, match="two tasks called") as caught:
            app.task(**options)(other)
        assert "test_tasks.add" in str(caught.value)
        assert "test_tasks.other" in str(caught.value)
    assert {*app.registry.known()} == {"same", "former", EXAMPLE}  # nothing is half registered


def other() -> None: ...


def test_the_same_task_may_be_registered_again_by_a_reloaded_module(app: Dray, tmp_path: Path) -> None:
    (tmp_path / "reloaded_tasks.py").write_text("def work(): return 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("reloaded_tasks")
        app.task(module.work)
        app.task(importlib.reload(module).work)
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["reloaded_tasks"]
    assert definition(app, "work").target is module.work


class Plain:
    def run(self) -> None: ...


class NoRun(Task):
    """Somebody forgot what it should do."""


def generator() -> Any:
    yield 1


async def agenerator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Plain, "must derive from dray.Task"),
        (NoRun, "no run method"),
        (generator, "is a generator"),
        (agenerator, "is a generator"),
        (len, "a function or a subclass"),
        (functools.partial(add, 1), "a function or a subclass"),
        (add.__get__(3), "a function or a subclass"),
        ("add", "a function or a subclass"),
        (7, "a function or a subclass"),
    ],
)
def test_what_cannot_be_a_task_is_refused(app: Dray, target: Any, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        app.task(target)
    assert len(app.registry) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queu": "mail"}, "did you mean 'queue'"),
        ({"zzz": 1}, "there are queue, priority"),
        ({"name": ""}, "task name"),
        ({"name": " "}, "task name"),
        ({"name": "x" * 201}, "1 to 200 characters"),
        ({"name": "a\nb"}, "printable"),
        ({"name": 5}, "task name"),
        ({"aliases": [""]}, "task name"),
        ({"aliases": "former"}, "aliases"),
        ({"queue": ""}, "queue"),
        ({"priority": 1000}, "0 .* to 999"),
        ({"priority": -1}, "0 .* to 999"),
        ({"priority": True}, "0 .* to 999"),
        ({"priority": 1.5}, "0 .* to 999"),
        ({"priority": "high"}, "0 .* to 999"),
        ({"on_crash": "explode"}, "retry, fail"),
        ({"retry": True}, "retry"),
        ({"retry": 0}, "at least 1"),
    ],
)
def test_a_wrong_option_of_a_task_is_told(app: Dray, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        app.task(**options)(add)
    assert len(app.registry) == 0


@pytest.mark.rows("S0.8", "C35")
def test_an_unknown_task_is_refused_at_enqueue_with_a_guess(app: Dray, store: Counting) -> None:
    app.task(name="send_invoice")(add)
    app.task(name="send_invoices", aliases=["x"])(other)
    with pytest.raises(UnknownTask, match="'send_invoic' is not registered; did you mean 'send_invoice' or 'send_invoices'"):
        app.enqueue("send_invoic")
    with pytest.raises(UnknownTask, match=r"'zzz' is not registered$"):
        app.enqueue("zzz")
    with pytest.raises(UnknownTask, match="'Greet' is not registered"):
        app.enqueue(Greet(name="ann"))
    assert issubclass(UnknownTask, LookupError)
    assert store.jobs == []


# --- calls ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"d": 1}), ((), {"b": 1}), ((1,), {"C": 1})],
)
def test_a_call_that_does_not_fit_fails_in_the_producer(
    app: Dray, store: Counting, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    task = app.task(add)
    with pytest.raises(BadArguments, match=r"the signature is add\(a: 'int', b: 'int' = 2, \*, c: 'int' = 3\)"):
        task.enqueue(*args, **kwargs)
    with pytest.raises(TypeError):  # as Python's own would be
        app.enqueue("add", *args, **kwargs)
    assert store.jobs == []


@pytest.mark.rows("S3.10", "S3.11")
def test_a_call_that_fits_is_stored_as_it_was_made(app: Dray, store: Counting) -> None:
    task = app.task(add)
    task.enqueue(1)
    task.enqueue(1, 5, c=4)
    task.enqueue(a=1)
    assert [job.args for job in store.jobs] == ['{"a":[1]}', '{"a":[1,5],"k":{"c":4}}', '{"k":{"a":1}}']


def test_a_value_that_cannot_be_stored_fails_in_the_producer(app: Dray, store: Counting) -> None:
    task: Any = app.task(add)
    for wrong in (object(), print, float, {1: object()}):
        with pytest.raises(CodecError):
            task.enqueue(wrong)
    assert store.jobs == []


@pytest.mark.rows("S2.31")
def test_of_many_calls_all_are_added_or_none(app: Dray, store: Counting) -> None:
    task = app.task(add)

    def calls() -> Any:
        yield task.bind(1)
        yield task.bind(2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        app.enqueue_many(calls())
    assert store.jobs == []
    assert [job.id for job in app.enqueue_many(task.bind(number) for number in range(3))] == [1, 2, 3]
    assert app.enqueue_many([]) == []


def test_a_call_of_another_app_is_refused(app: Dray, store: Counting) -> None:
    stranger = Dray("sqlite:///is/not/opened.db").task(add)
    with pytest.raises(BadOption, match="another app"):
        app.enqueue_many([stranger.bind(1)])
    wrong: Any = add
    with pytest.raises(BadOption, match="instance, name or bound call"):
        app.enqueue(wrong)
    assert store.jobs == []


def test_the_number_of_a_signature_changes_with_what_decides_whether_a_call_binds() -> None:
    def number(source: str) -> int:
        place: dict[str, Any] = {}
        exec(f"def f({source}): ...", place)
        app = Dray("sqlite:///is/not/opened.db")
        app.task(place["f"])
        return app.registry.known()["f"]

    same = {number("a, b=1"), number("a: int, b: str = 'x'"), number("a: 'list[int]', b=None")}
    different = [number(one) for one in ("", "a", "a, b", "b, a", "a, *, b=1", "a, b=1, c=2", "*a", "**a", "a, /, b=1")]
    assert len(same) == 1
    assert len({*different, *same}) == len(different) + 1
    assert all(one != 0 for one in (*same, *different))  # 0 means that the task itself is unknown


# --- class tasks ----------------------------------------------------------------------------------------------------------


class Greet(Task):
    name: str
    times: int = 1

    def validate(self) -> None:
        if self.times < 1:
            raise ValueError(f"times must be at least 1, got {self.times}")

    def run(self, ctx: Context) -> str:
        return f"{self.name} {ctx.attempt}"


class Quiet(Task):
    def run(self) -> str:  # type: ignore[override]
        return "nothing"


class Later(Task):
    x: int

    async def run(self, ctx: Context) -> int:
        return self.x


class Hooked(Task):
    x: int
    seen: tuple[str, ...] = ()

    def before_enqueue(self) -> None:
        if self.x < 0:
            raise Permanent("not below zero")
        HOOKS.append(self.x)

    def run(self, ctx: Context) -> None: ...


HOOKS: list[int] = []


@pytest.mark.rows("S0.12", "S3.8")
def test_a_class_is_a_task_with_typed_fields(app: Dray, store: Counting) -> None:
    assert app.task(queue="hello")(Greet) is Greet
    app.enqueue(Greet(name="ann", times=2))
    (job,) = store.jobs
    assert (job.task, job.queue, job.args) == ("Greet", "hello", '{"k":{"name":"ann","times":2}}')
    assert definition(app, "Greet").call((), {"name": "ann"}, context(attempt=4)) == "ann 4"


def test_run_may_leave_the_context_out_and_may_be_async(app: Dray) -> None:
    for task in (Greet, Quiet, Later):
        app.task(task)
    assert definition(app, "Quiet").call((), {}, context()) == "nothing"
    assert [one.is_async for one in app.registry] == [False, False, True]


def test_a_class_task_is_called_by_keywords_only() -> None:
    positional: Any = Greet
    with pytest.raises(TypeError):
        positional("ann")
    with pytest.raises(TypeError):
        positional(name="ann", nam="x")


@pytest.mark.rows("S0.17")
def test_what_does_not_validate_can_neither_be_made_nor_enqueued_nor_run(app: Dray, store: Counting) -> None:
    app.task(Greet)
    with pytest.raises(ValueError, match="at least 1"):
        Greet(name="ann", times=0)
    greet = Greet(name="ann")
    greet.times = 0
    with pytest.raises(ValueError, match="at least 1"):
        app.enqueue(greet)
    with pytest.raises(ValueError, match="at least 1"):
        definition(app, "Greet").call((), {"name": "ann", "times": 0}, context())
    assert store.jobs == []


@pytest.mark.rows("S0.18")
def test_before_enqueue_is_called_in_the_producer_once_for_each_job_just_before_the_insert(app: Dray, store: Counting) -> None:
    app.task(Hooked)
    HOOKS.clear()
    bound = app.using().bind(Hooked(x=1))
    assert HOOKS == []
    bound.enqueue()
    assert HOOKS == [1]
    app.enqueue_many([Hooked(x=2), Hooked(x=3)])
    assert HOOKS == [1, 2, 3]
    with pytest.raises(Permanent):
        app.enqueue_many([Hooked(x=4), Hooked(x=-1)])
    assert len(store.jobs) == 3
    definition(app, "Hooked").call((), {"x": -1}, context())  # not called where it runs
    assert HOOKS == [1, 2, 3, 4]


def test_an_instance_takes_no_further_arguments(app: Dray, store: Counting) -> None:
    app.task(Greet)
    with pytest.raises(BadArguments, match="carries its arguments itself"):
        app.enqueue(Greet(name="ann"), 1)
    assert store.jobs == []


# --- options --------------------------------------------------------------------------------------------------------------

BERLIN = timezone(timedelta(hours=1))


@pytest.mark.rows("S2.21", "S2.24")
def test_the_options_of_an_enqueue_arrive(app: Dray, store: Counting) -> None:
    task = app.task(queue="mail")(add)
    at = datetime(2030, 1, 1, 13, 0, 0, 250_001, tzinfo=BERLIN)
    task.using(queue="q", priority=0, key="k", owner="ann").using(labels={"a": "b"}, run_at=at, max_attempts=1).enqueue(1)
    task.using(run_in=2.5).enqueue(1)
    first, second = store.jobs
    assert (first.queue, first.priority, first.key, first.owner, first.labels) == ("q", 0, "k", "ann", {"a": "b"})
    assert (first.run_at, first.delay, first.max_attempts) == (1_893_499_200_250_001, None, 1)
    assert (second.queue, second.delay, second.run_at) == ("mail", 2.5, None)


def test_using_leaves_what_it_was_called_on_as_it_was(app: Dray, store: Counting) -> None:
    task = app.task(add)
    urgent = task.using(priority=1)
    urgent.using(priority=2)
    urgent.enqueue(1)
    task.enqueue(1)
    assert [job.priority for job in store.jobs] == [1, 100]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prioritty": 1}, "did you mean 'priority'"),
        ({"delay": 1}, "there is no enqueue option 'delay'"),
        ({"queue": ""}, "queue"),
        ({"queue": "a\x00b"}, "printable"),
        ({"queue": "x" * 201}, "200"),
        ({"priority": 1000}, "999"),
        ({"priority": "1"}, "999"),
        ({"priority": False}, "999"),
        ({"run_in": -1}, "run_in"),
        ({"run_in": float("nan")}, "run_in"),
        ({"run_in": float("inf")}, "run_in"),
        ({"run_at": datetime(2030, 1, 1)}, "time zone"),
        ({"run_in": 1, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "not both"),
        ({"key": ""}, "key"),
        ({"key": 7}, "key"),
        ({"owner": " "}, "owner"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"x": ""}}, "label x"),
        ({"labels": {"x": 1}}, "label x"),
        ({"max_attempts": 0}, "at least 1"),
        ({"max_attempts": -1}, "at least 1"),
    ],
)
def test_a_wrong_option_of_an_enqueue_is_told(app: Dray, options: dict[str, Any], words: str) -> None:
    task = app.task(add)
    with pytest.raises(BadOption, match=words):
        task.using(**options)
    with pytest.raises(BadOption, match=words):
        app.using(**options)


def test_a_policy_says_how_often_and_an_enqueue_may_say_otherwise(app: Dray, store: Counting) -> None:
    endless = app.task(retry=Retry.exponential())(add)
    endless.enqueue(1)
    endless.using(max_attempts=2).enqueue(1)
    assert [job.max_attempts for job in store.jobs] == [None, 2]
    assert Options().max_attempts is None


# --- what every app has -----------------------------------------------------------------------------------------------------


@pytest.mark.rows("S1.53", "S1.54")
def test_every_app_has_the_example_and_it_does_not_count(app: Dray, store: Counting) -> None:
    assert (len(app.registry), list(app.registry)) == (0, [])
    assert "dray.example" in app.registry.known()
    app.enqueue("dray.example", number=3)
    assert store.jobs[0].task == "dray.example"
    with pytest.raises(BadArguments):
        app.enqueue("dray.example", nonsense=3)
    with pytest.raises(UnknownTask):
        app.enqueue("dray.other")


def test_the_example_is_an_ordinary_function() -> None:
    assert example(number=7, message="hello") == "hello 7"
    with pytest.raises(Permanent):
        example(fails=True)


@pytest.mark.parametrize("options", [{"name": "dray.example"}, {"name": "dray.mine"}, {"aliases": ["dray.mine"]}])
def test_names_of_drays_own_are_not_given_away(app: Dray, options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="Dray's own"):
        app.task(**options)(nothing)


def nothing() -> None: ...


@pytest.mark.parametrize(("part", "of", "fail"), [(0.2, 5, 1), (0.29, 100, 29), (0.1, 30, 3), (1.0, 7, 7), (0.0, 7, 0)])
def test_so_many_fail_as_were_asked_for(part: float, of: int, fail: int) -> None:
    assert _failed(of, part) == fail
