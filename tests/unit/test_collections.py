"""How often a worker looks for garbage: less than Python would, unless its app has said something else."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dray.cli import work


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_worker_looks_less_often() -> None:
    gc.set_threshold(*work._USUAL)
    work.spare_collections()
    assert gc.get_threshold() == (max(work.YOUNG, work._USUAL[0]), *work._USUAL[1:])
    assert gc.get_freeze_count() > 1000


@pytest.mark.parametrize("chosen", [(5_000, 10, 10), (0, 10, 10), (50_000, 5, 5)])
def test_what_the_app_has_chosen_stays(chosen: tuple[int, int, int]) -> None:
    gc.set_threshold(*chosen)
    work.spare_collections()
    assert gc.get_threshold() == chosen
