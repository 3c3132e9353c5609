"""What slots tell the meter of the runs they begin."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dray import Dray
from dray.context import Context
from dray.item import Item
from dray.job import Claim
from dray.meter import Memory, Meter
from tests.hands import hands
from tests.servers import wait_until


def waiting(id: int) -> Item:
    claim = Claim(id, 1, 1, 0, 0, None, 0, 100, "q", "meet", "{}", None, None, 0, 0)
    return Item(claim, Context(claim))


@pytest.mark.rows("S2.77")
def test_the_memory_of_a_run_is_that_of_a_run_alone_only_if_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, both = Dray(f"sqlite:///{tmp_path}/x.db"), threading.Barrier(2, timeout=30)
    begun: list[bool] = []
    begin = Meter.begin

    @app.task(name="meet")
    def meet() -> None:
        both.wait()

    def heard(meter: Meter, *, alone: bool) -> Memory:
        begun.append(alone)
        return begin(meter, alone=alone)

    monkeypatch.setattr(Meter, "begin", heard)
    slots = hands(app, 2)
    slots.start([waiting(1)])
    wait_until(lambda: len(begun) == 1, "the first, which waits for the second")
    slots.start([waiting(2)])
    wait_until(lambda: len(slots.done) == 2, "both")
    slots.stop()
    assert begun == [True, False]
