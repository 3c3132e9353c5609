"""What single workers are told, and jobs that are claimed by their ids, on every database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import permutations

import pytest
from sqlalchemy import update

from dray.errors import WorkerGone
from dray.job import Change, Failed, Finish, HandedBack, Lease, NewJob, Outcome, Snoozed, State
from dray.lifecycle import decide
from dray.store.orders import Order, Orders
from dray.store.output import Line
from tests.contract.yard import Yard

rows = pytest.mark.rows
OUTCOMES = [Failed(error="no", retry_in=0), Failed(error="no", retry_in=60), HandedBack(), Snoozed(delay=60)]


def register(yard: Yard, queues: str = "*") -> int:
    return yard.store.roster.register(host="here", pid=1, queues=queues, concurrency=2)


def heard(yard: Yard, worker: int) -> Orders:
    """What a worker finds when it asks what is paused."""
    orders: Orders = yard.store.desk.controls(worker).orders
    return orders


def job(yard: Yard, **options: object) -> int:
    (added,) = yard.store.add([NewJob(task="t", queue="q", args="{}", **options)])  # type: ignore[arg-type]
    return added.id


# --- orders -----------------------------------------------------------------------------------------------------------------


@rows("C88")
def test_an_order_is_heard_by_whom_it_was_given_to_and_by_nobody_else(yard: Yard) -> None:
    roster = yard.store.roster
    one, other = register(yard), register(yard)
    assert roster.give([other, one, 99], Order.RELOAD) == [one, other]
    assert heard(yard, one) == Orders(Order.RELOAD)
    roster.leave(one)
    assert roster.give([one], Order.STOP) == []
    later = register(yard)
    assert heard(yard, later) == Orders()
    assert heard(yard, 99) == Orders()


def test_an_order_of_a_newer_version_is_none(yard: Yard) -> None:
    one = register(yard)
    workers = yard.store.tables.workers
    yard.store.database.once(lambda connection: connection.execute(update(workers).values(asked=99)))
    assert heard(yard, one) == Orders()


@pytest.mark.parametrize("orders", list(permutations(Order)))
def test_whatever_comes_first_who_is_told_to_end_at_once_does(yard: Yard, orders: Sequence[Order]) -> None:
    one = register(yard)
    for order in orders:
        assert yard.store.roster.give([one], order) == [one]
    assert heard(yard, one).order is Order.STOP_NOW


def test_who_is_told_to_end_does_not_begin_anew_instead(yard: Yard) -> None:
    one, other = register(yard), register(yard)
    for order, worker in ((Order.STOP, one), (Order.RELOAD, one), (Order.RELOAD, other), (Order.STOP, other)):
        yard.store.roster.give([worker], order)
    assert heard(yard, one).order is heard(yard, other).order is Order.STOP


def test_a_stack_is_asked_for_answered_and_read_by_who_asked(yard: Yard) -> None:
    roster, one = yard.store.roster, register(yard)
    assert roster.ask_stack(99) is None
    since = roster.ask_stack(one)
    assert since is not None
    assert heard(yard, one).stack
    assert roster.stack(one, since) is None
    yard.clock.forward(1)
    roster.answer(one, "here \0 it is")
    assert roster.stack(one, since) is not None
    assert not heard(yard, one).stack
    yard.clock.forward(1)
    again = roster.ask_stack(one)
    assert again is not None
    assert heard(yard, one).stack
    assert roster.stack(one, again) is None  # the old answer is none to the new question


def test_a_worker_says_how_it_is(yard: Yard) -> None:
    one = register(yard)
    row, _ = yard.store.roster.listing()
    assert (row.paused, row.memory, row.done) == (False, None, 0)
    yard.store.roster.report(one, paused=True, memory=5000, done=7)
    row, _ = yard.store.roster.listing()
    assert (row.paused, row.memory, row.done) == (True, 5_120_000, 7)


@rows("S0.47", "C83")
def test_all_can_be_stopped_and_started_by_many_at_once(yard: Yard) -> None:
    desk = yard.store.desk
    assert desk.controls().stopped is None
    threads = [threading.Thread(target=desk.stop_all, args=(f"reason {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert str(desk.controls().stopped).startswith("reason")
    assert desk.start_all()
    assert not desk.start_all()
    assert desk.controls().stopped is None
    desk.stop_all(None)
    assert desk.controls().stopped == ""


# --- claims by id -----------------------------------------------------------------------------------------------------------


@rows("S0.49")
def test_a_job_is_taken_whatever_it_waits_for(yard: Yard) -> None:
    store, worker = yard.store, register(yard)
    ready, late = job(yard), job(yard, delay=600.0)
    first, second = job(yard, group="g"), job(yard, group="g")
    held = job(yard)
    store.desk.hold([held])
    store.desk.pause("q")
    for one in (ready, late, second, held):
        claim = store.pick(worker, one)
        assert claim is not None
        assert (claim.id, claim.fence, claim.attempt, claim.worker_id) == (one, 1, 1, worker)
        row = store.desk.job(one)
        assert row is not None
        assert (row.state, row.reason, row.run_at) == (State.RUNNING, None, None)
        assert store.pick(worker, one) is None  # it runs
        done = store.finish([Finish(claim, Change(state=State.SUCCEEDED))])
        assert done.accepted == {claim.lease}
        assert store.pick(worker, one) is None  # it has ended
    assert store.desk.job(first).state is State.READY  # type: ignore[union-attr]  # its line is as it was
    assert store.pick(worker, 999) is None


@rows("S0.49", "S2.59")
@pytest.mark.parametrize(
    "outcome", [Failed(error="no", retry_in=0), Failed(error="no", retry_in=60), HandedBack(), Snoozed(delay=60)]
)
def test_one_that_is_taken_out_of_its_turn_and_does_not_end_goes_back_into_line(yard: Yard, outcome: Outcome) -> None:
    store, worker = yard.store, register(yard)
    first, second, third = (job(yard, group="g") for _ in range(3))
    claim = store.pick(worker, second)
    assert claim is not None
    assert store.finish([Finish(claim, decide(claim, outcome))]).accepted
    yard.clock.forward(100)
    store.promote()
    assert yard.state(second) == "blocked: group"
    for one, following in ((first, second), (second, third)):
        assert yard.state(one) == "ready"
        claim = store.pick(worker, one)
        assert claim is not None
        store.finish([Finish(claim, Change(state=State.SUCCEEDED))])
        assert yard.state(following) == "ready"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_one_that_is_taken_alone_in_its_group_comes_back_in_turn(yard: Yard, outcome: Outcome) -> None:
    store, worker = yard.store, register(yard)
    late = job(yard, group="g", delay=600.0)
    claim = store.pick(worker, late)
    assert claim is not None
    store.finish([Finish(claim, decide(claim, outcome))])
    yard.clock.forward(100)
    store.promote()
    assert yard.state(late) == "ready"


def test_one_that_is_taken_beyond_its_limit_is_counted_meanwhile(yard: Yard) -> None:
    store, worker = yard.store, register(yard)
    first, second, third = (job(yard, limit="l", limit_rule="1") for _ in range(3))
    claim = store.pick(worker, third)
    assert claim is not None
    head = store.pick(worker, first)
    assert head is not None
    store.finish([Finish(head, Change(state=State.SUCCEEDED))])
    assert yard.state(second) == "blocked: limit"
    store.finish([Finish(claim, Change(state=State.SUCCEEDED))])
    assert yard.state(second) == "ready"


def test_who_is_not_alive_takes_nothing(yard: Yard) -> None:
    one = job(yard)
    with pytest.raises(WorkerGone):
        yard.store.pick(99, one)
    assert yard.store.desk.job(one).state is State.READY  # type: ignore[union-attr]


def test_of_many_that_want_the_same_job_one_has_it(yard: Yard) -> None:
    one, workers = job(yard), [register(yard) for _ in range(4)]
    barrier, claims = threading.Barrier(4), []

    def take(worker: int) -> None:
        barrier.wait()
        claims.append(yard.store.pick(worker, one))

    threads = [threading.Thread(target=take, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


# --- what a run has said ----------------------------------------------------------------------------------------------------


@rows("S1.21")
def test_what_one_run_has_said_is_forgotten_and_nothing_else(yard: Yard) -> None:
    desk = yard.store.desk
    desk.write_output([Line(1, 1, "stdout", "a"), Line(1, 2, "stdout", "b"), Line(2, 1, "stdout", "c")])
    desk.forget_output(Lease(1, 1))
    assert [line.text for id in (1, 2) for line in desk.read_output(id)] == ["b", "c"]
