"""What the programs have in common: `python -m benchmarks.peers.NAME COMMAND URL [N]`, with its answer as JSON on stdout.

| command | |
|---|---|
| `fill URL N` | make the tables, and N jobs that wait |
| `one URL N` | make the tables, and enqueue N jobs one by one; the seconds that took |
| `many URL N` | the same by the bulk call, a thousand jobs at a time |
| `trickle URL N` | enqueue job N, and once it has run N more, some time apart; for each, the nanosecond just before |
| `work URL N` | be N workers, until SIGTERM |
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.stamps import Stamps, told
from benchmarks.workload import GAP, chunks

PATIENCE = 60.0


class Sender(Protocol):
    """A connected client; a job is its number and `NOTE`."""

    async def one(self, number: int) -> None: ...

    async def many(self, numbers: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Program:
    prepare: Callable[[str], Awaitable[None]]  # makes the tables
    sender: Callable[[str], AbstractAsyncContextManager[Sender]]
    work: Callable[[str, int], None]
    run: Callable[..., object] = asyncio.run


def main(program: Program) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["fill", "one", "many", "trickle", "work"])
    parser.add_argument("url")
    parser.add_argument("number", type=int)
    given = parser.parse_args()
    if given.command == "work":
        program.work(given.url, given.number)
        return
    print(json.dumps(program.run(_sent(program, given))))


def marked() -> Callable[[int], None]:
    """What a worker calls in each job."""
    return _stamps().mark


def _stamps() -> Stamps:
    stamps = told()
    if stamps is None:
        raise SystemExit("nobody says where the stamps are")
    return stamps


def when_told_to_end(then: Callable[[], None]) -> None:
    """In a running loop: what a worker does on SIGTERM."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, then)


async def _sent(program: Program, given: argparse.Namespace) -> object:
    if given.command != "trickle":
        await program.prepare(given.url)
    async with program.sender(given.url) as sender:
        match given.command:
            case "fill" | "many":
                return await _chunks(sender, given.number)
            case "one":
                return await _one_by_one(sender, given.number)
            case _:
                return await _trickle(sender, given.number)


async def _chunks(sender: Sender, jobs: int) -> float:
    began = time.perf_counter()
    for numbers in chunks(jobs):
        await sender.many(numbers)
    return time.perf_counter() - began


async def _one_by_one(sender: Sender, jobs: int) -> float:
    began = time.perf_counter()
    for number in range(jobs):
        await sender.one(number)
    return time.perf_counter() - began


async def _trickle(sender: Sender, jobs: int) -> list[int]:
    stamps = _stamps()
    await sender.one(jobs)
    await _until_marked(stamps)
    sent = []
    for number in range(jobs):
        await asyncio.sleep(GAP * random.uniform(0.8, 1.2))
        sent.append(time.monotonic_ns())
        await sender.one(number)
    return sent


async def _until_marked(stamps: Stamps) -> None:
    deadline = time.monotonic() + PATIENCE
    while not stamps.latest:
        if time.monotonic() > deadline:
            raise TimeoutError("the first job has not run")
        await asyncio.sleep(0.01)
