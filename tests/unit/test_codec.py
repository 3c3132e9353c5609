"""The codec: what goes in comes out, or is refused by name; a payload can do nothing but be read."""

from __future__ import annotations

import enum
import json
import math
import socket
import sys
import zoneinfo
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dray.codec import Codec, sanitize
from dray.errors import BadOption, CodecError


class Colour(enum.Enum):
    RED = "r"
    BLUE = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    points: tuple[Point, ...]


class Parcel(msgspec.Struct):
    content: Any
    weight: Decimal = Decimal(0)


class Pair(NamedTuple):
    left: Any
    right: Any


@pytest.fixture
def codec() -> Codec:
    return known()


def known(max_bytes: int = 2**20) -> Codec:
    codec = Codec(max_bytes=max_bytes)
    for cls in (Colour, Level, Word, Right, Point, Frozen, Parcel, Pair):
        codec.register(cls)
    return codec


def identical(one: Any, other: Any) -> bool:
    """Equal all the way down in type and value, where == would call 1, True and 1.0 the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return identical(list(one), list(other)) and identical(list(one.values()), list(other.values()))
    if isinstance(one, set | frozenset):
        return identical(sorted(one, key=repr), sorted(other, key=repr))
    if isinstance(one, Point):
        return identical([one.x, one.y], [other.x, other.y])
    if isinstance(one, Parcel):
        return identical([one.content, one.weight], [other.content, other.weight])
    if isinstance(one, Frozen):
        return identical(one.points, other.points)
    return repr(one) == repr(other)


ZONES = (UTC, timezone(timedelta(hours=-3, microseconds=5)))

texts = st.text(st.characters(exclude_categories=["Cs"]))
hashables = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(["$date", "$dict", "$", "$object", "a", "k"]),
    st.binary(),
    st.datetimes(),
    st.datetimes().map(lambda when: when.replace(fold=1)),
    # Where the offset is fixed no hour comes twice, and the fold says nothing.
    st.datetimes(timezones=st.sampled_from(ZONES)).map(lambda when: when.replace(fold=0)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.sampled_from([*Colour, *Level, *Word, *Right, Right.READ | Right.WRITE, Right(0)]),
).filter(lambda value: not (isinstance(value, Decimal) and value.is_snan()))


def parts(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(values, max_size=4),
        st.lists(values, max_size=4).map(tuple),
        st.dictionaries(texts | st.sampled_from(["$date", "$tuple", "$dict"]), values, max_size=4),
        st.dictionaries(hashables, values, max_size=3),
        st.sets(hashables, max_size=4),
        st.frozensets(hashables, max_size=4),
        st.builds(Point, values, values),
        st.builds(Parcel, values, st.decimals(allow_nan=False)),
        st.builds(Pair, values, values),
        st.builds(Frozen, st.lists(st.builds(Point, values), max_size=2).map(tuple)),
    )


values = st.recursive(hashables, parts, max_leaves=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
)


@pytest.mark.rows("S2.22", "S2.15", "C11")
@given(values)
@example(-0.0)
@example(2**64)
@example("a\0b")
@example({"$date": 1})
@example({"$date": 1, "x": 2})
@example({1: "int", "1": "text"})
@example({True: 1})
@example(Decimal("NaN"))
@example(Decimal("1.00"))
@example(datetime(2024, 10, 27, 2, 30, fold=1))
@example(timedelta.min)
@example(timedelta.max)
@example((1, [2, (3,)]))
def test_every_value_comes_back_identical(value: Any) -> None:
    codec = known()
    text = codec.check(value)
    assert identical(codec.decode(text), value)
    assert identical(codec.decode(text.encode()), value)
    assert codec.encode(codec.decode(text)) == text


@pytest.mark.rows("S2.22")
@given(st.lists(values, max_size=3), st.dictionaries(texts, values, max_size=3))
@example([], {"$tuple": [1]})
@example([], {"$tuple": (1,)})
def test_every_call_comes_back_identical(args: list[Any], kwargs: dict[str, Any]) -> None:
    codec = known()
    text = codec.encode_call(tuple(args), kwargs)
    assert identical(codec.decode_call(text), (args, kwargs))


@given(plain)
def test_plain_json_travels_as_itself(value: Any) -> None:
    text = Codec().check(value)
    if "$" not in text:
        assert json.loads(text) == value
        assert msgspec.json.decode(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 2, 29, 12, tzinfo=UTC), '{"$datetime":"2024-02-29T12:00:00+00:00"}'),
        (date(2024, 2, 29), '{"$date":"2024-02-29"}'),
        (time(8, 30), '{"$time":"08:30:00"}'),
        (timedelta(hours=36), '{"$timedelta":"P1DT43200S"}'),
        (Decimal("1.50"), '{"$decimal":"1.50"}'),
        (UUID(int=5), '{"$uuid":"00000000-0000-0000-0000-000000000005"}'),
        (b"\0\xff", '{"$bytes":"AP8="}'),
        ((1, 2), '{"$tuple":[1,2]}'),
        ({"b", "a"}, '{"$set":["a","b"]}'),
        (frozenset({2, 1}), '{"$frozenset":[1,2]}'),
        ({1: "x"}, '{"$dict":[[1,"x"]]}'),
        ({"$date": "x"}, '{"$dict":[["$date","x"]]}'),
        (Colour.RED, '{"$enum":["Colour","RED"]}'),
        (Level.HIGH, '{"$enum":["Level","HIGH"]}'),
        (Word.YES, '{"$enum":["Word","YES"]}'),
        (Right.READ | Right.WRITE, '{"$enum":["Right",3]}'),
        (Point(1, (2,)), '{"$object":["Point",{"x":1,"y":{"$tuple":[2]}}]}'),
        ("a\0b", '"a\\u0000b"'),
    ],
)
def test_the_form_on_the_wire_stays(codec: Codec, value: Any, text: str) -> None:
    assert codec.encode(value) == text
    assert identical(codec.decode(text), value)


def test_a_call_leaves_out_what_is_empty(codec: Codec) -> None:
    assert codec.encode_call((), {}) == "{}"
    assert codec.encode_call((7,), {}) == '{"a":[7]}'
    assert codec.encode_call((), {"to": "ann"}) == '{"k":{"to":"ann"}}'
    assert codec.decode_call("{}") == ([], {})
    assert codec.decode_call('{"a":[7],"k":{}}') == ([7], {})


def test_a_payload_may_be_written_by_hand(codec: Codec) -> None:
    text = ' {"k": {"day": {"\\u0024date": "2024-02-29"}}} '
    assert codec.decode_call(text) == codec.decode_call(text.encode()) == ([], {"day": date(2024, 2, 29)})
    assert codec.decode('{"$object": ["Point", {"x": 1}]}') == Point(1, 0)


def test_a_named_zone_becomes_its_offset_even_in_the_hour_that_comes_twice(codec: Codec) -> None:
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    for fold, offset in ((0, 2), (1, 1)):
        back = codec.decode(codec.check(datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=fold)))
        assert back.isoformat() == f"2024-10-27T02:30:00+0{offset}:00"
    with pytest.raises(CodecError, match="its zone has no offset without a date"):
        codec.check(time(12, tzinfo=zone))


class SafeText(str):
    __slots__ = ()


@pytest.mark.rows("C11")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "value: JSON has no word for nan"),
        ([1.0, -math.inf], r"value\[1\]: JSON has no word for -inf"),
        (
            {"a": [None, object()]},
            r"value\.a\[1\]: object of type object cannot be stored; pass an id instead",
        ),
        ({"two words": object()}, r"value\['two words'\]: object of type object"),
        ("\ud800", "value: holds half of a surrogate pair"),
        ({"\udfff": 1}, "holds half of a surrogate pair"),
        ({("\udfff",): 1}, "holds half of a surrogate pair"),
        ([10**4300], r"value\[0\]: has more digits than Python reads back"),
        (SafeText("x"), "object of type SafeText cannot be stored as such; convert it to str first"),
        (OrderedDict(a=1), "convert it to dict first"),
        (defaultdict(list), "convert it to dict first"),
        (bytearray(b"x"), "convert it to bytes first"),
        (type("Stamp", (datetime,), {})(2024, 1, 1), "convert it to datetime first"),
        (len, "object of type builtin_function_or_method cannot be stored"),
        (Point, "object of type type cannot be stored"),
        (1j, "object of type complex cannot be stored"),
        ({1, frozenset({1j})}, "object of type complex cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(codec: Codec, value: Any, words: str) -> None:
    for refuse in (codec.check, codec.encode):
        with pytest.raises(CodecError, match=words):
            refuse(value)


def test_the_place_in_a_call_is_named(codec: Codec) -> None:
    with socket.socket() as it:
        with pytest.raises(CodecError, match=r"^args\.items\[3\]: object of type socket cannot be stored; pass an id"):
            codec.encode_call((), {"items": [1, 2, 3, it]})
        with pytest.raises(CodecError, match=r"^args\[1\]\.x: object of type socket"):
            codec.encode_call((1, Point(it)), {})
        with pytest.raises(CodecError, match=r"^result\.total: object of type socket"):
            codec.check({"total": it}, what="result")


@pytest.mark.rows("C10")
def test_a_type_travels_only_when_registered() -> None:
    codec = Codec()
    with pytest.raises(CodecError, match=r"value\[0\]: the type Colour is not registered; call app.codec.register\(Colour\)"):
        codec.check([Colour.RED])
    with pytest.raises(CodecError, match="the type 'Colour' is not registered here"):
        codec.decode('{"$enum":["Colour","RED"]}')
    assert codec.register(Colour) is Colour
    assert codec.decode(codec.check([Colour.RED])) == [Colour.RED]


@pytest.mark.rows("C10")
@pytest.mark.parametrize("name", ["wave", "wave.Wave_read", "os.system", "dray.store", "builtins.eval", "Colour.__class__"])
def test_no_payload_makes_us_import_anything(codec: Codec, name: str) -> None:
    sys.modules.pop("wave", None)
    before = set(sys.modules)
    for tag in ("$enum", "$object"):
        for data in ([name, "x"], [name, {}], [name, ["ls"]]):
            with pytest.raises(CodecError):
                codec.decode(json.dumps({tag: data}))
    assert set(sys.modules) == before


def test_a_renamed_type_is_read_under_its_old_name() -> None:
    old, new = Codec(), Codec()
    old.register(Point, "Spot")
    new.register(Point, aliases=["Spot"])
    assert new.decode(old.encode(Point(1))) == Point(1)
    assert new.encode(Point(1)) == '{"$object":["Point",{"x":1,"y":0}]}'


def test_two_types_cannot_share_a_name_but_a_class_may_be_defined_again() -> None:
    codec = Codec()
    codec.register(Point)
    with pytest.raises(BadOption, match=r"two types want to be stored as 'Point'.*register\(Pair, name=...\)"):
        codec.register(Pair, "Point")
    again = dataclass(type("Point", (), {"__annotations__": {"x": int}, "__module__": __name__}))
    codec.register(again)
    assert type(codec.decode(codec.check(again(1)))) is again
    with pytest.raises(CodecError):
        codec.check(Point(1))


@pytest.mark.parametrize("cls", [int, socket.socket, enum.Enum, enum.IntFlag, msgspec.Struct, tuple, SafeText])
def test_only_types_with_parts_can_be_registered(cls: type) -> None:
    with pytest.raises(BadOption, match="cannot be registered"):
        Codec().register(cls)


@dataclass
class Doubling:
    n: int

    def __post_init__(self) -> None:
        self.n *= 2


@dataclass
class Remembering:
    n: int
    seen: list[int] = field(default_factory=list, init=False)


@dataclass
class Picky:
    n: int
    secret: InitVar[int]

    def __post_init__(self, secret: int) -> None:
        pass


class Sly(msgspec.Struct):
    n: Any

    def __post_init__(self) -> None:
        self.n = bool(self.n)


@pytest.mark.rows("C11")
def test_a_value_that_does_not_come_back_equal_is_refused_at_enqueue() -> None:
    codec = Codec()
    for cls in (Doubling, Picky, Sly):
        codec.register(cls)
    sly = Sly(1)
    sly.n = 1
    with pytest.raises(CodecError, match=r"^args\[0\]\.n: a value of Doubling does not come back equal"):
        codec.encode_call((Doubling(1),), {})
    with pytest.raises(CodecError, match=r"^value\[0\]: cannot be made again from what is stored: .*'secret'"):
        codec.check([Picky(1, 2)])
    with pytest.raises(CodecError, match=r"^value\.n: a value of Sly does not come back equal"):
        codec.check(sly)
    assert codec.encode(Doubling(1))


def test_a_field_the_constructor_does_not_take_travels_too() -> None:
    codec = Codec()
    codec.register(Remembering)
    value = Remembering(1)
    value.seen.append(5)
    assert codec.decode(codec.check(value)) == value


@pytest.mark.parametrize("deep", [100, 101, 20_000])
@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}, lambda value: (value,), Point])
def test_depth_has_a_limit_and_no_recursion_error(codec: Codec, deep: int, wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(deep):
        value = wrap(value)
    if deep == 100:
        assert codec.decode(codec.encode(value)) == value
        return
    with pytest.raises(CodecError, match="nested more than 100 deep, or contains itself"):
        codec.encode(value)
    while value != 1:  # freed from the outside in: Python's own destructor would recurse
        value = value.x if isinstance(value, Point) else next(iter(value.values() if type(value) is dict else value))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, '{"$set":[' * 300 + "]}" * 300, '{"$tuple":[' * 60])
def test_a_deep_payload_is_refused_without_recursion_error(codec: Codec, text: str) -> None:
    with pytest.raises(CodecError):
        codec.decode(text)
    with pytest.raises(CodecError):
        codec.decode_call(text)


def test_tags_are_read_as_deep_as_they_are_written(codec: Codec) -> None:
    assert codec.decode('{"$tuple":[' * 101 + "]}" * 101)
    with pytest.raises(CodecError, match="nested more than 100 deep"):
        codec.decode('{"$tuple":[' * 102 + "]}" * 102)


def test_a_value_that_contains_itself_is_refused() -> None:
    codec = known(max_bytes=10_000)
    loop: list[Any] = []
    loop.append(loop)
    twice: dict[str, Any] = {}
    twice["a"] = twice["b"] = twice
    point = Point(1)
    point.x = [point, point]
    for value in (loop, twice, point, (loop, 1j)):
        with pytest.raises(CodecError):
            codec.check(value)
        with pytest.raises(CodecError):
            codec.encode_call((value,), {})


def test_a_value_that_doubles_itself_ends_at_the_size_limit() -> None:
    codec = Codec(max_bytes=10_000)
    for seed in ([1], [(1,)]):
        value: Any = seed
        for _ in range(80):
            value = [value, value]
        with pytest.raises(CodecError, match=r"value is more than 9\.8 KiB; store the data and pass its id"):
            codec.check(value)


def test_a_size_limit_tells_both_sizes() -> None:
    codec = Codec()
    big = "x" * 3_400_000
    for args, kwargs in (((big,), {}), ((), {"b": big}), ((big.encode(),), {})):
        with pytest.raises(CodecError, match=r"^arguments are [34].\d MiB, more than 1 MiB; store the data and pass its id$"):
            codec.encode_call(args, kwargs)
    with pytest.raises(CodecError, match=r"^result is 3.2 MiB, more than 1 MiB"):
        codec.check(big, what="result")
    assert Codec(max_bytes=4_000_000).encode(big)


def test_a_limit_that_shrank_loses_no_stored_job() -> None:
    text = Codec().encode_call(("x" * 1000,), {})
    assert Codec(max_bytes=10).decode_call(text) == (["x" * 1000], {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ('{"a": 1}', "Expected `array`, got `int`"),
        ('{"k": []}', "Expected `object`, got `array`"),
        ('{"x": []}', "unknown field `x`"),
        ('{"a": [1e999]}', "out of range"),
        ('{"a": [NaN]}', "malformed"),
        ("\ud800", "surrogates not allowed"),
        (b"\xff\xfe", "malformed"),
        (b'{"a": ["\xff"]}', "decode byte|Invalid UTF-8"),
        ('{"a": [{"$date": "yesterday"}]}', r"\$date holds no such value: Invalid isoformat"),
        ('{"a": [{"$date": 5}]}', r"\$date holds no such value: expected a text"),
        ('{"a": [{"$bytes": "AP 8="}]}', r"\$bytes holds no such value: Only base64 data is allowed"),
        ('{"a": [{"$decimal": "many"}]}', r"\$decimal holds no such value"),
        ('{"a": [{"$set": [[]]}]}', r"\$set holds no such value: unhashable"),
        ('{"a": [{"$set": "abc"}]}', r"\$set holds no such value: expected a list"),
        ('{"a": [{"$dict": ["ab"]}]}', r"\$dict holds no such value: expected a list"),
        ('{"a": [{"$dict": [[1, 2, 3]]}]}', r"\$dict holds no such value"),
        ('{"a": [{"$moment": 1}]}', r"the tag '\$moment' is unknown"),
        ('{"a": [{"$enum": ["Colour"]}]}', r"\$enum holds no such value"),
        ('{"a": [{"$enum": [1, 2]}]}', r"\$enum holds no such value: expected a text"),
        ('{"a": [{"$enum": ["Colour", "GREEN"]}]}', r"\$enum holds no such value: 'GREEN'"),
        ('{"a": [{"$enum": ["Colour", 1]}]}', "Colour has no member 1"),
        ('{"a": [{"$object": ["Point", []]}]}', "the fields of Point are no object"),
        ('{"a": [{"$object": ["Point", {"z": 1}]}]}', "unexpected keyword argument 'z'"),
        ('{"a": [{"$object": ["Point", {"__class__": 1}]}]}', "unexpected keyword argument '__class__'"),
    ],
)
def test_a_malformed_call_is_told_what_is_wrong(codec: Codec, text: str | bytes, words: str) -> None:
    with pytest.raises(CodecError, match=f"^the stored args cannot be read: .*{words}"):
        codec.decode_call(text)


kinds = [
    "datetime",
    "date",
    "time",
    "timedelta",
    "decimal",
    "uuid",
    "bytes",
    "tuple",
    "set",
    "dict",
    "enum",
    "x",
]
tags = st.sampled_from(["$object", "$frozenset", *(f"${kind}" for kind in kinds)])
names = st.sampled_from(["Colour", "Right", "Point", "Frozen", "Parcel", "Pair", "Nobody"])
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | names | st.sampled_from(["2024-01-01", "P1D", "1e5", "RED"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(tags | texts, inner, max_size=2)
        | st.dictionaries(tags, inner, min_size=1, max_size=1)
        | st.dictionaries(tags, st.tuples(names, inner), min_size=1, max_size=1)
    ),
)


def reads_or_refuses(codec: Codec, text: str | bytes) -> None:
    for read in (codec.decode, codec.decode_call):
        try:
            read(text)
        except CodecError:
            continue


@given(st.binary() | st.text() | hostile.map(json.dumps) | st.lists(hostile).map(lambda args: json.dumps({"a": args})))
def test_a_payload_is_read_or_refused_and_nothing_else(text: str | bytes) -> None:
    reads_or_refuses(known(), text)


def test_a_constructor_that_fails_or_recurses_is_a_refusal() -> None:
    @dataclass
    class Trap:
        n: int

        def __post_init__(self) -> None:
            if self.n:
                raise KeyError("boom")
            Trap(0)

    codec = Codec()
    codec.register(Trap)
    for n in (0, 1):
        with pytest.raises(CodecError, match="cannot be read"):
            codec.decode(f'{{"$object":["Trap",{{"n":{n}}}]}}')


def test_an_object_that_cannot_be_looked_at_is_refused() -> None:
    @dataclass
    class Shy:
        n: int

        def __getattribute__(self, name: str) -> Any:
            if name == "n":
                raise RuntimeError("no")
            return super().__getattribute__(name)

    codec = Codec()
    codec.register(Shy)
    with pytest.raises(CodecError, match="value: Shy cannot be taken apart: no"):
        codec.check(Shy(1))


@given(st.text())
@example("a\0b\ud800c\U0001f600")
def test_a_sanitized_text_can_be_stored_anywhere(text: str) -> None:
    clean = sanitize(text)
    assert "\0" not in clean
    assert len(clean) == len(text)
    assert sanitize(clean) == clean
    assert clean.encode().decode() == clean
    if clean != text:
        assert "\ufffd" in clean
