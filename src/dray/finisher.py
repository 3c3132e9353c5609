"""From ended runs to fenced writes: judging them, writing them together, and not losing any when the database is away."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from dray import events
from dray.context import said
from dray.errors import DrayError, StoreError, StoreUnavailable, WorkerGone
from dray.item import Item
from dray.job import Change, Claim, Done, Failed, Finish, Flag, HandedBack, Lease, Outcome, State
from dray.lifecycle import await_children, decide
from dray.redact import redact
from dray.runner import Runner
from dray.store.base import EngineStore, Finished, Pickup, unheard
from dray.tally import Tally

FINISHED = "job.finished"
REFUSED_AGAIN = 10.0  # seconds until an end is tried again that was refused even in its plainest form


class Finisher:
    """Writes ends of runs, many in one transaction.

    on_settled   told of ends whose jobs are no longer ours, and which of them were refused
    tally        counts the ends that were accepted
    """

    def __init__(
        self,
        store: EngineStore,
        runner: Runner,
        on_settled: Callable[[Sequence[Finish], Collection[Lease]], None],
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._runner, self._on_settled, self._clock = store, runner, on_settled, clock
        self._tally = tally
        self._refused: list[Finish] = []  # what nothing could be written of
        self._again_at = float("inf")
        self._unknown: list[Finish] = []  # a write of these was sent, and no answer came
        self._poisoned = False  # the last write was refused for what is in it

    @property
    def owes(self) -> bool:
        """Whether an earlier write has to be repeated."""
        return bool(self._unknown) or self._clock() >= self._again_at

    def judge(self, done: deque[Item], now: float, most: int | None = None) -> list[Finish]:
        """Decide what becomes of what has ended, of so many at most (None: of all); takes them out of `done`."""
        tells, number = events.heard(FINISHED), len(done)
        return [self._judge(done.popleft(), now, tells) for _ in range(number if most is None else min(number, most))]

    def _judge(self, item: Item, now: float, tells: bool) -> Finish:
        assert item.outcome is not None
        claim = item.claim
        change = self.decide(item, item.outcome)
        if item.started is None:
            if item.dropped is not None:
                change = replace(change, counted=False)
            return Finish(claim, change, ended_ago=now - item.ended, started=False)
        if claim.flags or item.context.spawned:  # plain jobs have neither, and there are many of them
            change = await_children(change, claim.flags | (Flag.SPAWNED if item.context.spawned else 0))
        ran = item.ended - item.started
        item.change = change
        if tells or change.state is not State.SUCCEEDED:
            _tell(claim, change, ran)
        metadata = item.metadata
        if metadata is None and (words := said(item.context)):
            metadata = self._runner.metadata(words)
        return Finish(claim, change, ran, now - item.ended, True, item.usage, metadata, item.recorded)

    def decide(self, item: Item, outcome: Outcome) -> Change:
        """What becomes of a job whose run has come to this; and whether so many attempts have failed that somebody is told."""
        claim = item.claim
        if isinstance(outcome, Done):  # as most do: what a task says of retries does not matter
            return decide(claim, outcome)
        definition = self._runner.definition(claim.task)
        if definition is None:
            return decide(claim, outcome)
        change = decide(claim, outcome, definition.defaults.retry)
        most = definition.defaults.notify_at
        if most is not None and isinstance(outcome, Failed) and claim.attempt >= most and not claim.flags & Flag.TOLD:
            return replace(change, told=True)
        return change

    def release(self, items: Collection[Item], why: str) -> list[Finish]:
        """Give up running jobs: they go back, uncounted, to be started elsewhere."""
        return [Finish(item.claim, decide(item.claim, HandedBack(why=why)), started=False) for item in items]

    def write(
        self,
        finishes: Sequence[Finish],
        worker_id: int,
        pickup: Pickup,
        wanted: int,
        begun: Callable[[], None] = unheard,
    ) -> list[Claim]:
        """Write ends and claim up to `wanted` jobs, in one transaction; `begun` is called, once or more, when that has begun or
        it will take longer.

        Whatever the database raises goes on to the caller; the ends are kept, and written with the next call.
        """
        again = bool(self._unknown)
        self._unknown = [*self._unknown, *finishes]
        if self._clock() >= self._again_at:
            begun()
            self._try_refused()
        if self._poisoned:
            begun()
            self._one_by_one()
            return self._store.claim(worker_id, pickup, wanted) if wanted > 0 else []
        batch = self._unknown
        try:
            result = self._store.exchange(worker_id, pickup, batch, wanted, again=again, begun=begun)
        except WorkerGone:
            # The claim was refused, and the whole transaction with it; the ends are still good under their fences.
            self._settle(self._store.finish(batch, again=again))
            self._unknown = []
            raise
        except StoreUnavailable:
            raise
        except StoreError:
            self._poisoned = True
            raise
        self._settle(result.finished)
        self._unknown = []
        return result.claims

    def _settle(self, done: Finished) -> None:
        ends, refused, _ = done
        for one in ends if refused else ():
            if (lease := one.claim.lease) in refused:
                # Somebody took it over: this result counts for nothing, and is never written again.
                events.emit("job.lease_lost", job_id=lease.id, fence=lease.fence, task=one.claim.task)
        self._on_settled(ends, refused)
        if self._tally is not None:
            self._tally.add([one for one in ends if one.claim.lease not in refused] if refused else ends)

    def _try_refused(self) -> None:
        """Try what was refused once more, apart from all else, which shall not be written singly because of it."""
        others, self._unknown = self._unknown, self._refused
        poisoned, self._refused, self._again_at = self._poisoned, [], float("inf")
        try:
            self._one_by_one()
        finally:
            self._unknown, self._poisoned = [*others, *self._unknown], poisoned

    def _one_by_one(self) -> None:
        """A batch was refused: write its members singly, so that the one at fault blocks nobody else.

        Whatever is raised meanwhile, what has not been written is still owed.
        """
        while self._unknown:
            one = self._unknown[0]
            try:
                self._settle(self._write_alone(one))
            except StoreUnavailable:
                raise
            except StoreError as error:
                events.emit("result.refused", job_id=one.claim.id, task=one.claim.task, why=error)
                self._refused.append(one)
                self._again_at = self._clock() + REFUSED_AGAIN
            del self._unknown[0]
        self._poisoned = False

    def _write_alone(self, one: Finish) -> Finished:
        try:
            return self._store.finish([one], again=True)
        except StoreUnavailable:
            raise
        except StoreError as error:
            return self._write_plainly(one, error)

    def _write_plainly(self, one: Finish, refusal: DrayError) -> Finished:
        """The outcome cannot be stored as it is: store at least which one it was."""
        bare = replace(one.change, result=None, report=None, traceback=None, note="the outcome could not be stored whole")
        bare = replace(bare, error=None if bare.error is None else "the error could not be stored")
        done = self._store.finish([one._replace(change=bare)], again=True)
        events.emit("result.dropped", job_id=one.claim.id, task=one.claim.task, why=refusal)
        return done


def _tell(claim: Claim, change: Change, ran: float) -> None:
    name = _EVENTS.get(change.state, FINISHED)
    if not events.heard(name):
        return
    facts: dict[str, object] = {"job_id": claim.id, "task": claim.task, "attempt": claim.attempt}
    match change.state:
        case State.FAILED:
            facts |= {"error": redact(change.error or "")}
        case State.RETRYING:
            facts |= {"delay": change.delay, "error": redact(change.error or "")}
        case _:
            facts |= {"state": change.state, "seconds": ran}
    events.emit(name, **facts)


_EVENTS = {State.FAILED: "job.failed", State.RETRYING: "job.retrying"}
