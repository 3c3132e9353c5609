"""Which job a real worker takes next, on every database: shares by weight, strict order, tasks, urgent ones at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from dray import Dray, current_job
from dray.admin import Admin
from dray.limits import Limits
from dray.selection import RESERVE, TaskFilter, choice_of
from dray.worker import Worker
from tests.servers import Database, wait_until

rows = pytest.mark.rows


@pytest.fixture
def app(database: Database) -> Iterator[Dray]:
    app = Dray(database.url, create_tables=True, beat=0.3, ttl=10)
    app.store.ensure()
    yield app
    app.close()


def filled(app: Dray, queues: dict[str, int]) -> list[str]:
    """So many jobs in each queue; gives the list into which each start will write its queue."""
    order: list[str] = []

    @app.task(name="note")
    def note() -> None:
        job = current_job()
        assert job is not None
        order.append(job.queue)

    for queue, count in queues.items():
        for start in range(0, count, 1000):
            app.enqueue_many(app.using(queue=queue).bind("note") for _ in range(min(1000, count - start)))
    return order


@pytest.mark.long
@rows("S3.25", "S3.27", "C52", "C53")
def test_over_ten_thousand_jobs_the_queues_get_their_weights(app: Dray) -> None:
    weights = {"a": 5, "b": 3, "c": 2}
    order = filled(app, {"a": 6000, "b": 4000, "c": 3000})
    worker = Worker(app, choice=choice_of("weighted", weights), limits=Limits(max_jobs=10_000, max_time=300))
    assert worker.run() == 0
    assert len(order) == 10_000
    for part in (order, order[:1000]):
        shares = Counter(part)
        for queue, weight in weights.items():
            assert abs(shares[queue] / len(part) - weight / 10) <= 0.05 * weight / 10, (queue, shares)


@pytest.mark.long
@rows("S3.26", "C54")
def test_strict_order_keeps_its_reserve_and_not_more(app: Dray) -> None:
    order = filled(app, {"first": 5000, "second": 500})
    worker = Worker(app, choice=choice_of("strict", {"first": 1, "second": 1}), limits=Limits(max_jobs=4000, max_time=300))
    assert worker.run() == 0
    shares = Counter(order)
    assert abs(shares["second"] / 4000 - RESERVE) <= RESERVE * 0.05
    # It is spread: nobody waits long for its turn.
    places = [place for place, queue in enumerate(order) if queue == "second"]
    gaps = [later - sooner for sooner, later in pairwise(places)]
    assert max(gaps) <= 8 / RESERVE


@pytest.mark.long
@rows("S2.72", "S2.29", "S2.30", "S2.17", "C49", "C52")
def test_an_urgent_job_starts_at_once_in_a_worker_for_urgent_ones_whatever_waits(app: Dray, database: Database) -> None:
    started: dict[int, float] = {}
    release, busy = threading.Event(), threading.Semaphore(0)

    @app.task(priority=100)
    def newsletter() -> None:
        busy.release()
        release.wait(120)

    @app.task(priority=100)
    def registration(number: int) -> None:
        started[number] = time.monotonic()

    for _ in range(100):
        app.enqueue_many(newsletter.bind() for _ in range(1000))
    other = Dray(database.url, beat=0.3, ttl=10)

    @other.task(name="registration")
    def registration_there(number: int) -> None:
        started[number] = time.monotonic()

    everything, urgent = Worker(app, concurrency=8), Worker(other, priorities=range(10, 11), concurrency=1)
    threads = [threading.Thread(target=worker.run) for worker in (everything, urgent)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(8):
            assert busy.acquire(timeout=60), "eight slots are busy"
        waits = []
        for number in range(8):
            before = time.monotonic()
            registration.using(priority=10).enqueue(number)
            wait_until(lambda number=number: number in started, "it has started", 30)  # type: ignore[misc]
            waits.append(started[number] - before)
            time.sleep(0.3)  # the worker falls asleep again
    finally:
        release.set()
        for worker in (everything, urgent):
            worker.stop_now()
        for thread in threads:
            thread.join(60)
        other.close()
    print(f"{database.name}: urgent jobs waited {', '.join(f'{1000 * wait:.0f}' for wait in waits)} ms")
    assert sorted(waits)[len(waits) // 2] < 0.1, waits


@rows("S0.48")
def test_a_worker_takes_some_tasks_and_leaves_others_and_why_says_so(app: Dray) -> None:
    ran: list[str] = []
    for name in ("mail", "report", "import"):

        def body(name: str = name) -> None:
            ran.append(name)

        app.task(name=name)(body)
        app.enqueue(name)
    Worker(app, tasks=TaskFilter(only=("mail",)), limits=Limits(burst=True)).run()
    assert ran == ["mail"]
    worker = Worker(app, tasks=TaskFilter(without=("report",)), concurrency=1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: "import" in ran, "the other task is run", 30)
        (cause, *_) = Admin(app).why(2)
        assert cause.kind == "no worker"
        assert "takes the task 'report'; they take not report" in cause.text
    finally:
        worker.stop_now()
        thread.join(30)
    assert ran == ["mail", "import"]


@rows("S0.48")
def test_why_says_when_a_job_lies_too_deep_for_those_who_take_only_its_task(app: Dray) -> None:
    order = filled(app, {"q": 1000})

    @app.task(queue="q")
    def rare() -> None:
        order.append("rare")

    job = rare.enqueue()
    worker = Worker(app, tasks=TaskFilter(only=("rare",)), concurrency=1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: len(app.store.roster.listing()) == 1, "it is there", 30)
        (cause, *_) = Admin(app).why(job.id)
        assert cause.kind == "hidden"
        assert "look no further" in cause.text
    finally:
        worker.stop_now()
        thread.join(30)
    assert order == []
