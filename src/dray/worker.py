"""The worker's loop: take, run, finish. One thread speaks to the store; the slots never do, but for start marks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from dray import events
from dray.app import Dray
from dray.discover import where_is
from dray.errors import StoreError, StoreUnavailable, WorkerGone
from dray.exchange import Exchange
from dray.finisher import Finisher
from dray.heed import follow, meanings
from dray.intake import PollIntake
from dray.item import Item
from dray.job import Outcome
from dray.lease import WorkerLease
from dray.limits import Limits
from dray.meter import resident
from dray.obedience import Obedience
from dray.options import show_priorities
from dray.outage import Outage
from dray.outside.children import Plan, plan_of
from dray.pace import Pace
from dray.probe import Vital
from dray.process import Inbox, leave, on_signals
from dray.selection import Choice, TaskFilter
from dray.sight import job_stacks, stacks
from dray.slots import Slots
from dray.standing import Standing
from dray.stock import Stock
from dray.tally import Tally
from dray.upkeep import Attendance, Telling, Upkeep

S = TypeVar("S", bound=Slots)

EXIT_LOST = 75  # the lease was lost while jobs ran; a supervisor starts a new worker
CONNECTIONS = 2  # one for this loop, one for everything else; the heartbeat process has the third
OUTSIDE_PATIENCE = 3.0  # seconds that are waited for the end of what runs in other processes
GLANCE = 0.05  # seconds a busy worker waits at most before it looks around


class Worker:
    """Works jobs of an app in this process until it is told to stop.

    queues          exact names; none: every queue
    priorities      only jobs of these; None: of all (S2.72)
    tasks           which tasks it takes (S0.48)
    choice          how it chooses among its queues; None: by priority alone. See `dray.selection`
    concurrency     how many ordinary jobs run at once, in threads; and as many async ones, on one event loop
    cycle           seconds from one look for jobs to the next, whatever is heard in between (S0.41); None: as seems best
    ids             run these jobs, one after the other, whatever they wait for, and end; None: what is ready (S0.49)
    upkeep          also do what somebody has to do: due jobs, rescue, prune
    begin_anew      called when it has ended in order to be reloaded; without it, `run` gives 0 and somebody else does
    former          the worker that this one was before it began anew: it waits for the database, as that one did
    where           the app as `module:attribute`, for processes of isolated jobs; None: it is looked for

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
        cycle: float | None = None,
        ids: Sequence[int] | None = None,
        upkeep: bool = True,
        begin_anew: Callable[[], None] | None = None,
        former: int = 0,
        where: str | None = None,
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
        self.standing = Standing(settings.grace, self._inbox.nudge)
        woken_up = settings.listen and self.store.bell.wakes
        self._pace = Pace(concurrency=self.concurrency, most=settings.prefetch, woken_up=woken_up)
        pickup = self.store.pickup(queues, priorities, tasks, choice)
        self._intake = PollIntake(self.store, pickup, self._pace, app.run_ahead, every=cycle)
        self.tally, self._attendance = Tally(), Attendance(self)
        self._upkeep: Upkeep | None = None
        slots = self._make_slots(Slots, plan_of(settings, where or where_is(app)))
        lease = WorkerLease(
            self.store.roster,
            ttl=settings.ttl,
            beat=settings.beat,
            listen=settings.listen,
            pulse=slots.pulse,
            former=former,
            on_wake=self._wake,
            on_lost=self._lose,
            on_cut_off=self._cut_off,
        )
        self._assemble(lease, slots, upkeep=upkeep, ids=ids)
        self._chores: list[Attendance | Telling | Upkeep] = [self._attendance]
        if upkeep:
            telling = Telling(app)
            self._upkeep = Upkeep(app, tell=self._wake, may_judge=self._lease.may_start, tell_people=telling.wake)
            self._chores += [self._upkeep, telling]
        self._began, self._begin_anew, self.former = 0.0, begin_anew, former
        self._has_paused = self._lost = False
        self._outage = Outage()

    def _make_slots(self, kind: type[S], plan: Plan | None = None) -> S:
        return kind(
            self.app.runner,
            self.concurrency,
            may_start=self._may_start,
            mark=self._mark,
            record=self._record,
            on_done=self._inbox.nudge,
            on_stuck=self.standing.replace,
            plan=plan,
        )

    def _assemble(self, lease: WorkerLease, slots: Slots, *, upkeep: bool, ids: Sequence[int] | None = None) -> None:
        """Put together what stands on the lease and the slots."""
        self._lease, self.slots = lease, slots
        self._stock = Stock(self._intake, slots, self._attendance.write, self._attendance.forget)
        self.items = self._stock.items
        self._finisher = Finisher(self.store, self.app.runner, on_settled=self._stock.settled, tally=self.tally)
        self._exchange = Exchange(
            *(self._intake, self._pace, self._stock, slots, self._finisher, lease),
            limits=self.limits,
            standing=self.standing,
            flush=self._attendance.flush,
            promote=self._may_come if upkeep else None,
            ids=ids,
        )
        self.vital = Vital(lease.age, self._would_take, self.app.settings.ttl)

    # --- what others may call -------------------------------------------------------------------------------------------

    def stop(self, why: str = "asked to") -> None:
        """Start nothing more, hand back what waits, let what runs end within the grace period. Safe in a signal handler."""
        self.standing.stop(why)

    def stop_now(self, why: str = "asked to") -> None:
        """Also release what runs."""
        self.standing.stop_now(why)

    def retire(self, why: str = "asked to") -> None:
        """Stop, but let what runs end, however long that takes."""
        self.standing.retire(why)

    def run(self) -> int:
        """Work until stopped; with signals handled when this is the main thread (S3.35)."""
        heeds = on_signals(self.stop, self.stop_now, meanings(self.standing, lambda: stacks(self.slots)))
        with heeds if threading.current_thread() is threading.main_thread() else contextlib.nullcontext():
            code = self._run()
        self._if_again()
        return code

    def on_line(self, tell: Callable[[str, str], None]) -> None:
        """Also tell each line that its jobs log, with its kind, as it comes."""
        self._attendance.on_line = tell

    def _if_again(self) -> None:
        if self.standing.again and self._begin_anew is not None:
            self._begin_anew()

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _run(self) -> int:
        if not self._arrive():
            return 0
        self._began = time.monotonic()
        unlisten = self.store.bell.listen(self._wake)
        for chore in self._chores:
            chore.start()
        queues = ",".join(self.queues) or "all"
        events.emit("worker.started", worker_id=self.worker_id, pid=os.getpid(), queues=queues, slots=self.concurrency)
        try:
            while not self.standing.ends:
                self._turn()
            return self._end()
        finally:
            unlisten()
            for chore in self._chores:
                chore.stop()
            self.slots.stop()

    def _arrive(self) -> bool:
        """Make sure of the tables, and register. Who begins anew waits for that; False: it was told to end meanwhile."""
        while True:
            try:
                self.store.ensure()
                self.app.learn_types()
                self._register()
                return True
            except StoreUnavailable as error:
                if not self.former:
                    raise
                self._lease.abandon()
                if self.standing.ends:
                    self._lease.end()
                    return False
                self._is_away(error)

    def _register(self) -> None:
        shown = None if self._priorities is None else show_priorities(self._priorities)
        queues, tasks = ",".join(self.queues) or "*", self._tasks.show()
        self.worker_id = self._lease.take(queues=queues, concurrency=self.concurrency, priorities=shown, tasks=tasks)
        self.vital.worker_id = self.worker_id
        self._obedience = Obedience(self.store.desk, self.worker_id, self._intake.pickup)
        self._obedience.listen(())  # before anything is claimed
        self._heed_orders()

    def _turn(self) -> None:
        """Wait until there is something to do, and do it."""
        self._inbox.wait(self._pause())
        try:
            if self._lost or self._lease.must_end():
                self._handle_loss()
            self._check_limits()
            self._heed_pause()
            self._exchange.return_stale()
            self.vital.turned()
            if self._exchange.pass_on(self.worker_id):
                self.vital.answered()
                self._outage.is_over(self.worker_id)
            self._listen()
        except WorkerGone:
            self._lost = True
        except StoreError as error:
            self._is_away(error)

    def _pause(self) -> float:
        """Seconds until the next look around, if nothing happens before."""
        now = time.monotonic()
        pauses = [self._exchange.flush_in(now)]
        if self.items:
            pauses.append(GLANCE)
        if self._would_take():
            pauses.append(self._intake.wait(now))
        else:  # what may not be started is not looked for, however many hints there are
            pauses.append(GLANCE)
        if self.limits.max_time is not None:
            pauses.append(self._began + self.limits.max_time - now)
        return min(pauses)

    def _check_limits(self) -> None:
        seconds, idle, cycles = time.monotonic() - self._began, not self.items, self._intake.looks
        why = self.limits.reached(seconds=seconds, jobs=self._stock.counted, cycles=cycles, memory=resident, idle=idle)
        if why is not None:
            self.retire(why)

    def _may_come(self) -> bool:
        """Whether there may be jobs now that were not there a moment ago: due ones, or what upkeep frees in its first round."""
        return (self._upkeep is not None and not self._upkeep.has_looked) or bool(self.store.promote().ready)

    def _listen(self) -> None:
        """Hear what is paused, and what we are told: also while we wait for the end of what runs."""
        if self._obedience.is_due():
            self._exchange.give_back(self._obedience.listen(self.items.values()), "its queue is paused")
            self._heed_orders()

    def _heed_orders(self) -> None:
        told, why = self._obedience.orders, self._obedience.stopped
        follow(self.standing, told.order)
        if told.stack:
            self.store.roster.answer(self.worker_id, job_stacks(self.slots))
        if why is not None:
            self.stop(f"workers were told to stop{f' ({why})' if why else ''} until `dray start`")

    def _heed_pause(self) -> None:
        paused = self.standing.paused
        if paused is self._has_paused:
            return
        self._has_paused = paused
        events.emit("worker.paused" if paused else "worker.resumed", worker_id=self.worker_id, running=len(self.slots.running))
        if paused:
            self._exchange.hand_back("the worker is paused")
        else:
            self._intake.hint()

    # --- trouble --------------------------------------------------------------------------------------------------------

    def _is_away(self, error: StoreError) -> None:
        """The database does not do what was asked: wait a moment, to try the same again."""
        self._exchange.doubt()
        deadline = time.monotonic() + self._outage.goes_on(self.worker_id, error)
        while not self.standing.is_late and (left := deadline - time.monotonic()) > 0:
            self._inbox.wait(left)

    def _lose(self) -> None:
        self._lost = True
        self._inbox.nudge()

    def _handle_loss(self) -> None:
        """Others think that we are dead, or soon will."""
        self._leave_if_busy()
        self._listen()  # what the former life was told, before others took it for dead, is meant for us
        if self.standing.ends:
            return
        # Nothing runs: what waited here is for others, and this process begins a new life under a new id.
        self._stock.forget_unstarted()
        self._lease.abandon()
        self._register()
        self._lost = False
        self._intake.hint()

    def _leave_if_busy(self) -> None:
        """Whatever runs here has to end before others take it over: at once, without a wait for anybody."""
        if running := list(self.slots.running):
            self.slots.end_outside(running)
            # The heart stays, and writes down that we are gone if it still can.
            leave(EXIT_LOST, lambda: events.emit("worker.lost", worker_id=self.worker_id, running=len(running)))

    def _cut_off(self) -> None:
        """In a thread of the lease, again and again: no beat arrives, and our own threads may hang as well."""
        self._leave_if_busy()
        self.store.database.hang_up(self.app.settings.ttl / 2)

    # --- the end --------------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """Hand back what waits, let what runs end within the grace period, write it all down, say goodbye."""
        events.emit("worker.stopping", worker_id=self.worker_id, why=self.standing.why, running=len(self.slots.running))
        while self.items:
            self.vital.turned()
            if self._lost:
                self._leave_if_busy()
            self._exchange.hand_back("the worker stopped")
            if not self._write_last():
                break
            if self.items:
                self._inbox.wait(GLANCE)
        while self.slots.hooking and not self.standing.is_late:
            self.slots.leave_hooks_behind(time.monotonic())
            if all(item.left_behind for item in list(self.slots.hooking)):
                break
            self._inbox.wait(GLANCE)
        abandoned = bool(self.slots.running)
        self._attendance.close()
        with contextlib.suppress(StoreError):  # if the database is away, the silence of our heart says the same
            self._lease.give_up()
        events.emit("worker.stopped", worker_id=self.worker_id, why=self.standing.why)
        if abandoned:
            # Threads that still run user code would keep the process alive; their jobs are no longer ours.
            self.slots.stop()
            self._if_again()
            leave(0)
        return 0

    def _write_last(self) -> bool:
        """Write what has ended; when there is no more time, also give up what runs. False: it is over."""
        finishes = self._exchange.collect(time.monotonic())
        is_late = self.standing.is_late
        if is_late:
            finishes += self._exchange.release()
            # Only then may others start them: what runs elsewhere would run on beside that.
            self.slots.end_outside(list(self.slots.running), OUTSIDE_PATIENCE)
        try:
            self._exchange.write(self.worker_id, finishes)
            if not is_late:
                self._listen()
        except StoreError as error:
            if is_late:
                return False  # what cannot be written is freed by rescue
            self._is_away(error)
        return not is_late

    def _wake(self) -> None:
        """Something may be ready."""
        if self._intake.hint():
            self._inbox.nudge()

    def _would_take(self) -> bool:
        return self._exchange.wants() > 0 and self._may_start()

    def _may_start(self) -> bool:
        return not self._lost and self._exchange.may_start()

    def _mark(self, item: Item) -> bool:
        item.marked = self.store.mark_started(item.claim.lease)
        return item.marked

    def _record(self, item: Item, outcome: Outcome) -> None:
        with contextlib.suppress(StoreError):  # then a hook that ends the process makes it a crash, which is no loss either
            item.recorded = self.store.record(item.claim.lease, self._finisher.decide(item, outcome))
