"""Oban on psycopg and uvloop, as its command runs it. `work` is one process with a hundred places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install

from benchmarks.peers import program
from benchmarks.workload import NOTE

LIMIT = 100
mark: Callable[[int], None]


@worker(queue="default")
class Nothing:
    async def process(self, job: Job) -> None:
        mark(job.args["number"])


def _job(number: int) -> Job:
    return Nothing.new({"number": number, "note": NOTE})


class _Sender:
    def __init__(self, oban: Oban) -> None:
        self.oban = oban

    async def one(self, number: int) -> None:
        await self.oban.enqueue(_job(number))

    async def many(self, numbers: Sequence[int]) -> None:
        await self.oban.enqueue_many(_job(number) for number in numbers)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[_Sender]:
    pool = await Oban.create_pool(url)
    async with Oban(pool=pool) as oban:
        yield _Sender(oban)
    await pool.close()


async def prepare(url: str) -> None:
    pool = await Oban.create_pool(url)
    await install(pool)
    await pool.close()


async def _work(url: str) -> None:
    global mark
    mark, ended = program.marked(), asyncio.Event()
    program.when_told_to_end(ended.set)
    pool = await Oban.create_pool(url)
    async with Oban(pool=pool, queues={"default": LIMIT}):
        await ended.wait()
    await pool.close()


def work(url: str, workers: int) -> None:
    uvloop.run(_work(url))


if __name__ == "__main__":
    program.main(program.Program(prepare, sender, work, uvloop.run))
