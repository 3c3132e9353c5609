"""How a worker obeys pauses: it takes nothing more of the queue, gives back what it has of it, and then says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dray.item import Item
from dray.job import HandedBack, name_hash
from dray.store.base import Pickup
from dray.store.orders import NO_ORDERS, Orders

EVERY = 0.25  # seconds between looks at what is paused, at least; an idle worker looks when it looks for jobs
PATIENCE = 1.0  # seconds a job may take from its last look at us to its first line


class Desk(Protocol):
    """What it needs of the store."""

    def controls(self, worker_id: int | None = None) -> Controls: ...
    def obey(self, worker_id: int, generation: int) -> None: ...


class Controls(Protocol):
    """What is paused, or stopped."""

    @property
    def generation(self) -> int: ...
    @property
    def paused(self) -> Mapping[int, object]: ...
    @property
    def stopped(self) -> str | None: ...
    @property
    def orders(self) -> Orders: ...


@dataclass(slots=True)
class Obedience:
    """What one worker knows of the pauses, and has said that it obeys."""

    desk: Desk
    worker_id: int
    pickup: Pickup
    clock: Callable[[], float] = time.monotonic
    said: int = 0
    stopped: str | None = None  # no worker is to work, and why
    orders: Orders = NO_ORDERS
    _next: float = field(default=float("-inf"))

    def is_due(self) -> bool:
        return self.clock() >= self._next

    def listen(self, items: Iterable[Item]) -> list[Item]:
        """Look what is paused; gives the jobs that are to be given back, since nobody is going to start them here.

        Called by the thread that claims, so no claim is under way. What is said to be obeyed is true by then: of a queue that
        is paused nothing is fetched, and what was fetched before is dropped or has started.
        """
        controls = self.desk.controls(self.worker_id)
        self.pickup.paused = frozenset(controls.paused)
        self.stopped, self.orders = controls.stopped, controls.orders
        self._next = self.clock() + EVERY
        concerned = [item for item in list(items) if name_hash(item.claim.queue) in self.pickup.paused]
        dropped = [item for item in concerned if item.started is None and item.dropped is None]
        for item in dropped:
            item.dropped = HandedBack(why="its queue is paused")
        # Those in a slot see for themselves that they are dropped, if they have not started.
        ours = [item for item in dropped if not item.taken_up and item.give_up()]
        # Else not said now, but the next time.
        if controls.generation > self.said and self._settled(concerned):
            self.desk.obey(self.worker_id, controls.generation)
            self.said = controls.generation
        return ours

    def _settled(self, items: list[Item]) -> bool:
        """Wait for those that a slot had just taken up: they have started, or have seen that they are dropped."""
        until = self.clock() + PATIENCE
        while any(item.taken_up and item.started is None and item.outcome is None for item in items):
            if self.clock() > until:
                return False
            time.sleep(0.0005)
        return True
