"""Reading what people write on a command line: the arguments of a call, and labels."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from dray.errors import BadOption, CodecError

Decode = Callable[[str], Any]

_ARGUMENT = re.compile(r"([^\W\d]\w*(?:\.[^\s.:=]+)*)(:?=)(.*)", re.DOTALL)


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
