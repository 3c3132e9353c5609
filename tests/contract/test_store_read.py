"""The chapters that people look through: lists, counts, keys, attempts, labels, output. On every database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, text

from dray.job import Done, Failed, Flag, HandedBack, JobRow, Reason, State
from dray.report import Report
from dray.store import control, listing, output, prune, read
from dray.store.codes import STATE
from dray.store.filters import Filter
from tests.contract.bench import START, Bench
from tests.servers import Database

LIVE = [state for state in State if not state.ended]
BEGIN = datetime.fromtimestamp(START / 1_000_000, UTC)


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database.url)
    yield bench
    bench.close()


def listed(bench: Bench, limit: int = 50, before: int | None = None, **wanted: Any) -> list[int]:
    return [job.id for job in bench.call(read.jobs, Filter(**wanted), limit=limit, before=before)]


# --- one job and lists ----------------------------------------------------------------------------------------------


def test_a_job_reads_the_same_live_and_ended(bench: Bench) -> None:
    (id,) = bench.add(queue="mail", task="send", key="k-1", owner="ann", args='{"a": 1}', priority=5, max_attempts=3)
    live = bench.job(id)
    assert live == JobRow(
        id=id,
        state=State.READY,
        reason=None,
        queue="mail",
        task="send",
        priority=5,
        args='{"a": 1}',
        fence=0,
        attempt=0,
        max_attempts=3,
        crashes=0,
        snoozes=0,
        flags=Flag(0),
        key="k-1",
        owner="ann",
        worker_id=None,
        created_at=BEGIN,
        run_at=None,
        ready_at=BEGIN,
        claimed_at=None,
        started_at=None,
        finished_at=None,
        result=None,
        report=None,
        error=None,
        note=None,
    )
    bench.clock.forward(3)
    worker = bench.worker()
    run = bench.claim(1, worker=worker)
    bench.clock.forward(4)
    bench.end(run, Done(result="7", report=Report.info("seven"), note="done"))
    ended = bench.job(id)
    assert (ended.state, ended.worker_id, ended.fence, ended.attempt) == (State.SUCCEEDED, worker, 1, 1)
    assert (ended.result, ended.report, ended.note) == ("7", Report.info("seven"), "done")
    assert ended.claimed_at == BEGIN + timedelta(seconds=3)
    assert ended.finished_at == BEGIN + timedelta(seconds=7)
    assert ended.run_seconds == 1.0
    assert (ended.task, ended.key, ended.owner, ended.args) == ("send", "k-1", "ann", '{"a": 1}')
    assert bench.call(read.job, id + 1) is None


def test_a_list_is_paged_by_id_through_live_and_ended_jobs(bench: Bench) -> None:
    ids = [bench.make(state) for state in [*State, *State]][::-1]
    assert listed(bench) == ids
    assert listed(bench, limit=5) == ids[:5]
    assert listed(bench, limit=5, before=ids[4]) == ids[5:10]
    assert listed(bench, before=ids[-1]) == []


@pytest.mark.parametrize("few", [50_000, 0])
def test_a_list_by_states_shows_these_states_only(bench: Bench, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(listing, "FEW", few)  # from the index, or by walking back along the ids
    ids = {state: [bench.make(state), bench.make(state)] for state in State}
    for state in State:
        assert listed(bench, states=frozenset({state})) == ids[state][::-1]
    some = frozenset({State.FAILED, State.RUNNING, State.SCHEDULED})
    wanted = sorted((id for state in some for id in ids[state]), reverse=True)
    assert listed(bench, states=some) == wanted
    assert listed(bench, states=some, limit=2, before=wanted[1]) == wanted[2:4]
    assert [job.state for job in bench.call(read.jobs, Filter(states=some), limit=1)] == [State.FAILED]


@pytest.mark.rows("C50")
def test_names_are_exact(bench: Bench) -> None:
    for name in ("app", "app2", "APP", "a_p", "a%"):
        bench.add(queue=name, task=name, key=name, owner=name, labels={"shop": name})
    for field in ("queue", "task", "key", "owner"):
        assert [getattr(job, field) for job in bench.call(read.jobs, Filter(**{field: "app"}))] == ["app"]
        assert listed(bench, **{field: "a"}) == []
        assert len(listed(bench, **{field: "a%"})) == len(listed(bench, **{field: "a_p"})) == 1
    assert len(listed(bench, label=("shop", "app"))) == 1
    assert listed(bench, label=("shop", "ap")) == listed(bench, label=("sho", "app")) == []


def test_each_filter_finds_live_and_ended_jobs(bench: Bench) -> None:
    options = {"task": "send", "key": "k", "owner": "ann", "labels": {"a": "1", "b": "2"}}
    bench.add(3)
    ended = bench.make(State.FAILED, **options)
    (live,) = bench.add(queue="way-failed", **options)
    filters: list[dict[str, Any]] = [
        {"queue": "way-failed"},
        {"task": "send"},
        {"key": "k"},
        {"owner": "ann"},
        {"label": ("b", "2")},
    ]
    for wanted in [*filters, {name: value for one in filters for name, value in one.items()}]:
        assert listed(bench, **wanted) == [live, ended], wanted
        assert listed(bench, **wanted, limit=1, before=live) == [ended]
        assert listed(bench, **wanted, states=frozenset({State.FAILED})) == [ended]
        assert listed(bench, **wanted, states=frozenset({State.SUCCEEDED})) == []


def test_what_no_index_finds_is_looked_for_among_the_newest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    old = bench.add(args='{"k":{"to":"Ann@Example.org"}}', group="g")
    failed = bench.make(State.FAILED, args='{"k":{"what":"100%_sure"}}')
    (new,) = bench.add(args='{"k":{"to":"ann@example.org"}}', group="g")
    bench.add(3, args="{}")
    assert listed(bench, text="ann@EXAMPLE") == [new, *old]
    assert listed(bench, text="100%_s") == [failed]
    assert listed(bench, text="%") == [failed]  # a sign like any other
    assert listed(bench, text="100x") == []
    assert listed(bench, group="g") == [new, *old]
    assert listed(bench, group="G") == []
    assert listed(bench, text="sure", states=frozenset({State.FAILED})) == [failed]
    assert listed(bench, text="sure", states=frozenset({State.READY})) == []
    assert listed(bench, text="ann", limit=1) == [new]
    assert listed(bench, text="ann", before=new) == old
    monkeypatch.setattr("dray.store.listing.DEEP", 4)
    assert listed(bench, text="ann") == listed(bench, group="g") == [new]


def test_jobs_of_a_worker_and_blocked_ones_by_their_reason(bench: Bench) -> None:
    bench.add(2)
    worker = bench.worker()
    done, runs = bench.claim(2, worker=worker)
    bench.end([done])
    parked, (held,) = bench.make(State.BLOCKED), bench.add()
    bench.move(control.hold, [held])
    assert listed(bench, worker_id=worker) == [runs.id, done.id]
    assert listed(bench, worker_id=worker, states=frozenset({State.RUNNING})) == [runs.id]
    assert listed(bench, reason=Reason.HELD) == [held]
    assert listed(bench, reason=Reason.UNKNOWN_TASK, states=frozenset({State.BLOCKED, State.READY})) == [parked]
    assert listed(bench, reason=Reason.HELD, states=frozenset({State.READY})) == []


def test_a_list_by_time_of_creation(bench: Bench) -> None:
    ids = []
    for number in range(40):
        ids.append(bench.make(State.SUCCEEDED) if number % 3 else bench.add()[0])
        bench.clock.forward(60)
    since, until = BEGIN + timedelta(minutes=10), BEGIN + timedelta(minutes=30)
    assert listed(bench, since=since) == ids[10:][::-1]
    assert listed(bench, until=until) == ids[:30][::-1]
    assert listed(bench, since=since, until=until) == ids[10:30][::-1]
    assert listed(bench, since=since, until=until, before=ids[15]) == ids[10:15][::-1]
    assert listed(bench, since=until, until=since) == []
    assert listed(bench, since=BEGIN + timedelta(days=1)) == []
    assert len(listed(bench, since=datetime(1, 1, 1, tzinfo=UTC), until=datetime(9999, 1, 1, tzinfo=UTC))) == 40


def test_what_is_broken_in_a_row_does_not_break_the_list(bench: Bench) -> None:
    ids = [bench.make(state) for state in (State.READY, State.SUCCEEDED, State.FAILED)]
    bench.query("UPDATE {jobs} SET state = 77, reason = 99, flags = 1024, report = '[1,', note = 'old'")
    bench.query("UPDATE {history} SET report = 'no JSON', state = 78, finished_at = 9000000000000000000")
    failed, succeeded, ready = bench.call(read.jobs, Filter())
    assert [failed.id, succeeded.id, ready.id] == ids[::-1]
    assert (ready.state, ready.reason, ready.report) == (State.BLOCKED, None, None)
    assert (failed.state, failed.error, failed.finished_at) == (State.FAILED, "boom", None)
    assert ready.note is not None
    assert "77" in ready.note
    assert "not a stored report" in ready.note
    assert ready.note.endswith("old")
    assert bench.job(ids[0]) == ready


# --- counts ---------------------------------------------------------------------------------------------------------


def test_counts_stop_above_the_cap(bench: Bench) -> None:
    assert bench.call(read.counts) == dict.fromkeys(State, 0)
    for state in State:
        bench.make(state)
    assert bench.call(read.counts) == dict.fromkeys(State, 1)
    bench.add(50)
    assert bench.call(read.counts)[State.READY] == 51
    assert bench.call(read.counts, 20) == {**dict.fromkeys(State, 1), State.READY: 21}


def test_queues_tell_what_is_ready_what_runs_and_how_old_it_is(bench: Bench) -> None:
    assert bench.call(read.queues) == []
    bench.add(2, queue="busy")
    bench.claim(2, "busy")
    bench.add(queue="mail", priority=500)
    bench.clock.forward(20)
    bench.add(30, queue="mail", priority=1)
    bench.add(queue="mail", priority=2)
    bench.add(queue="later", delay=60.0)
    bench.clock.forward(10)
    assert bench.call(read.queues, 20) == [
        read.QueueCount(queue="busy", ready=0, running=2, oldest=None),
        read.QueueCount(queue="mail", ready=21, running=0, oldest=30.0),
    ]


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S2.25")
def test_unfinished_keys(bench: Bench) -> None:
    for state in State:
        bench.make(state, key=state.value)
    bench.make(State.FAILED, key="ready")
    bench.add(2, key="twice")
    bench.add()
    live = {state.value for state in LIVE} | {"twice"}
    assert set(bench.call(read.unfinished_keys)) == {*live, "failed"}
    assert len(bench.call(read.unfinished_keys)) == len(live) + 1
    assert set(bench.call(read.unfinished_keys, include_failed=False)) == live
    assert set(bench.call(read.unfinished_keys, include_running=False)) == {*live, "failed"} - {"running"}

    asked = ["twice", "succeeded", "failed", "unknown", "twice", "running", "Ready", "rea%", "ready", "cancelled"]
    assert bench.call(read.unfinished_keys, asked) == ["twice", "failed", "running", "ready"]
    less = bench.call(read.unfinished_keys, asked, include_failed=False, include_running=False)
    assert less == ["twice", "ready"]
    assert bench.call(read.unfinished_keys, []) == []


@pytest.mark.rows("S2.25")
def test_all_unfinished_keys_come_in_pages(bench: Bench) -> None:
    keys = {f"key {number}" for number in range(25)}
    for key in keys:
        bench.add(2, key=key)
    pages: list[list[str]] = []
    after = None
    while page := bench.call(read.unfinished_keys, limit=10, after=after):
        pages.append(page)
        after = page[-1]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert {key for page in pages for key in page} == keys
    assert set(bench.call(read.unfinished_keys, [f"key {number}" for number in range(3000)])) == keys


# --- what is kept beside a job --------------------------------------------------------------------------------------


def test_attempts_tell_what_went_wrong_each_time(bench: Bench) -> None:
    (id,) = bench.add()
    for number in range(3):
        bench.clock.forward(10)
        bench.end(bench.claim(), Failed(error=f"boom {number}", traceback="line 1", retry_in=0.0), retry=9)
    bench.end(bench.claim(), HandedBack())
    bench.end(bench.claim())
    found = bench.call(read.attempts, id)
    assert [(one.fence, one.attempt, one.error) for one in found] == [
        (1, 1, "boom 0"),
        (2, 2, "boom 1"),
        (3, 3, "boom 2"),
    ]
    assert {(one.job_id, one.state, one.traceback) for one in found} == {(id, State.READY, "line 1")}
    assert found[0].finished_at == BEGIN + timedelta(seconds=10)
    assert found[0].started_at == BEGIN + timedelta(seconds=9)
    assert bench.call(read.attempts, id + 1) == []


def test_labels_of_many_jobs(bench: Bench) -> None:
    (first,) = bench.add(labels={"shop": "north", "kind": "é 漢"})
    (second,) = bench.add()
    (third,) = bench.add(labels={"shop": "south"})
    assert bench.call(read.labels, [third, first, second, 99]) == {
        first: {"kind": "é 漢", "shop": "north"},
        second: {},
        third: {"shop": "south"},
        99: {},
    }
    assert bench.call(read.labels, []) == {}


def test_output_is_read_in_order_and_followed(bench: Bench) -> None:
    lines = [output.Line(7, 1, "stdout", f"line {number} é \x00 \ud83d", ago=number) for number in range(2500)]
    bench.call(output.write, [*lines, output.Line(8, 1, "stderr", "another's")])
    bench.call(output.write, [])
    first = bench.call(output.read, 7, limit=5)
    assert [line.text for line in first] == [f"line {number} é \ufffd \ufffd" for number in range(5)]
    assert [line.at for line in first] == [BEGIN - timedelta(seconds=number) for number in range(5)]
    assert {(line.fence, line.stream) for line in first} == {(1, "stdout")}
    rest = bench.call(output.read, 7, after=first[-1].id, limit=5000)
    assert len(rest) == 2495
    assert bench.call(output.read, 7, after=rest[-1].id) == []
    bench.call(output.write, [output.Line(7, 2, "a stream with a very long name", "again")])
    (new,) = bench.call(output.read, 7, after=rest[-1].id)
    assert (new.fence, new.stream, new.text) == (2, "a stream with a ", "again")


def test_long_lines_are_written_in_several_statements(bench: Bench) -> None:
    bench.call(output.write, [output.Line(1, 1, "stdout", "x" * 1_500_000) for _ in range(4)])
    assert [len(line.text) for line in bench.call(output.read, 1)] == [1_500_000] * 4


# --- the database's own clock ---------------------------------------------------------------------------------------


@pytest.mark.rows("C98")
def test_every_chapter_works_by_the_clock_of_the_database(database: Database) -> None:
    bench = Bench(database.url, clock=False)
    before = datetime.now(UTC) - timedelta(seconds=2)
    ids = {state: bench.make(state, labels={"a": "b"}) for state in State}
    bench.move(control.hold, [ids[State.READY]])
    bench.move(control.release, [ids[State.READY]])
    bench.move(control.retry, [ids[State.SCHEDULED], ids[State.FAILED]])
    bench.move(control.cancel, [ids[State.BLOCKED]])
    bench.call(output.write, [output.Line(1, 1, "stdout", "x", ago=0.5)])
    after = datetime.now(UTC) + timedelta(seconds=2)
    for job in bench.call(read.jobs, Filter(since=before)):
        moments = [job.created_at, job.ready_at, job.claimed_at, job.finished_at]
        assert all(before < moment < after for moment in moments if moment is not None)
    assert len(listed(bench, since=before, until=after)) == 8
    assert all(queue.oldest is None or 0 <= queue.oldest < 60 for queue in bench.call(read.queues))
    assert before < bench.call(output.read, 1)[0].at < after
    assert bench.call(prune.prune_batch, State.CANCELLED, 60) == 0
    assert bench.call(prune.prune_batch, State.CANCELLED, 0) == 2
    bench.call(prune.prune_workers, 0)
    bench.close()


# --- cost -----------------------------------------------------------------------------------------------------------


def test_a_count_of_a_state_uses_an_index(bench: Bench) -> None:
    """A state that nobody is in costs nothing, whatever else is there."""
    if bench.database.dialect.name == "mysql":
        pytest.skip("its EXPLAIN is about this moment's statistics")
    columns = "queue_hash, priority, fence, attempt, crashes, snoozes, flags, created_at, task_hash, signature, queue, task"
    rows = (
        "INSERT INTO {%s} (id, state, ready_at, finished_at, args, " + columns + ")"
        " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        " SELECT i, %s, 1, 1, '{{}}', 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 'q', 't' FROM n"
    )
    bench.query(rows % ("jobs", STATE[State.READY]))
    bench.query(rows % ("history", STATE[State.SUCCEEDED]))
    if bench.database.dialect.name == "postgresql":
        bench.query("ANALYZE {jobs}")
        bench.query("ANALYZE {history}")
    for state in State:
        table = bench.tables.history if state.ended else bench.tables.jobs
        plan = explained(bench, listing.capped(state, table, 10))
        # To find the first ten of what all rows are, PostgreSQL need not look into an index.
        assert "INDEX" in plan.upper() or state in (State.READY, State.SUCCEEDED), (state, plan)


def explained(bench: Bench, query: Any) -> str:
    sql = str(query.compile(bench.database.engine, compile_kwargs={"literal_binds": True}))
    word = "EXPLAIN QUERY PLAN " if bench.database.dialect.name == "sqlite" else "EXPLAIN "

    def run(connection: Connection) -> str:
        return "\n".join(str(tuple(row)) for row in connection.execute(text(word + sql)))

    return bench.database.once(run)
