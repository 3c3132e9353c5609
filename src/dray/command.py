"""Command tasks: a program that is run for each job, without a shell (S1.3-S1.8)."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import math
import os
import pathlib
import re
import shlex
import string
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dray.errors import BadArguments, BadOption

OUTPUTS = ("failure", "always", "success", "never")
PLAIN = (str, int, float, decimal.Decimal, uuid.UUID, datetime.date, datetime.datetime, pathlib.PurePath, enum.Enum)
_OPTION = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A program, and how its arguments are made of the fields of a job.

    argv        the program and its arguments, each an argument of its own: `{field}` stands for the value of a field
    fields      the types of fields; one that is only named in argv takes a text or a whole number
    options     options of the program behind these: its name, and the field it is made of. True gives `--name`, False and None
                leave it out, anything else gives `--name=value` (S1.25)
    stdin       "json": all fields on standard input, as one JSON object; what stands in argv is seen by everybody on the host
    folder      where it runs; None: where the worker runs
    env         variables it gets beside those of the worker, and DRAY_JOB_ID, DRAY_ATTEMPT, DRAY_TASK, DRAY_QUEUE
    output      whether what it says is kept: on "failure", "success", "always" or "never"; to be seen while it runs in any case
    max_output  bytes that are kept of it, beginning and end
    """

    name: str
    argv: Sequence[str]
    fields: Mapping[str, type] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stdin: str | None = None
    folder: str | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output: str = "failure"
    max_output: int = 2**20

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv or not all(isinstance(part, str) for part in self.argv):
            raise BadOption(f"argv is a list, the program first and each argument by itself, got {self.argv!r}")
        if "{" in self.argv[0]:
            raise BadOption(f"the program itself cannot be made of a field: {self.argv[0]!r}")
        if self.output not in OUTPUTS:
            raise BadOption(f"output must be one of {', '.join(OUTPUTS)}, got {self.output!r}")
        if self.stdin not in (None, "json"):
            raise BadOption(f'stdin must be "json" or None, got {self.stdin!r}')
        for option in self.options:
            if not _OPTION.fullmatch(option):
                raise BadOption(f"{option!r} is no name of an option: write --name")
        placed = [field for part in self.argv for field in _fields_in(part)]
        types = {**dict.fromkeys([*placed, *self.options.values()], str | int), **self.fields}
        for field in types:
            if not field.isidentifier():
                raise BadOption(f"{field!r} is no name of a field: letters, digits and _")
        object.__setattr__(self, "fields", types)
        keyword = inspect.Parameter.KEYWORD_ONLY
        optional = {*self.options.values()} - {*placed}
        parameters = [
            inspect.Parameter(field, keyword, annotation=kind, default=None if field in optional else inspect.Parameter.empty)
            for field, kind in types.items()
        ]
        object.__setattr__(self, "__signature__", inspect.Signature(parameters))
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__qualname__", self.name)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise BadArguments unless a command line can be made of these values; in the producer, before anything is stored."""
        for field, value in values.items():
            kind = self.fields.get(field, str)
            optional = value is None and field in self.options.values()
            if not optional and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise BadArguments(self.name, f"{field} must be {_named(kind)}, got {value!r}")
        self.render(values)

    def render(self, values: Mapping[str, Any]) -> list[str]:
        """The command line, an argument each (C86). Raises BadArguments."""
        open_to_options = True  # until "--", the program would take what begins with "-" for an option
        words = [self.argv[0]]
        for part in self.argv[1:]:
            open_to_options = open_to_options and part != "--"
            fields = _fields_in(part)
            word = part.format_map({field: self._word(field, values[field]) for field in fields}) if "{" in part else part
            if open_to_options and part.startswith("{") and word.startswith("-") and not _is_number(values[fields[0]]):
                raise BadArguments(self.name, f'{word!r} would be taken for an option; put "--" before {part} in argv')
            words.append(word)
        for option, field in self.options.items():
            value = values.get(field)
            if value is True:
                words.append(option)
            elif value is not None and value is not False:
                words.append(f"{option}={self._word(field, value)}")
        return words

    def _word(self, field: str, value: Any) -> str:
        if isinstance(value, enum.Enum):
            value = value.value
        if isinstance(value, bool) or not isinstance(value, PLAIN) or (isinstance(value, float) and not math.isfinite(value)):
            # Left out, it would make all arguments behind it mean something else.
            raise BadArguments(self.name, f"{field} cannot stand on a command line: {value!r}; give it by stdin='json'")
        word = value.isoformat() if isinstance(value, datetime.date) else str(value)
        if "\0" in word:
            raise BadArguments(self.name, f"{field} holds a NUL, which no command line can carry")
        return word

    def shown(self, values: Mapping[str, Any]) -> str:
        """The command line as a person would type it."""
        return shlex.join(self.render(values))

    def input(self, values: Mapping[str, Any]) -> bytes:
        """What it gets on its standard input."""
        return msgspec.json.encode(dict(values), enc_hook=str) + b"\n" if self.stdin else b""

    def __call__(self, **values: Any) -> None:
        """Run it here and now, by hand: on this terminal, and with an error if it fails (S1.5)."""
        import subprocess

        bound = inspect.signature(self).bind(**values)
        bound.apply_defaults()
        self.check(bound.arguments)
        sys.stdout.flush()
        subprocess.run(
            self.render(bound.arguments),
            input=self.input(bound.arguments) if self.stdin else None,
            cwd=self.folder,
            env={**os.environ, **self.env},
            check=True,
        )


def _named(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _fields_in(part: str) -> list[str]:
    """The fields that a word is made of. Raises BadOption for what is no such word."""
    try:
        pieces = list(string.Formatter().parse(part))
    except ValueError as error:
        raise BadOption(f"{part!r} in argv: {error}; a brace that is no field is written twice") from error
    if any(spec or conversion for _, _, spec, conversion in pieces):
        raise BadOption(f"{part!r} in argv: only {{field}} can be said")
    return [field for _, field, _, _ in pieces if field is not None]


def _is_number(value: object) -> bool:
    """Whether this is a number, and not a text that looks like one: `-1` is an option of kill."""
    return isinstance(value, int | float | decimal.Decimal) and math.isfinite(value)
