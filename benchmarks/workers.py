"""Workers in processes of their own, Dray's and everybody else's: started, watched and ended in the same way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import IO

from benchmarks.machine import cpus, memory
from benchmarks.stamps import VARIABLE, Stamps
from benchmarks.workload import GAP

ROOT = Path(__file__).parents[1]
PATIENCE = 600.0  # seconds, for the slowest of drains
SETTLE = 0.3  # seconds after the last job, for what workers write late and in batches

Worker = subprocess.Popen[bytes]


@contextmanager
def working(commands: list[list[str]], stamps: Stamps, environment: Mapping[str, str] | None = None) -> Iterator[list[Worker]]:
    """One worker for each command, told of the stamps. They are asked to end by SIGTERM, and must then do so."""
    told = {**os.environ, **(environment or {}), VARIABLE: str(stamps.path)}
    with tempfile.TemporaryFile() as log:
        workers: list[Worker] = []
        try:
            for command in commands:
                workers.append(subprocess.Popen(command, cwd=ROOT, env=told, stdout=log, stderr=log))
            yield workers
        except Exception as error:
            error.add_note(_tail(log))
            raise
        finally:
            codes = _ended(workers)
        if set(codes) - {0, -signal.SIGTERM}:  # which it dies of if all was done before it had come up
            raise RuntimeError(f"workers ended with {codes}:\n{_tail(log)}")


def _ended(workers: list[Worker]) -> list[int]:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()
    return [worker.wait() for worker in workers]


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-4000:]


def drained(workers: list[Worker], stamps: Stamps, jobs: int) -> dict[str, float]:
    """The rate from the first start to the last, and the CPU that the workers spent on a job.

    A job that does nothing has ended when it has started. CPU is counted in each process from its first job (in one that
    runs none, from anybody's first), so that no start of an interpreter is in it, until `SETTLE` after the last one.
    """
    deadline = time.monotonic() + PATIENCE
    while not stamps.latest:
        _check(workers, stamps, jobs, deadline)
        time.sleep(0.002)
    before = _cpus(workers)
    while True:
        latest = stamps.latest
        time.sleep(0.02)
        if stamps.latest == latest and all(stamps.times()[:jobs]):
            break
        _check(workers, stamps, jobs, deadline)
    time.sleep(SETTLE)
    used = sum(spent(cpus(worker.pid), before, stamps.begun()) for worker in workers)
    times = stamps.times()[:jobs]
    return {"jobs/s": jobs / ((max(times) - min(times)) / 1e9), "CPU µs/job": used / jobs * 1e6}


def spent(used: dict[int, float], before: dict[int, float], begun: dict[int, float]) -> float:
    """Of one worker's processes, leaving out what is only starting: a worker too late for any job, a process just made."""
    if not begun.keys() & used.keys():
        return 0.0
    before = before | begun
    return sum(now - before[process] for process, now in used.items() if process in before)


def idled(workers: list[Worker], seconds: float) -> dict[str, float]:
    """What the process trees of these workers cost at rest."""
    time.sleep(1)
    used, began = sum(_cpus(workers).values()), time.monotonic()
    time.sleep(seconds)
    share = 100 * (sum(_cpus(workers).values()) - used) / (time.monotonic() - began)
    held = [memory(worker.pid) for worker in workers]
    return {"idle CPU %": share, "RSS MiB": sum(one.rss for one in held), "PSS MiB": sum(one.pss for one in held)}


def until_run(workers: list[Worker], stamps: Stamps, numbers: range, seconds: float) -> None:
    """Wait until all of these jobs have run."""
    deadline = time.monotonic() + seconds
    while not all(stamps.times()[numbers.start : numbers.stop]):
        _check(workers, stamps, len(numbers), deadline)
        time.sleep(0.01)


def awaited(workers: list[Worker], stamps: Stamps, jobs: int, send: Callable[[int], object]) -> dict[str, float]:
    """What jobs wait that are sent one by one to workers with nothing else to do; the stamps have room for one more, by which
    it is seen that the workers are up."""
    send(jobs)
    until_run(workers, stamps, range(jobs, jobs + 1), 60)
    sent = []
    for number in range(jobs):
        time.sleep(GAP * random.uniform(0.8, 1.2))  # not in step with anything that looks at regular times
        sent.append(time.monotonic_ns())
        send(number)
    until_run(workers, stamps, range(jobs), 60)
    return waits(stamps, sent)


def waits(stamps: Stamps, sent: list[int]) -> dict[str, float]:
    """Milliseconds from just before a job was enqueued to its first line."""
    passed = [(ran - before) / 1e6 for before, ran in zip(sent, stamps.times(), strict=False)]
    cuts = quantiles(passed, n=100, method="inclusive")
    return {"p50 ms": cuts[49], "p95 ms": cuts[94], "p99 ms": cuts[98]}


def _cpus(workers: list[Worker]) -> dict[int, float]:
    return {process: used for worker in workers for process, used in cpus(worker.pid).items()}


def _check(workers: list[Worker], stamps: Stamps, jobs: int, deadline: float) -> None:
    if any(worker.poll() is not None for worker in workers):
        raise RuntimeError("a worker ended before its jobs did")
    if time.monotonic() > deadline:
        raise RuntimeError(f"{jobs - stamps.times()[:jobs].count(0)} of {jobs} jobs have run")
