"""Chores. `Attendance` is what each worker owes its own jobs; `Upkeep` is what somebody has to do, and anybody may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from dray import events
from dray.app import Dray
from dray.care import free
from dray.errors import DrayError, StoreError
from dray.item import Item
from dray.job import Cancelled, Claim, Flag, HandedBack, Lease, State
from dray.meter import resident
from dray.notify import Notifier, channels_of
from dray.slots import Slots
from dray.standing import Standing
from dray.store.output import Line
from dray.store.rescue import Watch
from dray.tally import Tally

if TYPE_CHECKING:
    from dray.store.sql import SqlStore

ATTEND_EVERY = 1.0  # seconds between looks for cancels and holds
ADOPT_EVERY = 5.0  # seconds between looks for parked jobs that are known here
LOOK_EVERY = 1.0  # seconds between looks for what is due, has expired, or was left unsettled, at most
ROUND_EVERY = 2.0  # seconds between parts of the round through all that waits
COUNT_EVERY = 5.0  # seconds between writes of what a worker has counted
MINUTES_KEPT = 2 * 86_400.0  # seconds until minutes become hours
MERGES = 5  # in one go
TELL_EVERY = 30.0  # seconds between looks for what somebody is to be told, if nobody says that there is something
KEYS = 1000  # unique keys that are looked at in one go
PRUNE_EVERY = 60.0
PRUNE_BATCHES = 5  # in one go: no chore may take long
OUTPUT_LIMIT = 10_000  # lines kept in memory while the database is away
OUTPUT_BYTES = 4_000_000  # the same in bytes
GATE_ROWS = 3600.0  # seconds the row of a group or limit is kept that nobody uses
WORKER_ROWS = 86_400.0  # seconds the row of an ended worker is kept


class Employer(Protocol):
    """What attendance needs of its worker."""

    app: Dray
    store: SqlStore
    worker_id: int
    items: dict[int, Item]
    slots: Slots
    tally: Tally
    standing: Standing


class _Chores:
    """A thread that does things now and then, survives their failure, and can be stopped at once."""

    name = "dray-chores"

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()
        self._thread.join(5)

    def wake(self) -> None:
        """There is something to do: begin the next round now."""
        self._woken.set()

    def _work(self) -> None:
        pause = 0.0
        failing = False
        while not self._stopped.is_set():
            if self._woken.wait(pause):
                self._woken.clear()
                if self._stopped.is_set():
                    return
            try:
                pause = self._round()
                failing = False
            except StoreError as error:
                self._failed()
                if not failing:  # said once; the worker's own loop says that the database is away
                    events.emit("upkeep.failed", chore=self.name, why=error)
                failing, pause = True, 0.5
            except Exception as error:  # a mistake, ours or of whoever wrote a row: it is told, and all else goes on
                events.emit("upkeep.failed", chore=self.name, why=f"{type(error).__name__}: {error}")
                pause = 1.0

    def _round(self) -> float:
        raise NotImplementedError

    def _failed(self) -> None:
        """Called when the database did not do what was asked."""


class Attendance(_Chores):
    """Start marks of long runs, requests to cancel and hold, and the log lines of this worker's jobs."""

    name = "dray-attendance"

    def __init__(self, worker: Employer) -> None:
        super().__init__()
        self._worker = worker
        self._lines: list[tuple[Claim, str, str, float]] = []
        self.on_line: Callable[[str, str], None] | None = None
        self._dropped = 0  # lines that found no room
        self._bytes = 0  # of those lines, roughly
        self._forgotten: list[Lease] = []  # runs whose stored lines are to go
        self._lock, self._storing = threading.Lock(), threading.Lock()
        self._every = min(ATTEND_EVERY, worker.app.settings.beat)
        self._count_at = 0.0
        self._reported: tuple[bool, int, int] | None = None

    def write(self, claim: Claim, kind: str, message: str) -> None:
        """Take a line for a job's log; it is stored within a second."""
        if self.on_line is not None:
            self.on_line(kind, message)
        with self._lock:
            if len(self._lines) < OUTPUT_LIMIT and self._bytes < OUTPUT_BYTES:
                self._lines.append((claim, kind, message, time.monotonic()))
                self._bytes += len(message)
            else:
                self._dropped += 1

    def forget(self, claim: Claim) -> None:
        """Take back all lines of a run, stored or not."""
        with self._lock:
            self._lines = [line for line in self._lines if line[0].lease != claim.lease]
            self._bytes = sum(len(line[2]) for line in self._lines)
            self._forgotten.append(claim.lease)

    def _round(self) -> float:
        self._mark_long_runs()
        self._heed_requests()
        self._worker.slots.leave_hooks_behind(time.monotonic())
        self._store_lines()
        if time.monotonic() >= self._count_at:
            self._store_counts()
            self._report()
            self._count_at = time.monotonic() + COUNT_EVERY
        return self._every

    def flush(self) -> None:
        """Store the lines that are left."""
        try:
            self._store_lines()
        except DrayError as error:
            events.emit("upkeep.failed", chore="output", why=error)

    def close(self) -> None:
        """Store all that is left."""
        self.flush()
        try:
            self._store_counts()
        except DrayError as error:
            events.emit("upkeep.failed", chore="counts", why=error)

    def _store_counts(self) -> None:
        if rows := self._worker.tally.take(self._worker.worker_id):
            try:
                self._worker.store.desk.write_rollups(rows)
            except StoreError:
                self._worker.tally.again(rows)
                raise

    def _report(self) -> None:
        """Say how we are, if that has changed: memory to the MiB, since it always moves a little."""
        worker = self._worker
        now = worker.standing.paused, resident() >> 20 << 10, worker.tally.total
        if now != self._reported:
            worker.store.roster.report(worker.worker_id, paused=now[0], memory=now[1], done=now[2])
            self._reported = now

    def _mark_long_runs(self) -> None:
        now = time.monotonic()
        for item in list(self._worker.slots.running):
            if item.started is not None and not item.marked and now - item.started > self._every:
                item.marked = self._worker.store.mark_started(item.claim.lease, now - item.started)

    def _heed_requests(self) -> None:
        if not self._worker.items:
            return
        running = []
        for lease, flags in self._worker.store.desk.requested(self._worker.worker_id):
            item = self._worker.items.get(lease.id)
            if item is None or item.claim.fence != lease.fence:
                continue
            if item.started is None:
                item.dropped = Cancelled(why="cancelled") if flags & Flag.CANCEL else HandedBack(why="held")
            elif flags & Flag.CANCEL:
                running.append(item)
        # Afterwards, since the end of a running one lets the next one start.
        for item in running:
            self._worker.slots.cancel(item)

    def _store_lines(self) -> None:
        with self._storing:  # who flushes before an end also waits for what another thread is just storing
            self._store_what_there_is()

    def _store_what_there_is(self) -> None:
        with self._lock:
            lines, self._lines, self._bytes = self._lines, [], 0
            forgotten, self._forgotten = self._forgotten, []
            dropped, self._dropped = self._dropped, 0
        if dropped:
            events.emit("output.dropped", lines=dropped)
        now = time.monotonic()
        try:
            while forgotten:
                self._worker.store.desk.forget_output(forgotten[-1])
                forgotten.pop()
            if not lines:
                return
            self._worker.store.desk.write_output(
                [Line(claim.id, claim.fence, kind, text, now - at) for claim, kind, text, at in lines]
            )
        except StoreError:
            with self._lock:
                self._lines = [*lines, *self._lines][:OUTPUT_LIMIT]
                self._bytes = sum(len(line[2]) for line in self._lines)
                self._forgotten += forgotten
            raise


