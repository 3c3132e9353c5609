"""By when what runs for a worker has to have ended: on a page that all its processes look at."""

from __future__ import annotations

import pytest

from dray import pulse
from dray.outside import warden
from dray.pulse import Pulse, Term

TTL = 30.0


class Page:
    """A page, and the time at which it is looked at: by what runs in the worker's processes, and by the warden of a command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.pulse = Pulse()
        self.heart = Term(self.pulse.page, TTL)
        monkeypatch.setattr(pulse, "steady", lambda: self.now)
        monkeypatch.setattr(warden, "steady", lambda: self.now)

    def left(self) -> float:
        left = Term(self.pulse.page).left()
        assert left == warden.left(self.pulse.page)
        assert (left <= 0) == self.heart.is_over()
        return left


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(monkeypatch)


def test_nothing_has_to_end_where_nobody_beats(page: Page) -> None:
    assert page.left() == float("inf")
    page.heart.begin(page.now)
    assert page.left() == 27.0


def test_each_beat_that_arrives_puts_it_off(page: Page) -> None:
    page.heart.begin(page.now)
    page.now += 20
    page.heart.beaten(page.now - 5, alive=True)
    assert page.left() == 22.0
    page.now += 22
    assert page.left() == 0.0


def test_a_database_that_refuses_everybody_puts_it_off_for_a_moment_and_never_brings_it_nearer(page: Page) -> None:
    page.heart.begin(page.now)
    page.heart.refuse(page.now)
    assert page.left() == 27.0
    page.now += 26.5
    page.heart.refuse(page.now)
    assert page.left() == 3.0
    page.now += 3.0
    assert page.left() == 0.0


def test_what_others_have_taken_stays_theirs_until_a_new_life_begins(page: Page) -> None:
    page.heart.begin(page.now)
    page.heart.beaten(page.now, alive=False)
    assert page.left() == float("-inf")
    page.heart.refuse(page.now)
    page.heart.beaten(page.now, alive=True)
    assert page.left() == float("-inf")
    page.heart.begin(page.now)
    assert page.left() == 27.0
