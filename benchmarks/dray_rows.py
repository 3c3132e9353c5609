"""The same work by Dray: real workers in processes of their own, jobs enqueued as an application enqueues them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from benchmarks.machine import cpu, memory
from benchmarks.raw import CREATE_ORDER, ORDER
from benchmarks.tasks import on

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0  # seconds, for the slowest of drains
NOTE = "a small note"
GAP = 0.025  # seconds between two jobs whose latency is measured
CHUNK = 1000


def fill(url: str, jobs: int) -> None:
    """So many ready jobs."""
    app, task = on(url)
    for start in range(0, jobs, CHUNK):
        app.enqueue_many(task.bind(number, NOTE) for number in range(start, min(start + CHUNK, jobs)))
    app.close()


@contextmanager
def working(url: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on this database; it is ended if it has not ended by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
    command = [sys.executable, "-m", "dray", "worker", "-A", "benchmarks.tasks:app", *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**environment, "DRAY_DATABASE_URL": url}, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            code = process.wait(60)
        if code:
            log.seek(0)
            raise RuntimeError(f"a worker ended with {code}:\n{log.read().decode()[-4000:]}")


def drained(url: str, jobs: int, workers: int) -> float:
    """Seconds from the first start to the last end, by what the history says."""
    with working(url, "--burst") as first:
        if workers == 2:
            with working(url, "--burst") as second:
                second.wait(PATIENCE)
        first.wait(PATIENCE)
    app, _ = on(url)
    with app.store.database.engine.connect() as connection:
        template = "SELECT count(*), min(started_at), max(finished_at) FROM {history} WHERE state = 10"
        count, began, ended = connection.execute(app.store.tables.text(template)).one()
    app.close()
    if count != jobs:
        raise RuntimeError(f"{count} of {jobs} jobs have succeeded")
    return float(ended - began) / 1_000_000


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
    for start in range(0, jobs, CHUNK):
        app.enqueue_many(task.bind(number, NOTE) for number in range(start, min(start + CHUNK, jobs)))
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
    """Milliseconds from enqueue to start with an idle worker, and what that worker and its heartbeat process cost."""
    app, task = on(url)
    with working(url) as worker:
        first = task.enqueue(-1, NOTE)
        first.wait(timeout=60)
        for number in range(jobs):
            time.sleep(GAP * random.uniform(0.8, 1.2))  # not in step with anything that looks at regular times
            last = task.enqueue(number, NOTE)
        last.wait(timeout=60)
        time.sleep(1)
        used, began = cpu(worker.pid), time.monotonic()
        time.sleep(idle)
        share = 100 * (cpu(worker.pid) - used) / (time.monotonic() - began)
        held = memory(worker.pid)
    template = "SELECT started_at - created_at FROM {history} WHERE id > :first"
    with app.store.database.engine.connect() as connection:
        waits = [row[0] / 1000 for row in connection.execute(app.store.tables.text(template), {"first": first.id})]
    app.close()
    if len(waits) != jobs:
        raise RuntimeError(f"{len(waits)} of {jobs} jobs have ended")
    cuts = quantiles(waits, n=100, method="inclusive")
    return {"p50 ms": cuts[49], "p95 ms": cuts[94], "p99 ms": cuts[98], "idle CPU %": share, "RSS MB": held}
