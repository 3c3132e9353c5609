"""What JSON stores as it is, and the tags of values without parts that it lacks: each is written as one text."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from types import NoneType
from typing import Any
from uuid import UUID

import msgspec

# Deep enough for any honest value, shallow enough for Python's stack even where ours begins deep inside a framework.
MAX_DEPTH = 100

_SAFE = frozenset({NoneType, bool, int, str})
_STRINGS = frozenset({str})

# ISO 8601 has no word for the second 02:30 of the night in which clocks go back.
_FOLD = " fold=1"


@dataclass(frozen=True, slots=True)
class Tag:
    """How values of one type become a text and back; `read` raises whatever it likes for a text that is none."""

    name: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def _write_time(value: datetime | time) -> str:
    if value.tzinfo is None:
        return value.isoformat() + (_FOLD if value.fold else "")
    if value.utcoffset() is None:
        raise ValueError("its zone has no offset without a date; give it a fixed one, or none")
    return value.isoformat()


def _read_time(kind: type[datetime] | type[time]) -> Callable[[str], datetime | time]:
    def read(text: str) -> datetime | time:
        bare = text.removesuffix(_FOLD)
        found = kind.fromisoformat(bare)
        return found if bare == text else found.replace(fold=1)

    return read


def _write_bytes(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _read_bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


def _write_span(value: timedelta) -> str:
    text: str = msgspec.to_builtins(value)
    return text


def _read_span(text: str) -> timedelta:
    return msgspec.convert(text, timedelta)


TAGS: dict[type, Tag] = {
    datetime: Tag("$datetime", _write_time, _read_time(datetime)),
    date: Tag("$date", date.isoformat, date.fromisoformat),
    time: Tag("$time", _write_time, _read_time(time)),
    timedelta: Tag("$timedelta", _write_span, _read_span),
    Decimal: Tag("$decimal", str, Decimal),
    UUID: Tag("$uuid", str, UUID),
    bytes: Tag("$bytes", _write_bytes, _read_bytes),
}


def is_plain(values: Iterable[Any], depth: int, most: int) -> bool:
    """Tell whether msgspec alone stores these values so that they come back equal.

    Goes level by level, which needs no stack. `most` bounds a level, for a value that contains itself twice would
    double it forever; no more could be stored anyway.
    """
    for _ in range(depth, MAX_DEPTH + 1):
        deeper: list[Any] = []
        for value in values:
            kind = type(value)
            if kind in _SAFE:
                continue
            if kind is list:
                deeper += value
            elif kind is dict and is_object(value):
                deeper += value.values()
            elif kind is not float or not isfinite(value):
                return False
            if len(deeper) > most:
                return False
        if not deeper:
            return True
        values = deeper
    return False


def is_object(value: dict[Any, Any]) -> bool:
    """Tell whether a dict is an object of JSON that nobody can take for a tag."""
    if len(value) == 1:
        (key,) = value
        return type(key) is str and not key.startswith("$")
    return _STRINGS.issuperset(map(type, value))
