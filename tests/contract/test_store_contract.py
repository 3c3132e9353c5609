"""The promises of a store, kept by the SQL store on each database; and what only an SQL store can be asked."""

from __future__ import annotations

import functools
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text

from dray.errors import WorkerGone
from dray.job import Died, Failed, Flag, HandedBack, NewJob, Reason, State
from dray.store import base, open_store
from dray.store.claim import claim as claim_within
from dray.store.connect import Database as Pool
from dray.store.lanes import SWEEP_EVERY, Lanes
from dray.store.rescue import Watch
from dray.store.sql import SqlStore
from dray.store.tables import Tables
from dray.store.workers import Beat
from dray.testing import Clock
from dray.testing.store_contract import (
    Crew,
    OpenAgain,
    StoreContract,
    add,
    claim,
    claim_all,
    each,
    end,
    hire,
    see,
    some,
)
from tests.servers import Database

# --- fixtures -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_again(database: Database, clock: Clock) -> OpenAgain:
    return functools.partial(open_store, database.url, create_tables=True, clock=clock)


@pytest.fixture
def store(open_again: Callable[[], SqlStore]) -> Iterator[SqlStore]:
    store = open_again()
    store.ensure()
    yield store
    store.close()


@pytest.fixture(scope="module")
def racers() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()


@pytest.fixture
def several_writers(database: Database) -> None:
    if database.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")


@contextmanager
def open_transaction(store: SqlStore) -> Iterator[Any]:
    with store.database.engine.connect() as connection:
        connection.exec_driver_sql(store.database.dialect.begin)
        yield connection
        connection.exec_driver_sql("COMMIT")


def stranger(url: str) -> Engine:
    """Somebody with the driver's usual settings."""
    return create_engine(url, poolclass=NullPool)


