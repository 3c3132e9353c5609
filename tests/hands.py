"""Slots without a worker around them."""

from __future__ import annotations

from collections.abc import Callable

from dray import Dray
from dray.slots import Slots


def hands(app: Dray, number: int, may_start: Callable[[], bool] = lambda: True) -> Slots:
    """So many, that start whatever they are given, and tell nobody."""
    return Slots(
        app.runner,
        number,
        may_start=may_start,
        mark=lambda item: True,
        record=lambda item, outcome: None,
        on_done=lambda: None,
        on_stuck=lambda why: None,
    )
