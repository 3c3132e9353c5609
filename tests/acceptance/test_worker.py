"""The worker as a whole, on every database: what is taken first, what ends it, what it hands back, what it heeds."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dray import Dray, Retry, Skip, Snooze, State, StopWorker, Task, current_job, events
from dray.job import Flag
from dray.limits import Limits
from dray.sender import FunctionTask
from dray.testing import run_all
from dray.upkeep import Attendance
from dray.worker import Worker
from tests.servers import Database, wait_until

rows = pytest.mark.rows


@pytest.fixture
def app(database: Database) -> Iterator[Dray]:
    app = Dray(database.url, create_tables=True, beat=0.3, ttl=5)
    app.store.ensure()
    yield app
    app.close()


@contextmanager
def at_work(worker: Worker) -> Iterator[threading.Thread]:
    """The worker runs in a thread meanwhile, and has ended behind."""
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop_now()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The events of this process."""
    seen: list[tuple[str, dict[str, Any]]] = []
    unlisten = events.listen(lambda event, facts: seen.append((event, facts)))
    try:
        yield seen
    finally:
        unlisten()


def until(fact: Callable[[], bool], what: str) -> None:
    wait_until(fact, what, 30)


def noting(app: Dray, ran: list[Any], name: str = "note") -> FunctionTask[[Any], None]:
    """A task that notes what it was given."""

    @app.task(name=name)
    def note(what: Any) -> None:
        ran.append(what)

    return note


@rows("S2.29", "S2.30", "C49", "C52")
def test_the_most_urgent_come_first_and_among_equals_the_longest_ready(app: Dray) -> None:
    ran: list[int] = []
    note = noting(app, ran)
    for number, priority in enumerate([100, 5, 900, 5, 100, 0]):
        note.using(priority=priority, queue=f"q{number % 2}").enqueue(number)
    run_all(app)
    assert ran == [5, 1, 3, 0, 4, 2]


@rows("S2.6", "C50")
def test_a_worker_takes_only_from_its_queues_by_exact_name(app: Dray) -> None:
    ran: list[str] = []
    note = noting(app, ran)
    for queue in ("app", "app2", "App", "a_p", "app%"):
        note.using(queue=queue).enqueue(queue)
    run_all(app, ["app"])
    assert ran == ["app"]
    run_all(app, ["a_p", "app%"])
    assert sorted(ran) == ["a_p", "app", "app%"]
    run_all(app)
    assert sorted(ran) == ["App", "a_p", "app", "app%", "app2"]


def test_many_jobs_of_every_kind_each_run_once(app: Dray) -> None:
    ran: list[tuple[str, int]] = []
    lock = threading.Lock()

    def note(kind: str, number: int) -> None:
        with lock:
            ran.append((kind, number))

    @app.task
    def plain(number: int) -> int:
        note("plain", number)
        return number * 2

    @app.task
    async def waiting(number: int) -> int:
        await asyncio.sleep(0.001)
        note("waiting", number)
        return number * 3

    @app.task(queue="classes")
    class Typed(Task):
        number: int

        def run(self) -> int:
            note("typed", self.number)
            return self.number * 4

    calls = [each for n in range(300) for each in (plain.bind(n), waiting.bind(n), Typed(number=n))]
    jobs = app.enqueue_many(calls)
    assert run_all(app, concurrency=8) == 900
    assert sorted(ran) == sorted((kind, n) for n in range(300) for kind in ("plain", "waiting", "typed"))
    assert [job.refresh().result for job in jobs[3:6]] == [2, 3, 4]


@rows("S2.48", "C43")
def test_a_failing_job_is_tried_again_after_its_delay_and_ends_with_all_its_errors(app: Dray) -> None:
    @app.task(retry=[0.05, 0.1])
    def fail() -> None:
        raise ValueError(f"attempt {current_job().attempt}")  # type: ignore[union-attr]

    job = fail.enqueue()
    with at_work(Worker(app, concurrency=1)):
        job.wait(30)
    assert (job.state, job.row.attempt) == (State.FAILED, 3)
    assert job.error == "ValueError: attempt 3"
    attempts = app.store.desk.attempts(job.id)
    assert [attempt.error for attempt in attempts] == [f"ValueError: attempt {n}" for n in (1, 2, 3)]
    assert all("in fail" in (attempt.traceback or "") for attempt in attempts)


