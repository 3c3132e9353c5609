"""A worker of the trial: `python -m tests.crash.work NAME`."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from dray import events, pace
from dray.worker import Worker
from tests.crash.shop import Plan, Shop, end_with

NEWS = ("worker.", "store.", "rescue.", "heart.", "upkeep.", "result.", "job.lease_lost")


def main() -> None:
    end_with(os.getppid())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    plan, name = Plan.given(), sys.argv[1]
    if plan.poll is not None:
        pace.FIRST_POLL = pace.LAST_POLL = plan.poll
    shop = Shop(plan, name)

    def note(event: str, facts: dict[str, Any]) -> None:
        if event.startswith(NEWS):
            shop.receipt.event(name, event, facts)

    events.listen(note)
    sys.exit(Worker(shop.app, concurrency=plan.concurrency).run())


if __name__ == "__main__":
    main()
