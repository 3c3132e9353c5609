"""The kinds of value a setting can have: what is expected, how it is read, how it is shown.

One reader serves files, variables, flags and keywords, so a number that came as text is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dray.durations import (
    DURATION_EXPECTED,
    SIZE_EXPECTED,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
)
from dray.errors import BadOption, ConfigurationError
from dray.job import PRIORITIES
from dray.options import check_name
from dray.selection import check_weight, read_queues
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


def _mail_url(value: object) -> str:
    found = urlsplit(text := _text(value))
    if found.scheme not in ("smtp", "smtps") or not found.hostname:
        raise ValueError
    _ = found.port  # raises for what is no port
    return text


def _web_url(value: object) -> str:
    found = urlsplit(text := _text(value))
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ValueError
    _ = found.port
    return text


def _addresses(value: object) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError
    found = tuple(_text(one).strip() for one in given)
    if any("@" not in one or "\n" in one or "\r" in one for one in found):
        raise ValueError
    return found


def _address(value: object) -> str:
    (found,) = _addresses(value)
    return found


def _cron(value: object) -> str:
    # Loaded only where somebody gives one: `import dray` stays light.
    from cronsim import CronSim, CronSimError

    try:
        CronSim(text := _text(value), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError from error
    return text


def _table(read: Callable[[str, object], T]) -> Callable[[object], dict[str, T]]:
    """Reads a table of a file, or `name=value, name=value`."""

    def table(value: object) -> dict[str, T]:
        if isinstance(value, str):
            value = dict(part.strip().split("=", 1) for part in value.split(",") if part.strip())
        if not isinstance(value, Mapping):
            raise ValueError
        return {_text(name).strip(): read(name, one) for name, one in value.items()}

    return table


def _queues(value: object) -> dict[str, int]:
    """Queues with weights, or a list of names or of `name:weight`, in which each has its place."""
    try:
        if isinstance(value, Mapping):
            for name in value:
                check_name("queue", name)
            return {name: check_weight(name, int(weight)) for name, weight in value.items()}
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise ValueError
        return read_queues(_text(one).strip() for one in given)
    except BadOption as error:
        raise ConfigurationError(str(error)) from error


def _route(task: str, queue: object) -> str:
    try:
        check_name("queue", queue)
    except BadOption as error:
        raise ConfigurationError(f"task {task!r}: {error}") from error
    assert isinstance(queue, str)
    return queue


def _priorities(value: object) -> tuple[int, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise ValueError
    found = tuple(int(one) for one in given if not isinstance(one, bool))
    if len(found) != len(given) or len(set(found)) != len(found) or any(one not in PRIORITIES for one in found):
        raise ValueError
    return found


def _show_table(table: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in table.items()) or "-"


TEXT = Kind(expects="a text", read=_text)
SWITCH = Kind(expects="true or false", read=_switch, show=lambda value: "yes" if value else "no")
TIME = Kind(expects=DURATION_EXPECTED, read=parse_duration, show=show_duration)
TIME_ABOVE_ZERO = Kind(expects=f"{DURATION_EXPECTED}, above 0", read=_above_zero(parse_duration), show=show_duration)
SIZE_ABOVE_ZERO = Kind(expects=f"{SIZE_EXPECTED}, above 0", read=_above_zero(parse_size), show=show_size)
DATABASE_URL = Kind(expects=f"a database URL: {SUPPORTED}", read=_url, show=redact_url)
TABLE_PREFIX = Kind(expects="at most 21 of a-z, 0-9 and _, not starting with a digit", read=_table_prefix)
MAIL_URL = Kind(
    expects="smtp://user:password@host:port (STARTTLS if the server offers it), or smtps:// for TLS from the start",
    read=_mail_url,
    show=redact_url,
)
WEB_URL = Kind(
    expects="an address that begins with http:// or https://",
    read=_web_url,
    show=lambda value: f"{urlsplit(value).scheme}://{urlsplit(value).hostname}/***",  # often the path is the secret
)
ADDRESS = Kind(expects="a mail address", read=_address)
ADDRESSES = Kind(expects="mail addresses with commas between them", read=_addresses, show=lambda value: ", ".join(value) or "-")
CRON = Kind(expects="a cron expression, such as 0 10 * * 1", read=_cron)
SECRET = Kind(expects="a text", read=_text, show=lambda value: "***")
QUEUES = Kind(expects="queues such as mail:5, reports:1, or a table of them and their weights", read=_queues, show=_show_table)
ROUTES = Kind(expects="a table of tasks, or patterns such as send_*, and their queues", read=_table(_route), show=_show_table)
PRIORITY_LIST = Kind(
    expects="different whole numbers from 0 to 999, such as 10, 100, 500",
    read=_priorities,
    show=lambda value: ", ".join(map(str, value)) or "-",
)
LOG_LEVEL = Kind(expects=f"one of {', '.join(_LOG_LEVELS)}", read=_log_level)
