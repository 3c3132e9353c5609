"""Walks over values: what is the JSON form of one, and which value does a JSON form stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import isfinite
from reprlib import repr as short_repr
from types import NoneType
from typing import Any, TypeVar

import msgspec

from dray.durations import show_size
from dray.errors import CodecError
from dray.shapes import Registry, Shape, shape_of
from dray.tags import MAX_DEPTH, TAGS, is_object

# A shared encoder keeps no state between two calls, so threads need no lock.
dump: Callable[[Any], bytes] = msgspec.json.Encoder().encode

Path = tuple[object, ...]
T = TypeVar("T")

# What a whole call is called in texts.
ARGUMENTS = "args"

_READ_TAG = {tag.name: tag.read for tag in TAGS.values()}
_JSON_WORDS: dict[type, str] = {str: "a text", list: "a list"}
# What a value of a derived or similar type can be turned into; a datetime is a date too, so the order counts.
_NEAREST = {each: each for each in (str, int, float, list, dict, tuple, set, frozenset, *TAGS)} | {
    bytearray: bytes,
    memoryview: bytes,
}
# In bits; fewer always have fewer digits than Python is willing to turn into a number again.
_LONG_INT = 10_000


class Writer:
    """Turns one value into its JSON form, or says where in it something cannot be stored.

    With `proving`, each value of the user's own types is made again from its form and compared.
    """

    def __init__(self, types: Registry, what: str, *, most: int, proving: bool) -> None:
        self.types, self.what, self.most, self.proving = types, what, most, proving
        self._left = most

    def write(self, value: Any, path: Path) -> Any:
        """Give the JSON form; `path` leads from `what` to the value, for the text of an error."""
        # Every value takes a byte at least. Shared parts count each time, so that this also ends where a value
        # contains a part twice, which contains a part twice, and so on.
        self._left -= 1
        if self._left < 0:
            raise too_large(self.what, None, self.most)
        if len(path) > MAX_DEPTH:
            raise self.refused(path[:3], f"is nested more than {MAX_DEPTH} deep, or contains itself")
        kind = type(value)
        if write := _WRITE.get(kind):
            return write(self, value, path)
        if tag := TAGS.get(kind):
            try:
                return {tag.name: tag.write(value)}
            except ValueError as error:
                raise self.refused(path, f"{value!r} cannot be stored: {error}") from error
        return self._own_type(value, path)

    def text(self, value: str, path: Path) -> str:
        """Give the text itself, if UTF-8 has a form for it."""
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise self.refused(path, "holds half of a surrogate pair, which cannot be stored") from error
        return value

    def refused(self, path: Path, words: str) -> CodecError:
        """Make the error that names the place."""
        return CodecError(f"{self.what}{''.join(map(_step, path))}: {words}")

    def _constant(self, value: Any, _path: Path) -> Any:
        return value

    def _int(self, value: int, path: Path) -> int:
        if value.bit_length() > _LONG_INT:
            try:
                str(value)
            except ValueError as error:
                raise self.refused(path, "has more digits than Python reads back; store it as text") from error
        return value

    def _float(self, value: float, path: Path) -> float:
        if not isfinite(value):
            raise self.refused(path, f"JSON has no word for {value}; pass None or a text instead")
        return value

    def _items(self, value: Collection[Any], path: Path) -> list[Any]:
        return [self.write(item, (*path, index)) for index, item in enumerate(value)]

    def _dict(self, value: dict[Any, Any], path: Path) -> dict[str, Any]:
        if is_object(value):
            return {self.text(key, (*path, key)): self.write(each, (*path, key)) for key, each in value.items()}
        steps = ((key, each, (*path, key)) for key, each in value.items())
        return {"$dict": [[self.write(key, step), self.write(each, step)] for key, each, step in steps]}

    def _tuple(self, value: tuple[Any, ...], path: Path) -> dict[str, Any]:
        return {"$tuple": self._items(value, path)}

    def _set(self, value: set[Any], path: Path) -> dict[str, Any]:
        # Sorted, so that equal sets have one form in every process.
        return {"$set": sorted(self._items(value, path), key=dump)}

    def _frozenset(self, value: frozenset[Any], path: Path) -> dict[str, Any]:
        return {"$frozenset": sorted(self._items(value, path), key=dump)}

    def _own_type(self, value: Any, path: Path) -> dict[str, Any]:
        known = self.types.known(type(value))
        if known is None:
            raise self.refused(path, _why_not(value))
        name, shape = known
        try:
            parts = shape.take_apart(value)
        except Exception as error:
            raise self.refused(path, f"{name} cannot be taken apart: {_brief(error)}") from error
        form = {shape.tag: [name, self.write(parts, path)]}
        if self.proving:
            self._prove(value, form, shape, path)
        return form

    def _prove(self, value: Any, form: dict[str, Any], shape: Shape, path: Path) -> None:
        try:
            made = Reader(self.types).read(form, len(path))
        except CodecError as error:
            raise self.refused(path, f"cannot be made again from what is stored: {error}") from error
        changed = shape.differs(value, made, self._alike)
        if changed is not None:
            place = (*path, changed) if changed else path
            raise self.refused(place, f"a value of {type(value).__qualname__} does not come back equal")

    def _alike(self, one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            return False
        write = Writer(self.types, self.what, most=self.most, proving=False).write
        # The form is the stricter judge; but a set inside a model has no settled order in it.
        return dump(write(one, ())) == dump(write(other, ())) or bool(one == other)


_WRITE: dict[type, Callable[[Writer, Any, Path], Any]] = {
    NoneType: Writer._constant,
    bool: Writer._constant,
    int: Writer._int,
    float: Writer._float,
    str: Writer.text,
    list: Writer._items,
    dict: Writer._dict,
    tuple: Writer._tuple,
    set: Writer._set,
    frozenset: Writer._frozenset,
}


class Reader:
    """Turns a JSON form into the value it stands for; CodecError if it stands for none."""

    def __init__(self, types: Registry) -> None:
        self.types = types

    def read(self, form: Any, depth: int) -> Any:
        """Give the value; `depth` is how deep in the whole it stands."""
        if depth > MAX_DEPTH:
            raise CodecError(f"it is nested more than {MAX_DEPTH} deep")
        if type(form) is list:
            return self._items(form, depth)
        if type(form) is not dict:
            return form
        if len(form) == 1:
            ((key, data),) = form.items()
            if key.startswith("$"):
                return self._tagged(key, data, depth)
        return {key: self.read(each, depth + 1) for key, each in form.items()}

    def _tagged(self, tag: str, data: Any, depth: int) -> Any:
        # A constructor of the user's may raise anything; whoever reads a payload waits for CodecError only.
        try:
            if read := _READ_TAG.get(tag):
                return read(_need(data, str))
            if read_parts := _READ_PARTS.get(tag):
                return read_parts(self, _need(data, list), depth)
        except CodecError:
            raise
        except Exception as error:
            raise CodecError(f"{tag} holds no such value: {_brief(error)}") from error
        raise CodecError(f"the tag {tag!r} is unknown; an object with this key is written {{'$dict': [[key, value]]}}")

    def _items(self, data: list[Any], depth: int) -> list[Any]:
        return [self.read(item, depth + 1) for item in data]

    def _tuple(self, data: list[Any], depth: int) -> tuple[Any, ...]:
        return tuple(self._items(data, depth))

    def _set(self, data: list[Any], depth: int) -> set[Any]:
        return set(self._items(data, depth))

    def _frozenset(self, data: list[Any], depth: int) -> frozenset[Any]:
        return frozenset(self._items(data, depth))

    def _dict(self, data: list[Any], depth: int) -> dict[Any, Any]:
        return dict(self._items(_need(pair, list), depth) for pair in data)

    def _own_type(self, data: list[Any], depth: int) -> Any:
        name, parts = data
        shape = self.types.named(_need(name, str))
        if shape is None:
            raise CodecError(f"the type {name!r} is not registered here; call app.codec.register(...)")
        return shape.put_together(self.read(parts, depth))


_READ_PARTS: dict[str, Callable[[Reader, list[Any], int], Any]] = {
    "$tuple": Reader._tuple,
    "$set": Reader._set,
    "$frozenset": Reader._frozenset,
    "$dict": Reader._dict,
    "$enum": Reader._own_type,
    "$object": Reader._own_type,
}


def too_large(what: str, size: int | None, most: int) -> CodecError:
    """Make the error for a value that takes more than `most` bytes."""
    subject = "arguments are" if what == ARGUMENTS else f"{what} is"
    amount = f"{show_size(size)}, " if size is not None else ""
    return CodecError(f"{subject} {amount}more than {show_size(most)}; store the data and pass its id")


def _need(data: Any, kind: type[T]) -> T:
    if type(data) is not kind:
        raise ValueError(f"expected {_JSON_WORDS[kind]}")
    return data


def _why_not(value: Any) -> str:
    kind = type(value)
    if shape_of(kind):
        return f"the type {kind.__qualname__} is not registered; call app.codec.register({kind.__name__})"
    for base, plain in _NEAREST.items():
        if isinstance(value, base):
            return f"object of type {kind.__qualname__} cannot be stored as such; convert it to {plain.__name__} first"
    return f"object of type {kind.__qualname__} cannot be stored; pass an id instead"


def _step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{short_repr(key)}]"


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
