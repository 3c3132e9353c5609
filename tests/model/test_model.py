"""Stories without end: anybody does anything in any order, and after each act every database is as the model says.

`DRAY_TEST_SEED=n` tells the story with that number alone, and looks for the shortest that goes wrong in the same way.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.effort import MINUTES, seconds
from tests.model.family import Families
from tests.model.mishaps import Mishaps
from tests.model.world import World
from tests.servers import Database

pytestmark = pytest.mark.long

SLICE = 5.0  # seconds
STEPS = 50  # acts of a story
STORIES = 4  # of one seed
SEED = os.environ.get("DRAY_TEST_SEED")


class Life(Families, Mishaps):
    """All chapters together."""


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    world = World(database)
    yield world
    world.close()


def tell(world: World, number: int) -> None:
    """The stories of one seed."""
    phases = [Phase.generate] if SEED is None else [Phase.generate, Phase.shrink]
    once = settings(
        max_examples=STORIES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=phases,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.normal,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(number)(lambda: Life(world)), settings=once)


@pytest.mark.rows("C13", "C28", "C30", "C36", "C39", "S2.25", "S2.29", "S2.44", "S2.53")
@pytest.mark.timeout(max(600, 120 * MINUTES))
def test_whatever_is_done_the_database_is_as_the_model_says(world: World) -> None:
    until = time.monotonic() + seconds(SLICE)
    number = int(SEED) if SEED else random.SystemRandom().randrange(2**32)
    while True:
        try:
            tell(world, number)
        except BaseException as error:
            error.add_note(f"DRAY_TEST_SEED={number} tells it again")
            raise
        if SEED or time.monotonic() > until:
            break
        number += 1
