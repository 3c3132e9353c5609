"""What is stuck: jobs that run for too long or under a dead worker, and jobs that wait until somebody does something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from dray.selection import DEEP
from dray.settings import Settings
from dray.store.controls import Pause
from dray.store.sql import SqlStore
from dray.store.stuck import Head, Runs, Waits
from dray.store.workers import WorkerRow
from dray.takers import Call, takers, untaken

LOOKED = DEEP  # jobs of each queue and priority, or of each task, that are looked at
RUNNING = 10_000  # jobs that run which are looked at
LONG = 600.0  # seconds

# In the order in which they are told; what has to be done first comes first.
KINDS = ("dead", "silent", "long", "paused", "no worker", "parked", "overdue")


class Found(NamedTuple):
    """One job that is stuck, and why. `advice` names what to do about all of its kind; "{id}" is the oldest of them."""

    kind: str
    job: Waits | Runs
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Jobs of one queue and task that are stuck for the same reason (S3.83).

    kind      dead, silent: so is their worker. long: they run for so long. paused, no worker: nobody takes them. parked: no
              worker knows their task. overdue: nobody does upkeep
    more      there are more of them than were looked at
    oldest    for how many seconds the oldest runs or waits
    advice    a command
    """

    kind: str
    queue: str
    task: str
    ids: Sequence[int]
    more: bool
    oldest: float
    advice: str


@dataclass(slots=True)
class Search:
    """A look at everything that may be stuck, at one moment."""

    store: SqlStore
    settings: Settings
    older_than: float
    queue: str | None = None
    task: str | None = None
    cut: set[tuple[str, str]] = field(default_factory=set)  # kinds and queues of which not all were looked at

    def all(self) -> list[Stuck]:
        kinds: dict[tuple[str, str, str, str], list[Waits | Runs]] = {}
        for one in self._found():
            if self.queue in (None, one.job.queue) and self.task in (None, one.job.task):
                kinds.setdefault((one.kind, one.job.queue, one.job.task, one.advice), []).append(one.job)
        made = [self._stuck(kind, jobs) for kind, jobs in kinds.items()]
        return sorted(made, key=lambda one: (KINDS.index(one.kind), -one.oldest))

    def _stuck(self, kind: tuple[str, str, str, str], jobs: Sequence[Waits | Runs]) -> Stuck:
        word, queue, task, advice = kind
        ordered = sorted(jobs, key=lambda job: -job.age)
        return Stuck(
            kind=word,
            queue=queue,
            task=task,
            ids=[job.id for job in ordered],
            more=(word, queue) in self.cut,
            oldest=ordered[0].age,
            advice=advice.replace("{id}", str(ordered[0].id)),
        )

    def _found(self) -> Iterator[Found]:
        desk = self.store.desk
        yield from self._running(desk.runs(RUNNING))
        workers, pauses, now = self.store.roster.listing(), desk.controls().paused.values(), desk.now()
        for head in desk.heads():
            if head.age > self.older_than and self.queue in (None, head.queue):
                yield from self._ready(head, workers, pauses, now)
        for some in desk.parked(LOOKED + 1):
            yield from self._waiting("parked", some, "dray why {id}")
        yield from self._waiting("overdue", desk.overdue(self.older_than, LOOKED + 1), "dray worker")

    def _running(self, runs: Iterable[Runs]) -> Iterator[Found]:
        for job in runs:
            if job.silent is None:
                yield Found("dead", job, "dray rescue")
            elif job.silent > self.settings.silent_after:
                yield Found("silent", job, "dray rescue")
            elif job.age > self.older_than:
                yield Found("long", job, "dray show {id}, or dray cancel {id}")

    def _ready(self, head: Head, workers: Sequence[WorkerRow], pauses: Iterable[Pause], now: datetime) -> Iterator[Found]:
        pauses = list(pauses)
        anything = [worker for worker in takers(Call(head.queue, head.priority, ""), workers) if worker.tasks is None]
        if anything and all(pause.queue != head.queue for pause in pauses):
            return  # it is a matter of time
        jobs = self.store.desk.lane(head, self.older_than, LOOKED + 1)
        for job in jobs[:LOOKED]:
            why = untaken(Call(head.queue, head.priority, job.task), workers, pauses, now)
            if why is not None:
                if len(jobs) > LOOKED:
                    self.cut.add((why.kind, job.queue))
                yield Found(why.kind, job, why.advice)

    def _waiting(self, kind: str, jobs: Sequence[Waits], advice: str) -> Iterator[Found]:
        for job in jobs[:LOOKED]:
            if job.age > self.older_than:
                if len(jobs) > LOOKED:
                    self.cut.add((kind, job.queue))
                yield Found(kind, job, advice)
