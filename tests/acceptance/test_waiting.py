"""What keeps jobs waiting, with real workers: paused queues, ranges of priorities, lines run ahead, children, expiry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from dray import Dray, Limit, Permanent, State, Unique, current_job
from dray.admin import Admin
from dray.errors import StoreUnavailable
from dray.limits import Limits
from dray.testing import run_all
from dray.worker import Worker
from tests.servers import Database, wait_until

rows = pytest.mark.rows


@pytest.fixture
def apps(database: Database) -> Iterator[list[Dray]]:
    """Three apps on one database, each with a store of its own, as in three processes."""
    apps = [Dray(database.url, create_tables=True, beat=0.3, ttl=5) for _ in range(3)]
    apps[0].store.ensure()
    yield apps
    for app in apps:
        app.close()


@pytest.fixture
def app(apps: list[Dray]) -> Dray:
    return apps[0]


@contextmanager
def at_work(worker: Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop_now()
        thread.join(30)
        assert not thread.is_alive()


# --- pause ----------------------------------------------------------------------------------------------------------------


@rows("C84")
def test_nothing_of_a_paused_queue_starts_once_the_pause_has_returned_in_any_worker(apps: list[Dray]) -> None:
    starts: list[tuple[str, float]] = []
    for app in apps:

        @app.task(name="busy")
        def busy(queue: str) -> None:
            starts.append((queue, time.monotonic()))
            time.sleep(0.002)

    admin = Admin(apps[0])
    for queue in ("mail", "other"):
        apps[0].enqueue_many(apps[0].using(queue=queue).bind("busy", queue) for _ in range(3000))
    with ExitStack() as stack:
        for app in apps:
            stack.enter_context(at_work(Worker(app, concurrency=3)))
        wait_until(lambda: len({queue for queue, _ in starts}) == 2, "both queues are worked on", 30)
        assert admin.pause("mail", note="the mail server is away") == []
        paused, before = time.monotonic(), len(starts)
        assert [(pause.queue, pause.note) for pause in admin.paused()] == [("mail", "the mail server is away")]
        wait_until(lambda: sum(queue == "other" for queue, _ in starts[before:]) > 200, "the other queue goes on", 30)
        late = [at - paused for queue, at in starts if queue == "mail" and at > paused]
        assert late == [], f"{len(late)} jobs of the paused queue started, the first after {late[0]:.4f} s"
        assert admin.resume("mail")
        wait_until(lambda: any(queue == "mail" and at > paused for queue, at in starts), "it goes on", 30)


def test_a_pause_for_some_time_ends_by_itself(app: Dray) -> None:
    ran: list[int] = []

    @app.task(queue="mail")
    def send(number: int) -> None:
        ran.append(number)

    admin = Admin(app)
    with at_work(Worker(app, concurrency=1)):
        assert admin.pause("mail", seconds=1.5) == []
        began = time.monotonic()
        send.enqueue(1)
        wait_until(lambda: bool(ran), "it has gone on by itself", 30)
        assert time.monotonic() - began > 1.0
    assert admin.paused() == []
    assert not admin.resume("nothing")


def test_a_worker_that_comes_later_obeys_before_its_first_claim(app: Dray) -> None:
    ran: list[int] = []

    @app.task(queue="mail")
    def send(number: int) -> None:
        ran.append(number)

    send.enqueue(1)
    Admin(app).pause("mail")
    assert run_all(app) == 0
    assert ran == []
    (cause, *_) = Admin(app).why(1)
    assert cause.kind == "paused"


def test_a_worker_that_does_not_answer_is_named(app: Dray) -> None:
    silent = app.store.roster.register(host="there", pid=1, queues="*", concurrency=1)
    assert Admin(app).pause("mail", timeout=0.1) == [silent]


# --- priorities -----------------------------------------------------------------------------------------------------------


@rows("S2.71", "S2.72", "C51")
def test_a_worker_takes_only_its_range_of_priorities(app: Dray) -> None:
    ran: list[int] = []

    @app.task
    def note(priority: int) -> None:
        ran.append(priority)

    for priority in (5, 10, 20, 30, 40, 41):
        note.using(priority=priority).enqueue(priority)
    Worker(app, priorities=range(10, 41), concurrency=1, limits=Limits(burst=True)).run()
    assert ran == [10, 20, 30, 40]
    with at_work(Worker(app, priorities=range(41, 42), concurrency=1)):
        wait_until(lambda: 41 in ran, "the other worker takes its own", 30)
        (cause, *_) = Admin(app).why(1)
        assert cause.kind == "no worker"
        assert "priority 5" in cause.text
    assert 5 not in ran


# --- groups, children, expiry ---------------------------------------------------------------------------------------------


@rows("S2.23", "S2.54")
@pytest.mark.parametrize("ahead", [1, 50])
def test_a_line_runs_in_its_order_one_at_a_time_however_many_slots_there_are(app: Dray, ahead: int) -> None:
    ran: list[int] = []
    busy = threading.Lock()

    @app.task(group="g", run_ahead=ahead, strict_order=True)
    def step(number: int) -> None:
        assert busy.acquire(blocking=False), "another one runs"
        time.sleep(0.001)
        ran.append(number)
        busy.release()

    app.enqueue_many(step.bind(number) for number in range(120))
    run_all(app, concurrency=4)
    assert ran == list(range(120))


def test_a_failure_in_a_line_that_is_run_ahead_sends_those_behind_it_back(app: Dray) -> None:
    ran: list[int] = []

    @app.task(group="g", run_ahead=50, on_failure="halt")
    def step(number: int) -> None:
        ran.append(number)
        if number == 3 and ran.count(3) == 1:
            raise Permanent("look at me")

    jobs = app.enqueue_many(step.bind(number) for number in range(8))
    run_all(app)
    assert ran == [0, 1, 2, 3]
    assert [job.refresh().state for job in jobs[3:5]] == [State.FAILED, State.BLOCKED]
    Admin(app).retry([jobs[3].id])
    run_all(app)
    assert ran == [0, 1, 2, 3, 3, 4, 5, 6, 7]


@rows("S3.18", "S3.59", "C66", "C70")
def test_a_job_waits_for_the_children_that_it_spawned(app: Dray) -> None:
    @app.task
    def child(number: int) -> int:
        return number

    @app.task
    def parent() -> str:
        app.enqueue_many(child.using(parent=current_job()).bind(number) for number in range(3))
        return "all sent"

    job = parent.enqueue()
    assert run_all(app) == 4
    assert job.refresh().result == "all sent"
    tree = Admin(app).tree(job.id)
    assert (tree.row.id, [branch.row.id for branch in tree.children]) == (job.id, [job.id + 1, job.id + 2, job.id + 3])
    assert [one.row.parent_id for one in (app.job(id) for id in range(job.id + 1, job.id + 4))] == [job.id] * 3


@rows("S3.18", "C66")
def test_children_that_another_thread_of_the_job_spawned_are_waited_for_too(app: Dray) -> None:
    order: list[str] = []

    @app.task
    def child() -> None:
        order.append("child")

    @app.task
    def parent() -> None:
        me = current_job()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: child.using(parent=me).enqueue()).result()

    @app.task
    def behind() -> None:
        order.append("behind")

    job = parent.enqueue()
    behind.using(after=[job]).enqueue()
    run_all(app, concurrency=2)
    assert order == ["child", "behind"]


def test_a_hiccup_between_the_claim_and_those_behind_it_leaves_nothing_lying_about(
    app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once such claims were known to the worker and in none of its slots: they ran for ever."""
    ran: list[int] = []

    @app.task(group="g", run_ahead=10)
    def step(number: int) -> None:
        ran.append(number)

    @app.task
    def plain() -> None:
        ran.append(-1)

    plain.enqueue()
    app.enqueue_many(step.bind(number) for number in range(3))
    real, broken = app.store.follow, [True]

    def follow(*arguments: object) -> object:
        if broken and broken.pop():
            raise StoreUnavailable("the network is gone for a moment")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(app.store, "follow", follow)
    Worker(app, concurrency=2, limits=Limits(burst=True, max_time=60)).run()
    assert sorted(ran) == [-1, 0, 1, 2]
    assert app.store.desk.counts()[State.SUCCEEDED] == 4