@rows("C30")
def test_a_snoozed_job_keeps_its_attempt(app: Dray) -> None:
    @app.task
    def sleepy() -> str:
        if current_job().fence < 3:  # type: ignore[union-attr]
            raise Snooze(0.01, "not yet")
        return "awake"

    job = sleepy.enqueue()
    with at_work(Worker(app, concurrency=1)):
        assert job.wait(30).result == "awake"
    assert (job.row.attempt, job.row.snoozes, job.row.fence) == (1, 2, 3)


@rows("S2.47")
def test_a_skipped_job_has_succeeded_with_a_note(app: Dray) -> None:
    @app.task
    def nothing() -> None:
        raise Skip("there was nothing to do")

    job = nothing.enqueue()
    run_all(app)
    assert (job.refresh().state, job.row.note) == (State.SUCCEEDED, "skipped: there was nothing to do")


@rows("S2.45", "C32")
def test_stop_worker_ends_the_worker_before_its_next_job_and_the_cause_decides_the_job(app: Dray) -> None:
    ran = []

    @app.task(retry=Retry.once(after=3600))
    def stop(number: int) -> None:
        ran.append(number)
        raise StopWorker from ConnectionError("the session is closed")

    jobs = [stop.enqueue(n) for n in range(3)]
    assert Worker(app, concurrency=1).run() == 0
    assert ran == [0]
    assert [job.refresh().state for job in jobs] == [State.RETRYING, State.READY, State.READY]
    assert [job.row.attempt for job in jobs] == [1, 0, 0]
    assert [job.row.fence for job in jobs] == [1, 0, 0], "who ends takes nothing more, not even to give it back"


def test_limits_end_a_worker(app: Dray) -> None:
    ran: list[int] = []
    note = noting(app, ran)
    app.enqueue_many(note.bind(n) for n in range(100))
    assert Worker(app, concurrency=2, limits=Limits(max_jobs=7)).run() == 0
    assert len(ran) == 7
    assert app.store.desk.counts()[State.READY] == 93
    began = time.monotonic()
    assert Worker(app, ["empty"], limits=Limits(max_time=0.5)).run() == 0
    assert time.monotonic() - began >= 0.5


@rows("C14", "S3.36")
def test_what_waits_for_a_slot_goes_back_uncounted_when_the_worker_stops(app: Dray) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task
    def hang(number: int) -> None:
        begun.set()
        go_on.wait(30)

    jobs = app.enqueue_many(hang.bind(n) for n in range(30))
    worker = Worker(app, concurrency=1)
    worker._pace.rate = 1000.0  # as if they had been fast so far
    with at_work(worker) as thread:
        assert begun.wait(30)
        until(lambda: len(worker.items) > 10, "jobs fetched ahead")
        worker.stop()
        until(lambda: len(worker.items) == 1, "the rest to be handed back")
        assert app.store.desk.counts()[State.READY] == 29
        go_on.set()
        thread.join(30)
    states = [job.refresh() for job in jobs]
    assert [job.state for job in states] == [State.SUCCEEDED] + [State.READY] * 29
    assert {job.row.attempt for job in states[1:]} == {0}


def test_what_waited_too_long_for_a_slot_goes_to_another_worker(app: Dray) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @app.task
    def hang(number: int) -> None:
        if number == 0:
            begun.set()
            go_on.wait(30)

    jobs = app.enqueue_many(hang.bind(n) for n in range(20))
    busy = Worker(app, concurrency=1)
    busy._pace.rate = 1000.0
    with at_work(busy):
        assert begun.wait(30)
        with at_work(Worker(app, concurrency=1)):
            for job in jobs[1:]:
                job.wait(30)
        assert jobs[0].refresh().state is State.RUNNING
        go_on.set()
        jobs[0].wait(30)


