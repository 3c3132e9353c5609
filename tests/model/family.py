"""Chapter: running jobs spawn others and do the work of others; and at the end of a story nothing is stuck."""

from __future__ import annotations

import sys

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dray.job import ENDED, Done, Flag, Lease, Reason, State
from tests.model import keys
from tests.model.desk import Operating
from tests.model.enqueue import WISHES, Enqueueing, Wish
from tests.model.model import LIVE, Job
from tests.model.story import PLACE
from tests.model.upkeep import Upkeep
from tests.model.verdict import Run
from tests.model.work import LATE, Working

ROUNDS = 200  # after which what still moves is taken for something that moves for ever
CHILDREN = st.lists(WISHES, min_size=1, max_size=3)


class Families(Enqueueing, Working, Operating, Upkeep):
    @precondition(lambda self: self.current())
    @rule(place=PLACE, wishes=CHILDREN, late=LATE)
    def spawn(self, place: int, wishes: list[Wish], late: bool) -> None:
        for lease in self.pick([place], self.leases(late)):
            self.add(self.wished(wishes, self.about_to_spawn(lease)))

    @precondition(lambda self: self.current())
    @rule(place=PLACE, wishes=CHILDREN, late=LATE, commits=st.booleans())
    def spawn_in_a_transaction_of_the_caller(self, place: int, wishes: list[Wish], late: bool, commits: bool) -> None:
        for lease in self.pick([place], self.leases(late)):
            self.add_within(self.wished(wishes, self.about_to_spawn(lease)), commits)

    def about_to_spawn(self, lease: Lease) -> Lease:
        """Its worker knows from now on that it has children, whatever becomes of them."""
        if self.model.holds(lease):
            self.model.spawned.add(lease)
        return lease

    @precondition(lambda self: self.current())
    @rule(place=PLACE, wishes=CHILDREN)
    def spawn_and_finish(self, place: int, wishes: list[Wish]) -> None:
        """What most parents do."""
        for lease in self.pick([place], self.current()):
            self.add(self.wished(wishes, self.about_to_spawn(lease)))
            self.tell([Run(lease, Done(result="1"))], again=False)

    @precondition(lambda self: any(self.claims[lease].threshold is not None for lease in self.current()))
    @rule(place=PLACE)
    def cover(self, place: int) -> None:
        wide = [lease for lease in self.current() if self.claims[lease].threshold is not None]
        for lease in self.pick([place], wide):
            rings = self.world.rings
            assert self.store.cover(self.claims[lease]) == self.model.cover(self.model.jobs[lease.id])
            self.expect([], [], rings)

    @precondition(lambda self: self.model.keys)
    @rule()
    def prune_keys(self) -> None:
        assert self.store.desk.prune_keys(None) is None
        keys.prune(self.model)

    @precondition(lambda self: self.rivals())
    @rule(place=PLACE)
    def rivals_start_over(self, place: int) -> None:
        """All ended jobs of one key at once: one of them has it then, or none."""
        for ids in self.pick([place], self.rivals()):
            self.move("retry", [*ids], force=True)

    def rivals(self) -> list[tuple[int, ...]]:
        ended = [job for job in self.model.where(*ENDED) if job.unique_hash is not None]
        alike = {hash: tuple(job.id for job in ended if job.unique_hash == hash) for hash in {job.unique_hash for job in ended}}
        return sorted(ids for ids in alike.values() if len(ids) > 1)

    @precondition(lambda self: any(self.model.halts.values()))
    @rule(place=PLACE)
    def unblock(self, place: int) -> None:
        for name in self.pick([place], sorted(name for name, ids in self.model.halts.items() if ids)):
            rings = self.world.rings
            assert self.store.desk.unblock_group(name) == sorted(self.model.halts.pop(name))
            self.expect([], [], rings)

    @precondition(lambda self: self.model.edges)
    @rule(place=PLACE)
    def waive(self, place: int) -> None:
        for id, needed in self.pick([place], [*self.model.edges]):
            rings = self.world.rings
            assert self.store.desk.waive(id, needed) == self.model.waive(id, needed)
            self.expect([], [], rings)

    # --- the end of the story ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:
            self.come_to_an_end()

    def come_to_an_end(self) -> None:
        """Everything is let go on and done; what is left then waits for what failed, or for what is left with it."""
        self.hire(())
        worker = max(self.model.workers)
        for _ in range(ROUNDS):
            before = [(job.id, job.state, job.reason) for job in self.model.where(*LIVE)]
            self.go_on(worker)
            self.the_database_is_as_the_model_says()
            if before == [(job.id, job.state, job.reason) for job in self.model.where(*LIVE)]:
                break
        left = {job.id for job in self.model.where(*LIVE)}
        stuck = [job for job in self.model.where(*LIVE) if not self.is_explained(job, left)]
        assert not stuck, f"stuck: {stuck}"

    def go_on(self, worker: int) -> None:
        if held := [job.id for job in self.model.where(*LIVE) if Flag.HELD in job.flags]:
            self.move("release", held)
        if any(self.model.halts.values()):
            self.unblock(0)
        if self.model.lost():
            self.rescue(1000)
        if self.model.where(State.SCHEDULED, State.RETRYING):
            self.promote(1000, in_time=True)
        self.adopt({"send": 99, "draw": 99, "gone": 99})
        self.take(worker, 1000)
        if runs := [Run(lease, Done()) for lease in self.current()]:
            self.tell(runs, again=False)

    def is_explained(self, job: Job, left: set[int]) -> bool:
        """Whether it waits for one that failed, and so for a person, or for one that does so itself."""
        if job.reason is Reason.COVERED:
            return job.covered_by in left
        unmet = [needed for (id, needed), edge in self.model.edges.items() if id == job.id and not edge.met]
        failed = any(id in self.model.jobs and self.model.jobs[id].state is State.FAILED for id in unmet)
        return job.reason in (Reason.PARENTS, Reason.CHILDREN) and (failed or bool(left.intersection(unmet)))
