"""Chapter: what takes several acts to come about: deaths one after the other, a deploy, a hold that meets its time, turns."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from dray.job import HandedBack, Parked, State
from tests.model.desk import FEW, Operating
from tests.model.model import DUE
from tests.model.story import PLACE
from tests.model.upkeep import KNOWN, LIMIT, Upkeep
from tests.model.verdict import Run
from tests.model.work import Working


class Mishaps(Working, Operating, Upkeep):
    @precondition(lambda self: self.model.where(State.READY))
    @rule(times=st.integers(1, 3), limit=st.integers(1, 4), marked=st.sampled_from([True, True, False]))
    def workers_die_of_it(self, times: int, limit: int, marked: bool) -> None:
        for _ in range(times):
            self.hire(())
            worker = max(self.model.workers)
            self.take(worker, limit)
            for job in self.model.where(State.RUNNING, worker=worker):
                if marked:
                    assert self.store.mark_started(job.lease)
                    self.model.mark_started(job.lease, 0.0)
            self.declare_dead(worker)
            self.rescue(1000)

    @precondition(lambda self: self.current())
    @rule(places=FEW, held=st.booleans(), signature=st.integers(0, 2), known=KNOWN)
    def a_deploy(self, places: list[int], held: bool, signature: int, known: dict[str, int]) -> None:
        """Who was there before parks what it does not know; whoever comes next may know it."""
        runs = [Run(lease, Parked(why="?", signature=signature)) for lease in self.pick(places, self.current())]
        self.tell(runs, again=False)
        if held:
            self.move("hold", [runs[0].lease.id], note=None)
        self.adopt(known)

    @precondition(lambda self: self.model.where(*DUE))
    @rule(place=PLACE, limit=LIMIT)
    def the_time_of_a_held_one_comes(self, place: int, limit: int) -> None:
        self.move("hold", self.pick([place], [job.id for job in self.model.where(*DUE)]), note=None)
        self.promote(limit, in_time=True)

    @precondition(lambda self: self.model.where(State.READY))
    @rule(place=PLACE)
    def queues_of_one_priority_take_turns(self, place: int) -> None:
        """Whoever claims one at a time comes to each of them, while none is emptied."""
        for worker in self.pick([place], self.alive()):
            ready, turns = self.model.claimable(worker), set()
            queues = {job.queue for job in ready if job.priority == ready[0].priority}
            for _ in queues:
                self.take(worker, 1)
                (job,) = [job for job in self.model.where(State.RUNNING, worker=worker) if job.claimed_at == self.model.now]
                turns.add(job.queue)
                self.tell([Run(job.lease, HandedBack(), started=False)], again=False)
            assert turns == queues, f"of {queues} only {turns} were turned to"
