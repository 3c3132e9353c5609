"""The least that a job has to wait for a process that sleeps until it is told: the driver alone on both sides.

One inserts a row, commits, and says so; the other, `python -m benchmarks.listener URL`, claims it by the statement of Dray. On
PostgreSQL alone: elsewhere nobody is told.
"""

from __future__ import annotations

import sys

import msgspec

from benchmarks import raw, stamps, workers

CHANNEL = "bench"


def latencies(url: str, jobs: int, idle: float) -> dict[str, float]:
    """What a job waits for it, and what it costs at rest."""
    command = [sys.executable, "-m", "benchmarks.listener", url]
    with stamps.made(jobs + 1) as made, raw.opened(url) as sending, workers.working([command], made) as running:

        def send(number: int) -> None:
            raw.inserted(sending, number)
            sending.cursor.execute(f"SELECT pg_notify('{CHANNEL}', '')")

        return workers.awaited(running, made, jobs, send) | workers.idled(running, idle)


def listen(url: str) -> None:
    """Claim whatever there is whenever somebody says so, and mark each job, until ended by a signal."""
    told = stamps.told()
    assert told is not None
    with raw.opened(url) as claiming, raw.opened(url) as hearing:
        worker = raw.registered(claiming)
        hearing.cursor.execute(f"LISTEN {CHANNEL}")
        _take(claiming, worker, told)  # what came before anybody listened
        for _ in hearing.connection.notifies():
            _take(claiming, worker, told)


def _take(claiming: raw.Raw, worker: int, told: stamps.Stamps) -> None:
    for row in raw.claimed(claiming, worker):
        (number, _note), _ = msgspec.json.decode(row[raw.ARGS])
        told.mark(number)


if __name__ == "__main__":
    listen(sys.argv[1])
