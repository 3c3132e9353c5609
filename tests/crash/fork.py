"""The parent of the processes under test: `python -m tests.crash.fork`. It has loaded everything, and opens nothing.

On its standard input it gets an order, a line of JSON, and forks a child for it; on its standard output it says the child's
pid, `stopped` when it was frozen (then it waits for a line before it lets it go on), and `ended CODE`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Loaded here, so that no child has to.
import psycopg  # noqa: F401
import pymysql  # noqa: F401
from sqlalchemy import event

from dray import events, outage
from tests.crash.breakages import BREAKAGES
from tests.crash.failpoints import Case, Failpoints
from tests.crash.gateaudit import standing
from tests.crash.ledger import Ledger
from tests.crash.repertoire import ACTS
from tests.crash.shop import Plan, Shop
from tests.crash.wire import Wire
from tests.crash.work import NEWS

CHILD = "child"
CALLS = "calls"  # the event with which a child tells by which points it came
SEEN = "seen"  # the event with which it tells of jobs that stand as they may not
STRUCK = "failpoint"  # the event with which it tells that it is at the one of its case


def main() -> None:
    """Fork and watch, one child at a time."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        while line := orders.readline():
            pid = os.fork()
            if pid == 0:
                _live(json.loads(line))
            _say("pid", pid)
            _watch(pid, orders)


def _watch(pid: int, orders: Any) -> None:
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            _say("ended", os.waitstatus_to_exitcode(status))
            return
        _say("stopped", pid)
        os.kill(pid, signal.SIGCONT if orders.readline() else signal.SIGKILL)


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _live(order: dict[str, Any]) -> None:
    """The life of a child."""
    code = 1
    try:
        log = os.open(Path(order["plan"]["folder"], "child.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _perform(Case(**order["case"]), Plan(**order["plan"]), order["scene"])
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _perform(case: Case, plan: Plan, scene: dict[str, Any]) -> None:
    outage.PAUSE = (0.001, 0.01)  # there is nothing to wait for: the database is there
    wire = Wire(plan.url) if case.fault == "cut" and not plan.url.startswith("sqlite") else None
    shop = Shop(plan if wire is None else replace(plan, url=wire.url), CHILD)
    store = shop.app.store
    points = Failpoints(case, wire, lambda: shop.receipt.event(CHILD, STRUCK, {"case": str(case)}))
    if store.database.dialect.name == "postgresql":
        event.listen(store.database.engine, "connect", _prepare_nothing)
    store.ensure()
    points.watch(store.database.engine)
    points.name_operations(store)
    events.listen(lambda name, facts: shop.receipt.event(CHILD, name, facts) if name.startswith(NEWS) else None)
    if ACTS[case.act].gated:
        points.on_end = _watcher(shop, plan, scene)
    if case.breakage:
        BREAKAGES[case.breakage](shop)
    ACTS[case.act].perform(shop, points, scene)
    shop.app.close()
    shop.receipt.event(CHILD, CALLS, {CALLS: points.calls})


def _watcher(shop: Shop, plan: Plan, scene: dict[str, Any]) -> Callable[[], None]:
    """Sees how all stand whenever something was done here, and tells of what may never be."""
    ledger = Ledger(plan.url, pooled=True)

    def look() -> None:
        for wrong in standing(ledger.stands(), scene.get("openings", 0)):
            shop.receipt.event(CHILD, SEEN, {"what": wrong.what, "n": wrong.n})

    return look


def _prepare_nothing(connection: Any, record: object) -> None:
    # Else what comes often would be two requests now and then: one statement is one failpoint.
    connection.prepare_threshold = None


if __name__ == "__main__":
    main()
