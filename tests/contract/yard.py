"""One store with a clock of its own and one worker: what tests of waiting jobs stand on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, NullPool, create_engine

from dray.job import Claim, Done, Finish, NewJob, Outcome
from dray.lifecycle import Retry, await_children, decide
from dray.store import open_store
from dray.store.lanes import Lanes
from dray.store.sql import SqlStore
from dray.testing import Clock
from tests.servers import Database


class Yard:
    """A store with a clock of its own, and one worker."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.url = database.url
        self.store: SqlStore = open_store(database.url, create_tables=True, clock=self.clock)
        self.store.ensure()
        self.hire()
        self.steady = 0.0
        self.pickup = self.begin()

    def caller(self, **options: Any) -> Engine:
        """An engine of the application's own, on the same database."""
        return create_engine(self.url, poolclass=NullPool, **options)

    def hire(self) -> None:
        """A new worker; the one before is forgotten."""
        self.worker = self.store.roster.register(host="here", pid=1, queues="*", concurrency=1)

    def begin(self) -> Lanes:
        """A claimer that looks around each time it is asked to take something."""
        pickup = self.store.pickup(())
        pickup.clock = lambda: self.steady
        return pickup

    def add(self, **options: Any) -> int:
        return self.store.add([NewJob(**{"task": "t", "queue": "q", "args": "{}", **options})])[0].id

    def state(self, id: int) -> str:
        """Its state, and why it is blocked."""
        row = self.store.desk.job(id)
        assert row is not None
        return row.state if row.reason is None else f"{row.state}: {row.reason}"

    def note(self, id: int) -> str | None:
        row = self.store.desk.job(id)
        assert row is not None
        return row.note

    def take(self, limit: int = 100) -> list[Claim]:
        self.clock.forward(0.000001)
        self.steady += 1.0
        return self.store.claim(self.worker, self.pickup, limit)

    def end(self, claim: Claim, outcome: Outcome | None = None, *, attempts: int = 1, flags: int = 0) -> None:
        """`flags`: what its worker knows of the run beside what stood in the claim."""
        policy = Retry.after(*[60.0] * (attempts - 1))
        change = await_children(decide(claim, outcome or Done(), policy), claim.flags | flags)
        assert self.store.finish([Finish(claim, change, ran=0.1)]).accepted == {claim.lease}

    def run(self) -> list[int]:
        """Run one after the other until nothing is ready; gives the order."""
        order = []
        while claims := self.take(1):
            order.append(claims[0].id)
            self.end(claims[0])
        return order
