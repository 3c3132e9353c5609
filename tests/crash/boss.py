"""The process of the test, which nothing befalls: it sets scenes, takes over from the dead and the frozen, and clears up."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

from sqlalchemy.engine import make_url

from dray.errors import StoreError
from dray.store.rescue import Watch
from tests.crash.acts import ORDERS
from tests.crash.byhand import HandWorker
from tests.crash.ledger import BLOCKED, READY, RETRYING, SCHEDULED, Ledger
from tests.crash.shop import Plan, Shop
from tests.servers import wait_until

BOSS = "boss"
TTL = 0.2  # seconds that a beat is watched before its worker is given up
HASTE = 1.0  # seconds in which a worker has done all that is ready, unless something is wrong


class Boss:
    """Does by hand what other workers do by and by."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.shop, self._ledger = Shop(plan, BOSS), ledger
        self._url = plan.url
        self.begin(plan)

    def begin(self, plan: Plan) -> None:
        """Turn to the next case: nothing is there but the tables."""
        self._ledger.clear(ORDERS.name)
        self.shop.move(plan)
        self._second: HandWorker | None = None
        self.took_over = False

    def take_over(self) -> None:
        """Give up whoever is silent for the TTL, and take their jobs: some are done by then, the last are still running."""
        if self._is_file_locked():
            return
        self._give_up()
        self._upkeep()
        self._second = worker = HandWorker(self.shop.app, concurrency=2)
        worker.begin()
        worker.turn()
        while self._is_anything_ready() and not worker.over:  # what the frozen has locked stays ready
            worker.turn()
        self.took_over = True

    def clear_up(self) -> bool:
        """Do all that is left, if need be by an operator's moves; False when it cannot be done."""
        if self._second is not None:
            self._second.work_on(HASTE)
        self._ledger.declare_all_dead()
        before: set[tuple[int, int]] = set()
        while self._ledger.live() and before != (now := {(row.id, row.state) for row in self._ledger.rows()}):
            before = now
            # A row that an operation has broken may make it fail: then that is what will be found.
            with suppress(StoreError):
                self._upkeep()
            desk, rows = self.shop.app.store.desk, self._ledger.rows()
            desk.retry([row.id for row in rows if row.state in (SCHEDULED, RETRYING)])
            desk.release([row.id for row in rows if row.state == BLOCKED])
            HandWorker(self.shop.app).work(HASTE)
        return self._ledger.live() == 0

    def close(self) -> None:
        self.shop.close()

    def _upkeep(self) -> None:
        store = self.shop.app.store
        store.promote()
        while store.rescue().freed:
            pass

    def _give_up(self) -> None:
        """Watch the beats, as every worker does, and declare dead those that stand still."""
        roster, watch = self.shop.app.store.roster, Watch(ttl=TTL)
        alive = len(roster.beats())
        silent = watch.observe(roster.beats())

        def all_are_silent() -> bool:
            silent[:] = watch.observe(roster.beats())
            return len(silent) == alive

        wait_until(all_are_silent, "the beats to stand still")
        for beat in silent:
            roster.declare_dead(beat)

    def _is_anything_ready(self) -> bool:
        return any(row.state == READY for row in self._ledger.rows())

    def _is_file_locked(self) -> bool:
        """Whether a writer was frozen while it had a SQLite file for itself: then nobody can take over anything."""
        if not self._url.startswith("sqlite"):
            return False
        with closing(sqlite3.connect(str(make_url(self._url).database), timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False
