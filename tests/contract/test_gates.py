"""What groups and limits promise, on every database."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from dray.errors import StoreUnavailable
from dray.job import Failed, Flag, HandedBack, NewJob, Snoozed, State, UniqueKey, wide_hash
from dray.rates import KEPT
from dray.stations import GROUP, gate_hash
from dray.store import follow, gates, limits, open_store
from dray.store.dialects import IDLE
from dray.store.owed import Owed
from dray.store.sql import SqlStore
from tests.contract.yard import Yard
from tests.servers import Database

# --- groups ---------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S2.59", "S2.23", "S2.54", "S2.55", "S4.21", "C47", "C48")
def test_a_group_runs_by_priority_and_then_in_the_order_of_the_enqueues(yard: Yard) -> None:
    ids = {
        name: yard.add(group="g", priority=priority) for name, priority in zip("abcdefg", (1, 1, 2, 1, 1, 2, 1), strict=True)
    }
    names = {id: name for name, id in ids.items()}
    assert "".join(names[id] for id in yard.run()) == "abdegcf"


@pytest.mark.rows("S2.59")
def test_strict_order_is_the_order_of_the_enqueues_alone(yard: Yard) -> None:
    ids = [yard.add(group="g", rank=0, priority=priority) for priority in (5, 1, 3)]
    assert yard.run() == ids


@pytest.mark.rows("S2.54", "S2.56", "S2.58", "S2.16")
def test_one_of_a_group_at_a_time_whatever_its_priority(yard: Yard) -> None:
    first, urgent = yard.add(group="g", priority=500), yard.add(group="g", priority=1)
    (claim,) = yard.take()
    assert claim.id == first
    assert yard.state(urgent) == "blocked: group"
    assert yard.take() == []
    yard.end(claim)
    assert [one.id for one in yard.take()] == [urgent]


@pytest.mark.rows("S2.61", "C57")
def test_jobs_without_a_group_are_never_serialised(yard: Yard) -> None:
    ids = [yard.add() for _ in range(3)]
    assert [one.id for one in yard.take()] == ids


def test_a_group_and_a_limit_of_the_same_name_are_two(yard: Yard) -> None:
    yard.add(group="x")
    yard.add(limit="x", limit_rule="1")
    assert len(yard.take()) == 2


@pytest.mark.rows("S2.55", "C46")
def test_a_head_that_is_tried_again_keeps_the_line_waiting(yard: Yard) -> None:
    first, second = yard.add(group="g"), yard.add(group="g")
    yard.end(yard.take()[0], Failed(error="boom"), attempts=2)
    assert yard.state(first) == "retrying"
    assert yard.state(second) == "blocked: group"
    assert yard.take() == []
    yard.clock.forward(61)
    yard.store.promote()
    assert yard.run() == [first, second]


def test_a_snoozing_head_keeps_the_line_unless_it_leaves_it(yard: Yard) -> None:
    first, second, third = (yard.add(group="g") for _ in range(3))
    yard.end(yard.take()[0], Snoozed(delay=60.0))
    assert yard.take() == []
    yard.clock.forward(61)
    yard.store.promote()
    yard.end(yard.take()[0], Snoozed(delay=60.0, leave_line=True))
    (claim,) = yard.take()
    assert claim.id == second
    yard.end(claim)
    yard.clock.forward(61)
    yard.store.promote()
    assert yard.run() == [third, first]


@pytest.mark.rows("C46")
def test_members_of_the_future_join_when_they_are_due(yard: Yard) -> None:
    later, now = yard.add(group="g", delay=60.0), yard.add(group="g")
    assert yard.state(later) == "scheduled"
    assert yard.run() == [now]
    yard.add(group="g")
    (claim,) = yard.take()
    yard.clock.forward(61)
    yard.store.promote()
    assert yard.state(later) == "blocked: group"
    yard.end(claim)
    assert yard.run() == [later]


@pytest.mark.rows("C45", "S2.54")
def test_a_failure_lets_the_next_go_on_or_halts_the_group_as_the_job_says(yard: Yard) -> None:
    yard.add(group="goes on")
    second = yard.add(group="goes on")
    yard.end(yard.take()[0], Failed(error="boom", permanent=True))
    assert yard.run() == [second]

    failed, waits = (yard.add(group="halts", flags=int(Flag.HALT)) for _ in range(2))
    yard.end(yard.take()[0], Failed(error="boom", permanent=True))
    assert yard.state(failed) == "failed"
    assert yard.take() == []
    assert yard.state(waits) == "blocked: group"
    assert yard.store.desk.prune_batch(State.FAILED, -1.0) == 1, (
        "of those two that failed one is what the group stands still for"
    )
    # Tried again it goes on where it was, before all others.
    assert [one.after for one in yard.store.desk.retry([failed])] == [State.READY]
    assert yard.run() == [failed, waits]


@pytest.mark.rows("C45", "C68")
def test_a_job_that_fails_because_of_its_child_halts_its_group_too(yard: Yard) -> None:
    failed = yard.add(group="g", flags=int(Flag.HALT))
    waits = yard.add(group="g")
    (claim,) = yard.take()
    yard.add(parent=claim.lease)
    yard.end(claim, flags=Flag.SPAWNED)
    claims = {one.id: one for one in yard.take()}
    later = yard.add(group="g")
    (child,) = claims.keys() - {waits}
    yard.end(claims[child], Failed(error="boom", permanent=True))
    assert yard.state(failed) == "failed"
    assert yard.store.desk.line("g").halted_by == (failed,)
    # While it waited for its child the next has come to the head, and stays there.
    assert [one.after for one in yard.store.desk.retry([failed])] == [State.BLOCKED]
    assert yard.state(failed) == "blocked: group"
    yard.end(claims[waits])
    (again,) = yard.take()
    assert again.id == failed
    yard.end(again, Failed(error="boom", permanent=True))
    assert yard.take() == []
    assert yard.state(later) == "blocked: group"
    # Nobody is at the head: now it is there again, before all others.
    yard.store.desk.retry([failed, child])
    assert yard.state(failed) == "ready"
    assert yard.store.desk.line("g").halted_by == ()


@pytest.mark.rows("C45", "C68")
def test_nobody_comes_to_the_head_of_a_group_of_which_a_family_has_failed(yard: Yard) -> None:
    failed = yard.add(group="g", flags=int(Flag.HALT))
    (claim,) = yard.take()
    yard.add(parent=claim.lease)
    yard.end(claim, flags=Flag.SPAWNED)
    yard.end(yard.take()[0], Failed(error="boom", permanent=True))
    waits = yard.add(group="g")
    assert yard.state(waits) == "blocked: group"
    assert yard.store.desk.unblock_group("g") == [failed]
    assert yard.run() == [waits]


def test_a_group_that_stands_still_for_two_has_one_head_when_both_are_run_again(yard: Yard) -> None:
    first, second = (yard.add(group="g", flags=int(Flag.HALT)) for _ in range(2))
    for id in (first, second):
        (claim,) = yard.take()
        assert claim.id == id
        child = yard.add(parent=claim.lease)
        yard.end(claim, flags=Flag.SPAWNED)
        yard.store.desk.hold([child])
    children = [id for id in range(first, second + 3) if id not in (first, second)]
    yard.store.desk.release(children)
    for claim in yard.take():
        yard.end(claim, Failed(error="boom", permanent=True))
    assert [yard.state(id) for id in (first, second)] == ["failed", "failed"]
    assert yard.store.desk.line("g").halted_by == (first, second)
    yard.store.desk.retry([second])
    assert yard.state(second) == "ready"
    yard.store.desk.retry([first])
    assert yard.state(first) == "blocked: group"


def test_a_halted_group_goes_on_without_the_failed_job_when_somebody_says_so(yard: Yard) -> None:
    failed, waits = (yard.add(group="g", flags=int(Flag.HALT)) for _ in range(2))
    yard.end(yard.take()[0], Failed(error="boom", permanent=True))
    assert yard.store.desk.unblock_group("g") == [failed]
    assert yard.store.desk.unblock_group("g") == []
    assert yard.run() == [waits]


def test_a_held_or_cancelled_job_keeps_nobody_of_its_group_waiting(yard: Yard) -> None:
    first, second, third = (yard.add(group="g") for _ in range(3))
    yard.store.desk.hold([first])
    assert yard.state(second) == "ready"
    yard.store.desk.cancel([second])
    assert yard.state(third) == "ready"
    yard.store.desk.release([first])
    assert yard.state(first) == "blocked: group"
    assert yard.run() == [third, first]


def test_a_rescued_head_is_at_its_head_still(yard: Yard) -> None:
    first, second = yard.add(group="g"), yard.add(group="g")
    (claim,) = yard.take()
    assert yard.store.roster.leave(yard.worker)
    assert [one.id for one in yard.store.rescue().ready] == [first]
    assert yard.state(second) == "blocked: group"
    yard.hire()
    assert claim.id == first
    assert yard.run() == [first, second]


# --- running ahead --------------------------------------------------------------------------------------------------------


def test_those_behind_a_head_are_taken_in_their_order_and_nobody_passes_them(yard: Yard) -> None:
    ids = [yard.add(group="g", priority=priority) for priority in (1, 3, 2, 2)]
    other = yard.add(group="g", task="other", priority=9)
    (head,) = yard.take()
    behind = yard.store.follow(yard.worker, head, 10)
    assert [one.id for one in behind] == [ids[2], ids[3], ids[1]], "the other task ends the line"
    assert all(one.follows for one in behind)
    assert len({one.claimed_at for one in behind}) == 1, (
        "nobody was claimed before another, in whatever order they were written"
    )
    yard.end(head)
    assert yard.take() == [], "those that follow keep the group"
    yard.end(behind[0])
    yard.end(behind[1], HandedBack())
    yard.end(behind[2], HandedBack())
    assert yard.run() == [ids[3], ids[1], other]


def test_of_a_line_that_is_claimed_together_nobody_is_claimed_before_another(yard: Yard) -> None:
    for _ in range(300):
        yard.add(group="g")
    (head,) = yard.take()
    by_the_real_clock = open_store(yard.url)
    behind = by_the_real_clock.follow(yard.worker, head, 299)
    by_the_real_clock.close()
    assert len(behind) == 299
    assert len({one.claimed_at for one in behind}) == 1, "in whatever order they were written"


def test_those_who_follow_a_dead_worker_go_back_into_the_line(yard: Yard) -> None:
    ids = [yard.add(group="g") for _ in range(3)]
    (head,) = yard.take()
    behind = yard.store.follow(yard.worker, head, 2)
    assert yard.store.mark_started(behind[0].lease)
    assert yard.store.roster.leave(yard.worker)
    assert yard.store.rescue().freed == 3
    assert [yard.state(id) for id in ids] == ["ready", "blocked: group", "blocked: group"]
    yard.hire()
    assert yard.store.follow(yard.worker, head, 2) == [], "it is not the head of this worker"
    assert yard.run() == ids


@pytest.mark.rows("C47")
def test_who_is_stopped_with_a_gate_in_hand_loses_it(yard: Yard) -> None:
    dialect = yard.store.tables.dialect
    if dialect.name == "sqlite":
        pytest.skip("its file has one writer, and nobody who could take that from him")
    told, until = {
        "postgresql": ("SHOW idle_in_transaction_session_timeout", "SET LOCAL idle_in_transaction_session_timeout = 500"),
        "mysql": ("SELECT @@idle_transaction_timeout", "SET SESSION idle_transaction_timeout = 1"),
    }[dialect.name]
    usual = yard.store.database.once(lambda own: str(own.exec_driver_sql(told).scalar()))
    first, second = yard.add(group="g"), yard.add(group="g")

    def stands_still(own: Connection) -> None:
        gates.lock(own, yard.store.tables, GROUP, [gate_hash(GROUP, "g")])
        assert str(own.exec_driver_sql(told).scalar()).rstrip("s") == str(IDLE)
        own.exec_driver_sql(until)
        (claim,) = yard.take()
        assert claim.id == first
        yard.end(claim)  # what follows from it waits for the gate, and comes
        assert [one.id for one in yard.take()] == [second]
        own.exec_driver_sql("SELECT 1")  # it moves again

    with pytest.raises(StoreUnavailable):
        yard.store.database.transact(stands_still)
    assert yard.store.database.once(lambda own: str(own.exec_driver_sql(told).scalar())) == usual


# --- limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S4.16")
def test_at_most_so_many_run_at_once_whoever_runs_them(yard: Yard) -> None:
    ids = [yard.add(limit="stripe", limit_rule="2", priority=priority) for priority in (5, 5, 5, 1)]
    other = yard.store.roster.register(host="there", pid=2, queues="*", concurrency=1)
    (mine,) = yard.take(1)
    (theirs,) = yard.store.claim(other, yard.begin(), 100)
    assert {mine.id, theirs.id} == set(ids[:2])
    assert yard.take() == []
    yard.end(mine)
    (urgent,) = yard.take()
    assert urgent.id == ids[3]


def test_a_share_is_given_back_while_a_job_waits_to_be_tried_again(yard: Yard) -> None:
    first, second = (yard.add(limit="stripe", limit_rule="1") for _ in range(2))
    yard.end(yard.take()[0], Failed(error="boom"), attempts=2)
    assert yard.state(second) == "ready"
    yard.clock.forward(61)
    yard.store.promote()
    assert yard.state(first) == "blocked: limit"
    assert yard.run() == [second, first]


def test_the_latest_enqueue_says_how_many(yard: Yard) -> None:
    for _ in range(4):
        yard.add(limit="stripe", limit_rule="1")
    yard.add(limit="stripe", limit_rule="3")
    assert len(yard.take()) == 3


@pytest.mark.rows("S4.16")
def test_a_rate_lets_so_many_start_in_any_stretch_of_its_time(yard: Yard) -> None:
    for _ in range(7):
        yard.add(limit="api", limit_rule="3/60")
    for claim in (first := yard.take()):
        yard.end(claim)
    assert len(first) == 3
    wait = yard.store.open_rates()
    assert wait == pytest.approx(60.0, abs=0.01)
    yard.clock.forward(59)
    assert yard.store.open_rates() == pytest.approx(1.0, abs=0.01)
    assert yard.take() == []
    yard.clock.forward(1.1)
    yard.store.open_rates()
    assert len(yard.take()) == 3


@pytest.mark.rows("S4.16")
def test_what_a_rate_remembers_of_many_starts_stays_short_and_is_enough(yard: Yard) -> None:
    let = []
    for _ in range(300):
        yard.clock.forward(0.25)
        yard.store.add([NewJob(task="t", queue="q", args="{}", limit="api", limit_rule="150/60")] * 2)
        yard.store.open_rates()
        claims = yard.take()
        for claim in claims:
            yard.end(claim)
        let.append((yard.clock.now, len(claims)))
        assert sum(count for at, count in let if at > yard.clock.now - 60_000_000) <= 150
    statement = yard.store.tables.text("SELECT spent FROM {gates}")
    (spent,) = yard.store.database.once(lambda connection: connection.execute(statement).scalars().all())
    assert len(spent) < 30 * (KEPT + 1)
    assert 150 < sum(count for _, count in let) <= 300


def test_a_look_that_lets_nobody_through_writes_nothing(yard: Yard) -> None:
    yard.store.add([NewJob(task="t", queue="q", args="{}", limit="api", limit_rule="2/60")] * 5)
    written: list[str] = []

    def look(connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE") and "gates" in statement:
            written.append(statement)

    event.listen(Engine, "before_cursor_execute", look)
    yard.store.settler.settle(Owed(limits={gate_hash("limit", "api") or 0}))
    yard.add(limit="api", limit_rule="2/60")
    event.remove(Engine, "before_cursor_execute", look)
    assert written == []


def test_a_rate_does_not_save_up_starts_for_workers_that_are_away(yard: Yard) -> None:
    for _ in range(20):
        yard.add(limit="api", limit_rule="3/60")
    for _ in range(5):
        yard.clock.forward(61)
        yard.store.open_rates()
    assert len(yard.take()) == 3


def test_a_group_comes_before_a_limit(yard: Yard) -> None:
    first = yard.add(group="g", limit="l", limit_rule="1")
    second = yard.add(group="g", limit="l", limit_rule="1")
    other = yard.add(limit="l", limit_rule="1")
    assert [yard.state(id) for id in (first, second, other)] == ["ready", "blocked: group", "blocked: limit"]
    assert yard.run() == [first, second, other]


# --- what a crash leaves --------------------------------------------------------------------------------------------------


def test_what_nobody_settled_is_found_by_its_note(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])  # as if the process had died there
        grouped, limited = yard.add(group="g"), yard.add(limit="l", limit_rule="1")
    assert [yard.state(id) for id in (grouped, limited)] == ["blocked: group", "blocked: limit"]
    assert yard.store.settler.sweep() == 0, "it may be under way still"
    yard.clock.forward(5)
    assert yard.store.settler.sweep() == 2
    assert [yard.state(id) for id in (grouped, limited)] == ["ready", "ready"]
    assert yard.store.settler.sweep() == 0


def test_who_has_left_one_line_is_noted_for_the_next(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settle is several transactions; whoever dies between two of them has left a note of what the first led to."""
    with monkeypatch.context() as patch:
        act = yard.store.settler._act
        acted: list[object] = []

        def once(*arguments: object, **keywords: object) -> object:
            if acted:
                raise StoreUnavailable("it died here")
            acted.append(act(*arguments, **keywords))
            return acted[0]

        patch.setattr(yard.store.settler, "_act", once)
        id = yard.add(group="g", limit="l", limit_rule="1")
    assert yard.state(id) == "blocked: limit"
    yard.clock.forward(5)
    assert yard.store.settler.sweep() == 1
    assert yard.state(id) == "ready"