@rows("C28", "C39")
def test_cancel_and_hold_reach_jobs_that_a_worker_has_already_taken(app: Dray) -> None:
    begun = threading.Event()

    @app.task
    def check() -> None:
        begun.set()
        while True:
            current_job().check()  # type: ignore[union-attr]
            time.sleep(0.005)

    @app.task
    async def wait() -> None:
        begun.set()
        await asyncio.sleep(60)

    for task in (check, wait):
        begun.clear()
        running, waiting = task.enqueue(), [task.enqueue() for _ in range(3)]
        worker = Worker(app, concurrency=1)
        worker._pace.rate = 1000.0
        with at_work(worker):
            assert begun.wait(30)
            until(lambda worker=worker: len(worker.items) == 4, "the others to be fetched ahead")  # type: ignore[misc]
            app.store.desk.cancel([waiting[0].id])
            app.store.desk.hold([waiting[1].id, waiting[2].id])
            app.store.desk.cancel([running.id])
            assert running.wait(30).state is State.CANCELLED
            assert waiting[0].wait(30).state is State.CANCELLED
            until(
                lambda waiting=waiting: all(job.refresh().state is State.BLOCKED for job in waiting[1:]),  # type: ignore[misc]
                "the held ones to go back",
            )
        assert [job.row.attempt for job in waiting] == [0, 0, 0]
        app.store.desk.cancel([job.id for job in waiting[1:]])


@rows("C35", "S0.8")
def test_a_job_of_an_unknown_task_waits_for_a_worker_that_knows_it(app: Dray, database: Database) -> None:
    newer = Dray(database.url)
    ran: list[int] = []
    noting(newer, ran, "new")
    job = newer.enqueue("new", 7)
    run_all(app)
    assert job.refresh().state is State.BLOCKED
    assert (job.row.reason, job.row.attempt, ran) == ("unknown task", 0, [])
    with at_work(Worker(newer, concurrency=1)):
        assert job.wait(30).state is State.SUCCEEDED
    assert ran == [7]
    newer.close()


@rows("C35")
def test_arguments_that_do_not_bind_wait_for_a_worker_with_another_signature(app: Dray, database: Database) -> None:
    older, newer = app, Dray(database.url)

    @older.task(name="send")
    def old_send(to: str) -> None: ...

    @newer.task(name="send")
    def new_send(to: str, copy: str = "") -> str:
        return copy

    job = new_send.enqueue("ann", copy="bob")
    run_all(older)
    assert job.refresh().state is State.BLOCKED
    assert "copy" in (job.row.note or "")
    with at_work(Worker(older, concurrency=1)), at_work(Worker(newer, concurrency=1)):
        assert job.wait(30).result == "bob"
    assert job.row.attempt == 1
    newer.close()


def test_a_job_that_saw_two_workers_die_runs_with_nothing_beside_it(app: Dray) -> None:
    beside: list[int] = []
    running: set[int] = set()
    lock = threading.Lock()

    @app.task
    def watch(suspicious: bool) -> None:
        me = current_job()
        assert me is not None
        with lock:
            running.add(me.id)
            if suspicious:
                beside.append(len(running))
        time.sleep(0.01)
        with lock:
            if suspicious:
                beside.append(len(running))
            running.discard(me.id)

    jobs = app.enqueue_many(watch.bind(n % 10 == 5) for n in range(40))
    suspects = [job.id for n, job in enumerate(jobs) if n % 10 == 5]
    table = app.store.tables.jobs
    app.store.database.transact(
        lambda connection: connection.execute(table.update().where(table.c.id.in_(suspects)).values(crashes=2))
    )
    run_all(app, concurrency=8)
    assert beside == [1] * 8
    assert {job.refresh().state for job in jobs} == {State.SUCCEEDED}


