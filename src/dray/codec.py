"""How arguments and results travel: JSON that a person can read and write, with tags for what JSON lacks.

Plain JSON values travel as themselves. Anything else is an object with one key that starts with `$`, such as
`{"$date": "2024-02-29"}`; a dict that could be taken for one is written as `{"$dict": [[key, value], ...]}`.
Nothing in a payload can make us import anything: a type is found only by the name it was registered under.

A datetime keeps its instant and its offset from UTC, not the name of its zone; one without a zone stays so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from dray.errors import CodecError
from dray.payload import ARGUMENTS, Reader, Writer, dump, too_large
from dray.shapes import Registry, types_in
from dray.tags import is_plain

C = TypeVar("C", bound=type)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    a: list[Any] = []
    k: dict[str, Any] = {}


_load: Callable[[str | bytes], Any] = msgspec.json.Decoder().decode
_load_call: Callable[[str | bytes], _Call] = msgspec.json.Decoder(_Call).decode


class Codec:
    """Writes values as JSON text and reads them back; knows the types that were registered with it.

    >>> from datetime import date
    >>> Codec().encode_call((7,), {"day": date(2024, 2, 29)})
    '{"a":[7],"k":{"day":{"$date":"2024-02-29"}}}'
    """

    def __init__(self, *, max_bytes: int = 2**20) -> None:
        self.max_bytes = max_bytes
        self._types = Registry()

    def register(self, cls: C, name: str | None = None, *, aliases: Iterable[str] = ()) -> C:
        """Let values of an enum, dataclass, msgspec.Struct, named tuple or pydantic model travel.

        The name, by default that of the class without its module, is stored with each value. After a rename,
        give the old one as an alias for as long as stored jobs have it. Can be used as a decorator.
        """
        self._types.add(cls, name, aliases)
        return cls

    def register_from(self, *hints: object) -> None:
        """Register the types found in hints or in a function's signature, also in lists, unions and fields.

        Best called late: a name that does not resolve yet is passed over. A known type keeps its name.
        """
        for hint in hints:
            for cls in types_in(hint):
                if cls not in self._types:
                    self._types.add(cls, None, ())

    def encode(self, value: Any, *, what: str = "value") -> str:
        """Write a value; CodecError names the place in `what` that cannot be stored."""
        return self._encode(value, what, proving=False)

    def check(self, value: Any, *, what: str = "value") -> str:
        """Write a value as `encode` does, and make sure that it comes back equal.

        Only values of registered types are made again for this: for all others it holds by construction.
        """
        return self._encode(value, what, proving=True)

    def decode(self, text: str | bytes) -> Any:
        """Read what `encode` or a person has written; CodecError if it stands for no value."""
        value = _parsed(_load, text, "value")
        return self._read([value], "value", 0)[0] if _has_tags(text) else value

    def encode_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Write the arguments of a call as `{"a": [...], "k": {...}}`, checked; an empty part is left out."""
        call: dict[str, Any] = {}
        if args:
            call["a"] = args
        if kwargs:
            call["k"] = kwargs
        data = self._dump_plain((*args, *kwargs.values()) if kwargs else args, 1, call)
        return self._text(data or self._dump_call(args, kwargs), ARGUMENTS)

    def decode_call(self, text: str | bytes) -> tuple[list[Any], dict[str, Any]]:
        """Read what `encode_call` or a person has written; CodecError if it stands for no call."""
        call = _parsed(_load_call, text, ARGUMENTS)
        if not _has_tags(text):
            return call.a, call.k
        values = self._read([*call.a, *call.k.values()], ARGUMENTS, 1)
        return values[: len(call.a)], dict(zip(call.k, values[len(call.a) :], strict=True))

    def _encode(self, value: Any, what: str, *, proving: bool) -> str:
        data = self._dump_plain((value,), 0, value)
        if data is None:
            with _stack_end(what):
                writer = Writer(self._types, what, most=self.max_bytes, proving=proving)
                data = dump(writer.write(value, ()))
        return self._text(data, what)

    def _dump_plain(self, values: Iterable[Any], depth: int, whole: object) -> bytes | None:
        if not is_plain(values, depth, self.max_bytes):
            return None
        try:
            return dump(whole)
        except (ValueError, RecursionError):
            # Half a surrogate pair, or a monstrous number: the careful way finds out where, and says so.
            return None

    def _dump_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        with _stack_end(ARGUMENTS):
            writer = Writer(self._types, ARGUMENTS, most=self.max_bytes, proving=True)
            call: dict[str, Any] = {}
            if args:
                call["a"] = [writer.write(value, (index,)) for index, value in enumerate(args)]
            if kwargs:
                call["k"] = {writer.text(key, (key,)): writer.write(kwargs[key], (key,)) for key in kwargs}
            return dump(call)

    def _text(self, data: bytes, what: str) -> str:
        if len(data) > self.max_bytes:
            raise too_large(what, len(data), self.max_bytes)
        return data.decode()

    def _read(self, forms: list[Any], what: str, depth: int) -> list[Any]:
        reader = Reader(self._types)
        try:
            return [reader.read(form, depth) for form in forms]
        except RecursionError as error:
            raise CodecError(f"the stored {what} cannot be read: nested too deep") from error
        except CodecError as error:
            raise CodecError(f"the stored {what} cannot be read: {error}") from error


def sanitize(text: str) -> str:
    """Make a text that every database can store: NUL and halves of surrogate pairs become U+FFFD.

    >>> sanitize("a\\x00b")
    'a\ufffdb'
    """
    return _UNSTORABLE.sub("\ufffd", text)


@contextmanager
def _stack_end(what: str) -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise CodecError(f"{what}: nested too deep for what is left of the stack") from error


def _parsed(load: Callable[[str | bytes], Any], text: str | bytes, what: str) -> Any:
    try:
        return load(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CodecError(f"the stored {what} cannot be read: {error}") from error


def _has_tags(text: str | bytes) -> bool:
    # A person's JSON may write the dollar of a tag as an escape.
    if isinstance(text, str):
        return '"$' in text or "\\u0024" in text
    return b'"$' in text or b"\\u0024" in text
