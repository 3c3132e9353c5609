"""All workers of an installation, as an operator sees and steers them. The command line and the pages speak to this."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dray.app import Dray
from dray.errors import IllegalMove, UnknownJob, UnknownWorker
from dray.job import JobRow, State
from dray.store.filters import Filter
from dray.store.orders import Order
from dray.store.workers import WorkerRow

LOOK_EVERY = 0.2  # seconds between looks at what the workers have done of what they were told
JOBS = 1000  # running jobs that are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A worker and what it runs, the longest running first; `silent`: it has given no sign of life for too long."""

    row: WorkerRow
    jobs: Sequence[JobRow]
    silent: bool = False


class Fleet:
    """See, stop, reload and look into workers. What they are told they hear within about a second."""

    def __init__(self, app: Dray) -> None:
        self._app = app

    def members(self, *, alive_only: bool = True) -> list[Member]:
        """The workers with what they run, the newest first."""
        rows = self._app.store.roster.listing(alive_only=alive_only)
        running: dict[int | None, list[JobRow]] = {}
        for job in self._app.store.desk.jobs(Filter(states=frozenset({State.RUNNING})), limit=JOBS):
            running.setdefault(job.worker_id, []).append(job)
        patience = self._app.settings.silent_after
        return [
            Member(row=row, jobs=sorted(running.get(row.id, ()), key=_since), silent=row.silent_for > patience) for row in rows
        ]

    def choose(self, *, queue: str | None = None, host: str | None = None, ids: Collection[int] = ()) -> list[WorkerRow]:
        """The workers that are alive and fit, the oldest first. Raises UnknownWorker for an id that is not among them."""
        rows = [
            row
            for row in self._app.store.roster.listing()
            if (queue is None or queue in row.queues.split(","))
            and (host is None or row.host == host)
            and (not ids or row.id in ids)
        ]
        for missing in set(ids) - {row.id for row in rows}:
            raise UnknownWorker(missing)
        return sorted(rows, key=lambda row: row.id)

    def stop(self, workers: Iterable[WorkerRow], *, now: bool = False) -> list[int]:
        """Tell workers to end: when what they run has ended or their grace is over, or at once. Gives those that hear."""
        return self._app.store.roster.give([row.id for row in workers], Order.STOP_NOW if now else Order.STOP)

    def stay_stopped(self, note: str | None = None) -> None:
        """Let no worker work, whenever it was or will be started, until `start` (S0.47)."""
        self._app.store.desk.stop_all(note)

    def start(self) -> bool:
        """Let workers work again; False: they were not stopped (C83)."""
        return self._app.store.desk.start_all()

    def wait_for_end(
        self, ids: Collection[int], timeout: float | None, tell: Callable[[list[Member]], None] = lambda left: None
    ) -> list[int]:
        """Wait until these workers have ended; `tell` is called with those that are left, whenever they are fewer.

        timeout     seconds; None: for as long as it takes. Gives those that have not ended by then, and those of whom nothing
                    has been heard: who is dead or frozen says no goodbye, and if all others have ended nobody says it for them
        """
        began = heard = time.monotonic()
        seen = None
        while True:
            left = [member for member in self.members() if member.row.id in ids]
            if left and len(left) != seen:
                tell(left)
                seen = len(left)
            now = time.monotonic()
            if not all(member.silent for member in left):
                heard = now
            is_over = timeout is not None and now - began >= timeout
            if not left or is_over or now - heard > self._app.settings.silent_after:
                return [member.row.id for member in left]
            time.sleep(LOOK_EVERY)

    def reload(
        self,
        queue: str | None = None,
        number: int | None = None,
        *,
        rolling: int | None = None,
        timeout: float | None = None,
        tell: Callable[[list[int]], None] = lambda told: None,
    ) -> tuple[list[int], list[int]]:
        """Let workers begin anew with the code as it is now: all, or the `number` oldest, of a queue if one is named (S2.74).

        Each is told by its own id, so that one that has just begun anew is never told again (C88). `rolling`: so many at a
        time, the next when others have taken their place. Gives those that were told, and those that were not replaced in
        `timeout` seconds.
        """
        chosen = [row.id for row in self.choose(queue=queue)][:number]
        size = len(chosen) if rolling is None else rolling
        told: list[int] = []
        for first in range(0, len(chosen), max(1, size)):
            before = len(self.choose(queue=queue))
            some = self._app.store.roster.give(chosen[first : first + size], Order.RELOAD)
            told += some
            tell(some)
            if rolling is not None and (left := self._until_replaced(some, queue, before, timeout)):
                return told, left
        return told, []

    def _until_replaced(self, ids: Collection[int], queue: str | None, number: int, timeout: float | None) -> list[int]:
        """Wait until none of these is left and there are as many as before; gives whom nobody has replaced."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            alive = self.choose(queue=queue)
            left = [row.id for row in alive if row.id in ids]
            if not left and len(alive) >= number:
                return []
            if time.monotonic() >= deadline:
                return left or list(ids)
            time.sleep(LOOK_EVERY)

    def stacks(self, worker_id: int, timeout: float = 10.0) -> list[dict[str, Any]] | None:
        """Where the jobs of a worker are: `id`, `task`, `seconds` and `stack` of each. None: no answer within the timeout.

        Raises UnknownWorker when it is not alive.
        """
        roster = self._app.store.roster
        since = roster.ask_stack(worker_id)
        if since is None:
            raise UnknownWorker(worker_id)
        deadline = time.monotonic() + timeout
        while (answer := roster.stack(worker_id, since)) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_EVERY)
        told: list[dict[str, Any]] = msgspec.json.decode(answer)
        return told

    def worker_of(self, job_id: int) -> int:
        """The worker that runs a job. Raises UnknownJob, and IllegalMove when it does not run."""
        row = self._app.store.desk.job(job_id)
        if row is None:
            raise UnknownJob(job_id)
        if row.state is not State.RUNNING or row.worker_id is None:
            raise IllegalMove(job_id, row.state, "looked into: it does not run")
        return row.worker_id


def _since(job: JobRow) -> Any:
    return job.started_at or job.claimed_at
