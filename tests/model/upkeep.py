"""Chapter: time passes, workers go and die, and what follows from that is done by upkeep."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dray.job import ENDED, Died, Reason, State
from dray.store.workers import Beat
from tests.model.model import LIVE, SECOND
from tests.model.story import PLACE, TASKS, Story
from tests.model.verdict import Run

KNOWN = st.sampled_from([TASKS, {"send": 7}, {"gone": 1, "draw": 1}])
LIMIT = st.sampled_from([1, 2, 1000])
AGE = st.sampled_from([0.0, -0.000001, -1.0, 20.0])  # below 0: also what ends right now


class Upkeep(Story):
    @rule(seconds=st.sampled_from([0.000001, 1.0, 5.0, 30.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait(seconds)

    @precondition(lambda self: self.model.where(State.SCHEDULED, State.RETRYING))
    @rule(limit=LIMIT, in_time=st.booleans())
    def promote(self, limit: int, in_time: bool) -> None:
        if in_time:
            self.wait(self.model.next_in() or 0.0)
        rings, due = self.world.rings, len(self.model.due())
        told, ought = self.store.promote(limit), self.model.promote(limit)
        self.expect(told.ready, ought, rings)
        assert told.next_in == (0.0 if due >= limit else self.model.next_in())

    @precondition(lambda self: any(job.expires_at is not None for job in self.model.where(*LIVE)))
    @rule(later=st.sampled_from([0.0, 5.0, 60.0]))
    def expire(self, later: float) -> None:
        self.wait(later)
        rings = self.world.rings
        assert tuple(self.store.expire()) == self.model.expire()
        self.expect([], [], rings)

    @precondition(lambda self: any(job.reason is Reason.UNKNOWN_TASK for job in self.model.where(State.BLOCKED)))
    @rule(known=KNOWN)
    def adopt(self, known: dict[str, int]) -> None:
        rings = self.world.rings
        self.expect(self.store.adopt(known), self.model.adopt(known), rings)

    def somebody(self, place: int) -> int:
        """One who is alive; one who is at work, if there is one."""
        busy = [job.worker_id for job in self.model.where(State.RUNNING) if job.worker_id in self.alive()]
        (worker,) = self.pick([place], busy or self.alive())
        assert worker is not None
        return worker

    @precondition(lambda self: len(self.alive()) > 1)
    @rule(place=PLACE, moved=st.sampled_from([False, False, True]))
    def a_worker_is_declared_dead(self, place: int, moved: bool) -> None:
        self.declare_dead(self.somebody(place), moved=moved)

    def declare_dead(self, worker: int, *, moved: bool = False) -> None:
        one = self.model.workers[worker]
        assert Beat(worker, one.beat_at) in self.store.roster.beats()
        dead = self.store.roster.declare_dead(Beat(worker, one.beat_at - moved))
        assert dead is not moved
        one.left_at = None if moved else self.model.now

    @precondition(lambda self: len(self.alive()) > 1)
    @rule(place=PLACE)
    def a_worker_leaves(self, place: int) -> None:
        worker = self.somebody(place)
        assert self.store.roster.leave(worker)
        self.model.workers[worker].left_at = self.model.now
        assert not self.store.roster.leave(worker)

    @precondition(lambda self: self.model.where(State.RUNNING))
    @rule(limit=LIMIT)
    def rescue(self, limit: int) -> None:
        rings, lost = self.world.rings, self.model.lost()[:limit]
        runs = []
        for job in lost:
            marked = job.started_at
            ran = 0.0 if marked is None else (self.model.now - marked) / SECOND
            runs.append(Run(job.lease, Died(started=marked is not None), ran=ran, started=marked is not None))
        told = self.store.rescue(limit)
        accepted, ready = self.model.finish(runs)
        assert told.freed == len(accepted) == len(lost)
        assert told.failed == [job.id for job in lost if job.state is State.FAILED]
        self.expect(told.ready, ready, rings)

    @precondition(lambda self: self.model.where(*ENDED))
    @rule(place=PLACE, age=AGE, limit=LIMIT)
    def prune(self, place: int, age: float, limit: int) -> None:
        (state,) = self.pick([place], [job.state for job in self.model.where(*ENDED)])
        assert self.store.desk.count_prunable(state, age) == len(self.model.prunable(state, age))
        assert self.store.desk.prune_batch(state, age, limit) == self.model.prune(state, age, limit)

    @precondition(lambda self: len(self.alive()) < len(self.model.workers))
    @rule(age=AGE)
    def prune_workers(self, age: float) -> None:
        assert self.store.desk.prune_workers(age) == self.model.prune_workers(age)
