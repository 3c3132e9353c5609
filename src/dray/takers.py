"""Who takes a job that is ready, or what keeps all workers from it, in words and with what somebody can do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote

from dray.durations import show_duration
from dray.errors import BadOption
from dray.options import parse_priorities
from dray.selection import TaskFilter
from dray.store.controls import Pause
from dray.store.workers import WorkerRow


@dataclass(frozen=True, slots=True)
class Call:
    """What decides who takes a job."""

    queue: str
    priority: int
    task: str


@dataclass(frozen=True, slots=True)
class Untaken:
    """Why nobody takes it: a word for programs, the same for people, and what to do."""

    kind: str
    text: str
    advice: str


def serves(worker: WorkerRow, queue: str) -> bool:
    """Whether a worker takes jobs of this queue."""
    return worker.queues == "*" or queue in worker.queues.split(",")


def untaken(call: Call, workers: Sequence[WorkerRow], pauses: Iterable[Pause], now: datetime) -> Untaken | None:
    """Why none of the workers that are alive would take such a job; None: one does."""
    pause = next((one for one in pauses if one.queue == call.queue), None)
    if pause is not None:
        why = f" ({pause.note})" if pause.note else ""
        until = "until somebody resumes it" if pause.until is None else f"for another {_left(pause.until, now)}"
        return Untaken("paused", f"queue {call.queue!r} is paused{why}, {until}", f"dray resume {quote(call.queue)}")
    start = f"dray worker {quote(call.queue)}"
    serving = [one for one in workers if serves(one, call.queue)]
    if not serving:
        return Untaken("no worker", f"no worker is alive that takes queue {call.queue!r}", start)
    fitting = [one for one in serving if _takes(one, call.priority)]
    if not fitting:
        ranges = ", ".join(sorted({one.priorities or "" for one in serving}))
        text = f"no worker of queue {call.queue!r} takes priority {call.priority}; they take {ranges}"
        return Untaken("no worker", text, f"{start} -p {call.priority}")
    if not takers(call, workers):
        takes = "; ".join(sorted({one.tasks or "" for one in fitting}))
        text = f"no worker of queue {call.queue!r} takes the task {call.task!r}; they take {takes}"
        return Untaken("no worker", text, f"{start} --task {quote(call.task)}")
    return None


def takers(call: Call, workers: Sequence[WorkerRow]) -> list[WorkerRow]:
    """Those of the workers that take such a job, if its queue is not paused."""
    return [
        one
        for one in workers
        if serves(one, call.queue) and _takes(one, call.priority) and TaskFilter.parse(one.tasks).takes(call.task)
    ]


def _takes(worker: WorkerRow, priority: int) -> bool:
    try:
        return worker.priorities is None or priority in parse_priorities(worker.priorities)
    except BadOption:
        return True


def _left(until: datetime, now: datetime) -> str:
    return show_duration(max(0, round((until - now).total_seconds())))
