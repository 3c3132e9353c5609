"""The worker's loop: take, run, finish. One thread speaks to the store; the slots never do, but for start marks."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence

from dray import events
from dray.app import Dray
from dray.errors import StoreError, WorkerGone
from dray.finisher import Finisher
from dray.intake import PollIntake
from dray.job import Finish, HandedBack, Lease, Outcome
from dray.lease import WorkerLease
from dray.limits import Limits
from dray.obedience import Obedience
from dray.options import show_priorities
from dray.outage import Outage
from dray.pace import STALE_AFTER, Pace
from dray.process import Inbox, on_stop_signal
from dray.selection import Choice, TaskFilter
from dray.slots import Item, Slots, lined_up
from dray.stock import Stock
from dray.tally import Tally
from dray.upkeep import Attendance, Telling, Upkeep

EXIT_LOST = 75  # the lease was lost while jobs ran; a supervisor starts a new worker
CONNECTIONS = 2  # one for this loop, one for everything else; the heartbeat process has the third
GLANCE = 0.05  # seconds a busy worker waits at most before it looks around


class Worker:
    """Works jobs of an app in this process until it is told to stop.

    queues          exact names; none: every queue
    priorities      only jobs of these; None: of all (S2.72)
    tasks           which tasks it takes (S0.48)
    choice          how it chooses among its queues; None: by priority alone. See `dray.selection`
    concurrency     how many ordinary jobs run at once, in threads; and as many async ones, on one event loop
    upkeep          also do what somebody has to do: due jobs, rescue, prune

    `run` gives the exit code: 0, or 75 when the lease was lost and what ran had to be abandoned.
    """

    def __init__(
        self,
        app: Dray,
        queues: Sequence[str] = (),
        *,
        concurrency: int | None = None,
        priorities: range | None = None,
        tasks: TaskFilter = TaskFilter(),  # noqa: B008  a value
        choice: Choice | None = None,
        limits: Limits | None = None,
        upkeep: bool = True,
    ) -> None:
        settings = app.settings
        self.app = app
        self.store = app.store
        self.store.database.limit(CONNECTIONS)
        self.queues = tuple(queues)
        self._priorities, self._tasks = priorities, tasks
        self.limits = limits or Limits()
        self.concurrency = settings.concurrency if concurrency is None else concurrency
        self.worker_id = 0
        self._inbox = Inbox()
        woken_up = settings.listen and self.store.bell.wakes
        self._pace = Pace(concurrency=self.concurrency, most=settings.prefetch, woken_up=woken_up)
        self._intake = PollIntake(self.store, self.store.pickup(queues, priorities, tasks, choice), self._pace, app.run_ahead)
        self.tally = Tally()
        self._finisher = Finisher(self.store, app.runner, on_settled=self._settled, tally=self.tally)
        self._lease = WorkerLease(
            self.store.roster,
            ttl=settings.ttl,
            beat=settings.beat,
            listen=settings.listen,
            on_wake=self._wake,
            on_lost=self._lose,
            on_cut_off=self._cut_off,
        )
        self.slots = Slots(
            app.runner,
            self.concurrency,
            may_start=self._may_start,
            mark=self._mark,
            record=self._record,
            on_done=self._inbox.nudge,
        )
        self._attendance = Attendance(self)
        self._stock = Stock(self._intake, self.slots, self._attendance.write)
        self.items = self._stock.items
        self._telling = [Telling(app)] if upkeep else []
        self._upkeep = Upkeep(app, tell=self._wake, may_judge=self._lease.may_start) if upkeep else None
        self._began = 0.0
        self._stopping: str | None = None
        self._now = False  # stop without waiting for what runs
        self._lost = False
        self._outage = Outage()

    # --- what others may call -------------------------------------------------------------------------------------------

    def stop(self, why: str = "asked to") -> None:
        """Start nothing more, hand back what waits, let what runs end. Safe in a signal handler."""
        self._stopping = self._stopping or why
        self._inbox.nudge()

    def stop_now(self, why: str = "asked to") -> None:
        """Also release what runs."""
        self._now = True
        self.stop(why)

    def run(self) -> int:
        """Work until stopped; with signals handled when this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return self._run()
        with on_stop_signal(self.stop, self.stop_now):
            return self._run()

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _run(self) -> int:
        self.store.ensure()
        self.app.learn_types()
        self._began = time.monotonic()
        self._register()
        unlisten = self.store.bell.listen(self._wake)
        chores = [self._attendance, *([self._upkeep] if self._upkeep is not None else []), *self._telling]
        for chore in chores:
            chore.start()
        queues = ",".join(self.queues) or "all"
        events.emit("worker.started", worker_id=self.worker_id, pid=os.getpid(), queues=queues, slots=self.concurrency)
        try:
            while self._stopping is None:
                self._turn()
            return self._end()
        finally:
            unlisten()
            for chore in chores:
                chore.stop()
            self.slots.stop()

    def _register(self) -> None:
        shown = None if self._priorities is None else show_priorities(self._priorities)
        queues = ",".join(self.queues) or "*"
        self.worker_id = self._lease.take(
            queues=queues, concurrency=self.concurrency, priorities=shown, tasks=self._tasks.show()
        )
        self._obedience = Obedience(self.store.desk, self.worker_id, self._intake.pickup)
        self._obedience.listen(())  # before anything is claimed

    def _turn(self) -> None:
        """Wait until there is something to do, and do it."""
        self._inbox.wait(self._pause())
        try:
            if self._lost or self._lease.must_end():
                self._handle_loss()
            self._check_limits()
            self._return_stale()
            if self._exchange():
                self._outage.is_over(self.worker_id)
            if self._obedience.is_due():
                self._return(self._obedience.listen(self.items.values()), "its queue is paused")
        except WorkerGone:
            self._lost = True
        except StoreError as error:
            self._is_away(error)

    def _pause(self) -> float:
        """Seconds until the next look around, if nothing happens before."""
        now = time.monotonic()
        pauses = [GLANCE] if self.items else []
        if self.slots.done:
            pauses.append(self.slots.done[0].ended + self._pace.flush_after - now)
        if self._wants() > 0 and self._lease.may_start():
            pauses.append(self._intake.wait(now))
        else:  # what may not be started is not looked for, however many hints there are
            pauses.append(GLANCE)
        if self.limits.max_time is not None:
            pauses.append(self._began + self.limits.max_time - now)
        return min(pauses, default=GLANCE)

    def _check_limits(self) -> None:
        seconds = time.monotonic() - self._began
        why = self.limits.reached(seconds=seconds, jobs=self._stock.counted, idle=not self.items)
        if why is not None:
            self.stop(why)

    # --- take and finish ------------------------------------------------------------------------------------------------

    def _wants(self, leaving: int = 0) -> int:
        """How many jobs to claim now, when so many of those here leave with the same transaction."""
        if self._stock.is_reserved:
            return 0
        target = self._pace.target()
        waiting = lined_up(self.items.values()) if self._intake.leads else 0
        wanted = target - (len(self.items) - waiting) + leaving
        if self.limits.max_jobs is not None:
            wanted = min(wanted, self.limits.max_jobs - self._stock.counted)
        # Refill in bulk: one claim for each job that ends would be a transaction for each.
        return wanted if wanted >= target // 4 or not self.slots.buffered() else 0

    def _exchange(self) -> bool:
        """Write what has ended and take what is wanted, together where both are due. False: there was nothing to ask."""
        asked = self._recount()
        writes = self._finisher.owes or self._is_flush_due()
        began = time.monotonic()
        finishes = self._collect(began) if writes else []
        may_take = self._intake.wait(began) <= 0 and self._may_start()
        wanted = self._wants(leaving=len(finishes)) if may_take else 0
        if wanted > 0:
            self._intake.look()
        if writes:
            claims = self._finisher.write(finishes, self.worker_id, self._intake.pickup, wanted)
            self._pace.wrote(time.monotonic() - began)
        else:
            claims = self._intake.take(self.worker_id, wanted) if wanted > 0 else []
        self._stock.give(self.worker_id, claims)
        if wanted > 0 and self._intake.took(len(claims), wanted) and not self.items:
            self._nothing_to_do()
        self._stock.run_alone()
        return asked or writes or wanted > 0

    def _recount(self) -> bool:
        """Find what is ours though we have not heard of it: the commit of a claim happened, and its answer was lost."""
        if not (self._intake.doubts and self._lease.may_start()):
            return False
        if self._finisher.owes:  # ends first: the same lost commit may have claimed one of those jobs again
            self._finisher.write([], self.worker_id, self._intake.pickup, 0)
        found = self._intake.recount(self.worker_id, [item.claim.lease for item in self.items.values()])
        self._stock.give(self.worker_id, [claim for claim in found if not claim.follows])
        # Behind whom these were to be run is not known any more.
        self._return([self._stock.receive(claim) for claim in found if claim.follows], "nobody knows its place")
        return True

    def _is_flush_due(self) -> bool:
        done = self.slots.done
        if not done:
            return False
        more = self.slots.buffered() or (self._intake.leads and lined_up(self.items.values()))
        return not more or self._pace.is_flush_due(len(done), time.monotonic() - done[0].ended)

    def _collect(self, now: float) -> list[Finish]:
        """What has ended since the last write, judged. Its log lines are written before: who sees the end sees them too."""
        self._attendance.flush()
        if any(item.stop for item in list(self.slots.done)):
            self.stop("a task asked for it")
        finishes = self._finisher.judge(self.slots.done, now)
        self._stock.counted -= sum(not one.started for one in finishes)
        self._pace.finished(len(finishes), now)
        return finishes

    def _settled(self, lease: Lease, accepted: bool) -> None:
        self._stock.settled(lease, accepted)

    def _nothing_to_do(self) -> None:
        self._pace.idle()
        if not self.limits.burst or self._intake.wait(time.monotonic()) <= 0:  # what has just been settled is news
            return
        if self._upkeep is not None and self.store.promote().ready:
            self._intake.hint()  # a waiting job has just come due
        elif self._intake.make_sure():
            self.stop("nothing left to do")

    def _return_stale(self) -> None:
        """Give back what was fetched for a speed that is gone: another worker may have a slot free."""
        if not self.slots.buffered() or self.slots.done or len(self.slots.running) < self.concurrency:
            return
        oldest = min((item.claimed for item in list(self.items.values()) if item.started is None), default=None)
        if oldest is not None and time.monotonic() - oldest > STALE_AFTER:
            self._pace.rate = 0.0
            self._hand_back("it waited for a slot")

    def _hand_back(self, why: str) -> None:
        self._return(self._stock.take_unstarted(), why)

    def _return(self, items: Sequence[Item], why: str) -> None:
        now = time.monotonic()
        for item in items:
            item.outcome, item.ended = HandedBack(why=why), now
            self.slots.done.append(item)

    # --- trouble --------------------------------------------------------------------------------------------------------

    def _is_away(self, error: StoreError) -> None:
        """The database does not do what was asked: wait a moment, to try the same again."""
        deadline = time.monotonic() + self._outage.goes_on(self.worker_id, error)
        while not self._now and (left := deadline - time.monotonic()) > 0:
            self._inbox.wait(left)
        self._intake.doubt()

    def _lose(self) -> None:
        self._lost = True
        self._inbox.nudge()

    def _handle_loss(self) -> None:
        """Others think that we are dead, or soon will."""
        self._leave_if_busy()
        # Nothing runs: what waited here is for others, and this process begins a new life under a new id.
        for item in self._stock.take_unstarted():
            self._stock.settled(item.claim.lease, False)
        self._lease.abandon()
        self._register()
        self._lost = False
        self._intake.hint()

    def _leave_if_busy(self) -> None:
        """Whatever runs here has to end before others take it over: at once, without a wait for anybody."""
        if self.slots.running:
            events.emit("worker.lost", worker_id=self.worker_id, running=len(self.slots.running))
            sys.stderr.flush()
            os._exit(EXIT_LOST)  # the heart stays, and writes down that we are gone if it still can

    def _cut_off(self) -> None:
        """In a thread of the lease, again and again: no beat arrives, and our own threads may hang as well."""
        self._leave_if_busy()
        self.store.database.hang_up(self.app.settings.ttl / 2)

    # --- the end --------------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """Hand back what waits, let what runs end within the grace period, write it all down, say goodbye."""
        events.emit("worker.stopping", worker_id=self.worker_id, why=self._stopping, running=len(self.slots.running))
        deadline = time.monotonic() + self.app.settings.grace
        while self.items:
            if self._lost:
                self._leave_if_busy()
            self._hand_back("the worker stopped")
            self._now = self._now or time.monotonic() > deadline
            if not self._write_last():
                break
            if self.items:
                self._inbox.wait(GLANCE)
        while self.slots.hooking and not self._now and time.monotonic() < deadline:
            self.slots.leave_hooks_behind(time.monotonic())
            if all(item.left_behind for item in list(self.slots.hooking)):
                break
            self._inbox.wait(GLANCE)
        abandoned = bool(self.slots.running)
        self._say_goodbye()
        if abandoned:
            # Threads that still run user code would keep the process alive; their jobs are no longer ours.
            sys.stderr.flush()
            os._exit(0)
        return 0

    def _write_last(self) -> bool:
        """Write what has ended; when there is no more time, also give up what runs. False: it is over."""
        finishes = self._collect(time.monotonic())
        if self._now:
            finishes += self._finisher.release(list(self.slots.running), "released by a stopping worker")
        try:
            if finishes or self._finisher.owes:
                self._finisher.write(finishes, self.worker_id, self._intake.pickup, 0)
        except StoreError as error:
            if self._now:
                return False  # what cannot be written is freed by rescue
            self._is_away(error)
        return not self._now

    def _say_goodbye(self) -> None:
        self._attendance.close()
        # If the database is away, the silence of our heart says the same.
        with contextlib.suppress(StoreError):
            self._lease.give_up()
        events.emit("worker.stopped", worker_id=self.worker_id, why=self._stopping)

    def _wake(self) -> None:
        """Something may be ready."""
        if self._intake.hint():
            self._inbox.nudge()

    def _may_start(self) -> bool:
        return not self._lost and self._stopping is None and self._lease.may_start()

    def _mark(self, item: Item) -> bool:
        item.marked = self.store.mark_started(item.claim.lease)
        return item.marked

    def _record(self, item: Item, outcome: Outcome) -> None:
        with contextlib.suppress(StoreError):  # then a hook that ends the process makes it a crash, which is no loss either
            item.recorded = self.store.record(item.claim.lease, self._finisher.decide(item, outcome))
