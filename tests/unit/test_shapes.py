"""Which types a hint names, so that the types in a task's signature are known without another word."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar, Union

import msgspec
import pytest

from dray.codec import Codec
from dray.shapes import types_in


class Colour(enum.Enum):
    RED = 1


class Size(enum.IntEnum):
    BIG = 1


@dataclass
class Line:
    colour: Colour
    parent: Order | None = None


@dataclass
class Order:
    lines: list[Line]
    size: Optional[Size] = None  # noqa: UP045


class Parcel(msgspec.Struct):
    order: Order


class Entry(TypedDict):
    colour: Colour


class Pair(NamedTuple):
    left: Colour
    right: int


T = TypeVar("T")
Bound = TypeVar("Bound", bound=Colour)
Id = NewType("Id", Size)


@dataclass
class Box(Generic[T]):
    content: T


def found(hint: object) -> set[type]:
    return set(types_in(hint))


@pytest.mark.rows("S2.22")
@pytest.mark.parametrize(
    ("hint", "types"),
    [
        (Colour, {Colour}),
        (Colour | None, {Colour}),
        (Union[Size, Colour], {Size, Colour}),  # noqa: UP007
        (list[dict[str, tuple[Colour, ...]]], {Colour}),
        (Mapping[Colour, set[Size]], {Colour, Size}),
        (Annotated[Colour, Size], {Colour}),
        (Literal[Colour.RED, 3], {Colour}),
        (Callable[[Colour], Size], {Colour, Size}),
        (Bound, {Colour}),
        (Id, {Size}),
        (type[Colour], {Colour}),
        (Order, {Order, Line, Colour, Size}),
        (Parcel, {Parcel, Order, Line, Colour, Size}),
        (Entry, {Colour}),
        (Pair, {Pair, Colour}),
        (Box[Size], {Box, Size}),
        (int, set()),
        (enum.Enum, set()),
        (Any, set()),
        (None, set()),
        ("Colour", set()),
        (list["Colour"], set()),
    ],
)
def test_types_are_found_wherever_they_stand_in_a_hint(hint: object, types: set[type]) -> None:
    assert found(hint) == types


def test_the_signature_of_a_function_is_walked() -> None:
    def task(order: Order, *rest: Size, day: date, **more: Colour) -> list[Parcel]:
        return []

    assert found(task) == {Order, Line, Colour, Size, Parcel}


def test_a_name_that_does_not_resolve_is_passed_over() -> None:
    def task(one: Nowhere, two: Colour, three: list[Nowhere]) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    @dataclass
    class Half:
        one: Nowhere  # type: ignore[name-defined]  # noqa: F821
        two: Size = field(default=Size.BIG)

    assert found(task) == {Colour}
    assert found(Half) == {Half, Size}


def test_registering_from_hints_keeps_a_name_that_was_given() -> None:
    codec = Codec()
    codec.register(Colour, "shop.Colour")
    codec.register_from(Order, lambda: None)
    codec.register_from(Order)
    assert codec.encode(Colour.RED) == '{"$enum":["shop.Colour","RED"]}'
    order = Order([Line(Colour.RED)], Size.BIG)
    assert codec.decode(codec.check(order)) == order


def test_a_local_class_is_named_without_the_function_around_it() -> None:
    class Local(enum.Enum):
        ONE = 1

    codec = Codec()
    codec.register_from(Local)
    assert codec.encode(Local.ONE) == '{"$enum":["Local","ONE"]}'


def test_a_pydantic_model_travels_as_its_own_json() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Street(pydantic.BaseModel):
        name: str = pydantic.Field(alias="$date")

    class Address(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        street: Street
        since: date
        tags: set[int]

    class Customer(pydantic.BaseModel):
        address: Address
        anything: Any = None

    codec = Codec()
    codec.register_from(list[Customer])
    street = Street.model_validate({"$date": "Main"})
    customer = Customer(address=Address(street=street, since=date(2024, 2, 29), tags=set()))
    # A set that has shrunk has another order than an equal one that was small from the start.
    customer.address.tags.update(range(100))
    customer.address.tags.difference_update({*range(100)} - {1, 8, 16})
    assert codec.decode(codec.check([customer])) == [customer]
    codec.register(Box)
    assert codec.decode(codec.check(Box(customer))) == Box(customer)
    with pytest.raises(ValueError, match=r"value\[0\]: a value of .*Customer does not come back equal"):
        codec.check([customer.model_copy(update={"anything": date(2024, 2, 29)})])
    with pytest.raises(ValueError, match="cannot be read"):
        codec.decode('{"$object":["Customer",{"address":5}]}')
    with pytest.raises(ValueError, match="cannot be registered"):
        codec.register(pydantic.BaseModel)
