"""Exceptions that are raised in another thread: they arrive in the run, or nowhere."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from dray.grip import ThreadGrip
from dray.signals import TimedOut
from dray.stacks import all_stacks, coroutine_stack

TRIES = 3000


def test_a_run_is_interrupted_where_it_is() -> None:
    grip = ThreadGrip()
    inside = threading.Event()

    def run() -> None:
        inside.set()
        while True:
            time.sleep(0.001)

    timer = threading.Thread(target=lambda: (inside.wait(10), grip.time_out()))
    timer.start()
    with pytest.raises(TimedOut) as caught:
        grip.call(run)
    timer.join()
    assert "run" in {frame.name for frame in caught.traceback}


def test_what_a_run_gives_or_raises_goes_on() -> None:
    assert ThreadGrip().call(lambda x: x + 1, 1) == 2
    with pytest.raises(ZeroDivisionError):
        ThreadGrip().call(lambda: 1 / 0)


def test_a_word_that_comes_too_late_harms_nobody() -> None:
    """The end of the run and the word of its time race each other, thousands of times; what comes of it comes of the run."""
    current: list[ThreadGrip] = []
    over = threading.Event()

    def ring() -> None:
        while not over.is_set():
            if current:
                current[-1].time_out()

    ringer = threading.Thread(target=ring)
    ringer.start()
    outcomes = {"ended": 0, "timed out": 0}
    try:
        for number in range(TRIES):
            grip = ThreadGrip()
            current[:] = [grip]
            try:
                assert grip.call(sum, range(number % 500)) == sum(range(number % 500))
                outcomes["ended"] += 1
            except TimedOut:
                outcomes["timed out"] += 1
            # Nothing may arrive from here on.
            for _ in range(50):
                pass
    finally:
        over.set()
        ringer.join()
    assert sum(outcomes.values()) == TRIES


def test_a_word_on_its_way_when_the_run_ends_is_swallowed() -> None:
    class Slow(ThreadGrip):
        """The word is said when the run has ended, and its end has not been noted."""

        said = False

        def _leave(self) -> None:
            if not self.said:
                self.said = True
                ringer = threading.Thread(target=self.time_out)
                ringer.start()
                ringer.join()
            super()._leave()

    for _ in range(100):
        grip = Slow()
        assert grip.call(lambda: "done") == "done"
        assert grip.said
        with pytest.raises(ZeroDivisionError):
            Slow().call(lambda: 1 / 0)


def test_a_run_that_swallows_it_is_not_asked_twice() -> None:
    grip, seen = ThreadGrip(), []
    inside = threading.Event()

    def run() -> str:
        try:
            inside.set()
            while True:
                time.sleep(0.001)
        except TimedOut:
            seen.append(1)
        grip.time_out()
        time.sleep(0.01)
        return "cleaned up"

    timer = threading.Thread(target=lambda: (inside.wait(10), grip.time_out()))
    timer.start()
    assert grip.call(run) == "cleaned up"
    timer.join()
    assert seen == [1]


def test_stacks_name_threads_and_coroutines() -> None:
    ready, go = threading.Event(), threading.Event()

    def in_a_place() -> None:
        ready.set()
        go.wait(10)

    thread = threading.Thread(target=in_a_place, name="a-thread")
    thread.start()
    ready.wait(10)
    assert thread.ident is not None
    told = all_stacks({thread.ident: "job 7 send"})
    go.set()
    thread.join()
    assert told.startswith("job 7 send:\n")
    assert "in_a_place" in told

    async def inner() -> None:
        await asyncio.sleep(60)

    async def outer() -> None:
        await inner()

    async def look() -> str:
        steps = outer()
        task = asyncio.ensure_future(steps)
        await asyncio.sleep(0.01)
        told = coroutine_stack(steps)
        task.cancel()
        return told

    told = asyncio.run(look())
    assert told.index("in outer") < told.index("in inner") < told.index("in sleep")
