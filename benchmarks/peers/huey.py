"""Huey on SQLite or Redis. `work` is one consumer, whose workers are processes of its own: `-k process -w N`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from huey import Huey, RedisHuey, SqliteHuey
from huey.api import TaskWrapper
from huey.storage import SqliteStorage

from benchmarks.peers import program
from benchmarks.workload import NOTE

mark: Callable[[int], None]


def _huey(url: str) -> tuple[Huey, TaskWrapper]:
    # A write-ahead log is its default for SQLite. What `fsync` says is SQLite's default: a commit is on disk before the answer.
    path = url.removeprefix("sqlite:///")
    huey = RedisHuey("bench", url=url) if path == url else SqliteHuey("bench", filename=path, fsync=True)

    @huey.task()
    def nothing(number: int, note: str) -> None:
        mark(number)

    return huey, nothing


class _Sender:
    def __init__(self, task: TaskWrapper) -> None:
        self.task = task

    async def one(self, number: int) -> None:
        self.task(number, NOTE)

    async def many(self, numbers: Sequence[int]) -> None:
        """It has no such call; this only fills, with no commit waiting for the disk."""
        if isinstance(self.task.huey.storage, SqliteStorage):
            self.task.huey.storage.conn.execute("PRAGMA synchronous = OFF")
        for number in numbers:
            self.task(number, NOTE)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[_Sender]:
    yield _Sender(_huey(url)[1])


async def prepare(url: str) -> None:
    _huey(url)


def work(url: str, workers: int) -> None:
    global mark
    mark = program.marked()
    # Of the two signals it knows, the one that lets it end what it has begun.
    _huey(url)[0].create_consumer(workers=workers, worker_type="process", graceful_signal="TERM").run()


if __name__ == "__main__":
    program.main(program.Program(prepare, sender, work))
