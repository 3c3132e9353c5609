"""A worker's row stood still on SQLite: its heartbeat process compared the driver's name with `sqlite3`, while SQLAlchemy
calls it `sqlite3.dbapi2`, so that it took the connection for another database's and failed at every beat. Each worker was
given up on after one TTL, by itself, and its death was never written down either. Then it looked for work without a pause,
since there were hints and it was not allowed to start anything.

Once it beat, a beat that met a writer was given up at once and tried again half a second later: with a short TTL and much
writing, an unlucky worker was taken for dead.

And a heart that was slow to read for whom to beat left without a word when its worker had died by then.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dray import Dray, heartbeat
from dray.lease import WorkerLease
from dray.pulse import Pulse
from dray.store.workers import WorkerState
from dray.worker import Worker
from tests.servers import Database

DEADLINE = 10.0  # seconds


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.02)


def test_the_row_of_a_worker_moves_on(database: Database) -> None:
    app = Dray(database.url, create_tables=True)
    app.store.ensure()
    roster = app.store.roster
    lease = WorkerLease(roster, ttl=30, beat=0.1, listen=False, pulse=Pulse(), on_wake=lambda: None, on_lost=lambda: None)
    lease.take(queues="*", concurrency=1)
    try:
        (first,) = roster.beats()
        until(lambda: roster.beats()[0].beat_at > first.beat_at)
    finally:
        lease.give_up()
        app.close()


def test_a_beat_waits_for_its_turn_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    app.store.ensure()
    worker_id = app.store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    said: list[str] = []
    monkeypatch.setattr(heartbeat, "say", said.append)
    pulse = Pulse()
    plan = {**app.store.roster.heartbeat_plan(worker_id), "period": 5, "listen": False, **pulse.plan(ttl=30)}
    heart = heartbeat.Heart(plan, os.getpid())
    thread = threading.Thread(target=heart.beat)
    with closing(sqlite3.connect(tmp_path / "dray.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        thread.start()
        began = time.monotonic()
        until(lambda: len(said) > 0 or time.monotonic() > began + 0.2)
        writer.execute("COMMIT")
        thread.join(DEADLINE)
    heart.disconnect()
    app.close()
    assert [line[0] for line in said] == ["b"]


def test_the_death_of_a_worker_is_written_down_at_once(database: Database) -> None:
    app = Dray(database.url, create_tables=True)
    app.store.ensure()
    code = (
        "import sys; from dray import Dray; from dray.worker import Worker;"
        "Worker(Dray(sys.argv[1], ttl='1h', beat='1s'), upkeep=False).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, database.url])
    try:
        until(lambda: len(app.store.roster.beats()) == 1)
        (first,) = app.store.roster.beats()
        until(lambda: app.store.roster.beats()[0].beat_at > first.beat_at)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: app.store.roster.listing(alive_only=False)[0].state is WorkerState.DEAD)
    app.close()


def test_a_worker_that_may_not_start_anything_does_not_spin(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray(database.url, create_tables=True)
    worker = Worker(app, upkeep=False)
    turns: list[float] = []
    turn = worker._turn
    monkeypatch.setattr(worker._lease, "may_start", lambda: False)
    monkeypatch.setattr(worker, "_turn", lambda: (turns.append(time.monotonic()), turn()))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: len(turns) > 0 and time.monotonic() > turns[0] + 0.5)
        assert len(turns) < 100
    finally:
        worker.stop()
        thread.join(DEADLINE)
        app.close()


def test_a_driver_that_needs_what_was_left_out_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load(name: str) -> str:
        asked.append(sys.modules.get("ssl", "to be had"))
        if asked[-1] is None:
            raise ImportError("no ssl")
        return name

    monkeypatch.delitem(sys.modules, "ssl", raising=False)
    monkeypatch.setattr(heartbeat.importlib, "import_module", load)
    pulse = Pulse()
    plan = {"driver": "psycopg", "period": 5, "listen": False, **pulse.plan(ttl=30)}
    assert heartbeat.Heart(plan, os.getpid()).driver == "psycopg"
    assert asked == [None, "to be had"]


def test_a_worker_that_dies_as_soon_as_it_has_its_number_is_written_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a heart found its worker gone before it had read for whom to beat, and left without a word."""
    app = Dray(f"sqlite:///{tmp_path}/dray.db", create_tables=True)
    app.store.ensure()
    roster = app.store.roster
    worker_id = roster.register(host="here", pid=1, queues="*", concurrency=1)
    pulse = Pulse()
    plan = {**roster.heartbeat_plan(worker_id), "period": 30.0, "listen": False, **pulse.plan(ttl=30)}
    last_word = {name: plan.pop(name) for name in ("beat", "death")}
    heart = heartbeat.Heart(plan, parent=0)  # which is not ours: it is gone
    reading, writing = os.pipe()
    os.write(writing, json.dumps(last_word).encode() + b"\n")
    os.close(writing)
    waits = [lambda: True]  # nothing was heard, up to the moment in which it was written
    monkeypatch.setattr(heart, "wait", lambda: waits.pop()() if waits else heart.obey(heart.orders.readline()))
    with open(reading, "rb", buffering=0) as heart.orders:
        heart.live()
    heart.disconnect()
    assert [worker.state for worker in roster.listing(alive_only=False)] == [WorkerState.DEAD]
    app.close()
