"""Steering all workers from afar: workers, stop, start, reload, stack. Their orders are tried on every database elsewhere."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.fleet import Fleet
from dray.job import State
from tests.acceptance.site import SHOP, Site, end, site_at
from tests.servers import Database, wait_until

rows = pytest.mark.rows

TASKS = (
    SHOP
    + """
import threading

@app.task
async def ahold(name):
    while not Path(name).exists():
        Path(f"{name}.here").touch()
        await asyncio.sleep(0.01)

@app.task(isolate=True)
def alone():
    hold("far")

program = app.command("program", ["sh", "-c", "touch program.here; sleep 600"])
"""
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db", TASKS) as site:
        yield site


@pytest.fixture
def everywhere(tmp_path: Path, database: Database) -> Iterator[Site]:
    """On every database."""
    with site_at(tmp_path, database.url, TASKS) as site:
        yield site


def alive(site: Site) -> list[int]:
    return sorted(worker.id for worker in site.app.store.roster.listing())


@rows("S0.58", "S2.77", "S2.78")
def test_workers_are_listed_with_what_they_run(site: Site) -> None:
    site.worker("mail", "-c", "3", "-p", "0-500")
    idle = site.worker("other")
    held = site.enqueue("hold", "gate", queue="mail")
    site.is_held("gate")
    wait_until(lambda: all(worker.memory for worker in site.app.store.roster.listing()), "their memory is known", 30)
    told = [json.loads(line) for line in site.dray("workers", "--json").splitlines()]
    assert [(one["queues"], one["state"], one["concurrency"]) for one in told] == [("other", "idle", 10), ("mail", "busy", 3)]
    assert [(job["id"], job["task"]) for job in told[1]["jobs"]] == [(held, "hold")]
    assert told[0]["pid"] == idle.pid
    assert all(one["memory"] > 10**7 for one in told)
    table = site.dray("workers", app=False)
    assert f'{held} hold("gate")' in table
    site.let_go("gate")
    site.ended(held)
    wait_until(lambda: any(worker.done == 1 for worker in site.app.store.roster.listing()), "it has counted it", 30)
    idle.kill()
    wait_until(lambda: len(alive(site)) == 1, "its death is known", 30)
    assert "dead" in site.dray("workers", "--all")


@rows("S1.50", "S2.74")
def test_workers_are_stopped_all_or_some_and_who_is_busy_is_named(everywhere: Site) -> None:
    site = everywhere
    mail, other, third = site.worker("mail"), site.worker("other"), site.worker("third")
    held = site.enqueue("hold", "gate", queue="other")
    site.is_held("gate")
    assert "1 worker stopped" in site.dray("stop", "mail", app=False)
    assert mail.wait(10) == 0
    told = site.dray("stop", "--timeout", "2s", code=1, app=False)
    assert "stopping: " in told
    assert "1 busy (hold" in told
    assert "not ended yet" in told
    assert third.wait(10) == 0
    assert other.poll() is None
    site.let_go("gate")
    assert other.wait(30) == 0
    assert site.row(held).state is State.SUCCEEDED
    assert "no worker is alive" in site.dray("stop", app=False)
    assert "there is no worker 99" in site.dray("stop", "--worker", "99", app=False, code=3)


def test_a_worker_can_be_stopped_at_once(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    (worker_id,) = alive(site)
    site.dray("stop", "--worker", str(worker_id), "--now", app=False)
    assert process.wait(10) == 0
    assert (site.row(held).state, site.row(held).attempt) == (State.READY, 0)


@rows("S0.47", "C83")
def test_who_is_to_stay_stopped_does_not_start_until_start(site: Site) -> None:
    process = site.worker()
    assert "1 worker stopped" in site.dray("stop", "--stay", "--reason", "the database moves", app=False)
    assert process.wait(10) == 0
    job = site.enqueue("note", "x")
    assert "workers were told to stop (the database moves) until `dray start`" in site.dray("worker", "--burst")
    assert site.row(job).state is State.READY
    assert "workers may start" in site.dray("start", app=False)
    assert "were not stopped" in site.dray("start", app=False)
    site.dray("worker", "--burst")
    assert site.row(job).state is State.SUCCEEDED
    assert "--stay is for all" in site.dray("stop", "mail", "--stay", app=False, code=2)


@rows("S2.74", "C88")
def test_each_worker_reloads_once_and_one_that_has_just_done_so_takes_nobodys_turn(site: Site) -> None:
    processes = [site.worker("mail") for _ in range(3)]
    other = site.worker("other")
    before = alive(site)
    told = site.dray("reload", "2", "mail", app=False)  # both orders are understood
    assert told.strip() == f"reloading {before[0]}, {before[1]}"
    wait_until(lambda: len(alive(site)) == 4 and before[0] not in alive(site) and before[1] not in alive(site), "two new", 60)
    time.sleep(2)  # whoever had eaten an order twice would be gone by now
    assert {before[2], before[3]} <= set(alive(site))
    assert [site.log(process).count("worker.started") for process in (*processes, other)] == [2, 2, 1, 1]
    site.dray("reload", "mail", "--rolling", "1", "--json", app=False)
    assert [site.log(process).count("worker.started") for process in (*processes, other)] == [3, 3, 2, 1]
    for process in (*processes, other):
        assert process.poll() is None
        assert end(process) == 0


@rows("S2.74")
def test_a_rolling_reload_never_takes_more_than_it_may_and_says_who_was_not_replaced(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker("-c", "1")
    site.is_held("gate")
    assert "nobody has taken the place" in site.dray("reload", "--rolling", "1", "--timeout", "2s", app=False, code=1)
    site.let_go("gate")
    assert site.ended(held).state is State.SUCCEEDED
    site.says(process, "worker.started", times=2)
    assert "give at most a queue and a number" in site.dray("reload", "a", "b", app=False, code=2)


def test_a_running_job_shows_where_it_is_in_every_kind_of_place(site: Site) -> None:
    process = site.worker()
    jobs = {
        "wait_for": site.enqueue("hold", "gate"),
        "asyncio.sleep": site.enqueue("ahold", "agate"),
        "in hold": site.enqueue("alone"),
        "sleep 600": site.enqueue("program"),
    }
    for name in ("gate", "agate", "far", "program"):
        site.is_held(name)
    for words, job in jobs.items():
        told = site.dray("stack", str(job), app=False)
        assert f"job {job} " in told
        assert words in told
    (worker_id,) = alive(site)
    told = site.dray("stack", "--worker", str(worker_id), "--json", app=False)
    assert {one["id"] for one in json.loads(told)["jobs"]} == set(jobs.values())
    assert "does not run" in site.dray("stack", str(site.enqueue("note", 1, delay=600.0)), app=False, code=4)
    assert "there is no worker 99" in site.dray("stack", "--worker", "99", app=False, code=3)
    process.send_signal(signal.SIGSTOP)
    assert "has not answered" in site.dray("stack", "--worker", str(worker_id), "--timeout", "1s", app=False, code=124)
    process.kill()


def test_an_order_to_one_who_is_dead_is_heard_by_nobody(site: Site) -> None:
    process = site.worker()
    (worker,) = site.app.store.roster.listing()
    process.kill()
    wait_until(lambda: alive(site) == [], "its death is known", 30)
    assert Fleet(site.app).stop([worker]) == []
    later = site.worker()
    time.sleep(1.5)
    assert later.poll() is None


def test_who_waits_for_the_end_of_what_runs_still_hears_what_it_is_told(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    (worker_id,) = alive(site)
    site.dray("reload", app=False)
    site.says(process, "worker.stopping")
    assert f"job {held} " in site.dray("stack", str(held), app=False)
    site.dray("stop", "--worker", str(worker_id), "--now", "--timeout", "20s", app=False)
    assert process.wait(10) == 0
    assert site.row(held).state is State.READY


def test_what_a_frozen_worker_was_told_it_hears_later_also_when_others_took_it_for_dead(site: Site) -> None:
    process, roster = site.worker(DRAY_TTL="3s"), site.app.store.roster
    (worker,) = roster.listing()
    process.send_signal(signal.SIGSTOP)
    site.dray("stop", "--worker", str(worker.id), "--no-wait", app=False)
    wait_until(lambda: any(roster.declare_dead(beat) for beat in roster.beats()), "it is taken for dead", 20)
    process.send_signal(signal.SIGCONT)
    assert process.wait(20) == 0


def test_nobody_waits_for_the_dead(site: Site) -> None:
    site.app.store.ensure()
    gone = site.app.store.roster.register(host="elsewhere", pid=1, queues="*", concurrency=1)
    time.sleep(1.2)
    assert f"not ended yet: {gone}" in site.dray("stop", app=False, code=1, DRAY_TTL="2s")
