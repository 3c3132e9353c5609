"""Procrastinate on psycopg. `work` is one process with twenty places."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.peers import program
from benchmarks.workload import NOTE

CONCURRENCY = 20
mark: Callable[[int], None]


def _app(url: str) -> App:
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")
    async def nothing(number: int, note: str) -> None:
        mark(number)

    return app


class _Sender:
    def __init__(self, app: App) -> None:
        self.task = app.tasks["nothing"]

    async def one(self, number: int) -> None:
        await self.task.defer_async(number=number, note=NOTE)

    async def many(self, numbers: Sequence[int]) -> None:
        await self.task.batch_defer_async(*({"number": number, "note": NOTE} for number in numbers))


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[_Sender]:
    async with _app(url).open_async() as app:
        yield _Sender(app)


async def prepare(url: str) -> None:
    async with _app(url).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def _work(url: str) -> None:
    global mark
    mark = program.marked()
    async with _app(url).open_async() as app:
        await app.run_worker_async(concurrency=CONCURRENCY)  # it sees to SIGTERM itself


def work(url: str, workers: int) -> None:
    uvloop.run(_work(url))


if __name__ == "__main__":
    program.main(program.Program(prepare, sender, work, uvloop.run))
