"""A report: what a job wants to tell people, as a tree of typed messages (S3.8, S3.66)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from dray.errors import CodecError


class Kind(StrEnum):
    """How a message is meant; a job whose report contains an `error` has failed."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message with its children.

    `data` is anything JSON can carry: values for a translation, links, file names. Reports are values; `with_child` gives a
    new one.

    >>> report = Report.warning("2 of 3 imported", Report.error("row 3 has no name", data={"row": 3}))
    >>> report.contains(Kind.ERROR), [part.message for part in report]
    (True, ['2 of 3 imported', 'row 3 has no name'])
    """

    kind: Kind
    message: str
    data: Any = None
    children: tuple[Report, ...] = ()

    @classmethod
    def info(cls, message: str, *children: Report, data: Any = None) -> Report:
        return cls(Kind.INFO, message, data, children)

    @classmethod
    def success(cls, message: str, *children: Report, data: Any = None) -> Report:
        return cls(Kind.SUCCESS, message, data, children)

    @classmethod
    def warning(cls, message: str, *children: Report, data: Any = None) -> Report:
        return cls(Kind.WARNING, message, data, children)

    @classmethod
    def error(cls, message: str, *children: Report, data: Any = None) -> Report:
        return cls(Kind.ERROR, message, data, children)

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read what `to_json` wrote; raises CodecError when it is something else."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CodecError(f"this is not a stored report: {error}") from error

    def to_json(self) -> str:
        """The report as JSON text; raises CodecError when its data cannot be stored."""
        try:
            return msgspec.json.encode(self).decode()
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"the report's data cannot be stored as JSON: {error}") from error

    def with_child(self, child: Report) -> Report:
        """The same report with one more child at its end."""
        return msgspec.structs.replace(self, children=(*self.children, child))

    def __iter__(self) -> Iterator[Report]:
        """This message and all below it, depth first."""
        yield self
        for child in self.children:
            yield from child

    def of(self, *kinds: Kind) -> list[Report]:
        """The messages of these kinds, anywhere in the tree."""
        return [part for part in self if part.kind in kinds]

    def contains(self, kind: Kind) -> bool:
        """True when a message of this kind is anywhere in the tree."""
        return any(part.kind is kind for part in self)
