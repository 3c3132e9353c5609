"""How often a worker looks for garbage: less than Python would, unless its app has said something else."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dray.cli.work import YOUNG, spare_collections


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize(("before", "then"), [(700, YOUNG), (0, 0), (50_000, 50_000)])
def test_what_the_app_has_chosen_stays(before: int, then: int) -> None:
    gc.set_threshold(before, 11, 12)
    spare_collections()
    assert gc.get_threshold()[0] == then
    assert gc.get_freeze_count() > 1000
