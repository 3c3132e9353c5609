"""Numbers of runs: counted, merged, read as quantiles; what a run costs; secrets that are hidden."""

from __future__ import annotations

import asyncio
import mmap
import os
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray.job import Change, Claim, Finish, State, Usage
from dray.meter import Meter, Stopwatch
from dray.redact import redact
from dray.rollup import Numbers, bin_of, facts, quantile, summed
from dray.tally import Tally

rows = pytest.mark.rows
MINUTE = 60_000_000


def end(
    state: State = State.SUCCEEDED, *, claimed: int = 0, ran: float = 1.0, error: str | None = None, task: str = "t"
) -> Finish:
    claim = Claim(1, 1, 1, 0, 0, None, 0, 100, "q", task, "{}", None, None, 0, claimed, ready_at=claimed - 500_000)
    return Finish(claim, Change(state=state, error=error), ran=ran, usage=Usage(7, 0.25, 10, 20, 30, 40))


# --- numbers --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(2, 10**10), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_right_to_within_a_tenth(times: list[int], share: float) -> None:
    numbers = Numbers()
    numbers.time(times, [])
    found, exact = quantile(numbers.run, share), sorted(times)[max(0, -(-len(times) * share // 1).__int__() - 1)] / 1_000_000
    assert found is not None
    assert (
        0.9 <= found / exact <= 1.12 or bin_of(round(exact * 1_000_000)) < 8
    )  # below four microseconds there are whole steps only


@given(st.lists(st.tuples(st.sampled_from([*State]), st.booleans(), st.integers(0, 10**9)), max_size=50), st.integers(1, 5))
def test_it_does_not_matter_in_which_portions_they_are_counted(ends: list[tuple[State, bool, int]], portions: int) -> None:
    whole, parts = Numbers(), [Numbers() for _ in range(portions)]
    for place, (state, failed, microseconds) in enumerate(ends):
        for numbers in (whole, parts[place % portions]):
            numbers.count(state, failed=failed)
            numbers.time([microseconds], [microseconds])
            numbers.use(1, microseconds % 1000)
    assert summed(parts) == whole
    assert Numbers.from_json(whole.to_json()) == whole


@given(st.lists(st.integers(-5, 100) | st.integers(0, 10**9) | st.integers(0, 2**64), max_size=100))
def test_many_times_at_once_are_counted_where_each_belongs(times: list[int]) -> None:
    numbers = Numbers()
    numbers.time(times, times)
    assert numbers.run == numbers.wait == Counter(map(bin_of, times))


def test_what_a_hand_has_written_is_nothing() -> None:
    assert Numbers.from_json("no json") == Numbers.from_json('{"run": 7}') == Numbers()
    assert quantile({}, 0.5) is None
    assert facts(Numbers())["run_mean"] is None


@rows("S2.79")
def test_a_minute_is_given_whole_each_time_so_that_writing_it_twice_changes_nothing() -> None:
    tally = Tally()
    tally.add([end(claimed=5 * MINUTE)])
    (first,) = tally.take(3)
    tally.add([end(State.RETRYING, claimed=5 * MINUTE, error="e")])
    (second,) = tally.take(3)
    assert (first.at, first.worker_id, first.task, first.queue) == (300, 3, "t", "q")
    assert second[:4] == first[:4]
    numbers = Numbers.from_json(second.numbers)
    assert (numbers.succeeded, numbers.retried, numbers.runs) == (1, 1, 2)
    assert (numbers.cpu_us, numbers.memory_most, numbers.wait_us) == (500_000, 40, 1_000_000)
    assert tally.take(3) == []
    tally.again([second])
    assert tally.take(3) == [second]


def test_a_run_belongs_to_the_minute_in_which_it_ended_and_what_never_started_to_none() -> None:
    tally = Tally()
    tally.add([end(claimed=5 * MINUTE, ran=125.0)])
    tally.add([end(claimed=5 * MINUTE)._replace(started=False)])
    (row,) = tally.take(1)
    assert row.at == 7 * 60


def test_runs_that_ended_in_two_minutes_are_parted_though_they_are_counted_together() -> None:
    tally = Tally()
    tally.add([end(claimed=5 * MINUTE, ran=ran) for ran in (59.0, 61.0, 2.0)])
    found = {row.at: Numbers.from_json(row.numbers).runs for row in tally.take(1)}
    assert found == {5 * 60: 2, 6 * 60: 1}
    assert (tally.total, tally.by_state) == (3, {State.SUCCEEDED: 3})


def test_minutes_that_are_long_over_are_forgotten_once_they_have_been_given() -> None:
    tally = Tally()
    for minute in range(10):
        tally.add([end(claimed=minute * MINUTE, ran=0.1)])
    old = tally.take(1)
    assert len(old) == 10
    tally.again(old)
    assert [row.at for row in tally.take(1)] == [7 * 60, 8 * 60, 9 * 60]


# --- what a run costs -----------------------------------------------------------------------------------------------------


def fresh_pages(size: int) -> mmap.mmap:
    """Memory the process did not have before: where much ran already, its heap may have room for all that is asked for."""
    pages = mmap.mmap(-1, size)
    for place in range(0, size, mmap.PAGESIZE):
        pages[place] = 1
    return pages


@rows("S2.77", "S2.78")
def test_memory_and_processor_time_of_a_run() -> None:
    meter = Meter()
    before = meter.begin(alone=True)
    held = fresh_pages(40_000_000)
    time.sleep(0.002)  # a look at the memory is good for a millisecond
    usage = meter.end(before, 0.5)
    assert (usage.pid, usage.cpu) == (os.getpid(), 0.5)
    assert usage.memory_after - usage.memory_before > 30_000
    assert usage.peak_after >= usage.memory_after
    held.close()


def test_a_meter_that_is_not_used_any_more_has_no_file_open() -> None:
    many = 100  # what other threads open meanwhile is less
    open_before = len(os.listdir("/dev/fd"))
    for _ in range(many):
        assert Meter().begin(alone=True).now > 0
    assert len(os.listdir("/dev/fd")) < open_before + many


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is reset through /proc")
def test_the_peak_is_counted_anew_for_a_run_that_is_alone() -> None:
    meter = Meter()
    first = meter.begin(alone=True)
    held = fresh_pages(60_000_000)
    time.sleep(0.002)
    high = meter.end(first, None)
    held.close()
    time.sleep(0.002)
    usage = meter.end(meter.begin(alone=True), None)
    assert usage.peak_before >= high.peak_after - 1000
    assert usage.peak_after < usage.peak_before - 40_000


def test_a_stopwatch_counts_the_steps_of_a_coroutine_and_not_what_happens_meanwhile() -> None:
    now = 0.0

    async def work() -> str:
        nonlocal now
        now += 1.0
        await asyncio.sleep(0)
        now += 2.0
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except TimeoutError:
            now += 4.0
        return "done"

    async def others() -> None:
        nonlocal now
        now += 100.0

    async def both() -> tuple[str, float]:
        watch = Stopwatch(lambda: now)
        result, _ = await asyncio.gather(watch.timed(work()), others())
        return result, watch.seconds

    assert asyncio.run(both()) == ("done", 7.0)


def test_a_stopwatch_lets_a_cancel_and_an_error_pass() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError("mine")

    async def cancelled() -> bool:
        task = asyncio.ensure_future(asyncio.wait_for(Stopwatch().timed(asyncio.sleep(60)), 60))
        await asyncio.sleep(0)
        task.cancel()
        return isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

    async def awaited() -> None:
        await Stopwatch().timed(fails())

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(awaited())
    assert asyncio.run(cancelled())


def test_runs_side_by_side_are_measured_without_disturbing_each_other() -> None:
    meter = Meter()

    def some() -> None:
        for _ in range(200):
            assert meter.end(meter.begin(alone=False), 0.0).memory_after > 0

    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- secrets --------------------------------------------------------------------------------------------------------------


@rows("C97")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach postgresql://ann:hunter2@db/shop", "cannot reach postgresql://ann:***@db/shop"),
        ("password=hunter2", "password=***"),
        ("{'api_key': 'abc', 'id': 7}", "{'api_key': ***, 'id': 7}"),
        ("Authorization: Bearer abc.def next", "Authorization: *** next"),
        ("DB_PASSWORD='a b' x", "DB_PASSWORD=*** x"),
        ("the token was refused", "the token was refused"),
        ("row 7 has no name", "row 7 has no name"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
