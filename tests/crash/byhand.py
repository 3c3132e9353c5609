"""A worker that is turned by hand: one thread, so that the same statements come in the same order each time."""

from __future__ import annotations

import os
import time
from typing import Any, cast

from dray.app import Dray
from dray.item import Item
from dray.lease import WorkerLease
from dray.limits import Limits
from dray.slots import Slots
from dray.store.lanes import Lanes
from dray.store.roster import Roster
from dray.worker import Worker


class HandSlots(Slots):
    """Runs jobs at once, in the worker's own thread; beyond `room` at a time they wait, as if the slots were taken."""

    room = 1_000

    def start(self, items: list[Item]) -> None:
        for item in items:
            self._todo.put(item)
        for _ in range(min(self.room, self._todo.qsize())):
            item = self._todo.get()
            assert item is not None
            while item is not None:
                self._run(item)
                item = self._after(item)


class HandLease:
    """A lease that believes in itself whatever happens: the fence alone stands between this worker and others' jobs."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.worker_id = 0

    def take(self, *, queues: str, concurrency: int, priorities: str | None = None, tasks: str | None = None) -> int:
        told = {"queues": queues, "concurrency": concurrency, "priorities": priorities, "tasks": tasks}
        self.worker_id = self._roster.register(host="here", pid=os.getpid(), **told)
        return self.worker_id

    def may_start(self) -> bool:
        return True

    def must_end(self) -> bool:
        return False

    def age(self) -> float:
        return 0.0

    def abandon(self) -> None:
        self.worker_id = 0

    def give_up(self) -> None:
        self._roster.leave(self.worker_id)


class HandWorker(Worker):
    """Everything that a worker does about jobs, without a heart and without chores.

    ahead   how many jobs it fetches beyond its slots while it has some: so that ends and claims go together
    """

    slots: HandSlots

    def __init__(self, app: Dray, *, concurrency: int = 4, ahead: int = 0, **limits: Any) -> None:
        super().__init__(app, concurrency=concurrency, limits=Limits(burst=True, **limits), upkeep=False)
        lease = cast(WorkerLease, HandLease(self.store.roster))
        self._assemble(lease, self._make_slots(HandSlots), upkeep=False)
        lanes = self._intake.pickup
        assert isinstance(lanes, Lanes)
        lanes.clock = lambda: 0.0  # or the lanes would be looked up again whenever a moment has passed
        self._ahead = ahead

    def _register(self) -> None:
        super()._register()
        self._obedience.clock = lambda: 0.0  # nor what is paused

    def begin(self) -> None:
        self._register()

    def turn(self) -> None:
        # What it has measured would be different each time.
        self._pace.most, self._pace.rate = (self._ahead if self.items else 0), 1e6
        self._turn()

    @property
    def over(self) -> bool:
        return self.standing.ends

    def work(self, seconds: float = 60.0) -> None:
        """Begin, work until nothing is ready, and end; what does not end in that time is given up."""
        self.begin()
        self.work_on(seconds)

    def work_on(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.over and time.monotonic() < deadline:
            self.turn()
        if not self.over:
            self.stop_now()
        self.end()

    def end(self) -> None:
        self._end()
