"""What unique keys, expiry and deadlines promise, on every database."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import create_engine

from dray.errors import Conflict
from dray.job import Added, Failed, Flag, NewJob, State, UniqueKey, wide_hash
from dray.store import open_store
from dray.store.unique import EVER, QUEUED, UNFINISHED, WINDOW
from tests.contract.yard import Yard
from tests.servers import Database

BAD = Failed(error="boom", permanent=True)


def job(name: str = "k", scope: int = QUEUED, conflict: str = "keep", args: str = "{}", **options: Any) -> NewJob:
    """A job with this key; `window` and `max_wait` belong to the key."""
    key = {name: options.pop(name) for name in ("window", "max_wait") if name in options}
    unique = UniqueKey(hash=wide_hash(f"{scope}{name}"), scope=scope, conflict=conflict, **key)
    return NewJob(task="t", queue="q", args=args, unique=unique, **options)


def add(yard: Yard, new: NewJob) -> Added:
    return yard.store.add([new])[0]


@pytest.mark.rows("C59", "C62", "S2.26")
def test_a_second_one_is_the_first_until_that_has_started(yard: Yard) -> None:
    first = add(yard, job())
    again = add(yard, job())
    assert first.created
    assert again == Added(first.id, State.READY, created=False)
    (claim,) = yard.take()
    other = add(yard, job())
    assert other.created, "what changed while the first one runs is not lost"
    yard.end(claim)
    assert add(yard, job()).id == other.id


@pytest.mark.rows("C60")
def test_unfinished_keeps_others_away_until_the_end_and_not_after_a_failure(yard: Yard) -> None:
    first = add(yard, job(scope=UNFINISHED))
    (claim,) = yard.take()
    assert add(yard, job(scope=UNFINISHED)) == Added(first.id, State.RUNNING, created=False)
    yard.end(claim, BAD)
    assert add(yard, job(scope=UNFINISHED)).created


@pytest.mark.rows("C59", "C60", "S2.27")
def test_ever_is_for_ever_also_when_the_job_failed_or_was_pruned(yard: Yard) -> None:
    first = add(yard, job(scope=EVER))
    yard.end(yard.take()[0], BAD)
    assert add(yard, job(scope=EVER)) == Added(first.id, State.FAILED, created=False)
    assert yard.store.desk.prune_batch(State.FAILED, -1.0) == 1
    yard.store.desk.prune_keys(None)
    assert not add(yard, job(scope=EVER)).created


@pytest.mark.rows("C59", "C65", "S4.10")
def test_a_window_lasts_its_time_whatever_becomes_of_the_job(yard: Yard) -> None:
    first = add(yard, job(scope=WINDOW, window=60_000_000))
    yard.run()
    assert add(yard, job(scope=WINDOW, window=60_000_000)) == Added(first.id, State.SUCCEEDED, created=False)
    yard.clock.forward(61)
    assert add(yard, job(scope=WINDOW, window=60_000_000)).created


def test_raise_names_the_holder_and_nothing_is_written(yard: Yard) -> None:
    first = add(yard, job())
    with pytest.raises(Conflict) as caught:
        yard.store.add([NewJob(task="t", queue="q", args="{}"), job(conflict="raise")])
    assert caught.value.holder == first.id
    assert [one.id for one in yard.take()] == [first.id]


@pytest.mark.rows("C62")
def test_replace_changes_what_has_not_started_and_makes_a_new_one_of_what_has(yard: Yard) -> None:
    first = add(yard, job(args='{"a":[1]}'))
    assert add(yard, job(conflict="replace", args='{"a":[2]}', priority=5)) == Added(first.id, State.READY, created=False)
    (claim,) = yard.take()
    assert (claim.args, claim.priority) == ('{"a":[2]}', 5)
    assert add(yard, job(conflict="replace", args='{"a":[3]}')).created
    assert yard.take()[0].args == '{"a":[3]}'


@pytest.mark.rows("C65", "S4.10")
def test_a_debounced_job_runs_after_the_last_enqueue_but_not_too_late(yard: Yard) -> None:
    def poke(args: str) -> Added:
        return add(yard, job(conflict="replace", args=args, delay=10.0, max_wait=25.0))

    first = poke('{"a":[0]}')
    for number in range(1, 4):
        yard.clock.forward(9)
        assert poke(f'{{"a":[{number}]}}').id == first.id
    row = yard.store.desk.job(first.id)
    assert row is not None
    assert row.run_at is not None
    assert (row.run_at - row.created_at).total_seconds() == 25.0
    yard.store.promote()
    (claim,) = yard.take()
    assert claim.args == '{"a":[3]}'
    assert poke('{"a":[4]}').created


@pytest.mark.rows("C8")
def test_of_equal_ones_in_one_batch_the_first_is_made_and_places_are_kept(yard: Yard) -> None:
    there = add(yard, job("b"))
    added = yard.store.add([job("a"), job("b"), job("a"), NewJob(task="t", queue="q", args="{}"), job("c")])
    assert [one.created for one in added] == [True, False, False, True, True]
    assert added[1].id == there.id
    assert added[2].id == added[0].id
    assert len({one.id for one in added}) == 4


def test_a_retry_takes_its_key_again_or_is_refused_with_the_holders_name(yard: Yard) -> None:
    first = add(yard, job(scope=UNFINISHED))
    yard.end(yard.take()[0], BAD)
    second = add(yard, job(scope=UNFINISHED))
    (moved,) = yard.store.desk.retry([first.id])
    assert (moved.after, moved.holder) == (None, second.id)
    yard.store.desk.cancel([second.id])
    (moved,) = yard.store.desk.retry([first.id])
    assert moved.after is State.READY
    assert add(yard, job(scope=UNFINISHED)).id == first.id


@pytest.mark.rows("C61")
@pytest.mark.parametrize("conflict", ["keep", "replace", "raise"])
def test_keys_that_are_alike_in_their_first_half_are_two(yard: Yard, conflict: str) -> None:
    """What 64 bits would take for one key: a collision would lose a job."""

    def forged(half: str, args: str = "{}") -> NewJob:
        return NewJob(
            task="t", queue="q", args=args, unique=UniqueKey("0123456789abcdef" + half, UNFINISHED, conflict=conflict)
        )

    one, two = "0" * 16, "0" * 15 + "1"
    first, second = yard.store.add([forged(one), forged(two, '{"a":[2]}')])
    assert (first.created, second.created) == (True, True)
    assert {claim.id: claim.args for claim in yard.take()} == {first.id: "{}", second.id: '{"a":[2]}'}
    if conflict == "keep":
        assert [one.id for one in yard.store.add([forged(two), forged(one)])] == [second.id, first.id]


def test_keys_stand_in_one_order_everywhere(yard: Yard) -> None:
    """Whatever the locale: who takes many keys takes them in this order, and waits in no circle."""
    added = yard.store.add([job(str(number), scope=EVER) for number in range(50)])
    assert all(one.created for one in added)
    with yard.caller().connect() as connection:
        statement = yard.store.tables.text("SELECT unique_hash FROM {unique_keys} ORDER BY unique_hash")
        hashes = list(connection.execute(statement).scalars())
    assert hashes == sorted(wide_hash(f"{EVER}{number}") for number in range(50))


@pytest.mark.parametrize("scope", [QUEUED, UNFINISHED])
def test_of_two_that_are_retried_together_one_takes_their_key(yard: Yard, scope: int) -> None:
    first = add(yard, job(scope=scope))
    yard.end(yard.take()[0], BAD)
    second = add(yard, job(scope=scope))
    yard.end(yard.take()[0], BAD)
    moved = yard.store.desk.retry([second.id, first.id])
    assert [(one.after, one.holder) for one in moved] == [(None, first.id), (State.READY, None)]
    assert add(yard, job(scope=scope)).id == first.id


@pytest.mark.rows("C62")
def test_who_gets_another_priority_stands_where_that_belongs(yard: Yard) -> None:
    """In its group, and among those that are ready, where claims do not look below their floors each time."""
    head = yard.add(group="g")
    first = yard.add(group="g")
    wanted = add(yard, job("g", conflict="replace", group="g"))
    assert add(yard, job("g", conflict="replace", group="g", priority=5)).id == wanted.id
    assert yard.run() == [head, wanted.id, first]

    ready = add(yard, job("r", conflict="replace"))
    before = yard.store.desk.job(ready.id)
    yard.clock.forward(1)
    add(yard, job("r", conflict="replace", args='{"a":[1]}'))
    same = yard.store.desk.job(ready.id)
    add(yard, job("r", conflict="replace", priority=5))
    moved = yard.store.desk.job(ready.id)
    assert before is not None
    assert same is not None
    assert moved is not None
    assert moved.ready_at != same.ready_at == before.ready_at, "it loses its place by a new priority, and by nothing else"


def test_keys_that_nobody_holds_are_pruned(yard: Yard) -> None:
    for name in "abc":
        add(yard, job(name))
    yard.run()
    held = add(yard, job("d"))
    yard.store.desk.prune_keys(None)
    with yard.caller().connect() as connection:
        left = connection.execute(yard.store.tables.text("SELECT job_id FROM {unique_keys}")).scalars().all()
    assert left == [held.id]


def test_a_callers_transaction_takes_the_key_with_the_job_or_not_at_all(yard: Yard, database: Database) -> None:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        yard.store.add_within(connection, [job()])
        connection.rollback()
    assert (first := add(yard, job())).created
    with engine.connect() as connection:
        (again,) = yard.store.add_within(connection, [job()])
        assert again.id == first.id
        connection.commit()
    engine.dispose()


@pytest.mark.rows("C62")
def test_what_keep_found_queued_does_not_start_before_the_caller_has_committed(yard: Yard, database: Database) -> None:
    if database.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first = add(yard, job())
    engine = create_engine(database.url)
    with engine.connect() as connection:
        (again,) = yard.store.add_within(connection, [job()])
        assert again.id == first.id
        assert yard.take() == [], "a run that started now would not see the caller's changes"
        connection.commit()
    assert [one.id for one in yard.take()] == [first.id]
    engine.dispose()


@pytest.mark.rows("C59", "C62")
def test_of_many_producers_of_one_key_one_makes_the_job(yard: Yard, database: Database) -> None:
    stores = [open_store(database.url) for _ in range(4)]
    start = threading.Barrier(len(stores))
    made: list[Added] = []

    def produce(store: Any) -> None:
        start.wait()
        for number in range(15):
            made.extend(store.add([job(f"{number}-{other}") for other in range(5)]))

    threads = [threading.Thread(target=produce, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(made) == 4 * 75
    assert len({one.id for one in made if one.created}) == len({one.id for one in made}) == 75
    for store in stores:
        store.close()


# --- expiry ---------------------------------------------------------------------------------------------------------------


def test_what_was_not_started_in_time_is_cancelled_wherever_it_waits(yard: Yard) -> None:
    ready = yard.add(expires_in=60.0)
    later = yard.add(expires_in=60.0, delay=100.0)
    head = yard.add(group="g", expires_in=60.0)
    behind = yard.add(group="g")
    needs = yard.add(after=(ready,))
    assert tuple(yard.store.expire()) == (0, 0)
    yard.clock.forward(61)
    assert tuple(yard.store.expire()) == (3, 0)
    assert {yard.state(id) for id in (ready, later, head, needs)} == {"cancelled"}
    assert "expired" in (yard.note(ready) or "")
    assert yard.state(behind) == "ready"
    assert tuple(yard.store.expire()) == (0, 0)


def test_what_has_started_in_time_goes_on_unless_it_has_a_deadline(yard: Yard) -> None:
    yard.add(expires_in=60.0)
    late = yard.add(expires_in=60.0, flags=int(Flag.DEADLINE))
    first, second = yard.take()
    yard.clock.forward(61)
    assert tuple(yard.store.expire()) == (0, 1)
    assert tuple(yard.store.expire()) == (0, 0)
    assert [lease.id for lease, _ in yard.store.desk.requested(yard.worker)] == [late]
    yard.end(first)
    yard.end(second, Failed(error="boom", retry_in=60.0))
    assert yard.state(late) == "cancelled"


def test_an_expired_job_is_not_tried_again(yard: Yard) -> None:
    id = yard.add(expires_in=60.0)
    yard.end(yard.take()[0], Failed(error="boom", retry_in=30.0))
    yard.clock.forward(61)
    assert tuple(yard.store.expire()) == (1, 0)
    assert yard.state(id) == "cancelled"


@pytest.mark.rows("C59")
def test_a_key_that_somebody_is_just_taking_over_is_not_pruned(yard: Yard) -> None:
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    new = NewJob(task="t", queue="q", args="{}", unique=UniqueKey(wide_hash("6"), 0))
    yard.store.add([new])
    yard.end(yard.take()[0])
    with yard.caller().connect() as caller, caller.begin():
        (mine,) = yard.store.add_within(caller, [new])
        assert mine.created
        yard.store.desk.prune_keys(None)  # waits for nobody
    yard.store.desk.prune_keys(None)
    assert [one.created for one in yard.store.add([new])] == [False]


@pytest.mark.rows("C59", "C65")
@pytest.mark.parametrize("conflict", ["keep", "replace"])
def test_a_duplicate_is_found_in_a_transaction_that_began_before_it(yard: Yard, conflict: str) -> None:
    if yard.store.tables.dialect.name != "mysql":
        pytest.skip("PostgreSQL tells the caller to try again, SQLite has one writer at a time")
    new = NewJob(task="t", queue="q", args="{}", unique=UniqueKey(wide_hash("7"), 0, conflict=conflict))
    engine = yard.caller(isolation_level="REPEATABLE READ")
    with engine.connect() as caller, caller.begin():
        caller.execute(yard.store.tables.text("SELECT count(*) FROM {jobs}"))
        (first,) = yard.store.add([new])
        (second,) = yard.store.add_within(caller, [new])
    assert (second.id, second.created) == (first.id, False)


@pytest.mark.rows("C65")
def test_two_who_debounce_the_same_at_once_lose_no_transaction(yard: Yard) -> None:
    if yard.store.tables.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    new = NewJob(task="t", queue="q", args="{}", unique=UniqueKey(wide_hash("8"), 0, conflict="replace"))
    yard.store.add([new])
    start, lost = threading.Barrier(2), list[Exception]()

    def debounce() -> None:
        for _ in range(25):
            start.wait(30)
            try:
                with yard.caller().connect() as caller, caller.begin():
                    yard.store.add_within(caller, [new])
            except Exception as error:
                lost.append(error)

    threads = [threading.Thread(target=debounce) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []


@pytest.mark.rows("S2.26")
@pytest.mark.parametrize("begun", [True, False])
def test_a_conflict_that_the_caller_catches_leaves_nothing_of_the_batch_behind(yard: Yard, begun: bool) -> None:
    taken = NewJob(task="t", queue="q", args="{}", unique=UniqueKey(wide_hash("9"), 0, conflict="raise"))
    other = NewJob(task="t", queue="q", args="{}", unique=UniqueKey(wide_hash("10"), 0))
    yard.store.add([taken])
    with yard.caller().connect() as caller, caller.begin():
        if begun:
            caller.execute(yard.store.tables.text("DELETE FROM {labels}"))  # SQLite's driver begins with the first write
        with pytest.raises(Conflict):
            yard.store.add_within(caller, [other, taken])
    with yard.caller().connect() as caller:
        keys = caller.execute(yard.store.tables.text("SELECT unique_hash FROM {unique_keys}")).scalars().all()
    assert keys == [wide_hash("9")]
    assert [one.created for one in yard.store.add([other])] == [True]
    assert sum(yard.store.desk.counts().values()) == 2
