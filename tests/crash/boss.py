"""The process of the test, which nothing befalls: it sets scenes, takes over from the dead and the frozen, and clears up."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from sqlalchemy.engine import make_url

from dray.errors import StoreError
from dray.job import NewJob, UniqueKey
from dray.store.rescue import Watch
from dray.store.unique import EVER
from tests.crash.acts import ORDERS
from tests.crash.audit import Wrong
from tests.crash.byhand import HandWorker
from tests.crash.gateaudit import standing
from tests.crash.ledger import BLOCKED, FAILED, READY, RETRYING, SCHEDULED, Ledger
from tests.crash.shop import Plan, Shop
from tests.servers import wait_until

BOSS = "boss"
TTL = 0.2  # seconds that a beat is watched before its worker is given up
HASTE = 1.0  # seconds in which a worker has done all that is ready, unless something is wrong
PATIENCE = 0.3  # seconds that a statement may take while somebody is frozen, who has locked a gate perhaps


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
        self.openings = 0  # how often the time of the rates was let pass
        self.seen: set[Wrong] = set()  # what was wrong at some moment

    def take_over(self, *, brief: bool = False) -> None:
        """Give up whoever is silent for the TTL, and take their jobs: some are done by then, the last are still running.

        brief    take the first ones only, so that others stand in line still
        """
        if self._is_file_locked():
            return
        self._give_up()
        with self._watch_lines():
            with suppress(StoreError):
                self._upkeep()
            self._second = worker = HandWorker(self.shop.app, concurrency=2)
            worker.begin()
            worker.turn()
            while not brief and self._is_anything_ready() and not worker.over:  # what the frozen has locked stays ready
                worker.turn()
        self.look()
        self.took_over = True

    def clear_up(self, *, unnoted: bool = False) -> bool:
        """Do all that is left, if need be by an operator's moves; False when it cannot be done.

        unnoted    go round, too: else everything that anybody waits for has to be found by the notes
        """
        self.look()
        if self._second is not None:
            self._second.work_on(HASTE)
        self._ledger.declare_all_dead()
        self._drain(unnoted)
        while self._ledger.live() and self._ledger.open_rates():
            self.openings += 1
            self._drain(unnoted)
        with suppress(StoreError):
            self._upkeep()  # deletes the notes of what was settled, and of what has ended meanwhile
        return self._ledger.live() == 0

    def look(self) -> None:
        """See how all stand at this moment."""
        self.seen.update(standing(self._ledger.stands(), self.openings))

    def keys_not_free(self) -> list[tuple[int, str]]:
        """The keys of ended jobs that another cannot have, for which it asks here; not those that are for ever."""
        stands = self._ledger.stands()
        live = {one.key for one in stands if one.live}
        held = {one.key: one for one in stands if one.key is not None and one.key not in live and one.scope != EVER}
        found = []
        for hash, one in held.items():
            again = NewJob(task="again", queue="again", args='{"a": [0]}', unique=UniqueKey(hash, one.scope or 0))
            if not self.shop.app.store.add([again])[0].created:
                found.append((one.n, hash))
        return found

    def close(self) -> None:
        self.shop.close()

    def _drain(self, unnoted: bool) -> None:
        store, before = self.shop.app.store, set[tuple[int, int]]()
        while self._ledger.live() and before != (now := {(row.id, row.state) for row in self._ledger.rows()}):
            before = now
            # A row that an operation has broken may make it fail: then that is what will be found.
            with suppress(StoreError):
                self._upkeep()
                if unnoted:
                    store.round.go_on()
            self.look()
            rows = self._ledger.rows()
            store.desk.retry([row.id for row in rows if row.state in (SCHEDULED, RETRYING)])
            store.desk.release([row.id for row in rows if row.state == BLOCKED])
            self._pass_over([row.id for row in rows if row.state == FAILED])
            HandWorker(self.shop.app).work(HASTE)
            self.look()

    def _pass_over(self, failed: list[int]) -> None:
        """Let go on who waits for what has failed, or stands still because of it, until a person has looked."""
        desk = self.shop.app.store.desk
        for parent in failed:
            for id in desk.dependents(parent):
                desk.waive(id, parent)
        for _, name in desk.halted_groups():
            desk.unblock_group(name)

    def _upkeep(self) -> None:
        store = self.shop.app.store
        store.promote()
        while store.rescue().freed:
            pass
        store.settler.sweep(older_than=0)
        store.open_rates()

    @contextmanager
    def _watch_lines(self) -> Iterator[None]:
        """Hang up where nobody answers, as a worker's lease does: the frozen may have locked what others wait for."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(PATIENCE / 4):
                self.shop.app.store.database.hang_up(PATIENCE)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

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
