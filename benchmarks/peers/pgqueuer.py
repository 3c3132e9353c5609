"""PgQueuer on asyncpg and uvloop. `work` is one process, as its own command is: two of them take 100 jobs at a time each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers import program
from benchmarks.workload import NOTE

BATCH = 100


def _payload(number: int) -> bytes:
    return json.dumps([number, NOTE]).encode()


class _Sender:
    def __init__(self, queries: Queries) -> None:
        self.queries = queries

    async def one(self, number: int) -> None:
        await self.queries.enqueue("nothing", _payload(number))

    async def many(self, numbers: Sequence[int]) -> None:
        await self.queries.enqueue(["nothing"] * len(numbers), [_payload(number) for number in numbers], [0] * len(numbers))


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[_Sender]:
    connection = await asyncpg.connect(url)
    try:
        yield _Sender(Queries(AsyncpgDriver(connection)))
    finally:
        await connection.close()


async def prepare(url: str) -> None:
    async with sender(url) as one:
        await one.queries.install()


# Not by `pgq run`: at 1.6.0 it does not start beside the typer that pip gives it.
async def _work(url: str) -> None:
    connection = await asyncpg.connect(url)
    queue, mark = PgQueuer.from_asyncpg_connection(connection), program.marked()

    @queue.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        number, _note = json.loads(job.payload or b"")
        mark(number)

    program.when_told_to_end(queue.shutdown.set)
    await queue.run(batch_size=BATCH)


def work(url: str, workers: int) -> None:
    uvloop.run(_work(url))


if __name__ == "__main__":
    program.main(program.Program(prepare, sender, work, uvloop.run))
