"""The chapters that move jobs: add, claim, finish, control, prune. On every database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dray.errors import BadOption, WorkerGone
from dray.job import (
    Added,
    Cancelled,
    Died,
    Done,
    Failed,
    Finish,
    Flag,
    HandedBack,
    Lease,
    NewJob,
    Parked,
    Ready,
    Reason,
    Snoozed,
    State,
)
from dray.lifecycle import decide
from dray.report import Report
from dray.store import claim as claims
from dray.store import control, output, prune
from dray.store.add import add
from dray.store.claim import claim
from dray.store.finish import finish, mark_started
from dray.store.lanes import Lanes
from tests.contract.bench import Bench
from tests.servers import Database

LIVE = [state for state in State if not state.ended]
ENDS = [state for state in State if state.ended]


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database.url)
    yield bench
    bench.close()


# --- add --------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C8", "S0.13")
def test_ids_come_in_the_order_of_the_jobs(bench: Bench) -> None:
    jobs = [NewJob(task="t", queue="q", args=str(number), labels={"n": str(number)}) for number in range(2500)]
    added, _ = bench.call(add, jobs)
    rows: dict[int, str] = dict(bench.query("SELECT id, args FROM {jobs}"))
    assert [rows[one.id] for one in added] == [str(number) for number in range(2500)]
    assert [one.id for one in added] == sorted(one.id for one in added)
    labelled = dict(bench.query("SELECT job_id, value FROM {labels}"))
    assert labelled == rows


PRODUCER = """
import json, sys
from dray.job import NewJob
from dray.store.add import add
from tests.contract.bench import Bench
bench, name = Bench(sys.argv[1], create=False), sys.argv[2]
sys.stdin.readline()
told = {}
for batch in range(40):
    jobs = [NewJob(task="t", queue="q", args=f"{name}/{batch}/{position}") for position in range(25)]
    ids = [one.id for one in bench.call(add, jobs)[0]]
    assert ids == sorted(ids)
    told |= dict(zip(ids, [job.args for job in jobs]))
