"""What a worker has been told, one word after the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray.standing import Standing

WORDS = ("stop", "stop_now", "retire", "reload", "replace", "pause", "resume")


class Told:
    def __init__(self) -> None:
        self.now = 100.0
        self.nudges = 0
        self.standing = Standing(30.0, self.nudge, clock=lambda: self.now)

    def nudge(self) -> None:
        self.nudges += 1

    def say(self, word: str) -> None:
        getattr(self.standing, word)(*(() if word in ("pause", "resume") else (word,)))


@pytest.mark.parametrize(
    ("words", "again", "late_after"),
    [
        (["stop"], False, 30.0),
        (["retire"], False, None),
        (["reload"], True, None),
        (["replace"], True, 30.0),
        (["stop_now"], False, 0.0),
        (["reload", "stop"], False, 30.0),
        (["stop", "reload"], False, 30.0),
        (["retire", "stop"], False, 30.0),
        (["stop", "retire"], False, 30.0),
        (["stop", "stop_now"], False, 0.0),
        (["replace", "reload"], True, 30.0),
    ],
)
def test_what_counts(words: list[str], again: bool, late_after: float | None) -> None:
    told = Told()
    for word in words:
        told.say(word)
    assert told.standing.ends
    assert told.standing.why == words[0]
    assert told.standing.again is again
    if late_after is None:
        told.now += 10**9
        assert not told.standing.is_late
    else:
        told.now += late_after - 0.001
        assert told.standing.is_late is (late_after == 0.0)
        told.now += 0.002
        assert told.standing.is_late


@given(st.lists(st.sampled_from(WORDS)))
def test_who_has_been_told_to_end_ends_and_never_begins_anew(words: list[str]) -> None:
    told = Told()
    for word in words:
        told.say(word)
    ends = [word for word in words if word not in ("pause", "resume")]
    assert told.standing.ends is bool(ends)
    if "stop" in ends or "stop_now" in ends:
        assert not told.standing.again
    assert told.standing.paused is (bool([w for w in words if w in ("pause", "resume")]) and _last(words) == "pause")


def _last(words: list[str]) -> str:
    return [word for word in words if word in ("pause", "resume")][-1]
