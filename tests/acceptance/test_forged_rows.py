"""Rows that somebody wrote by hand, or that rotted: none of them stops a worker, runs what is no task, or disappears."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from dray import Dray, RetryIn, Snooze, State, Task, events
from dray.errors import CodecError
from dray.job import Reason
from dray.limits import Limits
from dray.store.filters import Filter
from dray.testing import run_all
from dray.worker import Worker
from tests.servers import Database

BIG, SMALL = 2**31 - 1, 2**15 - 1  # the most that the columns hold
FAR = 2**62


# What one of the forged rows is called, what stands in it, and what its job may have become.
class Forged(NamedTuple):
    columns: dict[str, Any]
    states: set[State]
    task: str = "note"
    runs: bool | None = None  # whether user code is reached; None: it may be
    says: str = ""


DONE, FAILED, PARKED, READY = {State.SUCCEEDED}, {State.FAILED}, {State.BLOCKED}, {State.READY}
RETRIED = {State.FAILED, State.RETRYING}
LIVES = {"note": DONE, "fail": RETRIED, "snooze": {State.SCHEDULED}, "later": RETRIED}


class Shop:
    """An app with some tasks, and a note of what they were called with."""

    def __init__(self, url: str) -> None:
        self.ran: list[Any] = []
        self.app = app = Dray(url, create_tables=True, beat=0.2, ttl=1)

        @app.task
        def note(what: Any) -> Any:
            self.ran.append(what)
            return what

        @app.task
        def fail(what: Any) -> None:
            self.ran.append(what)
            raise ValueError(what)

        @app.task
        def snooze(what: Any) -> None:
            self.ran.append(what)
            raise Snooze(3600)

        @app.task
        def later(what: Any) -> None:
            self.ran.append(what)
            raise RetryIn(3600)

        @app.task
        class Form(Task):
            what: Any

            def run(self) -> None:  # type: ignore[override]
                shop.ran.append(self.what)

        shop = self
        app.store.ensure()

    def write(self, id: int, table: str = "jobs", **columns: Any) -> None:
        names = self.app.store.tables.names()
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        statement = text(f"UPDATE {names[table]} SET {changes} WHERE id = :id")
        self.app.store.database.transact(lambda connection: connection.execute(statement, {**columns, "id": id}))

    def forge(self, rows: list[Forged]) -> dict[int, Forged]:
        """Jobs that are claimed before all others, and have something wrong in their rows."""
        forged = {}
        for number, row in enumerate(rows):
            job = self.app.using(priority=1).enqueue(row.task, what=f"forged {number}")
            self.write(job.id, **row.columns)
            forged[job.id] = row
        return forged

    def work(self) -> None:
        """Run the real worker: it has to come to an end by itself, as when nothing were wrong."""
        ended: list[Any] = []
        unlisten = events.listen(lambda event, facts: ended.append(facts["why"]) if event == "worker.stopping" else None)
        try:
            Worker(self.app, concurrency=1, limits=Limits(burst=True, max_time=60)).run()
        finally:
            unlisten()
        assert ended == ["nothing left to do"]

    def check(self, rows: list[Forged]) -> dict[int, Any]:
        """Forge the rows, work, and see what became of them and of those beside them; then look at all as people do."""
        forged = self.forge(rows)
        good = self.app.enqueue_many(self.app.using().bind("note", number) for number in range(3))
        self.work()
        assert [job.refresh().result for job in good] == [0, 1, 2]
        assert [one for one in self.ran if isinstance(one, int)] == [0, 1, 2]
        desk = self.app.store.desk
        jobs = {id: desk.job(id) for id in forged}
        for number, (id, row) in enumerate(forged.items()):
            job = jobs[id]
            assert job is not None, row
            assert job.state in row.states, (row, job)
            assert row.runs is None or (f"forged {number}" in self.ran) is row.runs, (row, job)
            assert row.says in f"{job.error} {job.note}", (row, job)
        assert {job.id for job in desk.jobs(Filter(), limit=1000)} >= {*forged}
        assert sum(desk.counts().values()) >= 3
        desk.queues()
        return jobs


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    shop = Shop(database.url)
    yield shop
    shop.app.close()


# --- what it should do ----------------------------------------------------------------------------------------------------

NAMES = ["os.system", "dray.worker:Worker", "Note", "note ", "x" * 200, "'; DROP TABLE dray_jobs; --", "\u2603"]


@pytest.mark.rows("C10", "C35")
def test_a_row_runs_nothing_but_a_registered_task(shop: Shop) -> None:
    rows = [Forged({"task": name, "args": '{"a":["echo"]}'}, PARKED, runs=False, says="registered") for name in NAMES]
    jobs = shop.check(rows)
    assert {(job.reason, job.attempt) for job in jobs.values()} == {(Reason.UNKNOWN_TASK, 0)}
    assert "echo" not in shop.ran


BROKEN = ["", "rm -rf /", "{", "null", "[]", '{"a":7}', '{"z":1}', '{"a":[{"$enum":["os","system"]}]}', "[" * 50_000, "\u2028"]


def test_arguments_that_cannot_be_read_fail_at_once_and_say_so(shop: Shop) -> None:
    jobs = shop.check([Forged({"args": args}, FAILED, runs=False, says="cannot be read") for args in BROKEN])
    assert {job.attempt for job in jobs.values()} == {1}


UNFIT = ["{}", '{"a":[1,2]}', '{"k":{"other":1}}', '{"k":{"self":1}}']


def test_arguments_that_do_not_fit_wait_for_code_that_can_take_them(shop: Shop) -> None:
    rows = [
        Forged({"args": args}, PARKED, task, runs=False, says=f"the signature is {task}(")
        for task in ("note", "Form")
        for args in UNFIT
    ]
    jobs = shop.check(rows)
    assert {(job.reason, job.attempt) for job in jobs.values()} == {(Reason.UNKNOWN_TASK, 0)}


def test_huge_arguments_arrive(shop: Shop) -> None:
    args = json.dumps({"a": ["x" * 3_000_000]})
    (job,) = shop.check([Forged({"args": args}, DONE, says="not stored")]).values()  # nor did anybody allow such a result
    assert len(job.args) == len(args)
    assert max(len(one) for one in shop.ran if isinstance(one, str)) == 3_000_000


STRANGE = [{"args": b'{"a":["as bytes"]}'}, {"owner": b"ab"}, {"expires_at": float("inf")}, {"snoozes": "many"}]


@pytest.mark.parametrize("columns", STRANGE, ids=[str(*columns) for columns in STRANGE])
def test_what_has_no_place_in_a_document_is_claimed_all_the_same(shop: Shop, columns: dict[str, Any]) -> None:
    if shop.app.store.tables.dialect.name != "sqlite":
        pytest.skip("only SQLite lets a column hold anything")
    shop.check([Forged(columns, DONE)])


def test_many_large_arguments_arrive_in_order(shop: Shop) -> None:
    jobs = shop.app.enqueue_many(shop.app.using().bind("note", "\u2603" * 40_000 + str(number)) for number in range(9))
    shop.work()
    assert [one[40_000:] for one in shop.ran] == [str(number) for number in range(9)]
    assert {job.refresh().state for job in jobs} == DONE


# --- numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["attempt", "max_attempts", "snoozes"])
def test_an_absurd_count_harms_nobody(shop: Shop, column: str) -> None:
    values = BIG, BIG - 1, -BIG - 1, -1
    shop.check([Forged({column: value}, LIVES[task], task, runs=True) for task in LIVES for value in values])


def test_an_absurd_number_of_crashes_harms_nobody(shop: Shop) -> None:
    values = SMALL, SMALL - 1, 3, -SMALL - 1
    dead = {"state": 1, "worker_id": 4711, "started_at": 1}
    rows = [Forged({"crashes": value}, DONE, runs=True) for value in values]
    rows += [Forged({"crashes": value, **dead}, FAILED if value > 1 else DONE) for value in values]
    shop.check(rows)


def test_a_priority_beyond_the_scale_is_only_more_or_less_urgent(shop: Shop) -> None:
    shop.check([Forged({"priority": value}, DONE, runs=True) for value in (SMALL, 1000, -1, -SMALL - 1)])
    assert [shop.ran[0], shop.ran[-1]] == ["forged 3", "forged 0"]


def test_a_fence_that_cannot_rise_stops_its_own_job_and_no_other(shop: Shop) -> None:
    jobs = shop.check([Forged({"fence": value}, DONE | READY) for value in (BIG, BIG - 1, -5)])
    highest, high, low = jobs.values()
    assert highest.state is State.READY or highest.fence > BIG  # SQLite knows no limit
    assert (high.state, high.fence, low.state, low.fence) == (State.SUCCEEDED, BIG, State.SUCCEEDED, -4)


def test_a_time_that_no_calendar_knows_harms_nobody(shop: Shop) -> None:
    rows = [Forged({column: value}, DONE) for column in ("created_at", "run_at") for value in (FAR, -FAR, 0)]
    rows += [Forged({"ready_at": value}, DONE) for value in (FAR, 0)]
    rows += [Forged({"ready_at": value}, READY | DONE) for value in (-FAR, None)]
    rows += [Forged({"state": 2, "run_at": FAR}, {State.SCHEDULED}), Forged({"state": 3, "run_at": -FAR}, DONE)]
    rows += [Forged({"state": 2, "run_at": None}, {State.SCHEDULED})]
    shop.check(rows)
    assert shop.app.store.promote().next_in is not None


def test_flags_that_nobody_gave_harm_nobody(shop: Shop) -> None:
    shop.check([Forged({"flags": flags}, DONE | {State.CANCELLED}) for flags in (BIG, -1, -BIG - 1, 1 << 20)])


# --- states and leases ----------------------------------------------------------------------------------------------------


def test_a_run_of_nobody_is_taken_over(shop: Shop) -> None:
    rows = [Forged({"state": 1, "fence": 5, "attempt": 1, "worker_id": id}, DONE, runs=True) for id in (4711, None, 0, -1, FAR)]
    shop.app.store.rescue()
    jobs = shop.check(rows)
    assert {job.fence for job in jobs.values()} == {6}


def test_a_state_that_is_none_is_left_alone_and_can_be_looked_at(shop: Shop) -> None:
    forged = shop.forge([Forged({"state": state}, set()) for state in (77, -1, 5, 10, SMALL)])
    (good,) = shop.app.enqueue_many([shop.app.using().bind("note", 1)])
    shop.work()
    assert (good.refresh().result, shop.ran) == (1, [1])
    desk = shop.app.store.desk
    assert [desk.job(id) is not None for id in forged] == [True] * 5
    assert {job.id for job in desk.jobs(Filter())} == {*forged, good.id}
    for move in (desk.cancel, desk.hold, desk.release, desk.retry):
        assert {one.after for one in move([*forged])} == {None}


def test_a_reason_that_is_none_harms_nobody(shop: Shop) -> None:
    rows = [Forged({"state": 4, "reason": reason}, PARKED, runs=False) for reason in (None, 99, 4, 1)]
    # What was parked for want of its task is known here, after all; and what is ready runs.
    shop.check([*rows, Forged({"state": 4, "reason": 5}, DONE, runs=True), Forged({"state": 0, "reason": 99}, DONE, runs=True)])


def test_names_and_numbers_that_do_not_belong_together_harm_nobody(shop: Shop) -> None:
    names = [Forged({column: "elsewhere"}, DONE, runs=True) for column in ("queue", "owner", "job_key")]
    numbers = [Forged({column: 12345}, DONE, runs=True) for column in ("queue_hash", "task_hash", "key_hash", "signature")]
    shop.check([*names, *numbers])


def test_a_worker_that_never_was_is_given_up(shop: Shop) -> None:
    ghost = shop.app.store.roster.register(host="\u2603" * 10, pid=BIG, queues="not json {", concurrency=-5)
    shop.write(ghost, "workers", beat_at=FAR, started_at=-FAR)
    (forged,) = shop.forge([Forged({"state": 1, "worker_id": ghost}, DONE)])
    Worker(shop.app, concurrency=1, limits=Limits(max_jobs=1)).run()
    assert shop.ran == ["forged 0"]
    assert shop.app.job(forged).state is State.SUCCEEDED
    assert len(shop.app.store.roster.listing(alive_only=False)) == 2


# --- what is read ---------------------------------------------------------------------------------------------------------


def test_a_report_a_result_or_an_error_that_is_garbage_can_be_looked_at(shop: Shop) -> None:
    garbage = ["", "{", "nul", '{"kind":"no","message":1}', "[" * 50_000, "x" * 70_000]
    jobs = shop.app.enqueue_many(shop.app.using().bind("note", number) for number in range(len(garbage)))
    assert run_all(shop.app) == len(garbage)
    for job, rubbish in zip(jobs, garbage, strict=True):
        shop.write(job.id, "history", report=rubbish, result=rubbish, error=rubbish, note=rubbish)
        row = job.refresh().row
        assert (row.state, row.result, row.error, row.report) == (State.SUCCEEDED, rubbish, rubbish, None)
        assert "not a stored report" in (row.note or "")
        if not rubbish.startswith('{"'):
            with pytest.raises(CodecError):
                _ = job.result
    assert {one.after for one in shop.app.store.desk.retry([job.id for job in jobs], force=True)} == {State.READY}
    assert run_all(shop.app) == len(garbage)
    assert [job.refresh().result for job in jobs] == [*range(len(garbage))]


def test_an_end_that_is_none_is_read_and_left_alone(shop: Shop) -> None:
    job = shop.app.enqueue("note", 1)
    run_all(shop.app)
    shop.write(job.id, "history", state=77, finished_at=None, started_at=None, worker_id=None)
    assert shop.app.store.desk.job(job.id) is not None
    assert [one.id for one in shop.app.store.desk.jobs(Filter())] == [job.id]
    (moved,) = shop.app.store.desk.retry([job.id])
    assert moved.after is None
