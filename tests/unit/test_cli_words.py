"""What people write on a command line, and how times and texts are shown to them."""

from __future__ import annotations

import doctest
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dray.calls import call_text
from dray.cli import arguments, output, words
from dray.cli.arguments import parse_arguments, parse_labels, read_call
from dray.cli.words import about, clean, one_line, when
from dray.codec import Codec
from dray.errors import BadOption

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
decode = Codec().decode


@pytest.mark.parametrize("module", [words, arguments, output], ids=lambda module: module.__name__)
def test_the_examples_are_true(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (["to=ann"], {"to": "ann"}),
        (["to="], {"to": ""}),
        (["text=a=b:=c d\n"], {"text": "a=b:=c d\n"}),
        (["count:=3", "ids:=[1, 2]", "no:=null"], {"count": 3, "ids": [1, 2], "no": None}),
        (["user.name=Al", "user.tags.x:=1"], {"user": {"name": "Al", "tags": {"x": 1}}}),
        (["größe:=1.5"], {"größe": 1.5}),
        (['day:={"$date":"2024-02-29"}'], {"day": NOW.date()}),
    ],
)
def test_arguments(given: list[str], means: dict[str, Any]) -> None:
    assert parse_arguments(given, decode) == means


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["ann"], "'ann' is no argument"),
        (["=x"], "is no argument"),
        (["1a=x"], "is no argument"),
        (["a:=x"], "there must be JSON"),
        (["a=1", "a=2"], "a is given twice"),
        (["a=1", "a.b=2"], "a already has a value"),
        (["a.b=1", "a=2"], "a is given twice"),
    ],
)
def test_arguments_that_are_none(given: list[str], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        parse_arguments(given, decode)


def test_a_whole_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "args.json"
    file.write_text('{"a": 1, "b": 2}')
    assert read_call(f"@{file}", ["b:=3"], decode) == ([], {"a": 1, "b": 3})
    assert read_call("[1, 2]", ["c=x"], decode) == ([1, 2], {"c": "x"})
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 5}'))
    assert read_call("-", [], decode) == ([], {"a": 5})
    assert read_call(None, [], decode) == ([], {})


@pytest.mark.parametrize(("given", "says"), [("7", "a JSON object"), ("{", "no JSON"), ("@/no/file", "cannot be read")])
def test_a_whole_call_that_is_none(given: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        read_call(given, [], decode)


def test_labels() -> None:
    assert parse_labels(["customer=42", "a=b=c"]) == {"customer": "42", "a": "b=c"}
    with pytest.raises(BadOption, match="name=value"):
        parse_labels(["customer"])


def test_nothing_that_a_job_says_moves_the_cursor() -> None:
    assert clean("a\x1b[2Jb\x00\x9b1m\tc\nd") == "a\\x1b[2Jb\\x00\\x9b1m\tc\nd"
    assert one_line("a\r\nb\x07") == "a\\nb\\x07"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.04, "0s"), (9.94, "9.9s"), (59, "59s"), (3_599, "59m59s"), (3_661, "1h1m"), (8 * 86_400, "8d")],
)
def test_times(seconds: float, shown: str) -> None:
    assert about(seconds) == shown


def test_instants() -> None:
    assert when(None) == "-"
    assert when(NOW - timedelta(seconds=130), now=NOW) == "2m10s ago"
    assert when(NOW + timedelta(minutes=5), now=NOW) == "in 5m"
    assert when(NOW) == "2024-02-29T12:00:00.000Z"


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ("{}", "send()"),
        ('{"a":[7,"x"],"k":{"to":null}}', 'send(7, "x", to=null)'),
        ('{"a":[{"$date":"2024-02-29"},{"b":[1]}]}', 'send(date("2024-02-29"), {"b":[1]})'),
        ("not json", "send not json"),
        ("[1]", "send [1]"),
        ('{"k": 3}', 'send {"k": 3}'),
    ],
)
def test_a_call_is_shown_as_people_write_it(args: str, shown: str) -> None:
    assert call_text("send", args) == shown


def test_a_very_deep_call_is_shown_as_it_is() -> None:
    deep = '{"a":' + "[" * 5000 + "]" * 5000 + "}"
    assert call_text("send", deep).startswith("send")


def test_facts_stay_on_one_line() -> None:
    assert words.facts_line({"a": 1, "b": "x\ny", "c": "", "d": 0.5, "e": "x y"}) == 'a=1 b=x\\ny c="" d=0.5 e="x y"'