def test_those_behind_a_job_whose_hook_hangs_are_run_all_the_same(apps: list[Dray]) -> None:
    app, release, ran = apps[0], threading.Event(), list[int]()
    app.runner.hook_limit = 0.2

    @app.task(group="g", run_ahead=10, after_run=lambda ctx, ended: release.wait(60))
    def step(number: int) -> None:
        ran.append(number)

    jobs = app.enqueue_many(step.bind(number) for number in range(3))
    try:
        with at_work(Worker(app, concurrency=1)):
            wait_until(lambda: all(job.refresh().state is State.SUCCEEDED for job in jobs), "all have succeeded", 30)
    finally:
        release.set()
    assert ran == [0, 1, 2]


def test_a_limit_holds_over_workers_and_a_unique_job_is_one(apps: list[Dray]) -> None:
    now, most = 0, 0
    lock = threading.Lock()
    for app in apps:

        @app.task(name="call", limit=Limit("service-{service}", 2), unique=Unique(by=["number"]))
        def call(service: str, number: int) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.005)
            with lock:
                now -= 1

    jobs = [apps[0].enqueue("call", "a", number % 40) for number in range(80)]
    assert len({job.id for job in jobs}) == 40
    assert sum(job.created for job in jobs) == 40
    with ExitStack() as stack:
        for app in apps:
            stack.enter_context(at_work(Worker(app, concurrency=4)))
        wait_until(lambda: all(job.refresh().state.ended for job in jobs), "all have ended", 60)
    assert most == 2


