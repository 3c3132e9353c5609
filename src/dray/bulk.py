"""Many enqueues as few inserts: what is enqueued inside goes to the database together (S2.31)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, Protocol

from dray.errors import BadOption
from dray.handle import Job
from dray.sender import Bound


class App(Protocol):
    """What a bulk needs of its app."""

    def insert(self, bound: Sequence[Bound]) -> list[Job]: ...
    async def ainsert(self, bound: Sequence[Bound]) -> list[Job]: ...
    def pending(self, bound: Bound) -> Job: ...


class Bulk(AbstractContextManager["Bulk"], AbstractAsyncContextManager["Bulk"]):
    """While it is entered, enqueues of this thread or asyncio task are gathered, and inserted `size` at a time.

    A job has no id before it is inserted: `flush` does that at once. At the end of the block what is left is inserted; if the
    block raises, it is dropped. What was inserted before stays: for all or nothing use `app.transaction` around it.
    """

    def __init__(self, app: App, size: int, current: ContextVar[Any]) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadOption(f"the size of a bulk must be a whole number from 1 up, got {size!r}")
        self._app, self._size, self._current = app, size, current
        self._waiting: list[tuple[Bound, Job]] = []
        self._token: Token[Any] | None = None
        self.inserted = 0  # jobs so far

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._size

    def put(self, bound: Sequence[Bound]) -> list[Job]:
        """Take jobs, to be inserted later."""
        jobs = [self._app.pending(one) for one in bound]
        self._waiting += zip(bound, jobs, strict=True)
        return jobs

    def flush(self) -> None:
        """Insert what has been gathered; the jobs have their ids then."""
        bound, jobs = self._take()
        self._made(jobs, self._app.insert(bound))

    async def aflush(self) -> None:
        """The same without blocking the event loop, also in an async transaction."""
        bound, jobs = self._take()
        self._made(jobs, await self._app.ainsert(bound))

    def _take(self) -> tuple[list[Bound], list[Job]]:
        waiting, self._waiting = self._waiting, []
        return [bound for bound, _ in waiting], [job for _, job in waiting]

    def _made(self, jobs: Sequence[Job], made: Sequence[Job]) -> None:
        for job, one in zip(jobs, made, strict=True):
            job.becomes(one)
        self.inserted += len(jobs)

    def __enter__(self) -> Bulk:
        if self._current.get() is not None:
            raise BadOption("there is a bulk already: one in another makes no sense")
        self._token = self._current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave()
        if kind is None:
            self.flush()

    async def __aenter__(self) -> Bulk:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave()
        if kind is None:
            await self.aflush()

    def _leave(self) -> None:
        assert self._token is not None
        self._current.reset(self._token)
