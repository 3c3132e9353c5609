"""The user's own types: how their values are taken apart and put together, and which of them are known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum, Flag
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from dray.errors import BadOption

# Tells whether two parts are of one type and one content.
Alike = Callable[[Any, Any], bool]


class Shape(Protocol):
    """One registered type, as the codec sees it."""

    @property
    def cls(self) -> type:
        """The type itself."""
        ...

    @property
    def tag(self) -> str:
        """The tag its values carry in the payload."""
        ...

    def take_apart(self, value: Any) -> Any:
        """Give the value's parts as a dict, a text or a number; they may be anything the codec can store."""
        ...

    def put_together(self, parts: Any) -> Any:
        """Make a value from its parts; any error means that they do not fit."""
        ...

    def differs(self, before: Any, after: Any, alike: Alike) -> str | None:
        """Name what differs in two values: a field, "" for the whole, None for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class EnumShape:
    """Members travel by name, flags by number, since a combination of flags has no name of its own."""

    cls: type[Enum]
    tag: str = "$enum"

    def take_apart(self, value: Any) -> Any:
        return int(value.value) if isinstance(value, Flag) else value.name

    def put_together(self, parts: Any) -> Any:
        if type(parts) is str:
            return self.cls[parts]
        if type(parts) is int and issubclass(self.cls, Flag):
            return self.cls(parts)
        raise ValueError(f"{self.cls.__name__} has no member {parts!r}")

    def differs(self, before: Any, after: Any, alike: Alike) -> str | None:
        return None if before is after else ""


@dataclass(frozen=True, slots=True)
class FieldShape:
    """A dataclass, a msgspec Struct or a named tuple: its fields travel by name.

    The constructor is called, so that defaults fill in what an older payload lacks and its checks are obeyed.
    """

    cls: type
    names: tuple[str, ...]
    late: frozenset[str] = frozenset()  # fields the constructor does not take
    tag: str = "$object"

    def take_apart(self, value: Any) -> Any:
        return {name: getattr(value, name) for name in self.names if hasattr(value, name)}

    def put_together(self, parts: Any) -> Any:
        if type(parts) is not dict:
            raise ValueError(f"the fields of {self.cls.__name__} are no object")
        made = self.cls(**{name: part for name, part in parts.items() if name not in self.late})
        for name in self.late & parts.keys():
            object.__setattr__(made, name, parts[name])
        return made

    def differs(self, before: Any, after: Any, alike: Alike) -> str | None:
        if type(before) is not type(after):
            return ""
        one, other = self.take_apart(before), self.take_apart(after)
        return next((name for name in one if not alike(one[name], other.get(name))), None)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A pydantic model: it knows best how to become JSON, and checks what it reads."""

    cls: Any
    tag: str = "$object"

    def take_apart(self, value: Any) -> Any:
        return value.model_dump(mode="json", by_alias=True, round_trip=True)

    def put_together(self, parts: Any) -> Any:
        # As JSON and not as objects: a strict model takes a date as text only from JSON.
        return self.cls.model_validate_json(msgspec.json.encode(parts))

    def differs(self, before: Any, after: Any, alike: Alike) -> str | None:
        return None if before == after else ""


def shape_of(cls: type) -> Shape | None:
    """Give the shape of a type that can be registered, None for any other."""
    if issubclass(cls, Enum):
        return EnumShape(cls) if cls.__members__ else None
    if is_dataclass(cls):
        every = fields(cls)
        late = frozenset(each.name for each in every if not each.init)
        return FieldShape(cls, tuple(each.name for each in every), late)
    if issubclass(cls, msgspec.Struct):
        return FieldShape(cls, cls.__struct_fields__) if cls is not msgspec.Struct else None
    if issubclass(cls, tuple) and (names := getattr(cls, "_fields", None)):
        return FieldShape(cls, tuple(names))
    return ModelShape(cls) if _is_model(cls) else None


def _is_model(cls: type) -> bool:
    # Where nobody has imported pydantic, no class can be one of its models.
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and cls is not base and issubclass(cls, base) and hasattr(cls, "model_dump")


class Registry:
    """The types whose values may travel, by class and by name; no other type is ever made from data."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}
        self._shapes: dict[str, Shape] = {}

    def __contains__(self, cls: type) -> bool:
        return cls in self._names

    def add(self, cls: type, name: str | None, aliases: Iterable[str]) -> None:
        """Know a type under a name, and under older names for reading; BadOption if it cannot be stored."""
        shape = shape_of(cls)
        if shape is None:
            raise BadOption(
                f"{cls.__qualname__} cannot be registered: it is no enum with members, dataclass,"
                " msgspec.Struct, named tuple or pydantic model"
            )
        # The module is left out, so that moving a class, or running its file as a script, loses no job.
        name = name or cls.__qualname__.rpartition("<locals>.")[2]
        for each in (name, *aliases):
            other = self._shapes.get(each)
            if other and _home(other.cls) != _home(cls):
                raise BadOption(
                    f"two types want to be stored as {each!r}: {_home(other.cls)} and {_home(cls)};"
                    f" give one another name: app.codec.register({cls.__name__}, name=...)"
                )
        for each in (name, *aliases):
            self._shapes[each] = shape
        self._names[cls] = name

    def known(self, cls: type) -> tuple[str, Shape] | None:
        """Give the name and the shape of a type, None if it was not registered."""
        name = self._names.get(cls)
        return (name, self._shapes[name]) if name is not None else None

    def named(self, name: str) -> Shape | None:
        """Give the shape registered under a name, None if there is none."""
        return self._shapes.get(name)


def _home(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def types_in(hint: object) -> Iterator[type]:
    """Find every type that can be registered in a hint, in those of a function, or in fields of such types.

    A name that cannot be resolved, such as one imported for type checkers only, is passed over.
    """
    # The hints stay referenced: an id could otherwise be given to another one while we walk.
    seen: dict[int, object] = {}
    waiting = [hint]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen[id(current)] = current
        if isinstance(current, type) and get_origin(current) is None and shape_of(current):
            yield current
        # Newer Pythons resolve a hint's parts only now, and a name in them may not exist (yet).
        with suppress(Exception):
            waiting += _inside(current)


def _inside(hint: object) -> list[object]:
    origin = get_origin(hint)
    if origin is Annotated:
        return [get_args(hint)[0]]
    if origin is Literal:
        return [type(each) for each in get_args(hint)]
    if origin is not None:
        return [origin, *get_args(hint)]
    if isinstance(hint, list):  # the parameters inside Callable[[...], ...]
        return hint
    if isinstance(hint, TypeVar):
        return [hint.__bound__, *hint.__constraints__]
    if isinstance(hint, NewType):
        return [hint.__supertype__]
    if isinstance(hint, type):
        return _hints(hint) if isinstance(shape_of(hint), FieldShape) or is_typeddict(hint) else []
    # A `type X = ...` keeps its meaning in __value__; what else has annotations is a function.
    return [hint.__value__] if hasattr(hint, "__value__") else _hints(hint)


def _hints(source: Any) -> list[object]:
    try:
        return list(get_type_hints(source, include_extras=True).values())
    except Exception:
        return _hints_one_by_one(source)


def _hints_one_by_one(source: Any) -> list[object]:
    annotations: Mapping[str, Any] = getattr(source, "__annotations__", {})
    scope = vars(sys.modules[source.__module__]) if getattr(source, "__module__", None) in sys.modules else {}
    found: list[object] = []
    for name, annotation in annotations.items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        with suppress(Exception):
            found += get_type_hints(alone, globalns=scope, include_extras=True).values()
    return found