print(json.dumps(told))
"""


@pytest.mark.rows("C8")
def test_producers_that_insert_at_once_are_told_the_ids_of_their_own_jobs(bench: Bench) -> None:
    producers = [
        subprocess.Popen(
            [sys.executable, "-c", PRODUCER, bench.url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for producer in producers:
        assert producer.stdin is not None
        producer.stdin.write("go\n")
        producer.stdin.flush()
    told: dict[int, str] = {}
    for producer in producers:
        said, _ = producer.communicate(timeout=60)
        assert producer.returncode == 0
        told |= {int(id): args for id, args in json.loads(said).items()}
    assert len(told) == 4000
    assert told == dict(bench.query("SELECT id, args FROM {jobs}"))


@pytest.mark.rows("S2.28")
def test_a_job_for_later_is_scheduled_and_one_whose_time_has_passed_is_ready(bench: Bench) -> None:
    soon = bench.clock.now + 5_000_000
    job = {"task": "t", "queue": "q", "args": "{}"}
    jobs = [NewJob(**job, delay=5.0), NewJob(**job, run_at=soon), NewJob(**job, run_at=1), NewJob(**job)]
    added, _ = bench.call(add, jobs)
    assert [one.state for one in added] == [State.SCHEDULED, State.SCHEDULED, State.READY, State.READY]
    assert bench.states(*[one.id for one in added]) == [one.state for one in added]
    assert bench.job(added[0].id).run_at == bench.job(added[1].id).run_at


def test_jobs_of_a_transaction_that_is_rolled_back_do_not_exist(bench: Bench) -> None:
    with bench.database.engine.connect() as connection:
        connection.exec_driver_sql(bench.database.dialect.begin)
        (one,), _ = add(connection, bench.tables, [NewJob(task="t", queue="q", args="{}", labels={"a": "b"})])
        assert isinstance(one, Added)
        connection.exec_driver_sql("ROLLBACK")
    assert bench.query("SELECT id FROM {jobs}") == bench.query("SELECT job_id FROM {labels}") == []


# --- claim ------------------------------------------------------------------------------------------------------


def test_the_most_urgent_are_claimed_first_then_the_longest_ready(bench: Bench) -> None:
    late = bench.add(2, priority=200)
    usual = bench.add(2)
    bench.clock.forward(1)
    younger = bench.add(1)
    urgent = bench.add(1, priority=0, queue="other")
    assert [one.id for one in bench.claim(4)] == [*urgent, *usual, *younger]
    assert [one.id for one in bench.claim(4)] == late
    assert bench.claim(4) == []


@pytest.mark.rows("C50")
def test_a_worker_gets_jobs_of_its_queues_only_by_their_exact_names(bench: Bench) -> None:
    bench.add(queue="app2")
    bench.add(queue="APP")
    (mine,) = bench.add(queue="app")
    assert [one.id for one in bench.claim(5, "app", "ap", "a%")] == [mine]


def test_a_worker_that_is_not_alive_gets_nothing(bench: Bench) -> None:
    ids = bench.add(2)
    for worker in (bench.worker(state=1), 4711):
        with pytest.raises(WorkerGone):
            bench.claim(1, worker=worker)
    assert bench.states(*ids) == [State.READY] * 2


@pytest.mark.rows("S3.34")
def test_two_claimers_never_get_the_same_job(bench: Bench) -> None:
    ids = bench.add(60)
    got: list[int] = []

    def take() -> None:
        with bench.another() as other:
            worker, lanes = other.worker(), Lanes()
            while claims := other.call(claim, worker, lanes, 3):
                got.extend(one.id for one in claims)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == ids


def test_what_another_is_just_claiming_is_passed_over(bench: Bench) -> None:
    if bench.database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    ids = bench.add(4)
    with bench.another() as other, bench.transaction() as connection:
        first = claim(connection, bench.tables, bench.worker(), Lanes(), 2)
        second = other.claim(4)
    assert sorted(one.id for one in [*first, *second]) == ids
    assert len(first) == len(second) == 2


def test_a_job_that_moves_down_the_list_during_a_claim_is_claimed_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if bench.database.dialect.name != "mysql":
        pytest.skip("the others claim in one statement")
    first, second, third = bench.add(3)
    looks, look = [], claims._candidates

    def candidates(*arguments: Any) -> list[int]:
        if looks:  # between its first look and the second somebody commits an older job
            bench.clock.forward(-5)
            bench.add()
            bench.clock.forward(5)
        looks.append(look(*arguments))
        return looks[-1]

    monkeypatch.setattr(claims, "_candidates", candidates)
    with bench.another() as other, bench.transaction() as connection:
        control.hold(connection, bench.tables, [first])
        got = [one.id for one in other.claim(2)]
    assert looks == [[first, second], [third + 1, first, second, third]]
    assert got == [third + 1, second]


def test_a_floor_hides_a_late_commit_only_until_the_next_look_without_floors(bench: Bench) -> None:
    worker, ticks = bench.worker(), iter(range(0, 10_000, 100))
    bench.clock.forward(10)
    first = bench.add()
    lanes = Lanes(clock=lambda: next(ticks) / 1_000_000)  # time all but stands still: no look is due by itself
    assert [one.id for one in bench.call(claim, worker, lanes, 1)] == first
    bench.clock.forward(-5)
    late = bench.add()  # it was stamped before the first, and committed after its claim
    bench.clock.forward(6)
    third = bench.add()
    has_floors = bench.database.dialect.mvcc
    assert bool(lanes.floors) is has_floors
    lanes.looked = float("-inf")
    assert [one.id for one in bench.call(claim, worker, lanes, 1)] == (third if has_floors else late)
    # Fewer were found than asked for: so it looks below the floors at once.
    assert [one.id for one in bench.call(claim, worker, lanes, 5)] == (late if has_floors else third)


# --- finish -----------------------------------------------------------------------------------------------------


def test_a_lost_lease_writes_nothing(bench: Bench) -> None:
    ids = bench.add(3)
    lost = bench.claim()
    assert bench.end(lost, HandedBack()).accepted == {one.lease for one in lost}
    held = bench.claim()
    assert [one.fence for one in held] == [2, 2, 2]
    report = Report.info("from the dead")
    for late in (
        Done(result="1"),
        Failed(error="boom", permanent=True),
        Failed(error="b"),
        Parked(why="?"),
        Cancelled(),
    ):
        done = bench.end(lost, late, retry=5)
        assert (done.accepted, done.ready) == (set(), [])
    assert bench.end(lost, Done(report=report), again=True).accepted == set()
    assert not bench.call(mark_started, lost[0].lease, 0.0)
    assert bench.states(*ids) == [State.RUNNING] * 3
    assert bench.query("SELECT job_id FROM {attempts}") == []
    assert [one.lease for one in held] == [Lease(id, 2) for id in ids]
    assert bench.end(held).accepted == {one.lease for one in held}


def test_a_batch_ends_in_part_when_some_leases_are_lost(bench: Bench) -> None:
    bench.add(4)
    claims = bench.claim()
    bench.end(claims[1:2], HandedBack())
    done = bench.end(claims[:3])
    assert done.accepted == {claims[0].lease, claims[2].lease}
    assert bench.states(*[one.id for one in claims]) == [
        State.SUCCEEDED,
        State.READY,
        State.SUCCEEDED,
        State.RUNNING,
    ]


@pytest.mark.rows("C36")
@pytest.mark.parametrize("state", ENDS)
def test_every_end_is_stamped(bench: Bench, state: State) -> None:
    job = bench.job(bench.make(state))
    assert job.state is state
    assert job.finished_at is not None


@pytest.mark.rows("S2.79", "S3.47")
def test_what_is_written_at_the_end_is_read_as_it_was(bench: Bench) -> None:
    text = 'a "quoted" \\ back\\n\nline\ttab é 漢 😀 %s :now {jobs} \u2028'
    report = Report.warning(text, Report.error("deep", data={"n": [1, None]}))
    bench.add()
    (run,) = bench.claim()
    assert bench.end([run], Done(result=json.dumps(text), report=report, note=text)).accepted == {run.lease}
    job = bench.job(run.id)
    assert (job.state, job.error) == (State.FAILED, "deep")
    assert (json.loads(job.result), job.report, job.note) == (text, report, text)
    assert job.run_seconds == 1.0
    (kept,) = bench.query("SELECT error, attempt, finished_at - started_at FROM {attempts}")
    assert kept == ("deep", 1, 1_000_000)


def test_a_character_that_no_database_stores_costs_no_batch(bench: Bench) -> None:
    bench.add(2)
    claims = bench.claim()
    odd = "nul \x00 and half a pair \ud83d"
    assert bench.end(claims[:1], Failed(error=odd, traceback=odd, permanent=True)).accepted
    assert bench.end(claims[1:], Failed(error=odd, traceback=odd, retry_in=9)).accepted
    assert {bench.job(one.id).error for one in claims} == {"nul \ufffd and half a pair \ufffd"}


def test_a_failure_with_attempts_left_waits(bench: Bench) -> None:
    bench.add(queue="q", priority=7)
    (run,) = bench.claim()
    done = bench.end([run], Failed(error="boom", traceback="line 1"), retry=3)
    assert (done.accepted, done.ready) == ({run.lease}, [])
    job = bench.job(run.id)
    assert (job.state, job.attempt, job.error, job.worker_id) == (State.RETRYING, 1, "boom", None)
    assert (job.run_at - job.created_at).total_seconds() == 60
    assert (job.ready_at, job.claimed_at, job.started_at) == (None, None, None)


def test_a_failure_that_is_tried_again_at_once_is_ready(bench: Bench) -> None:
    bench.add(queue="q", priority=7)
    (run,) = bench.claim()
    ready = bench.end([run], Failed(error="boom", retry_in=0.0), retry=3).ready
    assert ready == [Ready(run.id, "q", 7)]
    assert [(one.fence, one.attempt) for one in bench.claim()] == [(2, 2)]


def test_a_snooze_does_not_count(bench: Bench) -> None:
    bench.add()
    (run,) = bench.claim()
    bench.snooze([run], 30)
    job = bench.job(run.id)
    assert (job.state, job.attempt, job.snoozes, job.fence) == (State.SCHEDULED, 0, 1, 1)
    assert (job.run_at - job.created_at).total_seconds() == 30


def test_a_job_that_nobody_here_knows_is_parked(bench: Bench) -> None:
    bench.add()
    (run,) = bench.claim()
    bench.end([run], Parked(why="no task t", signature=5))
    job = bench.job(run.id)
    assert (job.state, job.reason, job.attempt, job.note) == (
        State.BLOCKED,
        Reason.UNKNOWN_TASK,
        0,
        "no task t",
    )
    assert bench.query("SELECT signature FROM {jobs}") == [(5,)]


def test_a_death_is_counted_when_the_job_surely_ran(bench: Bench) -> None:
    bench.add(2)
    sure, perhaps = bench.claim()
    assert bench.call(mark_started, sure.lease, 2.0)
    assert not bench.call(mark_started, sure.lease, 0.0)  # once is enough
    bench.end([sure], Died(started=True))
    bench.end([perhaps], Died(started=False))
    first, second = bench.job(sure.id), bench.job(perhaps.id)
    assert (first.state, first.attempt, first.crashes, first.flags) == (State.READY, 0, 1, Flag(0))
    assert (second.state, second.attempt, second.crashes, second.flags) == (State.READY, 0, 0, Flag.SUSPECT)
    bench.end([one for one in bench.claim() if one.id == perhaps.id], HandedBack())
    assert bench.job(perhaps.id).flags == Flag(0)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Done(result="1"), State.SUCCEEDED),
        (Failed(error="boom"), State.CANCELLED),
        (HandedBack(), State.CANCELLED),
        (Cancelled(), State.CANCELLED),
    ],
)
def test_after_a_cancel_a_run_may_succeed_but_is_not_started_again(bench: Bench, outcome: Any, state: State) -> None:
    bench.add()
    (run,) = bench.claim()
    (moved,) = bench.move(control.cancel, [run.id])
    assert (moved.before, moved.after) == (State.RUNNING, State.RUNNING)
    assert bench.end([run], outcome, retry=9).accepted == {run.lease}
    assert bench.states(run.id) == [state]


def test_a_job_that_was_held_while_it_ran_is_not_started_again(bench: Bench) -> None:
    bench.add()
    (run,) = bench.claim()
    bench.move(control.hold, [run.id])
    assert bench.end([run], HandedBack()).ready == []
    assert (bench.job(run.id).state, bench.job(run.id).reason) == (State.BLOCKED, Reason.HELD)


def test_a_commit_without_an_answer_is_found_to_have_happened(bench: Bench) -> None:
    bench.add(3)
    done, waits, lost = bench.claim()
    bench.end([done])
    bench.snooze([waits], 5)
    bench.end([lost], HandedBack())
    bench.claim()
    assert bench.end([done, waits, lost]).accepted == set()
    assert bench.end([done], again=True).accepted == {done.lease}
    assert bench.end([waits], Snoozed(delay=5), again=True).accepted == {waits.lease}
    assert bench.end([lost], HandedBack(), again=True).accepted == set()


# --- control ----------------------------------------------------------------------------------------------------


def moves(moved: list[control.Moved]) -> list[tuple[State | None, State | None]]:
    return [(one.before, one.after) for one in moved]


def test_cancel_ends_what_waits_and_asks_what_runs(bench: Bench) -> None:
    ids = {state: bench.make(state) for state in State}
    asked = [*reversed(ids.values()), 99_999, ids[State.READY]]
    moved = bench.move(control.cancel, asked, "not needed")
    assert [one.id for one in moved] == asked
    assert dict(moves(moved)) == {
        **dict.fromkeys(LIVE, State.CANCELLED),
        State.RUNNING: State.RUNNING,
        **dict.fromkeys(ENDS, None),
        None: None,
    }
    for state in LIVE:
        job = bench.job(ids[state])
        if state is State.RUNNING:
            assert (job.state, job.flags) == (State.RUNNING, Flag.CANCEL)
        else:
            assert (job.state, job.note, job.reason, job.ready_at) == (
                State.CANCELLED,
                "not needed",
                None,
                None,
            )
            assert job.finished_at is not None
    assert set(bench.query("SELECT state FROM {jobs}")) == {(1,)}


def test_a_held_job_waits_until_it_is_released(bench: Bench) -> None:
    ids = {state: bench.make(state) for state in State}
    moved = bench.move(control.hold, list(ids.values()), note="ann is looking")
    after = {state: state for state in LIVE} | dict.fromkeys(ENDS, None) | {State.READY: State.BLOCKED}
    assert dict(moves(moved)) == after
    held = bench.job(ids[State.READY])
    assert (held.reason, held.ready_at, held.note) == (Reason.HELD, None, "ann is looking")
    assert all(bench.job(ids[state]).flags == Flag.HELD for state in LIVE)
    assert bench.job(ids[State.BLOCKED]).reason is Reason.UNKNOWN_TASK
    assert bench.claim() == []

    bench.clock.forward(5)
    moved = bench.move(control.release, [*ids.values(), 99_999])
    assert {one.id: one.after for one in moved} == {
        **{id: state for state, id in ids.items()},
        **dict.fromkeys([ids[state] for state in ENDS]),
        99_999: None,
    }
    freed = bench.job(ids[State.READY])
    assert (freed.state, freed.reason, freed.note, freed.flags) == (State.READY, None, None, Flag(0))
    assert (freed.ready_at - freed.created_at).total_seconds() == 5
    assert all(bench.job(ids[state]).flags == Flag(0) for state in LIVE)
    assert bench.job(ids[State.BLOCKED]).state is State.BLOCKED  # it still waits for somebody who knows its task


def test_retry_starts_an_ended_job_over_under_its_id_and_with_its_fence(bench: Bench) -> None:
    id = bench.make(State.FAILED)
    bench.query(
        "UPDATE {history} SET crashes = 2, snoozes = 3, flags = 14, run_at = 1, signature = 9 WHERE id = :i",
        i=id,
    )
    (moved,) = bench.move(control.retry, [id])
    assert (moved.before, moved.after, moved.queue, moved.priority) == (
        State.FAILED,
        State.READY,
        "way-failed",
        100,
    )
    job = bench.job(id)
    assert (job.state, job.attempt, job.crashes, job.snoozes, job.fence) == (State.READY, 0, 0, 0, 1)
    assert (job.flags, job.error, job.run_at) == (Flag.FAIL_ON_CRASH, "boom", None)
    assert (job.worker_id, job.claimed_at, job.started_at, job.finished_at) == (None, None, None, None)
    assert bench.query("SELECT id FROM {history}") == []
    assert [(one.id, one.fence, one.attempt) for one in bench.claim()] == [(id, 2, 1)]
    assert bench.query("SELECT fence FROM {attempts}") == [(1,)]


def test_retry_from_each_state(bench: Bench) -> None:
    ids = {state: bench.make(state) for state in State}
    moved = dict(moves(bench.move(control.retry, [*ids.values(), 99_999])))
    ready = (State.READY, State.SCHEDULED, State.RETRYING, State.FAILED, State.CANCELLED)
    assert moved == {**dict.fromkeys(State), **dict.fromkeys(ready, State.READY), None: None}
    assert bench.states(*[ids[state] for state in ready]) == [State.READY] * 5
    assert bench.job(ids[State.SCHEDULED]).run_at is None
    (again,) = bench.move(control.retry, [ids[State.SUCCEEDED]], force=True)
    assert again.after is State.READY
    assert bench.job(ids[State.SUCCEEDED]).result is None


@pytest.mark.parametrize("state", [State.SCHEDULED, State.RETRYING, State.CANCELLED])
def test_retry_of_a_held_job_leaves_it_held(bench: Bench, state: State) -> None:
    id = bench.make(State.SCHEDULED if state is State.CANCELLED else state)
    bench.move(control.hold, [id])
    if state is State.CANCELLED:
        bench.move(control.cancel, [id])
    (moved,) = bench.move(control.retry, [id])
    assert (moved.before, moved.after) == (state, State.BLOCKED)
    assert (bench.job(id).reason, bench.job(id).ready_at) == (Reason.HELD, None)
    assert moves(bench.move(control.release, [id])) == [(State.BLOCKED, State.READY)]


def in_a_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_of_two_operators_who_retry_at_once_one_wins_and_the_other_finds_it_live(bench: Bench) -> None:
    ids = [bench.make(State.FAILED) for _ in range(3)]
    with bench.another() as other:
        with bench.transaction() as connection:
            mine, _ = control.retry(connection, bench.tables, ids)
            thread, theirs = in_a_thread(lambda: other.move(control.retry, ids[::-1]))
            thread.join(0.5)  # time to run into our locks
            assert not theirs
        thread.join(30)
    assert moves(mine) == [(State.FAILED, State.READY)] * 3
    assert moves(theirs[0]) == [(State.READY, State.READY)] * 3
    assert bench.states(*ids) == [State.READY] * 3


def test_a_cancel_that_meets_the_end_of_a_run_loses(bench: Bench) -> None:
    bench.add()
    (run,) = bench.claim()
    with bench.another() as other:
        with bench.transaction() as connection:
            finish(connection, bench.tables, [Finish(run, decide(run, Done()))])
            thread, theirs = in_a_thread(lambda: other.move(control.cancel, [run.id]))
            thread.join(0.5)
            assert not theirs
        thread.join(30)
    assert moves(theirs[0]) == [(State.SUCCEEDED, None)]
    assert bench.states(run.id) == [State.SUCCEEDED]


def test_a_long_list_is_moved_in_chunks_and_told_in_its_order(bench: Bench) -> None:
    ids = bench.add(2500)[::-1]
    assert [one.id for one in bench.move(control.cancel, ids)] == ids
    assert set(moves(bench.move(control.retry, ids))) == {(State.CANCELLED, State.READY)}
    assert bench.move(control.hold, []) == []
    assert len(bench.claim(5000)) == 2500


def test_a_worker_hears_what_is_wanted_of_its_jobs(bench: Bench) -> None:
    bench.add(4)
    worker = bench.worker()
    claims = bench.claim(3, worker=worker)
    (other,) = bench.claim(1)
    assert bench.call(control.requested, worker) == []
    bench.move(control.cancel, [claims[0].id, claims[2].id, other.id])
    bench.move(control.hold, [claims[2].id])
    assert bench.call(control.requested, worker) == [
        (claims[0].lease, Flag.CANCEL),
        (claims[2].lease, Flag.CANCEL | Flag.HELD),
    ]


# --- prune ------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C36", "C100")
def test_pruning_goes_by_state_and_by_the_time_of_the_end(bench: Bench) -> None:
    job = {"max_attempts": 1, "labels": {"a": "b"}}
    old = [bench.make(State.FAILED, **job) for _ in range(5)]
    kept = [bench.make(State.SUCCEEDED), bench.make(State.READY)]
    bench.call(output.write, [output.Line(id, 1, "log", "hello") for id in [*old, *kept]])
    running = bench.make(State.RUNNING)
    bench.clock.forward(100)
    young = bench.make(State.FAILED, **job)
    assert bench.call(prune.prune_batch, State.FAILED, 101) == 0
    assert bench.call(prune.count_prunable, State.FAILED, 50) == 5
    assert bench.call(prune.count_prunable, State.FAILED, 50, cap=3) == 4
    assert bench.call(prune.prune_batch, State.FAILED, 50, limit=2) == 2
    assert [row[0] for row in bench.query("SELECT id FROM {history} WHERE state = 11 ORDER BY id")] == [
        *old[2:],
        young,
    ]
    assert bench.call(prune.prune_batch, State.FAILED, 50) == 3
    assert bench.call(prune.prune_batch, State.FAILED, 50) == 0
    assert bench.states(*kept, running, young) == [State.SUCCEEDED, State.READY, State.RUNNING, State.FAILED]
    for side, left in {"labels": [young], "attempts": [young], "output": kept}.items():
        assert [row[0] for row in bench.query(f"SELECT job_id FROM {{{side}}} ORDER BY job_id")] == left


def test_only_ends_are_pruned(bench: Bench) -> None:
    with pytest.raises(BadOption):
        bench.call(prune.prune_batch, State.READY, 1)


def test_a_job_that_is_being_retried_is_not_pruned(bench: Bench) -> None:
    if bench.database.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first, second = [bench.make(State.FAILED, labels={"a": "b"}) for _ in range(2)]
    bench.clock.forward(10)
    with bench.another() as other, bench.transaction() as connection:
        control.retry(connection, bench.tables, [first])
        assert other.call(prune.prune_batch, State.FAILED, 5) == 1
    assert bench.states(first) == [State.READY]
    assert bench.query("SELECT job_id FROM {labels}") == [(first,)]
    assert bench.query("SELECT id FROM {history} WHERE id = :i", i=second) == []


def test_workers_long_gone_are_forgotten_unless_a_job_is_still_with_them(bench: Bench) -> None:
    bench.add()
    alive, dead, holder = bench.worker(), bench.worker(state=1), bench.worker()
    bench.claim(1, worker=holder)
    bench.query("UPDATE {workers} SET state = 1, ended_at = beat_at WHERE id = :i", i=holder)
    bench.clock.forward(100)
    recent = bench.worker(state=2)
    assert bench.call(prune.prune_workers, 101) == 0
    assert bench.call(prune.prune_workers, 50) == 1
    left = {row[0] for row in bench.query("SELECT id FROM {workers}")}
    assert dead not in left
    assert {alive, holder, recent} <= left
