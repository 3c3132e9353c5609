"""For the tests of those who use Dray: a clock that a test moves, and the real worker until there is nothing to do.

    def test_a_failure_is_tried_again_later(app, clock):  # app = Dray(url, clock=clock)
        send_invoice.enqueue(7)
        assert run_all(app) == 1
        assert run_all(app) == 0  # not yet
        clock.forward(60)
        assert run_all(app) == 1

Who writes a store proves it with `dray.testing.store_contract`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from dray import events
from dray.app import Dray
from dray.limits import Limits
from dray.worker import Worker

START = 1_700_000_000_000_000  # microseconds; some day in 2023
RUNS = frozenset({"job.finished", "job.retrying", "job.failed"})


class Clock:
    """Microseconds since 1970 that stand still until told otherwise; an app that is given one honours it in every rule."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += round(seconds * 1_000_000)


def run_all(app: Dray, queues: Sequence[str] = (), *, concurrency: int = 1, upkeep: bool = True) -> int:
    """Run the real worker, in this process, until nothing is ready or due; gives how often a task was run.

    One job at a time unless told otherwise, so that a test sees their order.
    """
    here, ran = threading.get_ident(), 0

    def count(event: str, facts: dict[str, Any]) -> None:
        nonlocal ran
        # Another thread of the test may have a worker of its own; the loop tells of its jobs in its own thread.
        ran += event in RUNS and threading.get_ident() == here

    unlisten = events.listen(count)
    try:
        Worker(app, queues, concurrency=concurrency, limits=Limits(burst=True), upkeep=upkeep).run()
    finally:
        unlisten()
    return ran
