"""Hooks with real workers, on every database: whatever they do, no work is done twice and no failure is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dray import Dray, Retry, State, current_job, events
from dray.context import Context
from dray.hooks import Ended
from dray.limits import Limits
from dray.testing import run_all
from dray.worker import Worker
from tests.servers import Database, wait_until

rows = pytest.mark.rows


@pytest.fixture
def app(database: Database) -> Iterator[Dray]:
    app = Dray(database.url, create_tables=True, beat=0.3, ttl=5, hook_limit=0.3)
    app.store.ensure()
    yield app
    app.close()


@contextmanager
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    seen: list[tuple[str, dict[str, Any]]] = []
    unlisten = events.listen(lambda event, facts: seen.append((event, facts)))
    try:
        yield seen
    finally:
        unlisten()


@rows("S2.11", "S2.12", "S2.14", "S0.36", "C34")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_hooks_are_called_around_the_run_and_after_run_sees_the_committed_end(app: Dray, asynchronous: bool) -> None:
    told: list[object] = []

    @app.before_run
    def before(ctx: Context) -> None:
        told.append(("before", ctx.id))

    @app.metadata
    def metadata(ctx: Context) -> dict[str, Any]:
        return {"attempt": ctx.attempt}

    @app.after_run
    def after(ctx: Context, ended: Ended) -> None:
        told.append(("after", ctx.id, ended.state, app.job(ctx.id).state, ended.error, ended.usage is not None))

    def body(fails: bool) -> int:
        told.append("run")
        job = current_job()
        assert job is not None
        job.metadata["by the task"] = True
        if fails:
            raise ValueError("boom")
        return 7

    if asynchronous:

        @app.task(name="work", retry=Retry.none())
        async def awork(fails: bool) -> int:
            return body(fails)
    else:

        @app.task(name="work", retry=Retry.none())
        def work(fails: bool) -> int:
            return body(fails)

    good, bad = (app.enqueue("work", fails) for fails in (False, True))
    run_all(app, concurrency=1)
    assert told.index(("before", good.id)) < told.index("run") < len(told) - 1
    assert told.count("run") == 2
    assert ("after", good.id, State.SUCCEEDED, State.SUCCEEDED, None, True) in told
    assert ("after", bad.id, State.FAILED, State.FAILED, "ValueError: boom", True) in told
    assert good.refresh().row.metadata == '{"attempt":1,"by the task":true}'
    row = good.row
    assert row.pid == os.getpid()
    assert row.memory_after is not None
    assert row.memory_after > 10_000_000
    assert row.cpu_seconds is not None


@rows("C34")
def test_an_after_run_that_raises_changes_nothing_and_is_heard_of(app: Dray) -> None:
    ran: list[int] = []

    def after(ctx: Context, ended: Ended) -> None:
        raise LookupError("no such metric")

    @app.task(after_run=after)
    def work(number: int) -> int:
        ran.append(number)
        return number

    jobs = [work.enqueue(number) for number in range(5)]
    with heard() as seen:
        run_all(app)
    assert [job.refresh().result for job in jobs] == sorted(ran) == list(range(5))
    assert sum(event == "hook.failed" and "no such metric" in facts["error"] for event, facts in seen) == 5


@rows("C34")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_after_run_that_hangs_is_left_behind(app: Dray, asynchronous: bool) -> None:
    release = threading.Event()
    ran: list[int] = []

    def after(ctx: Context, ended: Ended) -> None:
        release.wait(60)

    if asynchronous:

        @app.task(name="work", after_run=after)
        async def awork(number: int) -> None:
            ran.append(number)
    else:

        @app.task(name="work", after_run=after)
        def work(number: int) -> None:
            ran.append(number)

    jobs = [app.enqueue("work", number) for number in range(3)]
    worker = Worker(app, concurrency=1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        # One slot, and each hook hangs: the jobs are done all the same, each once, and their ends are committed.
        wait_until(lambda: all(job.refresh().state is State.SUCCEEDED for job in jobs), "all have succeeded", 30)
        assert ran == [0, 1, 2]
        worker.stop()
        thread.join(20)
        assert not thread.is_alive(), "a hook that hangs keeps the worker from ending"
    finally:
        release.set()
        worker.stop_now()
        thread.join(30)


@rows("S2.13", "C34")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_failure_counts_though_its_on_error_hangs(app: Dray, asynchronous: bool) -> None:
    release, ran = threading.Event(), []

    def hang(ctx: Context, error: BaseException) -> None:
        release.wait(60)

    if asynchronous:

        @app.task(name="work", on_error=hang, retry=Retry.none())
        async def awork() -> None:
            raise ValueError("boom")
    else:

        @app.task(name="work", on_error=hang, retry=Retry.none())
        def work() -> None:
            raise ValueError("boom")

    @app.task
    def other() -> None:
        ran.append(1)

    bad, good = app.enqueue("work"), other.enqueue()
    worker = Worker(app, concurrency=1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: bad.refresh().state is State.FAILED, "it has failed", 30)
        wait_until(lambda: good.refresh().state is State.SUCCEEDED, "another has its slot", 30)
        assert bad.error == "ValueError: boom"
        (attempt,) = app.store.desk.attempts(bad.id)
        assert attempt.state is State.FAILED
    finally:
        release.set()
        worker.stop_now()
        thread.join(30)
    # What the hook did in the end comes too late to change anything.
    assert bad.refresh().state is State.FAILED


APP = """
import os
from dray import Dray, Retry

