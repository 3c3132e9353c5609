"""What is claimed while the slots are busy: it is here, and waits until the database has been asked for more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import Dray
from dray.intake import PollIntake
from dray.job import Claim
from dray.pace import Pace
from dray.slots import Slots
from dray.stock import Stock
from tests.hands import hands
from tests.servers import wait_until


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Dray]:
    app = Dray(f"sqlite:///{tmp_path}/x.db")
    yield app
    app.close()


@pytest.fixture
def ran(app: Dray) -> list[int]:
    ran: list[int] = []

    @app.task(name="note")
    def note(number: int) -> None:
        ran.append(number)

    return ran


@pytest.fixture
def slots(app: Dray) -> Iterator[Slots]:
    slots = hands(app, 1)
    yield slots
    slots.stop()


@pytest.fixture
def stock(app: Dray, slots: Slots) -> Stock:
    intake = PollIntake(app.store, app.store.pickup([]), Pace(concurrency=1, most=10))
    return Stock(intake, slots, lambda claim, kind, text: None, lambda claim: None)


def claimed(id: int) -> Claim:
    return Claim(id, 1, 1, 0, 0, None, 0, 100, "q", "note", f'{{"a":[{id}]}}', None, None, 0, 0)


def test_what_is_held_back_starts_when_it_is_told_to_in_its_order(stock: Stock, slots: Slots, ran: list[int]) -> None:
    stock.give(1, [claimed(1), claimed(2)], later=True)
    assert (list(stock.items), slots.buffered(), len(slots.done)) == ([1, 2], 0, 0)
    stock.start()
    stock.start()
    wait_until(lambda: len(slots.done) == 2, "both")
    assert ran == [1, 2]


def test_what_is_held_back_can_be_given_back_and_then_starts_no_more(stock: Stock, slots: Slots, ran: list[int]) -> None:
    stock.give(1, [claimed(1)], later=True)
    assert [item.claim.id for item in stock.take_unstarted()] == [1]
    stock.give(1, [claimed(2)])
    wait_until(lambda: len(slots.done) == 1, "the other")
    assert ran == [2]


def test_what_comes_later_goes_with_what_comes_at_once(stock: Stock, slots: Slots, ran: list[int]) -> None:
    stock.give(1, [claimed(1)], later=True)
    stock.give(1, [claimed(2)])
    wait_until(lambda: len(slots.done) == 2, "both")
    assert ran == [1, 2]
