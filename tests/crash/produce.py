"""A producer of the trial, adding jobs until it is told to stop: `python -m tests.crash.produce NAME SEED FIRST`."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading

from dray.errors import DrayError, OutcomeUnknown
from tests.crash.shop import FULL, Plan, Shop, end_with

KINDS = {"plain": 60, "nap": 15, "flaky": 8, "snoozing": 8, "careful": 9}
BATCH = 0.1  # the share of calls that add many jobs
LABELS = 0.2  # the share of calls whose jobs have labels: more than one statement, so a transaction
LONG = 0.003  # the share of calls that add a job longer than the TTL, or than 3 seconds


def main() -> None:
    end_with(os.getppid())
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    name, seed, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    plan, chance = Plan.given(), random.Random(seed)
    shop = Shop(plan, name)
    while not stop.is_set():
        if plan.gate(FULL).exists():
            stop.wait(0.02)
            continue
        count = chance.randint(5, 30) if chance.random() < BATCH else 1
        try:
            _add(shop, n, count, chance)
        except OutcomeUnknown:
            pass  # nothing more is known than of a producer killed in the middle of the call
        except DrayError as error:
            # The promise: whatever else was raised, nothing was added.
            shop.receipt.write("refused", n, type(error).__name__)
            stop.wait(0.1)
        n += count
        stop.wait(chance.uniform(0.0, 0.01))


def _add(shop: Shop, n: int, count: int, chance: random.Random) -> None:
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    seconds = chance.uniform(0.001, 0.020)
    if chance.random() < LONG:
        kind, seconds, count = "plain", min(1.5 * shop.plan.ttl, 3.0), 1
    labels = {"trial": shop.plan.crew} if chance.random() < LABELS else {}
    shop.add(n, kind, seconds, count, labels=labels)


if __name__ == "__main__":
    main()
