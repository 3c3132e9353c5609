"""What an operator does for workers that are silent or dead, on every database; time is moved by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dray import pids
from dray.care import Care, Whereabouts
from dray.errors import BadOption, StoreUnavailable, UnknownWorker, WorkerLives
from dray.job import Failed, Flag, NewJob, Parked, State
from dray.settings import load
from dray.store.rescue import Watch
from dray.store.sql import SqlStore
from dray.store.workers import WorkerState
from dray.stuck import LOOKED
from tests.contract.yard import Yard
from tests.servers import Database

TTL, BEAT = 30.0, 5.0
HERE = "here"
NOBODY = 2**22 + 1  # a number that no process has


class Ward:
    """A yard whose time passes when somebody waits, and then whatever a test wants happens."""

    def __init__(self, database: Database) -> None:
        self.yard = Yard(database)
        self.steady = 0.0
        self.meanwhile: Callable[[], object] = lambda: None
        watch = Watch(ttl=TTL, clock=lambda: self.steady)
        self.care = Care(self.store, load({"ttl": TTL, "beat": BEAT}), sleep=self.wait, watch=watch, host=HERE)

    @property
    def store(self) -> SqlStore:
        return self.yard.store

    def wait(self, seconds: float) -> None:
        self.steady += seconds
        self.yard.clock.forward(seconds)
        self.meanwhile()

    def hire(self, pid: int = 1, host: str = HERE) -> int:
        return self.store.roster.register(host=host, pid=pid, queues="*", concurrency=1)

    def beat(self, worker: int) -> None:
        statement = self.store.tables.text("UPDATE {workers} SET beat_at = {now} WHERE id = :i AND state = 0")
        self.store.database.transact(lambda connection: connection.execute(statement, {"i": worker}))

    def take(self, worker: int, **options: object) -> int:
        """A job that this worker runs."""
        id = self.yard.add(**options)
        self.yard.worker = worker
        (claim,) = self.yard.take()
        assert claim.id == id
        assert self.store.mark_started(claim.lease)
        return id

    def is_alive(self, worker: int) -> bool:
        found = self.store.roster.find(worker)
        assert found is not None
        return found.state is WorkerState.ALIVE


@pytest.fixture
def ward(database: Database) -> Iterator[Ward]:
    ward = Ward(database)
    ward.store.roster.leave(ward.yard.worker)
    yield ward
    ward.store.close()


@pytest.mark.rows("C14", "C16", "C18", "S0.35")
def test_the_silent_are_declared_dead_after_a_full_ttl_and_what_they_held_is_told_job_by_job(ward: Ward) -> None:
    dead, alive = ward.hire(), ward.hire()
    goes_on = ward.take(dead, group="g")
    behind = ward.yard.add(group="g")
    ordered = ward.take(dead, flags=int(Flag.FAIL_ON_CRASH))
    mine = ward.take(alive)
    ward.meanwhile = lambda: ward.beat(alive)
    ward.wait(11)
    waits: list[tuple[list[int], float]] = []
    begun = ward.steady
    found = ward.care.rescue(lambda silent, left: waits.append(([one.id for one in silent], left)))
    assert ward.steady - begun == pytest.approx(TTL, abs=0.1)
    assert [one.id for one in found.declared] == [dead]
    assert (waits[0], found.spared) == (([dead], TTL), [])
    told = {job.id: (job.state, job.worker_id) for job in found.jobs}
    assert told == {goes_on: (State.READY, dead), ordered: (State.FAILED, dead)}
    assert "on_crash" in str(next(job.why for job in found.jobs if job.id == ordered))
    assert [ward.yard.state(id) for id in (goes_on, ordered, mine)] == ["ready", "failed", "running"]
    assert ward.yard.run() == [goes_on, behind], "the group does not stand still"
    assert (ward.is_alive(dead), ward.is_alive(alive)) == (False, True)


def test_nobody_is_watched_when_nobody_is_silent(ward: Ward) -> None:
    alive, dead = ward.hire(), ward.hire()
    held, mine = ward.take(dead), ward.take(alive)
    ward.store.roster.leave(dead)
    found = ward.care.rescue()
    assert (ward.steady, found.declared, [job.id for job in found.jobs]) == (0.0, [], [held])
    assert ward.yard.state(mine) == "running"
    assert ward.care.rescue().jobs == []


def test_the_watch_ends_as_soon_as_all_are_heard_again(ward: Ward) -> None:
    first, second, third = ward.hire(), ward.hire(), ward.hire()
    mine = ward.take(first)
    ward.wait(20)
    begun = ward.steady

    def wake() -> None:
        ward.beat(first)
        ward.store.roster.leave(second)
        if ward.steady > begun + 8:
            ward.beat(third)

    ward.meanwhile = wake
    found = ward.care.rescue()
    assert [one.id for one in found.spared] == [first, third]
    assert (ward.steady - begun, found.declared, found.jobs) == (10.0, [], [])
    assert ward.yard.state(mine) == "running"


@pytest.mark.rows("C14")
def test_who_cannot_write_buries_nobody(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = ward.hire()
    ward.wait(60)

    def full() -> None:
        raise StoreUnavailable("no space left")

    ward.meanwhile = lambda: monkeypatch.setattr(ward.store.roster, "sign", full)
    with pytest.raises(StoreUnavailable):
        ward.care.rescue()
    assert ward.is_alive(worker)


def test_a_signature_can_be_written_again_and_again(ward: Ward) -> None:
    for _ in range(3):
        ward.store.roster.sign()
    assert ward.store.desk.controls().paused == {}


# --- a worker by its id ---------------------------------------------------------------------------------------------------


@pytest.mark.rows("C18", "S0.35")
def test_a_process_that_is_gone_from_this_host_is_dead_at_once(ward: Ward) -> None:
    worker = ward.hire(pid=NOBODY)
    id = ward.take(worker)
    ward.wait(11)
    begun = ward.steady
    found = ward.care.rescue_worker(worker)
    assert (ward.steady, [one.id for one in found.declared]) == (begun, [worker])
    assert [(job.id, job.state) for job in found.jobs] == [(id, State.READY)]
    again = ward.care.rescue_worker(worker)
    assert (again.declared, again.jobs) == ([], [])


@pytest.mark.rows("C18")
def test_a_process_that_lives_here_is_never_buried(ward: Ward) -> None:
    worker = ward.hire(pid=os.getpid())
    id = ward.take(worker)
    ward.wait(50)
    for sure in (False, True):
        with pytest.raises(WorkerLives, match=f"worker {worker} lives: process {os.getpid()} is on this host"):
            ward.care.rescue_worker(worker, sure=sure)
    assert (ward.is_alive(worker), ward.yard.state(id)) == (True, "running")


@pytest.mark.rows("C18")
def test_a_number_that_another_process_has_by_now_is_no_sign_of_life(ward: Ward) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        worker = ward.hire(pid=child.pid)
        ward.wait(30)
        assert ward.care.whereabouts(worker)[1] is Whereabouts.LIVES, "clocks may be half a minute apart"
        ward.wait(100)
        assert ward.care.whereabouts(worker)[1] is Whereabouts.REPLACED
        begun = ward.steady
        assert [one.id for one in ward.care.rescue_worker(worker).declared] == [worker]
        assert ward.steady - begun == 2 * BEAT, "a clock that was put forward would look the same: its beat is watched"
    finally:
        child.communicate(b"\n")


@pytest.mark.rows("C18")
def test_a_beat_that_moves_is_a_sign_of_life_wherever_the_process_is(ward: Ward) -> None:
    worker = ward.hire(pid=NOBODY)
    id = ward.take(worker)
    ward.meanwhile = lambda: ward.beat(worker)
    with pytest.raises(WorkerLives, match="then its beat moved"):
        ward.care.rescue_worker(worker)
    assert (ward.is_alive(worker), ward.yard.state(id)) == (True, "running")
    ward.meanwhile = lambda: None
    assert [job.id for job in ward.care.rescue_worker(worker).jobs] == [id]


@pytest.mark.rows("C18")
def test_a_worker_of_another_host_is_buried_only_by_who_is_sure(ward: Ward) -> None:
    worker = ward.hire(pid=os.getpid(), host="there")
    id = ward.take(worker)
    with pytest.raises(BadOption, match="is on there, where this host cannot look"):
        ward.care.rescue_worker(worker)
    assert ward.is_alive(worker)
    begun = ward.steady
    assert [job.id for job in ward.care.rescue_worker(worker, sure=True).jobs] == [id]
    assert ward.steady == begun


def test_a_worker_that_never_was(ward: Ward) -> None:
    with pytest.raises(UnknownWorker):
        ward.care.rescue_worker(4711)


def test_what_an_operator_wanted_is_heeded_and_told(ward: Ward) -> None:
    worker = ward.hire()
    held, cancelled = ward.take(worker), ward.take(worker)
    ward.store.desk.hold([held])
    ward.store.desk.cancel([cancelled])
    ward.store.roster.leave(worker)
    told = {job.id: job.state for job in ward.care.rescue().jobs}
    assert told == {held: State.BLOCKED, cancelled: State.CANCELLED}
    assert [ward.yard.state(id) for id in (held, cancelled)] == ["blocked: held", "cancelled"]


# --- what is stuck --------------------------------------------------------------------------------------------------------


def stuck(ward: Ward, **options: Any) -> list[tuple[str, str, list[int], str]]:
    return [(one.kind, one.task, list(one.ids), one.advice) for one in ward.care.stuck(**options)]


@pytest.mark.rows("S3.83", "C14")
def test_what_runs_is_stuck_when_its_worker_is_or_after_a_time(ward: Ward) -> None:
    dead, silent, alive = ward.hire(), ward.hire(), ward.hire()
    lost = [ward.take(dead), ward.take(dead)]
    mute = ward.take(silent)
    slow, other = ward.take(alive, task="slow"), ward.take(alive)
    ward.store.roster.leave(dead)
    ward.wait(16)
    ward.beat(alive)
    rescue = "dray rescue"
    assert stuck(ward) == [("dead", "t", lost, rescue), ("silent", "t", [mute], rescue)]
    ward.wait(600)
    ward.beat(alive)
    assert stuck(ward, task="slow") == [("long", "slow", [slow], f"dray show {slow}, or dray cancel {slow}")]
    assert stuck(ward, older_than=1000)[2:] == []
    assert sorted(one[2] for one in stuck(ward) if one[0] == "long") == [[slow], [other]]
    assert ward.care.stuck(queue="other") == []
    assert ward.care.stuck()[0].oldest == pytest.approx(616, abs=1)


@pytest.mark.rows("S3.83")
def test_what_is_ready_is_stuck_only_if_nobody_takes_it(ward: Ward) -> None:
    waits = {
        "turn": ward.yard.add(queue="mail"),
        "paused": ward.yard.add(queue="paused"),
        "alone": ward.yard.add(queue="it's alone"),
        "late": ward.yard.add(queue="mail", priority=500),
        "odd": ward.yard.add(queue="mail", task="odd", priority=7),
        "even": ward.yard.add(queue="mail", task="even", priority=7),
    }
    ward.store.desk.pause("paused")
    roster = ward.store.roster
    workers = [
        roster.register(host=HERE, pid=1, queues="mail,paused", concurrency=1, priorities="100"),
        roster.register(host=HERE, pid=1, queues="mail", concurrency=1, priorities="7", tasks="only even"),
    ]
    assert stuck(ward) == [], "it has just come"
    ward.wait(601)
    ward.yard.add(queue="it's alone")  # the one before it is stuck, it has just come
    for worker in workers:
        ward.beat(worker)
    assert sorted(stuck(ward)) == [
        ("no worker", "odd", [waits["odd"]], "dray worker mail --task odd"),
        ("no worker", "t", [waits["alone"]], """dray worker 'it'"'"'s alone'"""),
        ("no worker", "t", [waits["late"]], "dray worker mail -p 500"),
        ("paused", "t", [waits["paused"]], "dray resume paused"),
    ]
    assert [one[2] for one in stuck(ward, queue="paused")] == [[waits["paused"]]]
    assert stuck(ward, older_than=602) == []


@pytest.mark.rows("S3.83", "C35")
def test_what_nobody_knows_and_what_nobody_makes_ready_is_stuck(ward: Ward) -> None:
    ward.yard.hire()
    unknown = ward.yard.add(task="old.cleanup", queue="old")
    (claim,) = ward.yard.take()
    ward.yard.end(claim, Parked(why="unknown task"))
    due, retrying = ward.yard.add(delay=5.0), ward.yard.add(queue="r")
    (claim,) = ward.yard.take()
    ward.yard.end(claim, Failed(error="boom", retry_in=7.0), attempts=3)
    later = ward.yard.add(delay=10_000.0)
    ward.wait(620)
    ward.beat(ward.yard.worker)
    assert stuck(ward) == [
        ("parked", "old.cleanup", [unknown], f"dray why {unknown}"),
        ("overdue", "t", [due], "dray worker"),
        ("overdue", "t", [retrying], "dray worker"),
    ]
    assert ward.yard.state(later) == "scheduled"


def test_of_many_the_first_are_counted_and_it_is_said_that_there_are_more(ward: Ward) -> None:
    ids = [one.id for one in ward.store.add([NewJob(task="t", queue="q", args="{}")] * (LOOKED + 5))]
    ward.wait(601)
    (one,) = ward.care.stuck()
    assert (one.kind, list(one.ids), one.more) == ("no worker", ids[:LOOKED], True)
    ward.yard.hire()
    assert ward.care.stuck() == []


# --- what ended long ago --------------------------------------------------------------------------------------------------


@pytest.mark.rows("C100", "S1.16", "S2.73")
def test_prune_says_what_it_keeps_and_for_whom(ward: Ward) -> None:
    yard, bad = ward.yard, Failed(error="boom", permanent=True)
    yard.hire()
    needed, free, halting = yard.add(), yard.add(), yard.add(group="g", flags=int(Flag.HALT))
    both = yard.add(group="h", flags=int(Flag.HALT))
    waits = [yard.add(after=(needed,)), yard.add(after=(both,)), yard.add(group="g")]
    for claim in yard.take():
        yard.end(claim, bad)
    done, young = yard.add(), yard.add()
    needs_more = yard.add(after=(done, young))
    yard.clock.forward(1)
    first, second = sorted(yard.take(), key=lambda claim: claim.id)
    yard.end(first)
    ward.wait(100)
    yard.end(second)
    ends = [State.SUCCEEDED, State.FAILED]
    for dry_run in (True, False):
        found = ward.care.prune(50.0, ends, dry_run=dry_run)
        assert found.gone == {State.SUCCEEDED: 0, State.FAILED: 1}
        assert found.kept == {State.SUCCEEDED: (1, 0), State.FAILED: (2, 1)}
    assert [ward.store.desk.job(id) is None for id in (needed, free, halting, both, done)] == [False, True, False, False, False]
    ward.store.desk.cancel(waits)
    ward.store.desk.cancel([needs_more])
    ward.store.desk.unblock_group("g")
    ward.store.desk.unblock_group("h")
    found = ward.care.prune(50.0, ends)
    assert (found.gone, set(found.kept.values())) == ({State.SUCCEEDED: 1, State.FAILED: 3}, {(0, 0)})
    with pytest.raises(BadOption):
        ward.care.prune(50.0, [State.READY])


def test_what_is_kept_is_counted_up_to_a_cap(ward: Ward) -> None:
    parents = [ward.yard.add() for _ in range(5)]
    for parent in parents:
        ward.yard.add(after=(parent,))
    ward.yard.hire()
    for claim in ward.yard.take():
        ward.yard.end(claim, Failed(error="boom", permanent=True))
    ward.wait(10)
    assert ward.store.desk.count_kept(State.FAILED, 5.0, cap=3) == (4, 0)
    assert ward.store.desk.count_kept(State.FAILED, 15.0) == (0, 0)


# --- processes ------------------------------------------------------------------------------------------------------------


def test_a_process_that_has_ended_is_none_even_if_nobody_has_taken_note() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = pids.find(child.pid)
    assert found is not None
    assert found.age is None or 0 <= found.age < 60
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert pids.find(child.pid) is None
    child.wait()
    assert [pids.find(pid) for pid in (child.pid, NOBODY, 0, -1, 2**70)] == [None] * 5
    assert pids.find(1) is not None, "one of somebody else is one too"
