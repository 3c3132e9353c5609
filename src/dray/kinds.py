"""The kinds of value a setting can have: what is expected, how it is read, how it is shown.

One reader serves files, variables, flags and keywords, so a number that came as text is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dray.durations import (
    DURATION_EXPECTED,
    SIZE_EXPECTED,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
)
from dray.urls import SUPPORTED, normalize_url, redact_url

_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,20}")
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_SWITCHES = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a setting of one kind is read and shown; `read` raises ValueError for anything else."""

    expects: str
    read: Callable[[object], object]
    show: Callable[[Any], str] = str


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _url(value: object) -> str:
    text = _text(value)
    normalize_url(text)
    return text


def _table_prefix(value: object) -> str:
    if not _PREFIX.fullmatch(text := _text(value)):
        raise ValueError
    return text


def _log_level(value: object) -> str:
    if (text := _text(value).lower()) not in _LOG_LEVELS:
        raise ValueError
    return text


def _switch(value: object) -> bool:
    found = value if isinstance(value, bool) else _SWITCHES.get(_text(value).lower())
    if found is None:
        raise ValueError
    return found


def whole_number(least: int) -> Kind:
    """Make the kind of a whole number that is not smaller than `least`."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str) or (number := int(value)) < least:
            raise ValueError
        return number

    return Kind(expects=f"a whole number of at least {least}", read=read)


def _above_zero(read: Callable[[object], T]) -> Callable[[object], T]:
    def checked(value: object) -> T:
        if not (number := read(value)):
            raise ValueError
        return number

    return checked


def optional(kind: Kind) -> Kind:
    """Make a kind that may also be left without a value."""
    return Kind(
        expects=kind.expects,
        read=lambda value: None if value is None else kind.read(value),
        show=lambda value: "-" if value is None else kind.show(value),
    )


TEXT = Kind(expects="a text", read=_text)
SWITCH = Kind(expects="true or false", read=_switch, show=lambda value: "yes" if value else "no")
TIME = Kind(expects=DURATION_EXPECTED, read=parse_duration, show=show_duration)
TIME_ABOVE_ZERO = Kind(expects=f"{DURATION_EXPECTED}, above 0", read=_above_zero(parse_duration), show=show_duration)
SIZE_ABOVE_ZERO = Kind(expects=f"{SIZE_EXPECTED}, above 0", read=_above_zero(parse_size), show=show_size)
DATABASE_URL = Kind(expects=f"a database URL: {SUPPORTED}", read=_url, show=redact_url)
TABLE_PREFIX = Kind(expects="at most 21 of a-z, 0-9 and _, not starting with a digit", read=_table_prefix)
LOG_LEVEL = Kind(expects=f"one of {', '.join(_LOG_LEVELS)}", read=_log_level)
