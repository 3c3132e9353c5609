"""Chapter: workers claim jobs, run them, and tell what came of it, some of them too late."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dray.errors import WorkerGone
from dray.job import (
    Cancelled,
    Change,
    Claim,
    Died,
    Done,
    Failed,
    Finish,
    Flag,
    HandedBack,
    Outcome,
    Parked,
    Skipped,
    Snoozed,
    State,
)
from dray.lifecycle import await_children, decide
from dray.report import Report
from dray.store.output import Line
from tests.model.model import Model
from tests.model.story import PLACE, PLACES, QUEUES, WORKERS, Story
from tests.model.verdict import POLICY, Run

# By name, which is what a story that went wrong is told with.
OUTCOMES: dict[str, Outcome] = {
    "done": Done(),
    "done with a report": Done(result="7", report=Report.info("one", Report.warning("two")), note="well"),
    "done but wrong": Done(result="8", report=Report.info("one", Report.error("it did not fit"))),
    "failed": Failed(error="boom", traceback="line 1"),
    "failed with a report": Failed(error="boom", report=Report.warning("nearly")),
    "failed for good": Failed(error="never", permanent=True),
    "retry in 5": Failed(error="soon", retry_in=5.0),
    "retry now": Failed(error="now", retry_in=0.0),
    "snoozed": Snoozed(delay=30.0, why="not yet"),
    "snoozed, and out of its line": Snoozed(delay=30.0, leave_line=True),
    "snoozed for nothing": Snoozed(delay=0.0),
    "skipped": Skipped(why="nothing to do"),
    "parked": Parked(why="no such task"),
    "parked by its signature": Parked(why="two arguments are missing", signature=1),
    "cancelled": Cancelled(),
    "handed back": HandedBack(),
    "handed back, and why": HandedBack(why="the worker ends"),
    "died": Died(started=True, how="SIGKILL"),
    "died before it began": Died(started=False),
}
ENDS = st.tuples(
    PLACE,
    st.sampled_from([*OUTCOMES]),
    st.sampled_from([0.0, 1.5]),  # seconds it ran
    st.sampled_from([0.0, 0.5]),  # seconds ago
    st.sampled_from([True, True, False]),  # whether it started at all
)
MOMENT = 0.000001  # seconds
MANY = st.lists(ENDS, min_size=1, max_size=4)
LIMIT = st.sampled_from([1, 1, 2, 3, 10, 0])
LATE = st.sampled_from([False, False, False, True])


class Working(Story):
    @precondition(lambda self: len(self.alive()) < WORKERS)
    @rule(queues=st.sampled_from([(), QUEUES[:1], QUEUES[:2], QUEUES[1:], ("nothing",)]))
    def a_worker_comes(self, queues: tuple[str, ...]) -> None:
        self.hire(queues)

    @precondition(lambda self: self.model.where(State.READY))
    @rule(place=PLACE, limit=LIMIT, gone=LATE)
    def claim(self, place: int, limit: int, gone: bool) -> None:
        for worker in self.pick([place], self.gone() if gone else self.alive()):
            self.take(worker, limit)

    @precondition(lambda self: self.model.where(State.READY))
    @rule(place=PLACE, limit=LIMIT, ends=MANY)
    def claim_and_finish(self, place: int, limit: int, ends: list[Any]) -> None:
        self.claim(place, limit, gone=False)
        self.finish(ends, late=False, again=False)

    @precondition(lambda self: self.claims)
    @rule(ends=MANY, late=LATE, again=LATE)
    def finish(self, ends: list[Any], late: bool, again: bool) -> None:
        self.tell(self.runs(ends, late), again)

    @precondition(lambda self: self.told)
    @rule(place=PLACE, again=st.sampled_from([True, True, False]))
    def finish_once_more(self, place: int, again: bool) -> None:
        self.tell(self.told[-1 - place % len(self.told)], again)

    def tell(self, runs: list[Run], again: bool) -> None:
        rings = self.world.rings
        done = self.store.finish(self.finishes(runs), again=again)
        accepted, ready = self.model.finish(runs, again=again)
        assert done.accepted == accepted, f"accepted {done.accepted}, should be {accepted}"
        self.expect(done.ready, ready, rings)

    @precondition(lambda self: self.claims)
    @rule(place=PLACE, ends=MANY, limit=LIMIT, late=LATE, again=LATE, gone=LATE)
    def exchange(self, place: int, ends: list[Any], limit: int, late: bool, again: bool, gone: bool) -> None:
        for worker in self.pick([place], self.gone() if gone else self.alive()):
            runs, rings = self.runs(ends, late), self.world.rings
            self.look_around()
            try:
                done = self.store.exchange(worker, self.pickups[worker], self.finishes(runs), limit, again=again)
            except WorkerGone:
                would = deepcopy(self.model)
                would.finish(runs, again=again)
                assert self.is_refused(would, worker, limit) or worker in self.gone()
                continue
            accepted, ready = self.model.finish(runs, again=again)
            assert not self.is_refused(self.model, worker, limit)
            ended = done.finished
            assert ended.accepted == accepted, f"accepted {ended.accepted}, should be {accepted}"
            self.claimed(done.claims, worker, limit)
            self.expect(ended.ready, ready, rings)

    @precondition(lambda self: self.claims)
    @rule(place=PLACE, late=LATE, ago=st.sampled_from([0.0, 2.0]))
    def mark_started(self, place: int, late: bool, ago: float) -> None:
        for lease in self.pick([place], self.leases(late)):
            assert self.store.mark_started(lease, ago) == self.model.mark_started(lease, ago)

    @precondition(lambda self: self.current())
    @rule(place=PLACE, places=PLACES)
    def look_for_claims_without_an_answer(self, place: int, places: list[int]) -> None:
        for worker in self.pick([place], [*self.model.workers]):
            ours = [job for job in self.model.where(State.RUNNING) if job.worker_id == worker]
            known = {ours[place].lease for place in places if place < len(ours)}
            found = self.store.held(worker, known)
            assert [one.lease for one in found] == [job.lease for job in ours if job.lease not in known]
            for one in found:
                self.check_fields(one)
            asked = [(job.lease, job.flags) for job in ours if job.flags & 3]
            assert self.store.desk.requested(worker) == asked

    @precondition(lambda self: self.current())
    @rule(places=PLACES)
    def say_something(self, places: list[int]) -> None:
        leases = self.pick(places, self.current())
        lines = [(lease.id, lease.fence, f"line {number}") for number, lease in enumerate(leases)]
        self.store.desk.write_output([Line(id, fence, "log", text) for id, fence, text in lines])
        self.model.lines += lines

    # --- between the acts -------------------------------------------------------------------------------------------------

    def look_around(self) -> None:
        """A moment passes, so that who is ready for longer is not always who has the smaller id."""
        self.wait(MOMENT)
        self.world.steady += 0.1  # enough for a claimer to ask anew which lanes there are

    def take(self, worker: int, limit: int) -> None:
        self.look_around()
        try:
            claims = self.store.claim(worker, self.pickups[worker], limit)
        except WorkerGone:  # PostgreSQL notices also where there is nothing to give
            assert self.is_refused(self.model, worker, limit) or worker in self.gone()
        else:
            assert not self.is_refused(self.model, worker, limit)
            self.claimed(claims, worker, limit)

    def is_refused(self, model: Model, worker: int, limit: int) -> bool:
        """Who is gone is told so where there is something to be given."""
        return not model.workers[worker].alive and limit > 0 and bool(model.claimable(worker))

    def gone(self) -> list[int]:
        return [id for id, worker in self.model.workers.items() if not worker.alive]

    def runs(self, ends: list[Any], late: bool) -> list[Run]:
        """Ends of runs that are under way, or (late) of those that lost their lease."""
        leases, runs = self.leases(late), {}
        for place, name, ran, ago, started in ends if leases else ():
            lease = leases[place % len(leases)]
            runs[lease] = Run(lease, OUTCOMES[name], ran, ago, started)
        return [*runs.values()]

    def finishes(self, runs: list[Run]) -> list[Finish]:
        """The same, decided as a worker would."""
        if runs:
            self.told.append(runs)
        claims = [self.claims[run.lease] for run in runs]
        return [
            Finish(claim, self.decided(claim, run), run.ran, run.ended_ago, run.started)
            for claim, run in zip(claims, runs, strict=True)
        ]

    def decided(self, claim: Claim, run: Run) -> Change:
        known = Flag.SPAWNED if run.lease in self.model.spawned else 0
        return await_children(decide(claim, run.outcome, POLICY), claim.flags | known)

    def claimed(self, claims: list[Claim], worker: int, limit: int) -> None:
        """The right ones were given, and are known to their worker as they are."""
        ids = [one.id for one in claims]
        self.model.check_claim(ids, worker, limit)
        self.model.claim(ids, worker)
        for one in claims:
            self.check_fields(one)
            self.claims[one.lease] = one

    def check_fields(self, claim: Claim) -> None:
        job = self.model.jobs[claim.id]
        for name in Claim.__struct_fields__:
            ought = getattr(job, "job_key" if name == "key" else name)
            assert getattr(claim, name) == ought, f"claim {claim.lease}: {name} is not {ought!r}"
