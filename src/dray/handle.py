"""The handle of a job that was enqueued: how it goes, and what came of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from dray.codec import Codec
from dray.errors import BadOption, JobFailed, NotFinished, UnknownJob
from dray.job import JobRow, State
from dray.report import Report

FIRST_LOOK, LAST_LOOK = 0.005, 0.25  # seconds between looks while waiting: soon at first, then more seldom


class App(Protocol):
    """What a handle needs of its app."""

    @property
    def store(self) -> Any: ...
    @property
    def codec(self) -> Codec: ...


class Job:
    """One durable call of a task.

    job = send_invoice.enqueue(7)
    job.wait(timeout=10).result
    """

    def __init__(
        self, app: App, job_id: int, *, state: State | None = None, task: str | None = None, created: bool = True
    ) -> None:
        self._app = app
        self.created = created  # False: an enqueue found this one of its unique key, and made no other
        self._state, self._task = state, task
        self._row: JobRow | None = None
        self.id = job_id

    def becomes(self, made: Job) -> None:
        """It has been inserted, as this one."""
        self.id, self.created, self._state = made.id, made.created, made._state

    @property
    def row(self) -> JobRow:
        """Everything that is stored of it, as of the last refresh."""
        if self._row is None:
            self.refresh()
        assert self._row is not None
        return self._row

    @property
    def state(self) -> State:
        """Its state, as of the enqueue or the last refresh."""
        return self._state if self._row is None and self._state is not None else self.row.state

    @property
    def task(self) -> str:
        return self._task if self._task is not None else self.row.task

    @property
    def key(self) -> str | None:
        return self.row.key

    @property
    def error(self) -> str | None:
        """What the last failed attempt said."""
        return self.row.error

    @property
    def report(self) -> Report | None:
        """The report the task returned or failed with (S3.49)."""
        return self.row.report

    @property
    def result(self) -> Any:
        """What the task returned. Raises NotFinished, or JobFailed when it failed or was cancelled."""
        row = self.row
        if not row.state.ended:
            raise NotFinished(self.id, row.state)
        if row.state is not State.SUCCEEDED:
            raise JobFailed(self.id, row.state, row.error or row.note)
        return None if row.result is None else self._app.codec.decode(row.result)

    def refresh(self) -> Job:
        """Read it again; raises UnknownJob when it has been pruned."""
        if not self.id:
            raise BadOption("this job is not in the database yet: flush its bulk first")
        row = self._app.store.desk.job(self.id)
        if row is None:
            raise UnknownJob(self.id)
        self._row = row
        return self

    def wait(self, timeout: float | None = None) -> Job:
        """Wait until it has ended, at most `timeout` seconds, and give it; raises NotFinished when the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_LOOK
        while not self.refresh().state.ended:
            time.sleep(self._pause(pause, deadline))
            pause = min(pause * 1.5, LAST_LOOK)
        return self

    async def arefresh(self) -> Job:
        """`refresh` without blocking the event loop."""
        return await asyncio.to_thread(self.refresh)

    async def await_(self, timeout: float | None = None) -> Job:
        """`wait` without blocking the event loop."""
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_LOOK
        while not (await self.arefresh()).state.ended:
            await asyncio.sleep(self._pause(pause, deadline))
            pause = min(pause * 1.5, LAST_LOOK)
        return self

    def _pause(self, pause: float, deadline: float | None) -> float:
        if deadline is None:
            return pause
        left = deadline - time.monotonic()
        if left <= 0:
            raise NotFinished(self.id, self.state)
        return min(pause, left)

    def __repr__(self) -> str:
        return f"<job {self.id} {self._task or ''} {self._row.state if self._row else self._state or ''}>"
