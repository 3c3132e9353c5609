"""What failures leave to be told, on every database: once each, to one at a time, and again if who tells it dies."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dray.job import Change, Failed, Finish, Flag, Reason, State
from dray.lifecycle import decide
from dray.notice import Event
from dray.store import open_store
from tests.contract.yard import Yard
from tests.servers import Database

rows = pytest.mark.rows
HOUR = 3_600_000_000


def fail(yard: Yard, error: str = "boom", *, told: bool = False, fingerprint: int | None = 7, **options: Any) -> int:
    """A job that fails; for good, unless it has attempts left."""
    id = yard.add(**options)
    (claim,) = yard.take()
    change = decide(claim, Failed(error=error, fingerprint=fingerprint, permanent=not told))
    yard.store.finish([Finish(claim, Change(**{**_fields(change), "told": told}), ran=0.1)])
    return id


def _fields(change: Change) -> dict[str, Any]:
    return {name: getattr(change, name) for name in change.__struct_fields__}


@rows("S2.3", "S2.42", "C33", "C96")
def test_a_failure_for_good_and_many_attempts_are_told_and_nothing_else(yard: Yard) -> None:
    yard.add()
    yard.end(yard.take()[0])
    yard.add()
    yard.end(yard.take()[0], Failed(error="once"), attempts=2)
    assert not yard.store.desk.notices_waiting(0)
    bad = fail(yard)
    often = fail(yard, told=True, task="u", error="again")
    taken = yard.store.desk.take_notices(0, 60)
    told = {(one.notice.event, one.notice.task, one.notice.error, one.notice.failures[0].job_id) for one in taken}
    assert told == {(Event.FAILED, "t", "boom", bad), (Event.ATTEMPTS, "u", "again", often)}


@rows("C33")
def test_that_it_was_told_of_stands_on_the_job_also_after_a_retry_by_hand(yard: Yard) -> None:
    id = fail(yard, told=True, max_attempts=3)
    yard.store.desk.retry([id])
    (claim,) = yard.take()
    assert claim.flags & Flag.TOLD


def test_a_result_that_was_refused_is_told_to_nobody(yard: Yard) -> None:
    yard.add()
    (claim,) = yard.take()
    yard.store.roster.leave(yard.worker)
    yard.store.rescue()
    change = decide(claim, Failed(error="late", permanent=True))
    assert yard.store.finish([Finish(claim, change, ran=0.1)]).accepted == set()
    assert not yard.store.desk.notices_waiting(0)


def test_jobs_that_nobody_ran_are_told_of_when_they_fail(yard: Yard) -> None:
    parent = yard.add()
    (claim,) = yard.take()
    child = yard.add(parent=claim.lease)
    yard.end(claim, flags=Flag.SPAWNED)
    assert yard.state(parent) == f"blocked: {Reason.CHILDREN}"
    (claim,) = yard.take()
    yard.end(claim, Failed(error="broken", permanent=True))
    assert yard.state(parent) == "failed"
    taken = yard.store.desk.take_notices(0, 60)
    assert sorted(failure.job_id for one in taken for failure in one.notice.failures) == [parent, child]


@rows("C14", "C18")
def test_deaths_that_fail_a_job_are_told(yard: Yard) -> None:
    id = yard.add(flags=Flag.FAIL_ON_CRASH)
    (claim,) = yard.take()
    assert yard.store.mark_started(claim.lease)
    yard.store.roster.leave(yard.worker)
    assert yard.store.rescue().failed == [id]
    (one,) = yard.store.desk.take_notices(0, 60)
    assert "died" in (one.notice.error or "")


def test_failures_alike_are_one_notice_if_they_come_together(yard: Yard) -> None:
    ids = [fail(yard, f"row {number}") for number in range(30)]
    fail(yard, "other", fingerprint=8)
    fail(yard, "row 1", task="another")
    assert not yard.store.desk.notices_waiting(10)
    yard.clock.forward(11)
    assert yard.store.desk.notices_waiting(10)
    taken = yard.store.desk.take_notices(10, 60)
    assert sorted(one.notice.count for one in taken) == [1, 1, 30]
    most = max(taken, key=lambda one: one.notice.count).notice
    assert [failure.job_id for failure in most.failures] == ids[:20]


@rows("C96", "S2.3")
def test_of_two_who_want_to_tell_it_one_does_and_if_that_one_dies_the_other(yard: Yard, database: Database) -> None:
    other = open_store(database.url, clock=yard.clock)
    fail(yard)
    (mine,) = yard.store.desk.take_notices(0, 60)
    assert other.desk.take_notices(0, 60) == []
    fail(yard)  # alike, and later: it is told by itself, the first one has its number
    yard.clock.forward(61)
    first, second = sorted(other.desk.take_notices(0, 60), key=lambda one: one.notice.id)
    assert (first.notice.id, first.notice.count, first.deaths) == (mine.notice.id, 1, 1)
    assert (second.notice.count, second.deaths) == (1, 0)
    assert not yard.store.desk.notice_told(mine, ["mail"], 60)
    yard.store.desk.notice_done(mine)  # too late: it changes nothing
    assert other.desk.notice_told(first, ["mail"], 60)
    for one in (first, second):
        other.desk.notice_done(one)
    yard.clock.forward(600)
    assert not other.desk.notices_waiting(0)
    other.close()


def test_what_did_not_work_is_tried_again_later_for_the_channels_that_are_left(yard: Yard) -> None:
    fail(yard)
    (one,) = yard.store.desk.take_notices(0, 60)
    assert yard.store.desk.notice_told(one, ["log", "webhook"], 60)
    yard.store.desk.notice_later(one, 30)
    assert yard.store.desk.take_notices(0, 60) == []
    yard.clock.forward(31)
    (again,) = yard.store.desk.take_notices(0, 60)
    assert (again.notice.id, again.told, again.tries, again.deaths) == (one.notice.id, {"log", "webhook"}, 1, 0)


@rows("C96")
def test_many_who_take_at_once_take_each_notice_once(yard: Yard, database: Database) -> None:
    for number in range(40):
        fail(yard, fingerprint=number)
    stores = [open_store(database.url, clock=yard.clock) for _ in range(4)]
    start, taken, lock = threading.Barrier(4), [], threading.Lock()

    def take(store: Any) -> None:
        start.wait()
        mine = store.desk.take_notices(0, 60)
        with lock:
            taken.extend(one.notice.id for one in mine)

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken += [one.notice.id for one in yard.store.desk.take_notices(0, 60)]  # locked rows were passed over
    assert len(taken) == len(set(taken)) == 40
    for store in stores:
        store.close()


@rows("S4.39", "C96")
def test_a_digest_is_made_once_when_its_time_has_come_of_what_failed_since_the_last(yard: Yard, database: Database) -> None:
    def every_hour(now: int) -> int:
        return (now // HOUR + 1) * HOUR

    other = open_store(database.url, clock=yard.clock)
    assert not yard.store.desk.digest_if_due(every_hour)  # it only says when the first will be
    assert not yard.store.desk.digest_if_due(every_hour)
    for number in range(3):
        fail(yard, f"row {number % 2}")
    yard.add()
    yard.end(yard.take()[0], Failed(error="still tried"), attempts=2)
    for one in yard.store.desk.take_notices(0, 60):
        yard.store.desk.notice_done(one)
    yard.clock.forward(3600)
    assert [store.desk.digest_if_due(every_hour) for store in (yard.store, other, yard.store)] == [True, False, False]
    (one,) = other.desk.take_notices(0, 60)
    digest = one.notice
    assert (digest.event, digest.count) == (Event.DIGEST, 3)
    assert [(group.task, group.error, group.failed) for group in digest.groups] == [("t", "row 0", 2), ("t", "row 1", 1)]
    other.desk.notice_done(one)
    yard.clock.forward(3600)
    assert other.desk.digest_if_due(every_hour)
    (one,) = other.desk.take_notices(0, 60)
    assert (one.notice.count, one.notice.groups) == (0, ())
    other.close()


# --- failures on record ---------------------------------------------------------------------------------------------------


@rows("C34", "S2.13")
@pytest.mark.parametrize(("attempts", "state"), [(1, "failed"), (2, "retrying")])
def test_a_failure_on_record_is_what_a_death_in_a_hook_leaves(yard: Yard, attempts: int, state: str) -> None:
    id = yard.add(max_attempts=attempts)
    (claim,) = yard.take()
    assert yard.store.record(claim.lease, decide(claim, Failed(error="boom", traceback="where", fingerprint=9)))
    yard.store.roster.leave(yard.worker)
    assert yard.store.rescue().freed == 1
    row = yard.store.desk.job(id)
    assert row is not None
    assert (row.state, row.error, row.crashes, row.attempt) == (state, "boom", 0, 1)
    ((error, traceback, fingerprint),) = [(one.error, one.traceback, one.fingerprint) for one in yard.store.desk.attempts(id)]
    assert (error, traceback, fingerprint) == ("boom", "where", 9)
    assert yard.store.desk.notices_waiting(0) is (state == "failed")


def test_the_end_of_a_run_takes_the_place_of_its_record(yard: Yard) -> None:
    id = yard.add(max_attempts=5)
    (claim,) = yard.take()
    assert yard.store.record(claim.lease, decide(claim, Failed(error="boom")))
    change = decide(claim, Failed(error="boom", permanent=True))
    assert yard.store.finish([Finish(claim, change, ran=0.1, recorded=True)]).accepted == {claim.lease}
    (attempt,) = yard.store.desk.attempts(id)
    assert attempt.state is State.FAILED


def test_nothing_is_put_on_record_of_a_lease_that_was_lost(yard: Yard) -> None:
    id = yard.add()
    (claim,) = yard.take()
    yard.store.roster.leave(yard.worker)
    yard.store.rescue()
    assert not yard.store.record(claim.lease, decide(claim, Failed(error="late")))
    assert yard.store.desk.attempts(id) == []
