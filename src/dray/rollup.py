"""Numbers of many runs: how many ended how, and how long they took, small enough to be kept by the minute for months."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dray.job import State

MINUTE, HOUR = 60, 3600  # seconds
STEPS = 4  # of a histogram between a time and its double: a quantile is read to within a tenth


class Numbers(msgspec.Struct, omit_defaults=True):
    """What some runs came to. Times are microseconds, memory KiB.

    run, wait     histograms: how many took about so long, and how many had waited so long since they were ready
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0  # failed, to be tried again
    back: int = 0  # snoozed, handed back, parked
    run_us: int = 0
    run_most: int = 0
    wait_us: int = 0
    cpu_us: int = 0
    memory_most: int = 0
    run: dict[int, int] = {}
    wait: dict[int, int] = {}

    @property
    def runs(self) -> int:
        return sum(self.run.values())

    def count(self, state: State, *, failed: bool, number: int = 1) -> None:
        """So many have become this; `failed`: though it is not over, something went wrong."""
        match state:
            case State.SUCCEEDED:
                self.succeeded += number
            case State.FAILED:
                self.failed += number
            case State.CANCELLED:
                self.cancelled += number
            case _ if failed:
                self.retried += number
            case _:
                self.back += number

    def time(self, runs_us: Sequence[int], waits_us: Sequence[int]) -> None:
        """Some took so long, and some of them had waited so long."""
        self.run_us += sum(runs_us)
        self.run_most = max(self.run_most, max(runs_us, default=0))
        self.wait_us += sum(waits_us)
        _fill(self.run, runs_us)
        _fill(self.wait, waits_us)

    def use(self, cpu_us: int, memory: int) -> None:
        """They used so much of a processor, and so much memory at most."""
        self.cpu_us += cpu_us
        self.memory_most = max(self.memory_most, memory)

    def add(self, other: Numbers) -> None:
        """Put others to these."""
        for name in ("succeeded", "failed", "cancelled", "retried", "back", "run_us", "wait_us", "cpu_us"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.run_most = max(self.run_most, other.run_most)
        self.memory_most = max(self.memory_most, other.memory_most)
        for mine, theirs in ((self.run, other.run), (self.wait, other.wait)):
            for bin, number in theirs.items():
                mine[bin] = mine.get(bin, 0) + number

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Numbers:
        """What was stored; what cannot be read, since a hand has written it, is nothing."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError:
            return cls()


def bin_of(microseconds: int) -> int:
    """The place of a time in a histogram.

    >>> bin_of(0), bin_of(1), bin_of(1_000), bin_of(1_000_000)
    (0, 0, 39, 79)
    """
    return bisect_right(_STARTS, microseconds) - 1


# The least time of each place: powers of the STEPS-th root of two.
_STARTS = [0, *(math.ceil(2 ** (place / STEPS)) for place in range(1, 63 * STEPS))]


def _fill(histogram: dict[int, int], times: Iterable[int]) -> None:
    """Put times where they belong: in order, so that many of one place are found at once."""
    ordered, at = sorted(times), 0
    while at < len(ordered):
        bin = bin_of(ordered[at])
        end = bisect_left(ordered, _STARTS[bin + 1], at) if bin + 1 < len(_STARTS) else len(ordered)
        histogram[bin] = histogram.get(bin, 0) + end - at
        at = end


def quantile(histogram: Mapping[int, int], share: float) -> float | None:
    """How many seconds so great a share of them took at most, to within a tenth; None: there are none.

    >>> quantile({bin_of(1_000_000): 98, bin_of(60_000_000): 2}, 0.5)
    0.96...
    """
    total = sum(histogram.values())
    seen = 0
    for bin in sorted(histogram):
        seen += histogram[bin]
        if seen >= share * total:
            return float(2.0 ** ((bin + 0.5) / STEPS) / 1_000_000)
    return None


def summed(some: Iterable[Numbers]) -> Numbers:
    """All of them together."""
    total = Numbers()
    for one in some:
        total.add(one)
    return total


def facts(numbers: Numbers) -> dict[str, Any]:
    """What is worth showing of them; times in seconds, memory in bytes."""
    runs = numbers.runs
    waits = sum(numbers.wait.values())
    return {
        **{name: getattr(numbers, name) for name in ("succeeded", "failed", "cancelled", "retried")},
        "runs": runs,
        "run_mean": numbers.run_us / runs / 1_000_000 if runs else None,
        **{f"run_p{percent}": quantile(numbers.run, percent / 100) for percent in (50, 95, 99)},
        "run_most": numbers.run_most / 1_000_000,
        "wait_mean": numbers.wait_us / waits / 1_000_000 if waits else None,
        **{f"wait_p{percent}": quantile(numbers.wait, percent / 100) for percent in (50, 95, 99)},
        "cpu_seconds": numbers.cpu_us / 1_000_000,
        "memory_most": numbers.memory_most * 1024,
    }
