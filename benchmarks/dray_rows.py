"""The same work by Dray: real workers in processes of their own, jobs enqueued as an application enqueues them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from benchmarks import workers
from benchmarks.raw import CREATE_ORDER, ORDER
from benchmarks.stamps import Stamps, made
from benchmarks.tasks import ahead, on
from benchmarks.workload import NOTE, chunks
from dray import Limit


def fill(url: str, jobs: int) -> None:
    """So many ready jobs."""
    app, task = on(url)
    for numbers in chunks(jobs):
        app.enqueue_many(task.bind(number, NOTE) for number in numbers)
    app.close()


def fill_groups(url: str, jobs: int) -> None:
    """Each in one of ten thousand groups."""
    _fill(url, jobs, lambda task, number: task.using(group=f"group-{number % 10_000}"))


def fill_limits(url: str, jobs: int) -> None:
    """Each under one of a hundred limits of ten."""
    _fill(url, jobs, lambda task, number: task.using(limit=Limit(f"limit-{number % 100}", 10)))


def fill_line(url: str, jobs: int) -> None:
    """All in one group."""
    _fill(url, jobs, lambda task, number: task.using(group="one"))


def fill_line_ahead(url: str, jobs: int) -> None:
    """All in one group, of a task that may run ahead in it."""
    _fill(url, jobs, lambda task, number: task.using(group="one"), ahead)


def fill_pairs(url: str, jobs: int) -> None:
    """Each second job waits for the one before it."""
    app, task = on(url)
    for numbers in chunks(jobs):
        half = len(numbers) // 2
        parents = app.enqueue_many(task.bind(number, NOTE) for number in numbers[:half])
        children = zip(parents, numbers[half:], strict=False)
        app.enqueue_many(task.using(after=parent).bind(number, NOTE) for parent, number in children)
    app.close()


def _fill(url: str, jobs: int, using: Callable[[Any, int], Any], function: Callable[..., None] | None = None) -> None:
    app, task = on(url)
    chosen = task if function is None else app.task(function)
    for numbers in chunks(jobs):
        app.enqueue_many(using(chosen, number).bind(number, NOTE) for number in numbers)
    app.close()


def _working(url: str, stamps: Stamps, count: int) -> AbstractContextManager[list[workers.Worker]]:
    command = [sys.executable, "-m", "dray", "worker", "-A", "benchmarks.tasks:app"]
    return workers.working([command] * count, stamps, {"DRAY_DATABASE_URL": url})


def drained(url: str, jobs: int, count: int) -> dict[str, float]:
    """So many jobs that were there before the workers; the history has to agree that all have succeeded."""
    with made(jobs) as stamps, _working(url, stamps, count) as running:
        figures = workers.drained(running, stamps, jobs)
    app, _ = on(url)
    with app.store.database.engine.connect() as connection:
        ended = connection.execute(app.store.tables.text("SELECT count(*) FROM {history} WHERE state = 10")).scalar()
    app.close()
    if ended != jobs:
        raise RuntimeError(f"{ended} of {jobs} jobs have succeeded")
    return figures


def enqueued_one_by_one(url: str, jobs: int) -> float:
    app, task = on(url)
    began = time.perf_counter()
    for number in range(jobs):
        task.enqueue(number, NOTE)
    passed = time.perf_counter() - began
    app.close()
    return passed


def enqueued_in_chunks(url: str, jobs: int) -> float:
    app, task = on(url)
    began = time.perf_counter()
    for numbers in chunks(jobs):
        app.enqueue_many(task.bind(number, NOTE) for number in numbers)
    passed = time.perf_counter() - began
    app.close()
    return passed


def enqueued_in_transactions(url: str, jobs: int) -> float:
    """With one row of the application's own in each transaction."""
    app, task = on(url)
    engine = create_engine(url)
    if app.store.tables.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def set_up(connection: object, record: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]
            connection.execute("PRAGMA synchronous = FULL")  # type: ignore[attr-defined]

        @event.listens_for(engine, "begin")
        def begin(connection: object) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]

    with engine.begin() as connection:
        connection.execute(text(CREATE_ORDER))
    began = time.perf_counter()
    for number in range(jobs):
        with Session(engine) as session, session.begin(), app.transaction(session):
            session.execute(text(ORDER), {"number": number})
            task.enqueue(number, NOTE)
    passed = time.perf_counter() - began
    engine.dispose()
    app.close()
    return passed


def latencies(url: str, jobs: int, idle: float) -> dict[str, float]:
    """What a job waits for an idle worker, and what that worker and its heartbeat process cost at rest."""
    app, task = on(url)
    with made(jobs + 1) as stamps, _working(url, stamps, 1) as running:
        figures = workers.awaited(running, stamps, jobs, lambda number: task.enqueue(number, NOTE))
        figures |= workers.idled(running, idle)
    app.close()
    return figures
