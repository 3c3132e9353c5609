"""How durations and sizes are written, such as `1h30m` and `256M`: read strictly, shown for people."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from math import isfinite

from dray.errors import BadOption

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SHOWN = ("d", "h", "m")
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_PLAIN_NUMBER = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(ms|[wdhms])")
_DURATION = re.compile(rf"(?:{_PART.pattern}\s*)+")
_SIZE = re.compile(rf"({_NUMBER})\s*(?:([KMGT])I?)?B?")
_POWERS = {None: 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# A database cannot add more than this to its clock; a longer time is a slip of the keyboard.
LONGEST = 36_525 * 86_400.0

DURATION_EXPECTED = "a duration up to 100 years: seconds, or 500ms, 90s, 15m, 2h, 7d, 1h30m"
SIZE_EXPECTED = "a size: bytes, or 64K, 256M, 2G"


def parse_duration(value: object) -> float:
    """Read seconds from a number, a timedelta or a text such as `90s` or `1h30m`; BadOption if it is none.

    >>> parse_duration("1h30m"), parse_duration(2), parse_duration("0.5")
    (5400.0, 2.0, 0.5)
    """
    seconds = _seconds(value)
    if seconds is None or not isfinite(seconds) or seconds < 0:
        raise BadOption(f"{value!r} is not {DURATION_EXPECTED}")
    if seconds > LONGEST:
        raise BadOption(f"{value!r} is longer than 100 years")
    return seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An int too large for a float is too long a time as well.
        return float(min(value, 2 * LONGEST))
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return None


def show_duration(seconds: float) -> str:
    """Say a duration as `parse_duration` reads it: 5400 is `1h30m`.

    >>> show_duration(604_800), show_duration(90), show_duration(0.5)
    ('7d', '1m30s', '500ms')
    """
    if 0 < seconds < 1:
        return f"{_plain(seconds * 1000)}ms"
    parts = []
    for unit in _SHOWN:
        count, seconds = divmod(seconds, _UNITS[unit])
        if count:
            parts.append(f"{count:.0f}{unit}")
    if seconds or not parts:
        parts.append(f"{_plain(seconds)}s")
    return "".join(parts)


def parse_size(value: object) -> int:
    """Read bytes from a whole number or a text such as `256M`; BadOption if it is none. M is 1024².

    >>> parse_size("256M"), parse_size(4096)
    (268435456, 4096)
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip().upper())):
        return int(Decimal(found[1]) * _POWERS[found[2]])
    raise BadOption(f"{value!r} is not {SIZE_EXPECTED}")


def show_size(count: int) -> str:
    """Say a number of bytes for people: `3.2 MiB`.

    >>> show_size(1024 * 1024), show_size(3_400_000), show_size(7)
    ('1 MiB', '3.2 MiB', '7 bytes')
    """
    for unit in ("T", "G", "M", "K"):
        if count >= _POWERS[unit]:
            return f"{_plain(round(count / _POWERS[unit], 1))} {unit}iB"
    return f"{count} bytes"


def _plain(number: float) -> str:
    # Six decimals are a microsecond, the finest a database keeps; more would only show the float's last bits.
    return f"{number:.6f}".rstrip("0").rstrip(".")