def test_a_suspect_leaves_a_mark_before_user_code_is_reached(app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attendance, "_mark_long_runs", lambda self: None)  # nor is a run long because the machine is slow
    marks = []

    @app.task
    def look() -> None:
        me = current_job()
        assert me is not None
        row = app.store.desk.job(me.id)
        assert row is not None
        marks.append(row.started_at is not None)

    table = app.store.tables.jobs
    usual, suspect = look.enqueue(), look.enqueue()
    flagged = table.update().where(table.c.id == suspect.id).values(flags=int(Flag.SUSPECT))
    app.store.database.transact(lambda connection: connection.execute(flagged))
    run_all(app)
    assert marks == [False, True]
    assert {usual.refresh().state, suspect.refresh().state} == {State.SUCCEEDED}


@pytest.mark.rows("S3.1")
@rows("S0.24")
def test_a_job_can_write_a_log_that_is_kept(app: Dray) -> None:
    @app.task
    def tell() -> None:
        me = current_job()
        assert me is not None
        me.log("first")
        me.log("ouch \x00", "error")

    job = tell.enqueue()
    run_all(app)
    lines = app.store.desk.read_output(job.id)
    assert [(line.stream, line.text[:5]) for line in lines] == [("message", "first"), ("error", "ouch ")]


@rows("S2.5")
def test_a_worker_holds_three_connections_at_most(app: Dray, database: Database) -> None:
    if database.server is None:
        pytest.skip("SQLite has files, not connections")
    app.close()

    @app.task
    def enqueue_more(depth: int) -> None:
        if depth:
            enqueue_more.enqueue(depth - 1)

    count = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dray' AND datname = current_database()",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    }[database.name]
    most = 0
    observer = Dray(database.url)
    observer.store.ensure()
    with at_work(Worker(app, concurrency=8)):
        app.enqueue_many(enqueue_more.bind(20) for _ in range(20))
        until_done = time.monotonic() + 60
        while app.store.desk.counts()[State.SUCCEEDED] < 420 and time.monotonic() < until_done:
            seen = observer.store.database.once(lambda connection: connection.exec_driver_sql(count).scalar_one())
            most = max(most, seen - (1 if database.name == "postgresql" else 0))
    observer.close()
    assert 0 < most <= 3


def test_a_preloading_server_can_fork_after_it_has_enqueued(app: Dray) -> None:
    ran: list[int] = []
    note = noting(app, ran)
    note.enqueue(0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            note.enqueue(1)
            status = 0
        finally:
            os._exit(status)
    note.enqueue(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    note.enqueue(3)
    run_all(app)
    assert sorted(ran) == [0, 1, 2, 3]


@rows("C24")
def test_a_worker_goes_on_when_the_database_refuses_a_statement_for_a_while(app: Dray) -> None:
    ran: list[int] = []
    note = noting(app, ran)
    jobs, history = app.store.tables.jobs.name, app.store.tables.history.name
    with heard() as seen, at_work(Worker(app, concurrency=1)):
        note.enqueue(1).wait(30)
        app.store.database.once(lambda c: c.exec_driver_sql(f"ALTER TABLE {history} RENAME TO elsewhere"))
        job = note.enqueue(2)
        until(lambda: any(event == "store.away" for event, _ in seen), "the worker to say so")
        app.store.database.once(lambda c: c.exec_driver_sql(f"ALTER TABLE elsewhere RENAME TO {history}"))
        assert job.wait(30).state is State.SUCCEEDED
    assert ran == [1, 2], f"{jobs}: the work was done once"
    assert [event for event, _ in seen].count("store.back") == 1


@rows("S2.77")
def test_a_failed_attempt_knows_its_worker_and_the_end_comes_after_the_log(app: Dray) -> None:
    @app.task(retry=Retry.none())
    def fail() -> None:
        current_job().log("the last words")  # type: ignore[union-attr]
        raise ValueError

    job = fail.enqueue()
    worker = Worker(app, concurrency=1)
    with at_work(worker):
        job.wait(30)
        assert [line.text for line in app.store.desk.read_output(job.id)] == ["the last words"]
    (attempt,) = app.store.desk.attempts(job.id)
    assert attempt.worker_id == worker.worker_id