class Telling(_Chores):
    """Telling people of failures. In a thread of its own, since a mail server may take its time, and rescue may not; upkeep
    wakes it when there is something to tell."""

    name = "dray-notify"

    def __init__(self, app: Dray) -> None:
        super().__init__()
        settings = app.settings
        channels = channels_of(app)
        self._notifier = Notifier(
            app.store.desk, channels, gathered=settings.notify_after, digest=settings.digest if len(channels) > 1 else None
        )

    def _round(self) -> float:
        return 0.0 if self._notifier.round() else TELL_EVERY


class Upkeep(_Chores):
    """Due jobs, rescue, adoption of parked jobs, what nobody settled, and prune. Any number of workers may do it at once.

    tell       called when a job has become ready
    may_judge  whether our own beats arrive: while they do not, nothing is known of anybody else's
    tell_people  called when there are notices
    """

    name = "dray-upkeep"

    def __init__(
        self,
        app: Dray,
        tell: Callable[[], None] = lambda: None,
        may_judge: Callable[[], bool] = lambda: True,
        tell_people: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        settings = app.settings
        self._app, self._tell, self._may_judge, self._tell_people = app, tell, may_judge, tell_people
        self.period = settings.ttl / 6  # seconds between two passes of rescue
        self._keep = {
            State.SUCCEEDED: settings.keep_succeeded,
            State.CANCELLED: settings.keep_cancelled,
            State.FAILED: settings.keep_failed,
        }
        self._watch = Watch(ttl=settings.ttl)
        self._key: str | None = None  # how far the keys were looked through
        self._look_at = self._rescue_at = self._adopt_at = self._round_at = 0.0
        self._prune_at = time.monotonic() + PRUNE_EVERY / 2
        self.has_looked = False  # at everything, once

    def _round(self) -> float:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + self.look()
        if now >= self._rescue_at:
            self.rescue()
            self._rescue_at = now + self._watch.next_look(self.period)
        if now >= self._adopt_at:
            self.adopt()
            self._adopt_at = now + ADOPT_EVERY
        if now >= self._round_at:
            self._settled(self._app.store.go_round())
            self._round_at = now + ROUND_EVERY
        if now >= self._prune_at:
            self.prune()
            self._prune_at = now + PRUNE_EVERY
        self.has_looked = True
        chores = self._look_at, self._rescue_at, self._adopt_at, self._round_at, self._prune_at
        return max(0.005, min(chores) - time.monotonic())

    def _failed(self) -> None:
        self._watch.broken()

    def all_once(self) -> None:
        """Do all of it once, here and now."""
        self.promote()
        self.rescue()
        self.adopt()
        self.open_rates()
        self.expire()
        self._settled(self._app.store.sweep() + self._app.store.go_round())
        self.prune()

    def look(self) -> float:
        """Look what is due, which costs little, and do it; gives the seconds until the next look."""
        todo = self._app.store.agenda(self._app.settings.notify_after)
        waits = [LOOK_EVERY, todo.due, todo.rate]
        if todo.due is not None and todo.due <= 0:
            waits[1] = self.promote()
        if todo.rate is not None and todo.rate <= 0:
            waits[2] = self.open_rates()
        if todo.expired:
            self.expire()
        if todo.unsettled:
            self._settled(self._app.store.sweep())
        if todo.notices:
            self._tell_people()
        return max(0.0, min(wait for wait in waits if wait is not None))

    def promote(self) -> float:
        """Make due jobs ready; gives the seconds until the next look."""
        promoted = self._app.store.promote()
        if promoted.ready:
            self._tell()
        return LOOK_EVERY if promoted.next_in is None else min(LOOK_EVERY, promoted.next_in)

    def rescue(self) -> None:
        """Declare the silent dead, and free what the dead held."""
        store = self._app.store
        if not self._may_judge():
            # On a full disk or a locked file others can be read and cannot beat: they would all look dead.
            self._watch.broken()
        for beat in self._watch.observe(store.roster.beats()):
            if store.roster.declare_dead(beat):
                events.emit("rescue.dead_worker", worker_id=beat.worker_id, silent_for=self._watch.ttl)
        if free(store):
            self._tell()

    def adopt(self) -> None:
        """Free parked jobs whose task is known here."""
        if self._app.store.adopt(self._app.registry.known()):
            self._tell()

    def open_rates(self) -> float:
        """Start what a rate allows by now; gives the seconds until the next look."""
        wait = self._app.store.open_rates()
        return LOOK_EVERY if wait is None else min(LOOK_EVERY, max(0.0, wait))

    def expire(self) -> None:
        """End what has expired."""
        while sum(expired := self._app.store.expire()):
            events.emit("jobs.expired", cancelled=expired.cancelled, asked=expired.asked)

    def _settled(self, count: int) -> None:
        if count:
            events.emit("settle.repaired", count=count)

    def prune(self) -> None:
        """Delete some of what ended long ago."""
        store, count = self._app.store, 0
        for state, keep in self._keep.items():
            for _ in range(PRUNE_BATCHES):
                gone = store.desk.prune_batch(state, keep)
                count += gone
                if gone < 1000 or self._stopped.is_set():
                    break
        store.desk.prune_workers(WORKER_ROWS)
        store.desk.prune_gates(GATE_ROWS)
        self._key = store.desk.prune_keys(self._key)
        for _ in range(MERGES):
            if not store.desk.merge_rollups(MINUTES_KEPT):
                break
        store.desk.forget_rollups(self._app.settings.keep_stats)
        if count:
            events.emit("prune.done", count=count)