def test_what_expires_while_it_waits_here_is_not_started(app: Dray) -> None:
    ran: list[int] = []

    @app.task
    def slow(number: int) -> None:
        ran.append(number)
        time.sleep(0.4)

    first = slow.enqueue(1)
    late = slow.using(expires_in=0.2).enqueue(2)
    with at_work(Worker(app, concurrency=1)):
        first.wait(timeout=30)
        late.wait(timeout=30)
    assert ran == [1]
    assert late.state is State.CANCELLED
    assert "expired" in (late.row.note or "")


# --- retry --with-children ------------------------------------------------------------------------------------------------


@pytest.fixture
def step(app: Dray) -> Any:
    @app.task(name="step")
    def step(fails: bool = False) -> None:
        if fails:
            raise Permanent("it is broken")

    return step


@rows("C27", "C29")
def test_a_retry_with_children_revives_what_was_cancelled_because_of_the_job_and_nothing_else(app: Dray, step: Any) -> None:
    admin = Admin(app)
    broken = step.enqueue(fails=True)
    after = step.using(after=[broken], on_parent_failure="cancel")
    doomed, by_hand, late = after.enqueue(), after.enqueue(), after.using(expires_in=0.0).enqueue()
    grandchild = step.using(after=[doomed]).enqueue()
    other = step.using(after=[by_hand]).enqueue()
    waits = step.using(after=[broken]).enqueue()
    app.store.expire()
    admin.cancel([by_hand.id])
    run_all(app)
    admin.give_up(broken.id)
    cancelled = [doomed, by_hand, late, grandchild, other, waits]
    assert {job.refresh().state for job in cancelled} == {State.CANCELLED}

    moved = admin.retry_with_children([broken.id])
    assert [move.id for move in moved] == [broken.id, doomed.id, waits.id, grandchild.id], moved
    assert [job.refresh().state for job in (by_hand, late, other)] == [State.CANCELLED] * 3

    # Cancelled by hand the second time, it stays so.
    admin.cancel([doomed.id])
    run_all(app)
    assert doomed.id not in [move.id for move in admin.retry_with_children([broken.id])]
    assert doomed.refresh().state is State.CANCELLED
    assert [move.id for move in admin.retry_with_children([by_hand.id])] == [by_hand.id, other.id]


@rows("C29")
def test_a_retry_with_children_revives_any_number_of_them(app: Dray, step: Any) -> None:
    broken = step.enqueue(fails=True)
    many = app.enqueue_many(step.using(after=[broken], on_parent_failure="cancel").bind() for _ in range(1200))
    run_all(app)
    assert len(Admin(app).retry_with_children([broken.id])) == len(many) + 1
