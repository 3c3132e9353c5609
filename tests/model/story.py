"""What all chapters of a story stand on: a world, its model, and how one of the jobs, leases or workers is picked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from dray.job import Claim, Lease, Ready
from tests.model import keys
from tests.model.model import Model, Worker
from tests.model.verdict import Run
from tests.model.world import World, check_jobs, check_sides

T = TypeVar("T")

QUEUES = ("mail", "Mail", "pdf")
TASKS = {"send": 1, "draw": 2}  # name, and number of its signature
# Ids differ from run to run, so that whatever is picked is picked by its place; only then can a story be told again.
PLACE = st.integers(0, 11)
PLACES = st.lists(PLACE, min_size=1, max_size=4)
WORKERS = 4  # alive at once


class Story(RuleBasedStateMachine):
    """One story: acts in any order, and after each of them the database is as the model says."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.store = world.store
        world.empty()
        self.model = Model(now=world.clock.now)
        self.pickups: dict[int, Any] = {}
        self.claims: dict[Lease, Claim] = {}  # all that were ever given, also to those who have lost them
        self.told: list[list[Run]] = []  # what was finished, in case somebody says it again

    @initialize()
    def two_workers(self) -> None:
        self.hire(())
        self.hire(QUEUES[:2])

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        rows, sides = self.world.look()
        check_jobs(self.model, rows)
        keys.check_law(rows)
        check_sides(self.model, sides)

    # --- picking ----------------------------------------------------------------------------------------------------------

    def pick(self, places: Iterable[int], among: Sequence[T]) -> list[T]:
        """Those at these places, each once."""
        return list(dict.fromkeys(among[place % len(among)] for place in places)) if among else []

    def alive(self) -> list[int]:
        return [id for id, worker in self.model.workers.items() if worker.alive]

    def current(self) -> list[Lease]:
        return [job.lease for job in self.model.jobs.values() if self.model.holds(job.lease)]

    def stale(self) -> list[Lease]:
        return [lease for lease in self.claims if not self.model.holds(lease)]

    def leases(self, late: bool) -> list[Lease]:
        """Of runs that are under way, or (late) those that were lost; the others, if there are none."""
        current, stale = self.current(), self.stale()
        # Where another runs the job by now, there is something to spoil.
        overtaken = [lease for lease in stale if lease.id in {one.id for one in current}]
        return (overtaken or stale or current) if late else (current or stale)

    def jobs(self, places: Iterable[int]) -> list[int]:
        """Jobs, the newest first at the small places."""
        return self.pick(places, sorted(self.model.jobs, reverse=True))

    # --- doing ------------------------------------------------------------------------------------------------------------

    def hire(self, queues: tuple[str, ...]) -> None:
        id = self.store.roster.register(host="here", pid=1, queues=" ".join(queues), concurrency=1)
        assert id not in self.model.workers
        self.model.workers[id] = Worker(queues, beat_at=self.model.now)
        pickup = self.store.pickup(queues)
        pickup.clock = lambda: self.world.steady
        self.pickups[id] = pickup

    def wait(self, seconds: float) -> None:
        self.world.clock.forward(seconds)
        self.model.now = self.world.clock.now

    def expect(self, told: Iterable[Ready], ready: Iterable[Ready], rings: int) -> None:
        """The store told of these, each once, and the bell rang if there were any, or are now that all is settled."""
        ought = sorted(ready)
        assert sorted(told) == ought, f"told of {sorted(told)}, should be {ought}"
        ought += self.model.settle()
        assert (self.world.rings > rings) == bool(ought), f"the bell rang {self.world.rings - rings} times for {ought}"
