"""Ends that the database refuses or leaves in doubt: whatever is raised, what has not been written is still owed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest

from dray import events
from dray.codec import Codec
from dray.errors import StoreError, StoreUnavailable
from dray.finisher import REFUSED_AGAIN, Finisher
from dray.job import Change, Claim, Finish, Lease, State
from dray.runner import Runner
from dray.store.base import Exchange, Finished
from dray.task import Registry

AWAY = StoreUnavailable("gone")
REFUSED = StoreError("it does not fit")


def end(id: int) -> Finish:
    plain: dict[str, Any] = dict.fromkeys(Claim.__annotations__, 0)
    claim = Claim(**{**plain, "id": id, "fence": 1, "task": "t", "queue": "q"})
    return Finish(claim, Change(state=State.SUCCEEDED, result='"whole"'))


class Scripted:
    """A store that accepts everything, unless the script says what is raised at this call; it notes what was written."""

    def __init__(self, *script: Exception | None) -> None:
        self.script = list(script)
        self.written: list[tuple[int, str | None, bool]] = []  # id, result, and whether it was said to be another try

    def exchange(
        self,
        worker_id: int,
        pickup: object,
        finishes: Sequence[Finish],
        limit: int,
        *,
        again: bool = False,
        begun: object = None,
    ) -> Exchange:
        return Exchange(self.finish(finishes, again=again), [])

    def finish(self, finishes: Sequence[Finish], *, again: bool = False) -> Finished:
        if self.script and (error := self.script.pop(0)) is not None:
            raise error
        self.written += [(one.claim.id, one.change.result, again) for one in finishes]
        return Finished(finishes, set(), [])


class Desk:
    """A finisher at work on such a store."""

    def __init__(self, *script: Exception | None) -> None:
        self.store = Scripted(*script)
        self.settled: list[Lease] = []
        self.now = 0.0
        store: Any = self.store
        self.finisher = Finisher(store, Runner(Registry(), Codec()), self._settle, clock=lambda: self.now)

    def _settle(self, ends: Sequence[Finish], refused: Collection[Lease]) -> None:
        self.settled += [one.claim.lease for one in ends]

    def write(self, *ids: int) -> None:
        pickup: Any = None
        self.finisher.write([end(id) for id in ids], 1, pickup, 0)


@pytest.fixture
def told() -> Iterator[list[str]]:
    told: list[str] = []
    stop = events.listen(lambda event, facts: told.append(event))
    yield told
    stop()


def test_what_was_sent_without_an_answer_is_sent_again() -> None:
    desk = Desk(AWAY)
    with pytest.raises(StoreUnavailable):
        desk.write(1)
    assert desk.finisher.owes
    desk.write(2)
    assert desk.store.written == [(1, '"whole"', True), (2, '"whole"', True)]
    assert not desk.finisher.owes


def test_one_that_cannot_be_stored_whole_costs_the_others_nothing(told: list[str]) -> None:
    desk = Desk(REFUSED, None, REFUSED)
    with pytest.raises(StoreError):
        desk.write(1, 2, 3)
    desk.write()
    assert desk.store.written == [(1, '"whole"', True), (2, None, True), (3, '"whole"', True)]
    assert [lease.id for lease in desk.settled] == [1, 2, 3]
    assert told == ["result.dropped"]


@pytest.mark.rows("C14", "C25")
@pytest.mark.parametrize("script", [(REFUSED, None, AWAY), (REFUSED, None, REFUSED, AWAY)], ids=["whole", "plain"])
def test_a_connection_that_breaks_between_single_writes_makes_nothing_forgotten(script: tuple[Exception | None, ...]) -> None:
    desk = Desk(*script)
    with pytest.raises(StoreError):
        desk.write(1, 2, 3)
    with pytest.raises(StoreUnavailable):
        desk.write()
    assert [lease.id for lease in desk.settled] == [1]
    assert desk.finisher.owes
    desk.write()
    assert [lease.id for lease in desk.settled] == [1, 2, 3]


@pytest.mark.rows("C14", "C25")
def test_what_is_refused_in_every_form_is_tried_again_later_and_blocks_nobody(told: list[str]) -> None:
    desk = Desk(REFUSED, REFUSED, REFUSED)
    with pytest.raises(StoreError):
        desk.write(1, 2)
    desk.write()
    assert [lease.id for lease in desk.settled] == [2]
    assert told == ["result.refused"]
    assert not desk.finisher.owes
    desk.write(3)
    desk.now = REFUSED_AGAIN
    assert desk.finisher.owes
    desk.write()
    assert [lease.id for lease in desk.settled] == [2, 3, 1]
    assert desk.store.written[-1] == (1, '"whole"', True)
