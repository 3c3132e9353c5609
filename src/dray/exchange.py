"""What passes between a worker and the store: jobs come in, ends go out, together where both are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dray.finisher import Finisher
from dray.intake import PollIntake
from dray.item import Item, lined_up
from dray.job import Finish, HandedBack
from dray.lease import WorkerLease
from dray.limits import Limits
from dray.pace import AT_ONCE, STALE_AFTER, Pace
from dray.slots import Slots
from dray.standing import Standing
from dray.stock import Stock


class Exchange:
    """How many jobs are taken, when ends are written, and what goes back unstarted.

    flush       stores the log lines that are left: who sees an end sees them too
    promote     makes due jobs ready, and says whether there may be any now; None: that is left to others
    ids         take these jobs and no others, whatever they wait for; None: what is ready
    """

    def __init__(
        self,
        intake: PollIntake,
        pace: Pace,
        stock: Stock,
        slots: Slots,
        finisher: Finisher,
        lease: WorkerLease,
        *,
        limits: Limits,
        standing: Standing,
        flush: Callable[[], None],
        promote: Callable[[], bool] | None,
        ids: Sequence[int] | None = None,
    ) -> None:
        self._intake, self._pace, self._stock, self._slots = intake, pace, stock, slots
        self._finisher, self._lease, self._limits, self._standing = finisher, lease, limits, standing
        self._flush, self._promote = flush, promote
        self._ids = None if ids is None else list(ids)
        self._items = stock.items
        self._had_more = False  # the last claim gave all that was wanted

    def may_start(self) -> bool:
        """Whether a job may be started at this moment."""
        return not self._standing.ends and not self._standing.paused and self._lease.may_start()

    def wants(self, leaving: int = 0) -> int:
        """How many jobs to claim now, when so many of those here leave with the same transaction."""
        if self._stock.is_reserved or self._ids is not None:
            return 0
        target = self._pace.target()
        waiting = lined_up(self._items.values()) if self._intake.leads else 0
        wanted = min(target - (len(self._items) - waiting) + leaving, AT_ONCE)
        if self._limits.max_jobs is not None:
            wanted = min(wanted, self._limits.max_jobs - self._stock.counted)
        if self._limits.max_cycles is not None and self._intake.looks >= self._limits.max_cycles:
            return 0
        return wanted if self._pace.is_worth_it(wanted) or not self._stock.buffered() else 0

    def pass_on(self, worker_id: int) -> bool:
        """Write what has ended and take what is wanted, together where both are due. False: there was nothing to ask."""
        asked = self._recount(worker_id) or self._take_those_named(worker_id)
        writes = self._finisher.owes or self._is_flush_due()
        began = time.monotonic()
        finishes = self.collect(began, self._pace.at_once()) if writes else []
        if self._had_more and 0 < len(finishes) == len(self._items) and all(one.started for one in finishes):
            self._pace.ran_dry(len(finishes), max(one.ran + one.ended_ago for one in finishes), began)
        may_take = self._intake.wait(began) <= 0 and self.may_start()
        wanted = self.wants(leaving=len(finishes)) if may_take else 0
        if wanted > 0:
            self._intake.look()
        if writes:
            # While the database works, this thread does not need the interpreter, and so the slots have it for themselves.
            claims = self._finisher.write(finishes, worker_id, self._intake.pickup, wanted, begun=self._stock.start)
            self._stock.start()
            self._pace.wrote(time.monotonic() - began)
        else:
            claims = self._intake.take(worker_id, wanted) if wanted > 0 else []
        if wanted > 0:
            self._had_more = len(claims) >= wanted
        self._stock.give(worker_id, claims, later=self.flush_in(time.monotonic()) <= 0)
        if wanted > 0 and self._intake.took(len(claims), wanted) and not self._items:
            self._nothing_to_do()
        self._stock.run_alone()
        return asked or writes or wanted > 0

    def doubt(self) -> None:
        """The database did not answer: what was asked may have happened; and what is here can run meanwhile."""
        self._intake.doubt()
        self._stock.start()

    def _take_those_named(self, worker_id: int) -> bool:
        """Take the next of those that were asked for by name, one after the other; at the end of them it is done."""
        if self._ids is None or self._items or not self.may_start():
            return False
        if self._ids:
            claims = self._intake.pick(worker_id, self._ids[0])
            del self._ids[0]  # only now: the database may have been away
            self._stock.give(worker_id, claims, alone=True)
        else:
            self._standing.retire("all have been run")
        return True

    def _recount(self, worker_id: int) -> bool:
        """Find what is ours though we have not heard of it: the commit of a claim happened, and its answer was lost."""
        if not (self._intake.doubts and self._lease.may_start()):
            return False
        if self._finisher.owes:  # ends first: the same lost commit may have claimed one of those jobs again
            self._finisher.write([], worker_id, self._intake.pickup, 0)
        found = self._intake.recount(worker_id, [item.claim.lease for item in self._items.values()])
        self._stock.give(worker_id, [claim for claim in found if not claim.follows])
        # Behind whom these were to be run is not known any more.
        self.give_back([self._stock.receive(claim) for claim in found if claim.follows], "nobody knows its place")
        return True

    def _is_flush_due(self) -> bool:
        done = self._slots.done
        if not done:
            return False
        more = self._slots.buffered() or (self._intake.leads and lined_up(self._items.values()))
        return not more or self.flush_in(time.monotonic()) <= 0

    def flush_in(self, now: float) -> float:
        """Seconds until what has ended is written."""
        done = self._slots.done
        return self._pace.flush_in(len(done), now - done[0].ended) if done else float("inf")

    def collect(self, now: float, most: int | None = None) -> list[Finish]:
        """What has ended since the last write, judged; so many at most (None: all)."""
        self._flush()
        if any(item.stop for item in list(self._slots.done)):
            self._standing.retire("a task asked for it")
        finishes = self._finisher.judge(self._slots.done, now, most)
        self._stock.counted -= sum(not one.started for one in finishes)
        self._pace.finished(len(finishes), now)
        return finishes

    def write(self, worker_id: int, finishes: Sequence[Finish]) -> None:
        """Write these ends, with those that are owed, and take nothing."""
        if finishes or self._finisher.owes:
            self._finisher.write(finishes, worker_id, self._intake.pickup, 0)

    def release(self) -> list[Finish]:
        """The ends of all that still runs, which is given up: it goes back, to be started elsewhere."""
        return self._finisher.release(list(self._slots.running), "released by a stopping worker")

    def _nothing_to_do(self) -> None:
        self._pace.idle()
        if not self._limits.burst or self._intake.wait(time.monotonic()) <= 0:  # what has just been settled is news
            return
        if self._promote is not None and self._promote():
            self._intake.hint()  # a waiting job has just come due
        elif self._intake.make_sure():
            self._standing.retire("nothing left to do")

    def return_stale(self) -> None:
        """Give back what was fetched for a speed that is gone: another worker may have a slot free."""
        slots = self._slots
        if not slots.buffered() or slots.done or len(slots.running) < slots.concurrency:
            return
        oldest = min((item.claimed for item in list(self._items.values()) if item.started is None), default=None)
        if oldest is not None and time.monotonic() - oldest > STALE_AFTER:
            self._pace.rate = 0.0
            self.hand_back("it waited for a slot")

    def hand_back(self, why: str) -> None:
        """Give back all that no slot has."""
        self.give_back(self._stock.take_unstarted(), why)

    def give_back(self, items: Sequence[Item], why: str) -> None:
        """Let these go back unstarted, with the next write."""
        now = time.monotonic()
        for item in items:
            item.outcome, item.ended = HandedBack(why=why), now
            self._slots.done.append(item)
