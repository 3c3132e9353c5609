"""Numbers of what was done, on every database: written by the minute, read whole, kept by the hour."""

from __future__ import annotations

import threading

import pytest

from dray.job import Done, Failed, Finish, Outcome, Usage
from dray.lifecycle import decide
from dray.rollup import Numbers
from dray.store import open_store
from dray.store.board import Rollup
from tests.contract.yard import Yard
from tests.servers import Database

rows = pytest.mark.rows
DAY = 86_400


def now(yard: Yard) -> int:
    return yard.clock.now // 60_000_000 * 60


def numbers(succeeded: int, seconds: int = 1) -> str:
    some = Numbers(succeeded=succeeded)
    some.time([seconds * 1_000_000], [0])
    return some.to_json()


@rows("S2.79")
def test_what_is_written_again_takes_the_place_of_what_was_written(yard: Yard) -> None:
    at = now(yard)
    yard.store.desk.write_rollups([Rollup(at, 1, "t", "q", numbers(5)), Rollup(at, 2, "t", "q", numbers(1))])
    yard.store.desk.write_rollups([Rollup(at, 1, "t", "q", numbers(7)), Rollup(at, 1, "T", "q", numbers(2))])
    found = yard.store.desk.totals(3600)
    assert {key: some.succeeded for key, some in found.items()} == {("t", "q"): 8, ("T", "q"): 2}
    assert found["t", "q"].runs == 2


def test_only_what_is_asked_for_is_read(yard: Yard) -> None:
    for ago in (0, 1800, 7200):
        yard.store.desk.write_rollups([Rollup(now(yard) - ago, 1, "t", "q", numbers(1))])
    assert [yard.store.desk.totals(seconds)["t", "q"].succeeded for seconds in (600, 3600, 9000)] == [1, 2, 3]
    yard.clock.forward(10_000)
    assert yard.store.desk.totals(3600) == {}


def test_minutes_become_hours_and_nothing_is_lost_or_counted_twice(yard: Yard, database: Database) -> None:
    hour = now(yard) // 3600 * 3600
    for minute in range(0, 180, 3):
        for worker in (1, 2):
            yard.store.desk.write_rollups([Rollup(hour + 60 * minute, worker, "t", "q", numbers(1))])
    assert yard.store.desk.merge_rollups(DAY) == 0
    yard.clock.forward(2 * DAY)
    stores = [open_store(database.url, clock=yard.clock) for _ in range(3)]
    start = threading.Barrier(3)

    def merge(index: int) -> None:
        start.wait()
        while stores[index].desk.merge_rollups(DAY):
            pass

    threads = [threading.Thread(target=merge, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert yard.store.desk.totals(5 * DAY)["t", "q"].succeeded == 120
    assert yard.store.desk.merge_rollups(DAY) == 0
    # A late minute of an hour that has been merged joins it.
    yard.store.desk.write_rollups([Rollup(hour, 3, "t", "q", numbers(1)), Rollup(hour, 3, "u", "q", numbers(4))])
    assert yard.store.desk.merge_rollups(DAY) == 2
    found = yard.store.desk.totals(5 * DAY)
    assert (found["t", "q"].succeeded, found["t", "q"].runs, found["u", "q"].succeeded) == (121, 121, 4)
    assert yard.store.desk.forget_rollups(90 * DAY) == 0
    yard.clock.forward(90 * DAY)
    assert yard.store.desk.forget_rollups(90 * DAY) == 4
    for store in stores:
        store.close()


# --- what a run cost, on the job ------------------------------------------------------------------------------------------


@rows("S2.77", "S2.78", "S2.14")
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "is tried again"])
def test_pid_processor_memory_and_metadata_stand_on_the_job(yard: Yard, fails: bool) -> None:
    id = yard.add(max_attempts=3)
    for memory in (1000, 2000):
        (claim,) = yard.take()
        usage = Usage(4711, 0.25, memory, memory + 1, memory + 2, memory + 3)
        change = decide(claim, Failed(error="e", retry_in=1.0)) if fails else decide(claim, Failed(error="e", retry_in=0.0))
        yard.store.finish([Finish(claim, change, ran=0.1, usage=usage, metadata=f'{{"memory":{memory}}}')])
        yard.clock.forward(2)
        yard.store.promote()
    row = yard.store.desk.job(id)
    assert row is not None
    assert (row.pid, row.cpu_seconds, row.metadata) == (4711, 0.25, '{"memory":2000}')
    assert (row.memory_before, row.memory_after, row.peak_before, row.peak_after) == tuple(
        1024 * n for n in (2000, 2001, 2002, 2003)
    )
    (claim,) = yard.take()
    yard.end(claim)
    row = yard.store.desk.job(id)
    assert row is not None
    assert (row.state, row.pid, row.memory_before) == ("succeeded", 4711, 2_048_000)  # of a run that was not measured: the last


@rows("S2.77")
@pytest.mark.parametrize(
    "outcome", [Done(), Done(result="1"), Failed(error="e", permanent=True), Failed(error="e", retry_in=9.0)]
)
def test_sizes_of_any_magnitude_are_kept_whatever_becomes_of_the_job(yard: Yard, outcome: Outcome) -> None:
    id = yard.add(max_attempts=3)
    (claim,) = yard.take()
    sizes = 3_500_001, 2**31 - 1, 4_000_003, 2**31 - 2  # KiB
    yard.store.finish([Finish(claim, decide(claim, outcome), ran=0.1, usage=Usage(4711, None, *sizes))])
    row = yard.store.desk.job(id)
    assert row is not None
    found = row.memory_before, row.memory_after, row.peak_before, row.peak_after
    assert found == tuple(1024 * size for size in sizes)
    assert (row.pid, row.cpu_seconds) == (4711, None)


# --- what fails -----------------------------------------------------------------------------------------------------------


def test_failed_attempts_alike_are_put_together(yard: Yard) -> None:
    ids = []
    for number in range(6):
        ids.append(yard.add(task="u" if number == 5 else "t"))
        (claim,) = yard.take()
        outcome = Failed(
            error=f"row {number}",
            fingerprint=1 if number < 5 else -1,
            retry_in=None if number % 2 else 3600.0,
            permanent=bool(number % 2),
        )
        yard.store.finish([Finish(claim, decide(claim, outcome), ran=0.1)])
        yard.clock.forward(60)
    first, second = yard.store.desk.errors()
    assert (first.task, first.attempts, first.final, first.error, first.jobs) == ("t", 5, 2, "row 4", tuple(reversed(ids[:5])))
    assert (second.task, second.attempts, second.final, second.jobs) == ("u", 1, 1, (ids[5],))
    assert first.last_at > first.first_at
    assert len({first.key, second.key}) == 2
    assert [kind.attempts for kind in yard.store.desk.errors(130)] == [1, 1]
    assert yard.store.desk.errors(1) == []
