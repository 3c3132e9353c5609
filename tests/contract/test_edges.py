"""What dependencies promise, on every database."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import Connection

from dray.errors import BadOption, LeaseLost, UnknownJob
from dray.job import Claim, Done, Failed, Finish, Flag, Lease, NewJob, State
from dray.lifecycle import decide
from dray.store import open_store
from dray.store.edges import SLICE
from dray.store.owed import Owed
from tests.contract.yard import Yard
from tests.servers import Database

GOOD, BAD = Done(), Failed(error="boom", permanent=True)


@pytest.mark.rows("S0.14", "S0.31", "S0.3")
def test_a_dependent_starts_after_its_parent_has_succeeded(yard: Yard) -> None:
    parent = yard.add()
    child = yard.add(after=(parent,))
    assert yard.state(child) == "blocked: parents"
    assert yard.run() == [parent, child]


@pytest.mark.rows("S0.15")
def test_a_tree_runs_from_its_root_and_a_join_waits_for_all(yard: Yard) -> None:
    root = yard.add()
    left, right = yard.add(after=(root,)), yard.add(after=(root,))
    join = yard.add(after=(left, right))
    yard.end(yard.take()[0])
    (first, second) = yard.take()
    assert (first.id, second.id) == (left, right)
    yard.end(second)
    assert yard.state(join) == "blocked: parents"
    yard.end(first)
    assert yard.run() == [join]


@pytest.mark.rows("C7")
def test_parents_that_have_ended_already_keep_nobody_waiting(yard: Yard) -> None:
    parent = yard.add()
    yard.run()
    child = yard.add(after=(parent,))
    assert yard.state(child) == "ready"


def test_an_unknown_parent_is_an_error_and_nothing_is_written(yard: Yard) -> None:
    with pytest.raises(UnknownJob, match="4711"):
        yard.add(after=(4711,))
    assert yard.take() == []
    assert yard.store.desk.counts()[State.BLOCKED] == 0


@pytest.mark.rows("C27", "S0.3")
def test_a_failed_parent_keeps_its_children_waiting_until_it_is_mended(yard: Yard) -> None:
    parent = yard.add()
    child = yard.add(after=(parent,))
    yard.end(yard.take()[0], BAD)
    assert yard.state(child) == "blocked: parents"
    assert yard.store.desk.prune_batch(State.FAILED, -1.0) == 0, "somebody waits for it"
    yard.store.desk.retry([parent])
    assert yard.run() == [parent, child]


def test_a_child_of_a_failed_parent_is_cancelled_where_that_was_asked_for_and_so_are_its_own(yard: Yard) -> None:
    parent = yard.add()
    child = yard.add(after=(parent,), flags=int(Flag.CANCELS_WITH_PARENTS))
    grandchild = yard.add(after=(child,))
    anyway = yard.add(after=(child,), when="all_done")
    yard.end(yard.take()[0], BAD)
    assert (yard.state(child), yard.note(child)) == ("cancelled", f"job {parent}, which it needs, failed")
    assert (yard.state(grandchild), yard.note(grandchild)) == ("cancelled", f"job {child}, which it needs, was cancelled")
    assert yard.state(anyway) == "ready"


def test_all_done_takes_any_end(yard: Yard) -> None:
    good, bad, gone = (yard.add() for _ in range(3))
    child = yard.add(after=(good, bad, gone), when="all_done")
    first, second, _ = yard.take()
    yard.end(first, GOOD)
    yard.end(second, BAD)
    assert yard.state(child) == "blocked: parents"
    yard.store.roster.leave(yard.worker)
    yard.store.rescue()
    yard.store.desk.cancel([gone])
    assert yard.state(child) == "ready"


@pytest.mark.rows("C29")
def test_a_retry_of_a_child_looks_at_its_parents_again(yard: Yard) -> None:
    parent = yard.add()
    child = yard.add(after=(parent,))
    yard.store.desk.cancel([child])
    assert [one.after for one in yard.store.desk.retry([child])] == [State.BLOCKED]
    assert yard.state(child) == "blocked: parents"
    assert yard.run() == [parent, child]


def test_a_parent_that_is_tried_again_is_waited_for_again(yard: Yard) -> None:
    parent, other = yard.add(), yard.add()
    child = yard.add(after=(parent, other))
    first, second = yard.take()
    yard.end(first)
    yard.store.desk.retry([parent], force=True)
    yard.end(second)
    assert yard.state(child) == "blocked: parents"
    assert yard.run() == [parent, child]


def test_an_operator_lets_a_child_go_on_without_a_parent(yard: Yard) -> None:
    parent, other = yard.add(), yard.add()
    child = yard.add(after=(parent, other))
    first, second = yard.take()
    yard.end(first, BAD)
    assert not yard.store.desk.waive(child, 4711)
    assert yard.store.desk.waive(child, parent)
    assert yard.state(child) == "blocked: parents"
    yard.end(second)
    assert yard.state(child) == "ready"
    assert yard.store.desk.dependents(parent) == []


def test_parents_come_before_the_time_the_group_and_the_limit(yard: Yard) -> None:
    parent = yard.add()
    later = yard.add(after=(parent,), delay=60.0)
    grouped = yard.add(after=(parent,), group="g", limit="l", limit_rule="1")
    second = yard.add(after=(parent,), group="g")
    yard.run()
    assert yard.state(later) == "scheduled"
    assert yard.state(grouped) == "succeeded"
    assert yard.state(second) == "succeeded"
    yard.clock.forward(61)
    yard.store.promote()
    assert yard.state(later) == "ready"


def test_many_children_and_many_parents_at_once(yard: Yard) -> None:
    parents = [one.id for one in yard.store.add([NewJob(task="t", queue="q", args="{}")] * 700)]
    join = yard.add(after=tuple(parents))
    children = yard.store.add([NewJob(task="t", queue="q", args="{}", after=(join,))] * 700)
    while claims := yard.take(300):
        yard.store.finish([Finish(one, decide(one, GOOD)) for one in claims])
    assert yard.state(join) == "succeeded"
    assert yard.store.desk.counts()[State.SUCCEEDED] == 700 + 1 + len(children)


def test_children_that_join_while_their_parents_end_are_never_left_behind(yard: Yard, database: Database) -> None:
    """Whoever commits later sees the other: one adds children of live parents, the other ends these. If they meet at the same
    child, the second of them does not wait for the first, but leaves a note."""
    other = open_store(database.url)
    parents = [one.id for one in yard.store.add([NewJob(task="t", queue="q", args="{}")] * 60)]
    start = threading.Barrier(2)

    def add() -> None:
        start.wait()
        for parent in parents:
            other.add([NewJob(task="child", queue="later", args="{}", after=(parent,))])

    thread = threading.Thread(target=add)
    thread.start()
    start.wait()
    claims = yard.take(60)
    for claim in claims:
        yard.end(claim)
    thread.join(60)
    other.close()
    assert yard.store.desk.counts()[State.BLOCKED] < 20  # they seldom meet
    yard.clock.forward(5)
    yard.store.settler.sweep()
    assert yard.store.desk.counts()[State.BLOCKED] == 0


def test_a_lost_release_is_found_by_its_note(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = yard.add()
    child = yard.add(after=(parent,))
    (claim,) = yard.take()
    with monkeypatch.context() as patch:
        patch.setattr(yard.store.settler, "settle", lambda owed, notes=(): [])
        yard.end(claim)
    assert yard.state(child) == "blocked: parents"
    yard.clock.forward(5)
    assert yard.store.settler.sweep() == 1
    assert yard.state(child) == "ready"


MANY = 5000


def slice_by_slice(yard: Yard, monkeypatch: pytest.MonkeyPatch, dies_after: int | None = None) -> list[int]:
    """How many jobs each transaction of settling takes away from those that wait."""
    real, sizes = yard.store.database.transact, list[int]()

    def transact(work: Any, *others: Any) -> Any:
        if dies_after is not None and len(sizes) > dies_after:
            raise KeyboardInterrupt
        before = yard.store.desk.counts()[State.BLOCKED]
        result = real(work)
        sizes.append(before - yard.store.desk.counts()[State.BLOCKED])
        return result

    monkeypatch.setattr(yard.store.database, "transact", transact)
    return sizes


@pytest.mark.rows("S0.14", "C48")
def test_any_number_of_dependents_is_let_go_in_short_transactions(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = yard.add()
    yard.store.add([NewJob(task="t", queue="q", args="{}", after=(parent,)) for _ in range(MANY)])
    (claim,) = yard.take()
    with monkeypatch.context() as patch:
        sizes = slice_by_slice(yard, patch)
        yard.end(claim)
    assert sum(sizes) == MANY
    assert max(sizes) == SLICE
    assert yard.store.desk.counts()[State.READY] == MANY
    assert notes(yard) == []


@pytest.mark.rows("C48")
def test_a_crash_amid_many_dependents_leaves_a_note_of_the_rest(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what those have to let go on that were cancelled before the crash."""
    parent = yard.add()
    jobs = [NewJob(task="t", queue="q", args="{}", after=(parent,)) for _ in range(MANY // 2)]
    children = [one.id for one in yard.store.add(jobs)]
    last = yard.add(after=(children[0],))
    with monkeypatch.context() as patch:
        sizes = slice_by_slice(yard, patch, dies_after=3)
        with pytest.raises(KeyboardInterrupt):
            yard.store.desk.cancel([parent])
        assert sizes == [0, SLICE, SLICE, SLICE]
    assert yard.state(last) == "blocked: parents"
    assert len(notes(yard)) == 4
    yard.clock.forward(5)
    yard.store.settler.sweep()
    assert yard.store.desk.counts()[State.CANCELLED] == len(children) + 2
    assert notes(yard) == []


def notes(yard: Yard) -> list[int]:
    statement = yard.store.tables.text("SELECT id FROM {unsettled}")
    return list(yard.store.database.once(lambda connection: connection.execute(statement).scalars().all()))


def test_plain_jobs_leave_no_notes(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int | None] = []
    real = yard.store.settler.note

    def note(connection: Connection, owed: Owed) -> int | None:
        numbers.append(real(connection, owed))
        return numbers[-1]

    monkeypatch.setattr(yard.store.settler, "note", note)
    yard.add(labels={"a": "b"})
    yard.run()
    assert numbers
    assert set(numbers) == {None}


# --- children -------------------------------------------------------------------------------------------------------------


def spawn(yard: Yard, claim: Claim) -> int:
    return yard.add(parent=claim.lease, task="child")


@pytest.mark.rows("S3.18", "S3.59")
def test_a_job_ends_with_the_last_of_the_children_it_spawned(yard: Yard) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    first, second = spawn(yard, claim), spawn(yard, claim)
    yard.end(claim, Done(result="7"), flags=Flag.SPAWNED)
    assert yard.state(spawner) == "blocked: children"
    assert yard.run() == [first, second]
    row = yard.store.desk.job(spawner)
    assert row is not None
    assert (row.state, row.result) == (State.SUCCEEDED, "7")
    child = yard.store.desk.job(first)
    assert child is not None
    assert child.parent_id == spawner


@pytest.mark.rows("C66")
def test_children_that_end_before_their_parent_keep_it_no_longer(yard: Yard) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    child = spawn(yard, claim)
    assert yard.run() == [child]
    yard.end(claim, flags=Flag.SPAWNED)
    assert yard.state(spawner) == "succeeded"


@pytest.mark.rows("S3.59", "C67", "C68")
def test_a_failed_child_is_worse_than_a_cancelled_one_and_it_goes_on_upwards(yard: Yard) -> None:
    grandparent = yard.add()
    (top,) = yard.take()
    parent = spawn(yard, top)
    yard.end(top, flags=Flag.SPAWNED)
    (middle,) = yard.take()
    bad, gone = spawn(yard, middle), spawn(yard, middle)
    yard.end(middle, flags=Flag.SPAWNED)
    (claim, _) = yard.take()
    assert claim.id == bad
    yard.end(claim, BAD)
    yard.store.roster.leave(yard.worker)
    yard.store.rescue()
    assert yard.state(parent) == "blocked: children"
    yard.store.desk.cancel([gone])
    assert (yard.state(parent), yard.note(parent)) == ("failed", f"job {bad}, its child, failed")
    assert yard.state(grandparent) == "failed"


@pytest.mark.rows("C69")
def test_a_failure_of_its_own_is_not_overwritten_by_children_that_succeed(yard: Yard) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    child = spawn(yard, claim)
    yard.end(claim, BAD, flags=Flag.SPAWNED)
    assert yard.run() == [child]
    assert yard.state(spawner) == "failed"


@pytest.mark.rows("S3.19")
def test_a_master_keeps_the_outcome_of_its_own_run(yard: Yard) -> None:
    spawner = yard.add(flags=int(Flag.MASTER))
    (claim,) = yard.take()
    spawn(yard, claim)
    yard.end(claim, flags=Flag.SPAWNED)
    assert yard.state(spawner) == "succeeded"


def test_children_of_an_earlier_attempt_count(yard: Yard) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    child = spawn(yard, claim)
    yard.end(claim, Failed(error="boom", retry_in=0.0), flags=Flag.SPAWNED)
    first, second = yard.take()
    assert {first.id, second.id} == {spawner, child}
    again = first if first.id == spawner else second
    yard.end(again)
    assert yard.state(spawner) == "blocked: children"


def test_who_has_lost_its_lease_spawns_nothing(yard: Yard) -> None:
    yard.add()
    (claim,) = yard.take()
    yard.end(claim, Failed(error="boom", retry_in=0.0))
    with pytest.raises(LeaseLost):
        spawn(yard, claim)
    with pytest.raises(LeaseLost):
        yard.add(parent=Lease(4711, 1))
    assert yard.store.desk.counts()[State.READY] == 1


@pytest.mark.rows("C66", "C63")
def test_what_a_job_has_covered_is_let_go_though_it_ends_through_its_children(yard: Yard) -> None:
    wide = yard.add(group="g", threshold=10)
    (claim,) = yard.take()
    narrow = yard.add(group="g", threshold=20)
    assert yard.store.cover(claim) == 1
    child = yard.add(parent=claim.lease)
    yard.end(claim, flags=Flag.SPAWNED)
    (claim,) = yard.take()
    assert claim.id == child
    yard.end(claim)
    assert [yard.state(id) for id in (wide, narrow)] == ["succeeded", "succeeded"]


def test_one_that_has_lost_its_lease_covers_nothing(yard: Yard) -> None:
    yard.add(group="g", threshold=10)
    (claim,) = yard.take()
    narrow = yard.add(group="g", threshold=20)
    yard.store.roster.leave(yard.worker)
    yard.store.rescue()
    assert yard.store.cover(claim) == 0
    assert yard.state(narrow) == "blocked: group"


def test_what_waits_for_its_children_does_not_expire_and_a_retry_by_hand_has_no_expiry(yard: Yard) -> None:
    parent = yard.add(expires_in=60.0)
    (claim,) = yard.take()
    yard.add(parent=claim.lease)
    yard.end(claim, flags=Flag.SPAWNED)
    late = yard.add(expires_in=60.0, delay=3600.0)
    yard.clock.forward(61)
    assert yard.store.expire().cancelled == 1
    assert [yard.state(id) for id in (parent, late)] == ["blocked: children", "cancelled"]
    yard.store.desk.retry([late])
    assert not sum(yard.store.expire())
    assert yard.state(late) == "ready"


def test_giving_up_on_a_parent_leaves_alone_what_does_not_wait_for_it_any_more(yard: Yard) -> None:
    parent = yard.add()
    yard.add(group="g", queue="other")
    (claim, busy) = sorted(yard.take(), key=lambda one: one.id)
    child = yard.add(after=(parent,), group="g")
    yard.end(claim)
    assert yard.state(child) == "blocked: group"
    assert yard.store.desk.dependents(parent) == []
    assert busy.id != claim.id


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_parent_that_was_committed_after_the_callers_snapshot_is_known(yard: Yard, level: str) -> None:
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has no levels to choose from")
    engine = yard.caller(isolation_level=level)
    with engine.connect() as caller, caller.begin():
        caller.execute(yard.store.tables.text("SELECT count(*) FROM {jobs}"))
        parent = yard.add()
        (child,) = yard.store.add_within(caller, [NewJob(task="t", queue="q", args="{}", after=(parent,))])
    assert yard.state(child.id) == "blocked: parents"


@pytest.mark.rows("S3.18")
def test_a_long_transaction_that_spawns_keeps_nobody_from_the_row_of_its_job(yard: Yard) -> None:
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    parent = yard.add()
    (claim,) = yard.take()
    with yard.caller().connect() as caller:
        transaction = caller.begin()
        yard.store.add_within(caller, [NewJob(task="t", queue="q", args="{}", parent=claim.lease)])
        assert yard.store.mark_started(claim.lease)  # waits for nothing
        yard.end(claim, flags=Flag.SPAWNED)
        transaction.rollback()
    yard.clock.forward(2)
    yard.store.settler.sweep()
    assert yard.state(parent) == "succeeded"  # of a child that never was nothing is left


@pytest.mark.rows("C7", "C29")
def test_what_was_known_of_parents_before_a_retry_does_not_count_after_it(yard: Yard) -> None:
    """Once a job that was retried together with a parent was cancelled, since another had been cancelled long ago."""
    first, second = yard.add(), yard.add()
    child = yard.add(after=(first, second), delay=None)
    yard.store.desk.cancel([first])
    assert yard.state(child) == "cancelled"
    yard.store.desk.cancel([second])
    yard.store.desk.retry([first])
    (claim,) = yard.take()
    yard.end(claim)
    yard.store.desk.retry([second, child])
    assert yard.state(child) == "blocked: parents"
    (claim,) = yard.take()
    assert claim.id == second
    yard.end(claim)
    assert yard.state(child) == "ready"


@pytest.mark.rows("C29", "C54")
def test_a_parent_that_was_pruned_has_ended_as_it_was_known_to(yard: Yard) -> None:
    """The failed are kept for longer than the succeeded: a dependent that is retried weeks later may go on."""
    parent = yard.add()
    child = yard.add(after=(parent,))
    yard.end(yard.take()[0])
    yard.end(yard.take()[0], BAD)
    assert yard.store.desk.prune_batch(State.SUCCEEDED, -1.0) == 1
    yard.store.desk.retry([child])
    assert yard.state(child) == "ready"


@pytest.mark.rows("C66")
def test_children_of_an_earlier_life_that_were_pruned_do_not_count(yard: Yard) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    spawn(yard, claim)
    yard.end(claim, BAD, flags=Flag.SPAWNED)
    yard.run()
    assert yard.store.desk.prune_batch(State.SUCCEEDED, -1.0) == 1
    yard.store.desk.retry([spawner])
    yard.end(yard.take()[0])
    assert yard.state(spawner) == "succeeded"


@pytest.mark.rows("C27")
def test_who_was_given_up_before_his_parents_end_was_known_is_found_by_it(yard: Yard) -> None:
    """Once in fifty times, on a busy machine, a retry of the parent revived nobody."""
    parent = yard.add()
    child = yard.add(after=(parent,))
    yard.store.desk.cancel([child], doomed=True)
    yard.end(yard.take()[0], BAD)
    assert yard.store.desk.doomed_by(parent) == [child]


@pytest.mark.rows("S3.59", "C66")
@pytest.mark.parametrize("pruned", [False, True])
def test_children_that_failed_in_an_earlier_life_do_not_count_in_the_next(yard: Yard, pruned: bool) -> None:
    """What failed is spawned again: that the first has failed is no reason to fail, nor one to do it a second time."""
    spawner = yard.add()
    (claim,) = yard.take()
    failed, cancelled = spawn(yard, claim), spawn(yard, claim)
    yard.end(claim, flags=Flag.SPAWNED)
    yard.store.desk.cancel([cancelled])
    yard.end(yard.take()[0], BAD)
    assert yard.state(spawner) == "failed"
    if pruned:
        assert yard.store.desk.prune_batch(State.CANCELLED, -1.0) == 1
    yard.store.desk.retry([spawner])
    (claim,) = yard.take()
    assert claim.id == spawner
    again = spawn(yard, claim)
    yard.end(claim, flags=Flag.SPAWNED)
    yard.end(yard.take()[0])
    assert yard.state(spawner) == "succeeded"
    assert yard.store.desk.children(spawner) == [failed, cancelled, again]


@pytest.mark.rows("S3.59", "C66")
@pytest.mark.parametrize("outcome", [Done(), BAD])
def test_a_child_that_is_run_again_with_its_parent_counts_again(yard: Yard, outcome: Done | Failed) -> None:
    spawner = yard.add()
    (claim,) = yard.take()
    child = spawn(yard, claim)
    yard.end(claim, flags=Flag.SPAWNED)
    yard.end(yard.take()[0], BAD)
    yard.store.desk.retry([spawner, child])
    claims = {one.id: one for one in yard.take()}
    yard.end(claims[spawner], flags=Flag.SPAWNED)
    assert yard.state(spawner) == "blocked: children"
    yard.end(claims[child], outcome)
    assert yard.state(spawner) == ("succeeded" if outcome != BAD else "failed")


@pytest.mark.rows("C29")
def test_who_has_started_waits_for_his_children_and_for_no_parent(yard: Yard) -> None:
    """A parent that is run again, and fails, kept one that waited for its children from its end for ever."""
    parent = yard.add()
    waits = yard.add(after=(parent,))
    yard.end(yard.take()[0])
    (claim,) = yard.take()
    child = spawn(yard, claim)
    yard.end(claim, flags=Flag.SPAWNED)
    yard.store.desk.retry([parent], force=True)
    claims = {one.id: one for one in yard.take()}
    yard.end(claims[parent], BAD)
    yard.end(claims[child])
    assert yard.state(waits) == "succeeded"


def test_who_starts_over_does_not_wait_for_the_children_of_his_last_run(yard: Yard) -> None:
    parent = yard.add()
    spawner = yard.add(after=(parent,))
    yard.end(yard.take()[0])
    (claim,) = yard.take()
    spawn(yard, claim)
    yard.end(claim, BAD, flags=Flag.SPAWNED)
    yard.store.desk.retry([spawner])
    assert yard.state(spawner) == "ready"


def test_a_child_that_would_wait_for_its_own_spawner_is_an_error(yard: Yard) -> None:
    spawner, master = yard.add(), yard.add(flags=int(Flag.MASTER))
    claims = {claim.id: claim for claim in yard.take()}
    with pytest.raises(BadOption, match=f"job {spawner} ends after its children"):
        yard.add(parent=claims[spawner].lease, after=(spawner,))
    assert yard.state(yard.add(parent=claims[master].lease, after=(master,))) == "blocked: parents"