app = Dray(os.environ["URL"], beat=0.3, ttl=2)

def count(name):
    with open(os.environ["COUNTS"], "a") as out:
        out.write(name + "\\n")

def die(ctx, what):
    count("hook of " + ctx.task)
    os._exit(9)

@app.task(after_run=die)
def finished():
    count("finished")

@app.task(on_error=die, retry=Retry.none())
def failed():
    count("failed")
    raise ValueError("boom")

@app.task(on_error=die, retry=Retry.after(0.1))
def again():
    count("again")
    raise ValueError("boom")

@app.task(metadata=lambda ctx: os._exit(9))
def described():
    count("described")
"""


def work_until_nothing_is_left(database: Database, folder: Path) -> list[str]:
    """Start one worker after the other, as a supervisor would; gives what the tasks and hooks have counted."""
    (folder / "deadly.py").write_text(APP)
    counts = folder / "counts"
    counts.touch()
    environment = {**os.environ, "URL": database.url, "COUNTS": str(counts), "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "dray", "worker", "-A", "deadly:app", "--burst", "-c", "1"]
    app = Dray(database.url)
    try:
        deadline = time.monotonic() + 60
        while any(number for state, number in app.store.desk.counts().items() if not state.ended):
            assert time.monotonic() < deadline, app.store.desk.counts()
            subprocess.run(command, env=environment, cwd=folder, timeout=50, check=False, capture_output=True)
    finally:
        app.close()
    return counts.read_text().split("\n")[:-1]


@rows("C34", "S2.12", "S2.13", "C30", "C31")
@pytest.mark.parametrize(
    ("task", "state", "runs", "attempts"),
    [("finished", State.SUCCEEDED, 1, 1), ("failed", State.FAILED, 1, 1), ("again", State.FAILED, 2, 2)],
)
def test_a_hook_that_takes_the_process_down_makes_no_second_run_and_loses_no_failure(
    database: Database, tmp_path: Path, task: str, state: State, runs: int, attempts: int
) -> None:
    app = Dray(database.url, create_tables=True)
    app.store.ensure()

    def body() -> None: ...

    app.task(name=task)(body)
    job = app.enqueue(task)
    # As its task would have it, which is not known here.
    most = {"failed": 1, "again": 2}.get(task)
    if most is not None:
        app.store.desk.cancel([job.id])
        job = app.using(max_attempts=most).enqueue(task)
    counted = work_until_nothing_is_left(database, tmp_path)
    assert counted == [task, f"hook of {task}"] * runs
    row = job.refresh().row
    assert (row.state, row.attempt, row.crashes) == (state, attempts, 0)
    if state is State.FAILED:
        assert row.error == "ValueError: boom"
        assert [one.error for one in app.store.desk.attempts(job.id)] == ["ValueError: boom"] * attempts
    app.close()


@rows("C99")
def test_a_metadata_hook_that_takes_the_process_down_is_a_crash_of_its_job(database: Database, tmp_path: Path) -> None:
    app = Dray(database.url, create_tables=True)
    app.store.ensure()

    @app.task
    def described() -> None: ...

    job = described.enqueue()
    assert work_until_nothing_is_left(database, tmp_path) == []
    assert job.refresh().state is State.FAILED
    assert "worker died 3 times" in (job.error or "")
    app.close()


@rows("S2.45", "C32")
def test_on_error_can_end_the_worker_before_its_next_job(app: Dray) -> None:
    from dray import StopWorker

    def closed(ctx: Context, error: BaseException) -> None:
        raise StopWorker from error

    @app.task(on_error=closed, retry=Retry.after(60))
    def work(number: int) -> None:
        raise ConnectionError("the session is closed")

    jobs = [work.enqueue(number) for number in range(3)]
    assert Worker(app, concurrency=1, limits=Limits(burst=True)).run() == 0
    assert [job.refresh().state for job in jobs] == [State.RETRYING, State.READY, State.READY]
    assert jobs[0].error == "ConnectionError: the session is closed"


def hooked(app: Dray, hook: Callable[..., Any]) -> None:
    app.after_run(hook)


def test_a_worker_that_ends_waits_for_its_hooks(app: Dray) -> None:
    told: list[int] = []

    def slow(ctx: Context, ended: Ended) -> None:
        time.sleep(0.1)
        told.append(ctx.id)

    hooked(app, slow)

    @app.task
    def work() -> None: ...

    jobs = [work.enqueue() for _ in range(4)]
    run_all(app, concurrency=4)
    assert sorted(told) == [job.id for job in jobs]
