"""Reading what people write on a command line, and showing times and texts to them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from dray.durations import show_duration
from dray.errors import BadOption, CodecError

Decode = Callable[[str], Any]

_ARGUMENT = re.compile(r"([^\W\d]\w*(?:\.[^\s.:=]+)*)(:?=)(.*)", re.DOTALL)
# What could move a terminal's cursor or change its colours: a job's text is written by others.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def parse_arguments(words: Iterable[str], decode: Decode) -> dict[str, Any]:
    """Read `a=text`, `a:=json` and `a.b=text`, which puts `b` into an object; raises BadOption.

    >>> parse_arguments(["to=ann", "count:=3", "user.name=Al", "user.age:=7"], msgspec.json.decode)
    {'to': 'ann', 'count': 3, 'user': {'name': 'Al', 'age': 7}}
    """
    found: dict[str, Any] = {}
    for word in words:
        match = _ARGUMENT.fullmatch(word)
        if match is None:
            raise BadOption(f"{word!r} is no argument: write name=text or name:=json")
        path, sign, text = match.groups()
        _put(found, path.split("."), _json(text, word, decode) if sign == ":=" else text, word)
    return found


def _put(found: dict[str, Any], path: list[str], value: Any, word: str) -> None:
    *parents, name = path
    for parent in parents:
        found = found.setdefault(parent, {})
        if not isinstance(found, dict):
            raise BadOption(f"{word!r}: {parent} already has a value that is no object")
    if name in found:
        raise BadOption(f"{word!r}: {name} is given twice")
    found[name] = value


def _json(text: str, word: str, decode: Decode) -> Any:
    try:
        return decode(text)
    except (CodecError, msgspec.MsgspecError) as error:
        raise BadOption(f"{word!r}: behind := there must be JSON; for a text write = instead") from error


def read_call(given: str | None, words: Iterable[str], decode: Decode) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call: of `--args` (JSON, `@file`, or `-` for standard input), and the words over them."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    if given is not None:
        whole = _json_of(given, decode)
        if isinstance(whole, list):
            positional = whole
        elif isinstance(whole, dict):
            named = whole
        else:
            raise BadOption("--args takes a JSON object of named arguments, or a list of positional ones")
    return positional, named | parse_arguments(words, decode)


def _json_of(given: str, decode: Decode) -> Any:
    if given == "-":
        text, where = sys.stdin.read(), "standard input"
    elif given.startswith("@"):
        where = given[1:]
        try:
            text = Path(where).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadOption(f"--args: {where} cannot be read: {error}") from error
    else:
        text, where = given, "its value"
    try:
        return decode(text)
    except (CodecError, msgspec.MsgspecError) as error:
        raise BadOption(f"--args: {where} is no JSON: {error}") from error


def parse_labels(words: Iterable[str]) -> dict[str, str]:
    """Read `name=value` words; raises BadOption."""
    labels: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise BadOption(f"a label is written name=value, not {word!r}")
        labels[name] = value
    return labels


def clean(text: str) -> str:
    """A text that does nothing to a terminal but appear on it.

    >>> clean("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """The same on one line."""
    return clean(text.replace("\r\n", "\n").replace("\n", "\\n").replace("\t", " "))


def about(seconds: float) -> str:
    """Say a time with the two units that matter.

    >>> about(0.25), about(130.7), about(7_200), about(100_000), about(40 * 86_400)
    ('0.2s', '2m10s', '2h', '1d3h', '40d')
    """
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds % 1 >= 0.05 else f"{seconds:.0f}s"
    for limit, step in ((3_600, 1), (86_400, 60), (7 * 86_400, 3_600)):
        if seconds < limit:
            return show_duration(float(seconds // step * step))
    return f"{seconds // 86_400:.0f}d"


def when(moment: datetime | None, *, now: datetime | None = None) -> str:
    """An instant for people: relative to `now`, or without it in ISO 8601, UTC."""
    if moment is None:
        return "-"
    if now is None:
        return iso(moment)
    seconds = (moment - now).total_seconds()
    return f"in {about(seconds)}" if seconds > 0 else f"{about(-seconds)} ago"


def iso(moment: datetime) -> str:
    """An instant in ISO 8601, UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, cap: int) -> str:
    """A number that was counted up to a cap plus one.

    >>> count(1204, 10_000), count(10_001, 10_000)
    ('1,204', '10,000+')
    """
    return f"{cap:,}+" if number > cap else f"{number:,}"


def jobs_word(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def facts_line(facts: Mapping[str, object]) -> str:
    """Facts as `name=value`, on one line; a value with a blank in it stands in quotes.

    >>> facts_line({"job_id": 7, "error": "it broke"})
    'job_id=7 error="it broke"'
    """
    return " ".join(f"{name}={_fact(value)}" for name, value in facts.items())


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = one_line(str(value))
    return f'"{text}"' if " " in text or not text else text
