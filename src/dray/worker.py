"""The worker's loop: take, run, finish. One thread speaks to the store; the slots never do, but for start marks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from dray import events
from dray.app import Dray
from dray.context import Context
from dray.errors import DrayError, StoreError, StoreUnavailable, WorkerGone
from dray.job import Change, Claim, Done, Finish, Flag, HandedBack, State
from dray.lease import Lease
from dray.lifecycle import ALONE_FROM, DEFAULT_RETRY, decide
from dray.pace import FLUSH_AFTER, FLUSH_AT, STALE_AFTER, Pace
from dray.process import on_stop_signal
from dray.slots import Item, Slots
from dray.upkeep import Attendance, Upkeep

EXIT_LOST = 75  # the lease was lost while jobs ran; a supervisor starts a new worker
AWAY_PAUSE = (0.1, 1.0)  # seconds between tries while the database is away


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a worker ends by itself."""

    burst: bool = False  # when nothing is ready or running
    max_jobs: int | None = None  # after so many jobs were started
    max_time: float | None = None  # after so many seconds


class Worker:
    """Works jobs of an app in this process until it is told to stop.

    queues          exact names; none: every queue
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
        limits: Limits | None = None,
        upkeep: bool = True,
    ) -> None:
        settings = app.settings
        self.app = app
        self.queues = tuple(queues)
        self.limits = limits or Limits()
        self.concurrency = settings.concurrency if concurrency is None else concurrency
        self.store = app.store
        self.worker_id = 0
        self._pace = Pace(concurrency=self.concurrency, most=settings.prefetch)
        self._inbox: SimpleQueue[None] = SimpleQueue()  # something happened: look
        self._lease = Lease(
            self.store.roster,
            ttl=settings.ttl,
            beat=settings.beat,
            listen=settings.listen,
            on_wake=self._wake,
            on_lost=self._lose,
        )
        self._slots = Slots(
            app.runner,
            self.concurrency,
            may_start=self._may_start,
            mark=self._mark,
            needs_mark=needs_mark,
            on_done=self._nudge,
        )
        self._pickup = self.store.pickup(self.queues)
        self._attendance = Attendance(self)
        self._upkeep = Upkeep(app, settings, tell=self._wake) if upkeep else None
        self.items: dict[int, Item] = {}  # everything claimed and not yet written, by job
        self._alone: list[Item] = []  # jobs that must run with nothing beside them
        self._unwritten: list[Finish] = []  # what a write of unknown result was about
        self._counted = 0  # jobs claimed, less those handed back unstarted
        self._hint = True
        self._next_look = 0.0
        self._stopping: str | None = None
        self._now = False  # stop without waiting for what runs
        self._lost = False
        self._away_since: float | None = None

    # --- what others may call -------------------------------------------------------------------------------------------

    def stop(self, why: str = "asked to") -> None:
        """Start nothing more, hand back what waits, let what runs end. Safe in a signal handler."""
        self._stopping = self._stopping or why
        self._nudge()

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

    # --- the life of the process ----------------------------------------------------------------------------------------

    def _run(self) -> int:
        self.store.ensure()
        self._began = time.monotonic()
        self._register()
        self._attendance.start()
        if self._upkeep is not None:
            self._upkeep.start()
        events.emit(
            "worker.started",
            worker_id=self.worker_id,
            pid=os.getpid(),
            queues=",".join(self.queues) or "all",
            concurrency=self.concurrency,
        )
        try:
            while self._turn():
                pass
            return self._end()
        finally:
            self._attendance.stop()
            if self._upkeep is not None:
                self._upkeep.stop()
            self._slots.stop()

    def _register(self) -> None:
        queues = ",".join(self.queues) or "*"
        self.worker_id = self._lease.take(queues=queues, concurrency=self.concurrency)

    def _turn(self) -> bool:
        """One look at everything; False when it is time to go."""
        self._wait()
        try:
            if self._lost:
                self._handle_loss()
            self._check_limits()
            if self._stopping is not None:
                return False
            self._return_stale()
            self._exchange()
            self._back()
        except WorkerGone:
            self._lost = True
        except StoreError as error:
            self._away(error)
        return not (self._stopping is not None)

    def _wait(self) -> None:
        """Until something happened, or it is time to look."""
        if self._hint and self._wants() > 0:
            timeout = 0.0
        elif self._slots.done:
            timeout = FLUSH_AFTER
        elif self.items:
            timeout = 0.05 if self._wants() <= 0 else min(0.05, max(0.0, self._next_look - time.monotonic()))
        else:
            timeout = max(0.0, self._next_look - time.monotonic())
        try:
            self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait()
            while True:
                self._inbox.get_nowait()
        except Empty:
            return

    def _check_limits(self) -> None:
        limits = self.limits
        if limits.max_time is not None and time.monotonic() - self._began >= limits.max_time:
            self.stop("max time reached")
        if limits.max_jobs is not None and self._counted >= limits.max_jobs and not self.items:
            self.stop("max jobs reached")
        if self._lease.must_end() and self._slots.running:
            self._lose()

    # --- take and finish ------------------------------------------------------------------------------------------------

    def _wants(self) -> int:
        """How many jobs to claim now."""
        if self._alone:
            return 0
        wanted = self._pace.target() - len(self.items)
        if self.limits.max_jobs is not None:
            wanted = min(wanted, self.limits.max_jobs - self._counted)
        # Refill in bulk: a claim of one for each job that ended would make a transaction of each.
        return wanted if wanted >= max(1, self._pace.target() // 4) or not self._slots.buffered() else 0

    def _exchange(self) -> None:
        """Write what has ended and take what is wanted, together where both are due."""
        due = self._is_flush_due()
        looking = self._hint or time.monotonic() >= self._next_look
        wanted = self._wants() if looking and self._lease.may_start() else 0
        if not due and wanted <= 0:
            self._run_alone()
            return
        finishes = self._collect() if due else []
        if finishes:
            claims = self._write(finishes, wanted)
        else:
            self._hint = False
            claims = self.store.claim(self.worker_id, self._pickup, wanted) if wanted > 0 else []
        if wanted > 0:
            self._took(claims, wanted)
        self._run_alone()

    def _is_flush_due(self) -> bool:
        if self._unwritten:
            return True
        done = self._slots.done
        if not done:
            return False
        if len(done) >= FLUSH_AT or not self._slots.buffered():
            return True
        return time.monotonic() - done[0].ended >= FLUSH_AFTER

    def _collect(self) -> list[Finish]:
        """What has ended since the last write, judged; and what an earlier write may not have written."""
        finishes, self._unwritten = self._unwritten, []
        done = self._slots.done
        now = time.monotonic()
        count = 0
        while done:
            item = done.popleft()
            finishes.append(self._judge(item, now))
            count += 1
            if item.stop:
                self.stop("a task asked for it")
        self._pace.finished(count, now)
        return finishes

    def _judge(self, item: Item, now: float) -> Finish:
        assert item.outcome is not None
        definition = self.app.runner.definition(item.claim.task)
        retry = DEFAULT_RETRY if definition is None else definition.defaults.retry
        change = decide(item.claim, item.outcome, retry)
        started = item.started is not None
        if isinstance(item.outcome, HandedBack):
            self._counted -= 1
        elif item.started is not None:
            ran = item.ended - item.started
            _tell(item.claim, change, ran)
            return Finish(item.claim, change, ran=ran, ended_ago=now - item.ended)
        return Finish(item.claim, change, ended_ago=now - item.ended, started=started)

    def _write(self, finishes: list[Finish], wanted: int) -> list[Claim]:
        """One transaction; on failure everything is kept for the next try."""
        again = self._again
        try:
            result = self.store.exchange(self.worker_id, self._pickup, finishes, wanted, again=again)
        except WorkerGone:
            # The claim was refused, and with it the whole transaction: the ends are still good under their fences.
            self._settle(finishes, self.store.finish(finishes, again=again).accepted)
            raise
        except DrayError:
            self._unwritten, self._again = finishes, True
            raise
        self._again = False
        self._settle(finishes, result.accepted)
        return result.claims

    _again = False

    def _settle(self, finishes: list[Finish], accepted: set[tuple[int, int]] | set[object]) -> None:
        for one in finishes:
            self.items.pop(one.claim.id, None)
            if one.claim.lease not in accepted:
                # Somebody took it over: our result counts for nothing, and nobody is asked to write it again.
                events.emit("job.lease_lost", job_id=one.claim.id, fence=one.claim.fence, task=one.claim.task)

    def _took(self, claims: list[Claim], wanted: int) -> None:
        now = time.monotonic()
        if claims:
            self._pace.woken()
            self._counted += len(claims)
            self._give(claims)
        if len(claims) >= wanted:
            self._hint = True  # there may be more
            return
        self._hint = self._hint and bool(claims)
        self._next_look = now + self._pace.empty()
        if not self.items:
            self._pace.idle()
            if self.limits.burst and not claims and not self._hint and not self._something_due():
                self.stop("nothing left to do")

    def _something_due(self) -> bool:
        """Whether a waiting job is due: then it is no longer so in a moment, and a burst goes on."""
        if self._upkeep is None:
            return False
        promoted = self.store.promote()
        self._hint = bool(promoted.ready)
        return self._hint

    def _give(self, claims: list[Claim]) -> None:
        ordinary = []
        for claim in claims:
            item = Item(claim, Context(claim, self._attendance.write))
            self.items[claim.id] = item
            if claim.crashes >= ALONE_FROM:
                self._alone.append(item)
            else:
                ordinary.append(item)
        self._slots.start(ordinary)

    def _run_alone(self) -> None:
        """Start a job that has seen two workers die, once everything else here has ended: nobody shall die with it."""
        if self._alone and len(self.items) == len(self._alone):
            item = self._alone.pop()
            self._slots.start([item])

    def _return_stale(self) -> None:
        """Give back what was fetched for a speed that is gone: another worker may have a slot free."""
        buffered = self._slots.buffered()
        if not buffered or len(self._slots.running) < self.concurrency:
            return
        oldest = min((item.claimed for item in list(self.items.values()) if item.started is None), default=None)
        if oldest is not None and time.monotonic() - oldest > STALE_AFTER and not self._slots.done:
            self._pace.rate = 0.0
            self._hand_back("it waited for a slot")

    def _hand_back(self, why: str) -> None:
        for item in [*self._slots.take_back(), *self._alone]:
            item.outcome, item.ended = HandedBack(why=why), time.monotonic()
            self._slots.done.append(item)
        self._alone.clear()

    # --- trouble --------------------------------------------------------------------------------------------------------

    def _away(self, error: StoreError) -> None:
        """The database does not answer: say so once, wait, and try the same again."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            events.emit("store.away", worker_id=self.worker_id, why=error)
        low, high = AWAY_PAUSE
        pause = min(high, max(low, (time.monotonic() - self._away_since) / 4))
        deadline = time.monotonic() + pause
        while self._stopping is None and (left := deadline - time.monotonic()) > 0:
            try:
                self._inbox.get(timeout=left)
            except Empty:
                break
        self._hint = True
        if isinstance(error, StoreUnavailable):
            return
        if self._unwritten and len(self._unwritten) > 1:
            self._bisect()

    def _bisect(self) -> None:
        """A write was refused for what is in it: find the row that does it, so that it blocks nobody else."""
        finishes, self._unwritten = self._unwritten, []
        for one in finishes:
            try:
                self._settle([one], self.store.finish([one], again=True).accepted)
            except StoreUnavailable:
                self._unwritten.append(one)
            except DrayError as error:
                self._refused(one, error)

    def _refused(self, one: Finish, error: DrayError) -> None:
        events.emit("result.dropped", job_id=one.claim.id, task=one.claim.task, why=error)
        plain = Change(state=one.change.state, delay=one.change.delay, counted=one.change.counted, reason=one.change.reason,
                       error=one.change.error and "the error could not be stored", note="the outcome could not be stored whole")
        try:
            self._settle([one], self.store.finish([one._replace(change=plain)], again=True).accepted)
        except DrayError:
            self.items.pop(one.claim.id, None)  # rescue will find it when this worker is gone

    def _back(self) -> None:
        if self._away_since is not None:
            events.emit("store.back", worker_id=self.worker_id, after=round(time.monotonic() - self._away_since, 3))
            self._away_since = None

    def _lose(self) -> None:
        self._lost = True
        self._nudge()

    def _handle_loss(self) -> None:
        """Others think that we are dead, or soon will: whatever runs here has to end before they take over."""
        if self._slots.running:
            events.emit("worker.lost", worker_id=self.worker_id, running=len(self._slots.running))
            self._lease.abandon()
            sys.stderr.flush()
            os._exit(EXIT_LOST)
        # Nothing runs: what waited here is for others, and this process begins a new life.
        for item in [*self._slots.take_back(), *self._alone]:
            self.items.pop(item.claim.id, None)
        self._alone.clear()
        self._lease.abandon()
        self._register()
        self._lost = False

    # --- the end --------------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """Hand back what waits, let what runs end within the grace period, write it all down, say goodbye."""
        events.emit("worker.stopping", worker_id=self.worker_id, why=self._stopping, running=len(self._slots.running))
        deadline = time.monotonic() + self.app.settings.grace
        while self.items:
            if self._lost:
                self._handle_loss()
                continue
            self._hand_back("the worker stopped")
            if self._now or time.monotonic() > deadline:
                self._release()
            try:
                finishes = self._collect()
                if finishes:
                    self._write(finishes, 0)
            except StoreError as error:
                if self._now:
                    break  # what we cannot write, rescue will free
                self._away(error)
                time.sleep(0.05)
                continue
            if self.items:
                self._wait()
        clean = not self._slots.running
        self._goodbye()
        if not clean:
            # Threads that still run user code would keep the process alive; their jobs are no longer ours.
            sys.stderr.flush()
            os._exit(0)
        return 0

    def _release(self) -> None:
        """Give up what still runs: it goes back, uncounted, to be started again elsewhere."""
        for item in list(self._slots.running):
            self.items.pop(item.claim.id, None)
            self._unwritten.append(
                Finish(item.claim, decide(item.claim, HandedBack(why="released by a stopping worker")), started=False)
            )
        self._now = True

    def _goodbye(self) -> None:
        self._attendance.flush()
        try:
            self._lease.give_up()
        except StoreError:
            pass  # the heartbeat process is gone, so others will find out
        events.emit("worker.stopped", worker_id=self.worker_id, why=self._stopping)

    # --- small things ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something may be ready."""
        if not self._hint:
            self._hint = True
            self._inbox.put(None)

    def _nudge(self) -> None:
        self._inbox.put(None)

    def _may_start(self) -> bool:
        return not self._lost and self._stopping is None and self._lease.may_start()

    def _mark(self, item: Item) -> bool:
        item.marked = self.store.mark_started(item.claim.lease)
        return item.marked


def needs_mark(claim: Claim) -> bool:
    """Whether a job writes down that it starts before user code is reached: where a death would otherwise be a riddle."""
    return claim.crashes > 0 or bool(claim.flags & (Flag.SUSPECT | Flag.FAIL_ON_CRASH))


def _tell(claim: Claim, change: Change, ran: float) -> None:
    match change.state:
        case State.FAILED:
            events.emit("job.failed", job_id=claim.id, task=claim.task, attempt=claim.attempt, error=change.error)
        case State.RETRYING:
            events.emit(
                "job.retrying", job_id=claim.id, task=claim.task, attempt=claim.attempt, delay=change.delay, error=change.error
            )
        case State.BLOCKED:
            events.emit("job.parked", job_id=claim.id, task=claim.task, why=change.note)
        case _:
            events.emit("job.finished", job_id=claim.id, task=claim.task, state=change.state, seconds=ran)


__all__ = ["Done", "Limits", "Worker"]
