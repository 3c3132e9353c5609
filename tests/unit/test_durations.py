"""Durations and sizes: what a person writes is read as meant, anything else is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray.durations import LONGEST, parse_duration, parse_size, show_duration, show_size
from dray.errors import BadOption


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (2, 2.0),
        (0.25, 0.25),
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        (" 15m ", 900.0),
        ("2h", 7200.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("500ms", 0.5),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5h", 5400.0),
        (timedelta(minutes=1), 60.0),
    ],
)
def test_a_duration_is_read_as_meant(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        -1,
        "-5s",
        "5x",
        "",
        "m",
        "1h-2m",
        "5 s",
        True,
        None,
        [],
        float("nan"),
        timedelta(-1),
        "١s",
    ],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(BadOption, match="is not a duration"):
        parse_duration(written)


@pytest.mark.parametrize("written", ["36526d", 10**400, 1e300, float("inf"), "999999999999999w"])
def test_a_time_no_database_can_add_is_refused(written: object) -> None:
    with pytest.raises(BadOption, match="longer than 100 years"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (0.0005, "0.5ms"),
        (1.5, "1.5s"),
        (5, "5s"),
        (90, "1m30s"),
        (900, "15m"),
        (5400, "1h30m"),
        (604_800, "7d"),
        (93_784, "1d2h3m4s"),
    ],
)
def test_a_duration_is_shown_for_people(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


@given(st.floats(0, LONGEST - 1))
def test_a_shown_duration_is_read_as_the_same(seconds: float) -> None:
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("256M", 256 * 2**20),
        ("256MB", 256 * 2**20),
        ("256 MiB", 256 * 2**20),
        ("64k", 65_536),
        ("1.5G", 3 * 2**29),
        ("2T", 2**41),
        ("7B", 7),
    ],
)
def test_a_size_is_read_as_meant(written: object, count: int) -> None:
    assert parse_size(written) == count


@pytest.mark.parametrize("written", [-1, 1.5, True, None, "", "M", "-1M", "5X", "9" * 5000])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(BadOption, match="is not a size"):
        parse_size(written)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (2**20, "1 MiB"),
        (3_400_000, "3.2 MiB"),
        (2**40, "1 TiB"),
    ],
)
def test_a_size_is_shown_for_people(count: int, shown: str) -> None:
    assert show_size(count) == shown