def test_the_round_finds_what_has_no_note(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])
        patch.setattr(yard.store.settler, "note", lambda connection, owed: None)
        ids = [yard.add(group=f"g{number}") for number in range(5)] + [yard.add(limit="l", limit_rule="1")]
    found = 0
    while yard.store.round.took is None:
        found += yard.store.round.go_on()
    assert found == 6
    assert {yard.state(id) for id in ids} == {"ready"}


def test_of_many_who_settle_at_once_one_lets_one_through(yard: Yard, database: Database) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])
        for _ in range(30):
            yard.add(group="g")
            yard.add(limit="l", limit_rule="3")
    owed = Owed(groups={gate_hash("group", "g") or 0}, limits={gate_hash("limit", "l") or 0})
    others = [open_store(database.url) for _ in range(4)]
    start = threading.Barrier(len(others))

    def settle(store: SqlStore) -> None:
        start.wait()
        for _ in range(10):
            store.settler.settle(owed)

    threads = [threading.Thread(target=settle, args=(store,)) for store in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(yard.take()) == 1 + 3
    for store in others:
        store.close()


# --- coalescing -----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("S2.36", "C63")
def test_a_wide_job_does_the_work_of_narrower_ones_that_wait_behind_it(yard: Yard) -> None:
    wide = yard.add(group="g", threshold=150)
    narrower = [yard.add(group="g", threshold=number) for number in (151, 152)]
    wider = yard.add(group="g", threshold=149)
    plain, other = yard.add(group="g"), yard.add(group="g", task="other", threshold=200)
    (claim,) = yard.take()
    assert claim.id == wide
    assert yard.store.cover(claim) == 2
    late = yard.add(group="g", threshold=160)
    assert [yard.state(id) for id in narrower] == ["blocked: covered"] * 2
    yard.end(claim)
    assert [(yard.state(id), yard.note(id)) for id in narrower] == [("succeeded", f"covered by job {wide}")] * 2
    assert yard.run() == [wider, plain, other, late]


@pytest.mark.rows("C63")
def test_what_a_job_covered_is_done_by_others_when_it_fails(yard: Yard) -> None:
    wide, narrow = yard.add(group="g", threshold=1), yard.add(group="g", threshold=2)
    (claim,) = yard.take()
    yard.store.cover(claim)
    yard.end(claim, Failed(error="boom", retry_in=60.0))
    assert yard.state(narrow) == "blocked: covered", "it may succeed yet"
    yard.store.desk.hold([narrow])
    yard.store.desk.release([narrow])
    yard.store.desk.cancel([wide])
    assert yard.state(narrow) == "ready"
    assert yard.run() == [narrow]


# --- what may go wrong beside them ----------------------------------------------------------------------------------------


NOTE = "INSERT INTO {unsettled} (at, owed) VALUES (1, :owed)"


def test_a_note_that_cannot_be_read_or_settled_stays_and_keeps_nothing_else_waiting(yard: Yard) -> None:
    """Once a note that nobody could settle was tried again and again, and the chores behind it were never done."""
    store = yard.store
    for owed in ("no json", '{"batches": [5]}', '{"groups": [7], "batches": [5]}', '{"ended": []}'):
        store.database.once(lambda c, owed=owed: c.execute(store.tables.text(NOTE), {"owed": owed}))  # type: ignore[misc]
    yard.add(group="g")
    with_note = store.settler.settle
    store.settler.settle = lambda owed, notes=(): []  # type: ignore[method-assign]
    (claim,) = yard.take()
    second = yard.add(group="g")
    yard.end(claim)
    store.settler.settle = with_note  # type: ignore[method-assign]
    yard.clock.forward(2)
    assert store.settler.sweep() >= 1
    assert yard.state(second) == "ready"
    assert len(store.database.once(lambda c: c.execute(store.tables.text("SELECT id FROM {unsettled}")).all())) == 3


@pytest.mark.rows("C48")
def test_settling_waits_for_nobodys_long_transaction(yard: Yard) -> None:
    """A caller who has found a queued job by its unique key keeps it from starting until he commits: it, and nobody else."""
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    key = UniqueKey(wide_hash("5"), 0)
    head, second = yard.add(group="g"), yard.add(group="g", unique=key)
    other_head, other = yard.add(group="h"), yard.add(group="h")
    claims = {claim.id: claim for claim in yard.take()}
    with yard.caller().connect() as caller, caller.begin():
        (found,) = yard.store.add_within(caller, [NewJob(task="t", queue="q", args="{}", unique=key)])
        assert (found.id, found.created) == (second, False)
        began = time.monotonic()
        yard.end(claims[head])
        yard.end(claims[other_head])
        assert time.monotonic() - began < 5
        assert yard.state(second) == "blocked: group"
        assert yard.state(other) == "ready"
    yard.clock.forward(2)
    yard.store.settler.sweep()
    assert yard.state(second) == "ready"


def test_those_behind_a_head_are_taken_only_if_they_are_of_its_queue_and_have_seen_no_death(yard: Yard) -> None:
    ids = [yard.add(group="g"), yard.add(group="g"), yard.add(group="g", queue="other"), yard.add(group="g")]
    (head,) = yard.take()
    assert [claim.id for claim in yard.store.follow(yard.worker, head, 10)] == [ids[1]]


@pytest.mark.rows("C14", "S2.55")
def test_a_head_is_not_given_to_another_while_its_worker_takes_those_behind_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that sleeps there past its TTL would else run the second of a group while another runs the first."""
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first, second = yard.add(group="g"), yard.add(group="g")
    (head,) = yard.take()
    take, freed = follow._take, []

    def sleep(*arguments: Any) -> Any:
        yard.store.roster.leave(yard.worker)
        freed.append(yard.store.rescue().freed)
        return take(*arguments)

    monkeypatch.setattr(follow, "_take", sleep)
    assert [claim.id for claim in yard.store.follow(yard.worker, head, 10)] == [second]
    assert freed == [0]
    assert yard.store.rescue().freed == 2
    assert [yard.state(id) for id in (first, second)] == ["ready", "blocked: group"]


def test_a_new_limit_has_the_numbers_of_the_latest_enqueue(yard: Yard) -> None:
    rules = ("1", "5", "5", "3")
    yard.store.add([NewJob(task="t", queue="q", args="{}", limit="l", limit_rule=rule) for rule in rules])
    assert len(yard.take()) == 3


def test_a_limit_with_room_for_thousands_lets_thousands_go(yard: Yard) -> None:
    job = NewJob(task="t", queue="q", args="{}", limit="l", limit_rule="3000")
    yard.store.add([job] * 1500)
    yard.store.add([job] * 700)
    assert yard.store.desk.counts(cap=5000)[State.READY] == 2200


def test_rows_of_limits_with_a_rate_are_pruned_once_nothing_counts(yard: Yard) -> None:
    yard.add(limit="l", limit_rule="5/60")
    yard.end(yard.take()[0])
    yard.clock.forward(30)
    assert yard.store.desk.prune_gates(10) == 0
    yard.clock.forward(60)
    assert yard.store.desk.prune_gates(10) == 1


def rule_of(yard: Yard, name: str) -> str | None:
    return yard.store.desk.shares(name).rule


@pytest.mark.parametrize("ended", [False, True])
def test_a_note_that_is_found_late_does_not_bring_back_old_numbers(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """The newest enqueue says how much a limit allows, whether its job has ended since or not."""
    yard.add(limit="l", limit_rule="1")
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])  # it dies after its commit
        yard.add(limit="l", limit_rule="2")
    newest = yard.add(limit="l", limit_rule="3")
    assert rule_of(yard, "l") == "3"
    if ended:
        yard.store.desk.cancel([newest])
    yard.clock.forward(5)
    yard.store.settler.sweep()
    assert rule_of(yard, "l") == "3"


def test_a_note_that_is_found_late_still_brings_its_numbers(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    yard.add(limit="l", limit_rule="1")
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])
        yard.add(limit="l", limit_rule="2")
    yard.add(limit="other", limit_rule="7")
    yard.clock.forward(5)
    yard.store.settler.sweep()
    assert (rule_of(yard, "l"), rule_of(yard, "other")) == ("2", "7")


def test_who_enqueues_while_older_numbers_are_taken_has_the_last_word(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """He finds his own numbers there, since the others are not committed yet, and has nothing to say."""
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    yard.add(limit="l", limit_rule="1")
    other = open_store(yard.url)
    again = NewJob(task="t", queue="q", args="{}", limit="l", limit_rule="1")
    late = threading.Thread(target=lambda: other.add([again]))
    real = limits._newest_rule

    def newest_rule(*args: Any) -> str | None:
        found = real(*args)
        if late.ident is None:
            count = sum(yard.store.desk.counts().values())
            late.start()
            while sum(yard.store.desk.counts().values()) == count:
                time.sleep(0.01)
        return found

    monkeypatch.setattr(limits, "_newest_rule", newest_rule)
    yard.add(limit="l", limit_rule="2")
    late.join(60)
    other.close()
    assert rule_of(yard, "l") == "1"