def sql(store: SqlStore, statement: str, **values: Any) -> list[Any]:
    """Run a statement with the tables' short names in braces."""

    def run(connection: Any) -> list[Any]:
        result = connection.execute(store.tables.text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []

    return store.database.transact(run)


# --- the contract ---------------------------------------------------------------------------------------------------------


class TestSqlStore(StoreContract):
    @pytest.fixture
    def clock(self, clock: Clock) -> Clock:
        return clock

    @pytest.fixture
    def open_again(self, open_again: OpenAgain) -> OpenAgain:
        return open_again

    @pytest.fixture
    def one_writer_at_a_time(self, database: Database) -> bool:
        return database.name == "sqlite"

    @pytest.fixture
    def slow_claim(self, store: SqlStore) -> Callable[[int], AbstractContextManager[list[int]]]:
        @contextmanager
        def slow(count: int) -> Iterator[list[int]]:
            with open_transaction(store) as connection:
                yield [one.id for one in claim_within(connection, store.tables, hire(store), Lanes(), count)]

        return slow


PARTS = {base.Store: SqlStore, base.Desk: "desk", base.Roster: "roster", base.Bell: "bell"}


def test_the_door_describes_what_stands_behind_it(tmp_path: Any) -> None:
    store = open_store(f"sqlite:///{tmp_path}/dray.db")
    for promised, part in PARTS.items():
        real = type(getattr(store, part)) if isinstance(part, str) else part
        methods = [name for name in dir(promised) if not name.startswith("_") and callable(getattr(promised, name))]
        for name in methods:
            there = [*inspect.signature(getattr(promised, name)).parameters.values()]
            here = [*inspect.signature(getattr(real, name)).parameters.values()]
            assert [(one.name, one.kind, one.default) for one in here] == [(one.name, one.kind, one.default) for one in there]
            assert (getattr(promised, name).__doc__ or "").strip(), f"{name} promises nothing"
        offered = {name for name, value in vars(real).items() if not name.startswith("_") and inspect.isfunction(value)}
        if part != "bell":  # the others of its methods are the store's own
            assert offered == set(methods)


# --- races ----------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C15")
def test_of_a_claim_and_a_cancel_one_comes_first(store: SqlStore, open_again: OpenAgain, racers: Crew) -> None:
    ids = add(store, 200)
    there = [(ids[start : start + 9],) for start in range(0, 200, 9)]
    back = [([*reversed(part[0])],) for part in reversed(there)]
    works = (claim_all, 7), (claim_all, 5), (cancel_at_once, there), (cancel_at_once, back)
    first, second, *moves = racers.race(open_again, *works)
    runs = [one.id for batches in (first, second) for batch in batches for one in batch]
    before = {id: {moved[id] for moved in moves} for id in ids}
    ended = {row[0] for row in sql(store, "SELECT id FROM {history} WHERE state = 12 AND fence = 0")}
    asked = {row[0] for row in sql(store, "SELECT id FROM {jobs} WHERE state = 1 AND flags = 2 AND fence = 1")}
    assert sorted(runs) == sorted(asked)
    assert sorted([*ended, *asked]) == ids
    # One of the two ended what nobody ran, and the other found it so.
    assert all(before[id] == {State.READY, State.CANCELLED} for id in ended)
    assert all(before[id] == {State.RUNNING} for id in asked)


def cancel_at_once(store: SqlStore, meet: Any, parts: list[tuple[list[int]]]) -> dict[int, State | None]:
    meet()
    return {one.id: one.before for (ids,) in parts for one in store.desk.cancel(ids)}


def test_of_two_who_retry_an_ended_job_one_does(store: SqlStore, open_again: OpenAgain, racers: Crew) -> None:
    ids = add(store, 60, max_attempts=1)
    store.finish([end(one, Failed(error="x")) for one in claim(store)])
    calls = [([id],) for id in ids]
    first, second = racers.race(open_again, *[(each, "desk.retry", calls)] * 2)
    for (one,), (two,) in zip(first, second, strict=True):
        assert {one.before, two.before} == {State.FAILED, State.READY}
        assert one.after is two.after is State.READY
    assert [(one.id, one.fence, one.attempt) for one in claim(store)] == [(id, 2, 1) for id in ids]
    assert sql(store, "SELECT count(*) FROM {history}") == [(0,)]


def test_of_two_rescuers_each_frees_what_the_other_has_not(store: SqlStore, open_again: OpenAgain, racers: Crew) -> None:
    ids = add(store, 200)
    worker = hire(store)
    for run in claim(store, worker=worker):
        store.mark_started(run.lease)
    store.roster.leave(worker)
    told = racers.race(open_again, *[(each, "rescue", [(20,)] * 20)] * 2)
    assert sorted(one.id for answers in told for answer in answers for one in answer.ready) == ids
    assert set(sql(store, "SELECT state, crashes, attempt FROM {jobs}")) == {(0, 1, 0)}


def test_a_finish_and_a_cancel_race_to_one_end(store: SqlStore, open_again: OpenAgain, racers: Crew) -> None:
    add(store, 100)
    runs = claim(store)
    finishes = [([end(one, Failed(error="x"))],) for one in runs]
    cancels = [([one.id],) for one in runs]
    done, asked = racers.race(open_again, (each, "finish", finishes), (each, "desk.cancel", cancels))
    for run, finished, (moved,) in zip(runs, done, asked, strict=True):
        assert finished.accepted == {run.lease}
        # Asked in time, the failure is the end; asked too late, there is a retry to be cancelled.
        assert (moved.before, moved.after) in {(State.RUNNING, State.RUNNING), (State.RETRYING, State.CANCELLED)}
        assert see(store, run.id).state is State.CANCELLED
    assert sql(store, "SELECT count(*) FROM {jobs}") == [(0,)]


# --- rescue and the watch -------------------------------------------------------------------------------------------------


def test_rescue_frees_the_runs_of_workers_that_have_no_row(store: SqlStore) -> None:
    ids = add(store, 3)
    worker = hire(store)
    claim(store, worker=worker)
    sql(store, "UPDATE {jobs} SET worker_id = 4711 WHERE id = :i", i=ids[0])
    sql(store, "UPDATE {jobs} SET worker_id = NULL WHERE id = :i", i=ids[1])
    assert [one.id for one in store.rescue().ready] == ids[:2]
    assert store.rescue().freed == 0
    assert see(store, ids[2]).state is State.RUNNING


def test_rescue_frees_no_more_than_its_limit(store: SqlStore) -> None:
    add(store, 5)
    worker = hire(store)
    claim(store, worker=worker)
    store.roster.leave(worker)
    assert [store.rescue(2).freed for _ in range(4)] == [2, 2, 1, 0]


def test_a_death_counts_where_the_job_surely_ran(store: SqlStore) -> None:
    (id,) = add(store, queue="plain")
    for crashes in (1, 2, 3):
        worker = hire(store)
        (run,) = claim(store, worker=worker)
        assert store.mark_started(run.lease)
        store.roster.leave(worker)
        rescued = store.rescue()
        job = see(store, id)
        assert (job.crashes, rescued.failed) == (crashes, [id] if crashes == 3 else [])
    assert (job.state, job.fence) == (State.FAILED, 3)
    assert (job.error or "").startswith("worker died 3 times")
    assert sorted(one.fence for one in store.desk.attempts(id)) == [1, 2, 3]


@pytest.mark.rows("S0.35")
@pytest.mark.parametrize("started", [True, False])
def test_a_job_that_must_not_run_twice_fails_with_its_worker(store: SqlStore, started: bool) -> None:
    (id,) = add(store, flags=int(Flag.FAIL_ON_CRASH))
    worker = hire(store)
    (run,) = claim(store, worker=worker)
    assert not started or store.mark_started(run.lease)
    store.roster.leave(worker)
    rescued = store.rescue()
    job = see(store, id)
    if started:
        assert (job.state, rescued.failed, job.crashes) == (State.FAILED, [id], 1)
    else:  # such a job always leaves the mark before user code, so without one it surely had not begun
        assert (job.state, job.attempt, job.crashes, job.flags) == (State.READY, 0, 0, Flag.FAIL_ON_CRASH)


def test_a_job_that_perhaps_ran_is_suspect_until_its_next_run_has_ended(store: SqlStore) -> None:
    (id,) = add(store)
    worker = hire(store)
    claim(store, worker=worker)
    store.roster.leave(worker)
    store.rescue()
    assert see(store, id).flags == Flag.SUSPECT
    (run,) = claim(store)
    assert run.flags == Flag.SUSPECT
    store.finish([end(run, HandedBack())])
    assert see(store, id).flags == Flag(0)


def test_a_rescued_job_that_is_held_or_cancelled_does_not_become_ready(store: SqlStore) -> None:
    held, cancelled = add(store, 2)
    worker = hire(store)
    claim(store, worker=worker)
    store.desk.hold([held])
    store.desk.cancel([cancelled])
    store.roster.leave(worker)
    assert store.rescue().ready == []
    assert (see(store, held).state, see(store, held).reason) == (State.BLOCKED, Reason.HELD)
    assert see(store, cancelled).state is State.CANCELLED


class Ticks:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_silent_worker_is_given_up_after_a_full_ttl_of_unbroken_watching() -> None:
    ticks = Ticks()
    watch = Watch(ttl=30, clock=ticks)
    dead, alive = Beat(1, 500), 500
    for second in range(0, 30, 5):
        ticks.now = 100.0 + second
        assert watch.observe([dead, Beat(2, alive := alive + 1)]) == []
    ticks.now = 129.999
    assert watch.observe([dead, Beat(2, alive + 1)]) == []
    ticks.now = 130.0
    assert watch.observe([dead, Beat(2, alive + 2)]) == [dead]


def test_what_was_seen_before_the_connection_broke_does_not_count() -> None:
    ticks = Ticks()
    watch = Watch(ttl=30, clock=ticks)
    for second in range(0, 30, 5):
        ticks.now = 100.0 + second
        watch.observe([Beat(1, 500)])
    watch.broken()
    for second in range(30, 60, 5):
        ticks.now = 100.0 + second
        assert watch.observe([Beat(1, 500)]) == []
    ticks.now = 160.0
    assert watch.observe([Beat(1, 500)]) == [Beat(1, 500)]


def test_a_watcher_that_slept_itself_begins_anew() -> None:
    ticks = Ticks()
    watch = Watch(ttl=30, clock=ticks)
    watch.observe([Beat(1, 500)])
    ticks.now += 31  # stopped, or the machine was asleep: so was the worker, perhaps
    assert watch.observe([Beat(1, 500)]) == []
    ticks.now += 15
    assert watch.observe([Beat(1, 500)]) == []
    ticks.now += 15
    assert watch.observe([Beat(1, 500)]) == [Beat(1, 500)]


def test_a_worker_that_moved_or_left_meanwhile_is_watched_anew() -> None:
    ticks = Ticks()
    watch = Watch(ttl=30, clock=ticks)
    watch.observe([Beat(1, 500)])
    for beats in ([], [Beat(1, 500)], [Beat(1, 501)], [Beat(1, 500)], [Beat(1, 500)]):
        ticks.now += 10
        assert watch.observe(beats) == []
    ticks.now += 10
    assert watch.observe([Beat(1, 500)]) == []
    ticks.now += 10
    assert watch.observe([Beat(1, 500)]) == [Beat(1, 500)]


def test_the_next_look_is_when_a_watch_ends_if_that_is_sooner() -> None:
    ticks = Ticks()
    watch = Watch(ttl=30, clock=ticks)
    assert watch.next_look(5) == 5
    watch.observe([Beat(1, 500)])
    assert watch.next_look(5) == 5
    ticks.now += 28
    assert watch.next_look(5) == pytest.approx(2.001)


def test_the_heartbeat_moves_the_row_and_learns_of_its_death(database: Database) -> None:
    store = open_store(database.url, create_tables=True)
    store.ensure()
    worker = hire(store)
    plan = json.loads(json.dumps(store.roster.heartbeat_plan(worker)))
    (before,) = store.roster.beats()

    def say(word: str) -> int:
        with stranger(database.url).begin() as connection:
            return connection.exec_driver_sql(plan[word]).rowcount

    deadline = threading.Event()
    while store.roster.beats() == [before] and not deadline.wait(0.002):
        assert say("beat") == 1
    (after,) = store.roster.beats()
    assert after.beat_at > before.beat_at
    assert not store.roster.declare_dead(before)
    assert say("death") == 1
    assert (say("death"), say("beat"), store.roster.beats()) == (0, 0, [])
    (row,) = store.roster.listing(alive_only=False)
    assert (row.id, row.state) == (worker, "dead")
    assert row.ended_at is not None
    add(store)
    with pytest.raises(WorkerGone):
        claim(store, worker=worker)
    store.close()


# --- time -----------------------------------------------------------------------------------------------------------------


def test_every_rule_goes_by_the_clock_of_the_test(store: SqlStore, clock: Clock) -> None:
    begin = clock()
    (later,) = add(store, run_at=begin + 10_000_000)
    (fails,) = add(store)
    (run,) = claim(store)
    assert run.id == fails
    assert (run.created_at, run.claimed_at) == (begin, begin)
    clock.forward(5)
    store.mark_started(run.lease, ago=2.0)
    assert sql(store, "SELECT started_at FROM {jobs} WHERE id = :i", i=fails) == [(begin + 3_000_000,)]
    store.finish([end(run, Failed(error="x"))])
    assert sql(store, "SELECT run_at FROM {jobs} ORDER BY run_at") == [(begin + 10_000_000,), (begin + 65_000_000,)]
    assert store.promote() == ([], 5.0)
    clock.forward(5)
    assert [one.id for one in store.promote().ready] == [later]
    assert sql(store, "SELECT ready_at FROM {jobs} WHERE id = :i", i=later) == [(begin + 10_000_000,)]
    (run,) = claim(store)
    store.finish([end(run)._replace(ran=3.0, ended_ago=1.0)])
    ended = sql(store, "SELECT started_at, finished_at FROM {history}")
    assert ended == [(begin + 6_000_000, begin + 9_000_000)]
    clock.forward(100)
    assert (store.desk.prune_batch(State.SUCCEEDED, 101.5), store.desk.prune_batch(State.SUCCEEDED, 100.5)) == (0, 1)
    (worker, *_) = store.roster.listing()
    assert worker.silent_for == 100.0
    assert len(store.promote().ready) == 1


def test_without_a_test_clock_time_is_that_of_the_database(database: Database) -> None:
    store = open_store(database.url, create_tables=True)
    add(store)
    (soon,) = store.add(some(1, delay=0.05))
    assert soon.state is State.SCHEDULED
    wait = store.promote().next_in
    assert wait is not None
    assert 0 <= wait <= 0.05
    told = threading.Event()
    ready: list[Any] = []
    while not ready and not told.wait(0.005):
        ready = list(store.promote().ready)
    now = sql(store, f"SELECT ready_at, {store.tables.dialect.now if database.name != 'sqlite' else 0} FROM {{jobs}}")
    assert len(now) == 2
    assert database.name == "sqlite" or all(0 <= row[1] - row[0] < 60_000_000 for row in now)
    store.close()


# --- what a single database does --------------------------------------------------------------------------------------------


def test_our_transactions_are_read_committed_whatever_is_usual_here(store: SqlStore, several_writers: None) -> None:
    name = "SHOW transaction_isolation"
    if store.database.dialect.name == "mysql":
        name = "SELECT @@tx_isolation"
        with stranger(store.database.url.render_as_string(False)).connect() as other:
            assert other.exec_driver_sql(name).scalar_one() == "REPEATABLE-READ"
    else:
        with store.database.engine.connect() as connection:
            place = connection.exec_driver_sql("SELECT current_database()").scalar_one()
            connection.exec_driver_sql(f"ALTER DATABASE {place} SET default_transaction_isolation = 'serializable'")
        store.close()
        with store.database.engine.connect() as connection:
            assert connection.exec_driver_sql(name).scalar_one() == "serializable"
    levels = [run(lambda connection: connection.exec_driver_sql(name).scalar_one()) for run in ways(store)]
    assert {level.replace("-", " ").lower() for level in levels} == {"read committed"}


def ways(store: SqlStore) -> list[Any]:
    """How what changes jobs is run; a claim also by itself, where one statement can do it."""
    return [store.database.transact, *([store.database.alone] if store.database.dialect.finds_and_takes else [])]


def test_a_transaction_that_meets_a_deadlock_is_run_again(store: SqlStore, several_writers: None) -> None:
    one, two = add(store, 2)
    both = threading.Barrier(2)
    tries = {one: 0, two: 0}

    def work(first: int, second: int) -> Callable[[Any], int]:
        def run(connection: Any) -> int:
            tries[first] += 1
            touch = text(f"UPDATE {store.tables.jobs.name} SET priority = priority + 1 WHERE id = :i")
            connection.execute(touch, {"i": first})
            if tries[first] == 1:
                both.wait(30)
            connection.execute(touch, {"i": second})
            return first

        return run

    done: list[int] = []
    threads = [
        threading.Thread(target=lambda pair=pair: done.append(store.database.transact(work(*pair))))
        for pair in ((one, two), (two, one))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [one, two]
    assert sorted(tries.values()) == [1, 2]
    assert sql(store, "SELECT priority FROM {jobs}") == [(102,), (102,)]


def make_dear(lanes: Lanes) -> None:
    """So that there is no look without floors out of turn."""
    for _ in range(3):
        lanes.swept_in(60.0)


def test_a_job_that_was_committed_late_is_found_although_others_keep_coming(
    store: SqlStore, clock: Clock, several_writers: None
) -> None:
    steady = Ticks()
    lanes = Lanes(clock=steady)
    worker = hire(store)
    with stranger(store.database.url.render_as_string(False)).connect() as producer, producer.begin():
        (late,) = store.add_within(producer, some(1))
        clock.forward(1)
        add(store, 100)
        assert late.id not in [one.id for one in store.claim(worker, lanes, 5)]
    assert lanes.floors
    make_dear(lanes)
    # It is below the floor, and there is always enough above it: only the look that is made now and then can find it.
    for _ in range(5):
        assert late.id not in [one.id for one in store.claim(worker, lanes, 5)]
    steady.now += SWEEP_EVERY[1] + 0.001
    assert late.id in [one.id for one in store.claim(worker, lanes, 5)]


def test_looks_without_a_floor_are_made_as_often_as_they_are_cheap() -> None:
    lanes = Lanes()
    lanes.swept_in(0.0)
    assert lanes.sweep_after == SWEEP_EVERY[0]
    for _ in range(3):
        lanes.swept_in(0.1)
    assert lanes.sweep_after == pytest.approx(2.0)
    for _ in range(3):
        lanes.swept_in(1000)
    assert lanes.sweep_after == SWEEP_EVERY[1]


def test_a_look_without_a_floor_out_of_turn_is_made_while_it_is_cheap() -> None:
    steady = Ticks()
    lanes = Lanes(clock=steady)
    lanes.sweep()
    lanes.swept_in(0.02)
    assert lanes.may_sweep()
    for _ in range(2):
        lanes.swept_in(0.1)
        assert lanes.may_sweep(), "a machine that was busy for a moment says nothing"
    lanes.swept_in(0.1)
    assert not lanes.may_sweep()
    steady.now += 2.0
    assert lanes.may_sweep()


def test_however_dear_a_look_without_a_floor_is_made_in_the_end() -> None:
    steady = Ticks()
    lanes = Lanes(clock=steady)
    lanes.sweep()
    for _ in range(3):
        lanes.swept_in(600.0)
    assert not lanes.may_sweep()
    steady.now += SWEEP_EVERY[1]
    assert lanes.may_sweep()


def test_while_looks_without_floors_are_dear_those_in_vain_keep_the_floors(store: SqlStore, several_writers: None) -> None:
    steady = Ticks()
    lanes, worker = Lanes(clock=steady), hire(store)
    add(store, 3)
    store.finish([end(one) for one in store.claim(worker, lanes, 5)])
    assert lanes.floors
    make_dear(lanes)
    for _ in range(3):
        steady.now += 1.0
        assert store.claim(worker, lanes, 5) == []
        assert lanes.floors
    (late,) = add(store, 1)
    steady.now += 1.0
    assert [one.id for one in store.claim(worker, lanes, 5)] == [late]


def test_queues_of_one_priority_take_turns_at_being_first(store: SqlStore) -> None:
    for queue in "abc":
        add(store, 30, queue=queue)
    worker, pickup = hire(store), store.pickup([])
    first = {store.claim(worker, pickup, 1)[0].queue for _ in range(3)}
    assert first == {"a", "b", "c"}


def test_an_urgent_job_is_seen_however_many_are_ready(store: SqlStore) -> None:
    steady = Ticks()
    lanes, worker = Lanes(clock=steady), hire(store)
    add(store, 50)
    assert len(store.claim(worker, lanes, 10)) == 10
    (urgent,) = add(store, priority=1, queue="new")
    steady.now += 0.051
    assert store.claim(worker, lanes, 1)[0].id == urgent


def test_ids_of_a_drained_table_are_not_given_out_again(store: SqlStore) -> None:
    last = max(add(store, 3))
    claim(store)
    sql(store, "DELETE FROM {jobs}")
    store.close()
    assert add(store)[0] > last
    sql(store, "UPDATE {workers} SET state = 2")
    worker = hire(store)
    sql(store, "DELETE FROM {workers}")
    assert hire(store) > worker


def test_who_reads_does_not_keep_others_from_writing(store: SqlStore) -> None:
    ids = add(store, 3)
    with store.database.engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        count = text(f"SELECT count(*) FROM {store.tables.jobs.name}")
        assert reader.execute(count).scalar_one() == 3
        runs = claim(store)
        assert [one.id for one in runs] == ids
        assert len(store.finish([end(one) for one in runs]).accepted) == 3
        reader.exec_driver_sql("ROLLBACK")
        assert reader.execute(count).scalar_one() == 0


def test_a_writer_waits_for_the_file_and_for_no_error(database: Database, store: SqlStore) -> None:
    if database.name != "sqlite":
        pytest.skip("only SQLite locks the whole database")
    with open_transaction(store) as connection:
        connection.execute(text(f"UPDATE {store.tables.jobs.name} SET priority = 1"))
        other = open_store(database.url)
        done: list[list[int]] = []
        thread = threading.Thread(target=lambda: done.append(add(other, 3)))
        thread.start()
        thread.join(0.3)
        assert done == []
    thread.join(30)
    assert len(done[0]) == 3
    other.close()


def test_who_exchanges_is_told_that_he_has_to_wait(database: Database, store: SqlStore) -> None:
    if database.name != "sqlite":
        pytest.skip("only SQLite locks the whole database")
    add(store, 1)
    other = open_store(database.url)
    worker, pickup = hire(other), other.pickup([])
    ends = [end(one) for one in other.claim(worker, pickup, 1)]
    told = threading.Event()
    with open_transaction(store) as connection:
        connection.execute(text(f"UPDATE {store.tables.jobs.name} SET priority = 1"))
        thread = threading.Thread(target=lambda: other.exchange(worker, pickup, ends, 0, begun=told.set))
        thread.start()
        assert told.wait(30)
    thread.join(30)
    assert see(store, ends[0].claim.id).state is State.SUCCEEDED
    other.close()


def test_an_idle_worker_asks_one_question_and_takes_no_lock(store: SqlStore) -> None:
    worker, pickup = hire(store), store.pickup([])
    pickup.clock = lambda: 0.0  # however long a look takes here, it is cheap
    assert store.claim(worker, pickup, 10) == []
    said: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    assert store.claim(worker, pickup, 10) == []
    assert len(said) == 1
    assert said[0].startswith(("WITH RECURSIVE", "SELECT", "(SELECT"))


def test_a_batch_of_ends_is_a_handful_of_statements_whatever_its_size(store: SqlStore) -> None:
    add(store, 300)
    runs = claim(store)
    said: list[str] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    assert len(store.finish([end(one) for one in runs]).accepted) == 300
    assert len(said) <= 6  # the last one asks, after the commit, who waits for these


def test_two_apps_in_one_database_do_not_see_each_other(database: Database, clock: Clock) -> None:
    stores = [open_store(database.url, prefix=prefix, create_tables=True, clock=clock) for prefix in ("one_", "two_")]
    ids = [add(store, 2) for store in stores]
    assert [[one.id for one in claim(store)] for store in stores] == ids
    for store in stores:
        store.close()


def test_tables_are_those_of_the_prefix(store: SqlStore) -> None:
    assert isinstance(store.tables, Tables)
    assert isinstance(store.database, Pool)
    assert {name.split("_")[0] for name in store.tables.metadata.tables} == {"dray"}


def test_a_died_outcome_is_judged_by_the_row_and_not_by_the_rescuer(store: SqlStore) -> None:
    add(store, 2, max_attempts=1)
    runs = claim(store)
    store.finish([end(one, Died(started=True)) for one in runs])
    # A death is no failed attempt: also a job that may be started only once is started again.
    assert {(one.attempt, one.crashes, one.fence) for one in claim(store)} == {(1, 1, 2)}


def test_new_jobs_have_the_fields_that_were_given(store: SqlStore) -> None:
    job = NewJob(task="t", queue="q", args="{}", key="k", owner="o", labels={"a": "b", "c": "d"}, max_attempts=3, priority=9)
    (one,) = store.add([job])
    row = see(store, one.id)
    given = (row.task, row.queue, row.args, row.key, row.owner, row.max_attempts, row.priority)
    assert given == ("t", "q", "{}", "k", "o", 3, 9)
    assert store.desk.labels([one.id]) == {one.id: {"a": "b", "c": "d"}}
