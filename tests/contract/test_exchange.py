"""What passes between a worker and the store says how fast its jobs are; what nobody has started says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dray import Dray
from dray.exchange import Exchange
from dray.finisher import Finisher
from dray.intake import PollIntake
from dray.limits import Limits
from dray.pace import Pace
from dray.slots import Slots
from dray.standing import Standing
from dray.stock import Stock
from tests.hands import hands
from tests.servers import Database, wait_until


class Bench:
    """One slot, a store, and what stands between: without a loop, so that each step is taken by hand."""

    def __init__(self, app: Dray, slots: Slots) -> None:
        self.slots, self.pace = slots, Pace(concurrency=1, most=1000)
        self.worker_id = app.store.roster.register(host="h", pid=1, queues="*", concurrency=1)
        intake = PollIntake(app.store, app.store.pickup([]), self.pace)
        stock = Stock(intake, slots, lambda claim, kind, text: None, lambda claim: None)
        lease: Any = SimpleNamespace(may_start=lambda: True)
        self.exchange = Exchange(
            *(intake, self.pace, stock, slots, Finisher(app.store, app.runner, on_settled=stock.settled), lease),
            limits=Limits(),
            standing=Standing(1.0, lambda: None),
            flush=lambda: None,
            promote=None,
        )

    def take_and_end(self) -> None:
        """Claim what is wanted, let it end, and write that."""
        self.exchange.pass_on(self.worker_id)
        wait_until(lambda: self.slots.done, "an end")
        self.pace.flush_after = 0.0
        self.exchange.pass_on(self.worker_id)


@pytest.fixture
def app(database: Database) -> Iterator[Dray]:
    app = Dray(database.url, create_tables=True)
    task = app.task(name="nothing")(lambda: None)
    app.enqueue_many(task.bind() for _ in range(10))
    yield app
    app.close()


@pytest.fixture
def slots(app: Dray, request: pytest.FixtureRequest) -> Iterator[Slots]:
    may_start: bool = getattr(request, "param", True)
    slots = hands(app, 1, may_start=lambda: may_start)
    yield slots
    slots.stop()


def test_who_has_ended_all_that_was_here_while_there_is_more_fetches_more(app: Dray, slots: Slots) -> None:
    bench = Bench(app, slots)
    bench.take_and_end()
    assert bench.pace.target() == 2


@pytest.mark.parametrize("slots", [False], indirect=True, ids=["nothing-starts"])
def test_what_was_handed_back_says_nothing_of_speed(app: Dray, slots: Slots) -> None:
    bench = Bench(app, slots)
    bench.take_and_end()
    assert bench.pace.target() == 1
