"""Where a worker's threads and jobs are at this moment."""

from __future__ import annotations

import msgspec

from dray.slots import Slots
from dray.stacks import all_stacks


def job_stacks(slots: Slots) -> str:
    """Where each of its jobs is, as JSON."""
    told = [
        {"id": item.claim.id, "task": item.claim.task, "seconds": item.seconds, "stack": slots.stack(item)}
        for item in list(slots.running)
    ]
    return msgspec.json.encode(told).decode()


def stacks(slots: Slots) -> str:
    """Where its threads are, and which job each of them runs."""
    return all_stacks({item.thread: item.title for item in list(slots.running) if item.thread is not None})
