"""Command lines: made of fields, checked before anything is stored, and never a line for a shell."""

from __future__ import annotations

import datetime
import enum
import inspect
import shlex
import subprocess
import sys
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray import Dray
from dray.command import Command
from dray.errors import BadArguments, BadOption, TaskError

rows = pytest.mark.rows
SAY = "import sys; print(sys.argv[1:], sys.stdin.read())"


class Size(enum.Enum):
    A4 = "a4"


def command(argv: list[str], **options: Any) -> Command:
    return Command(name="c", argv=argv, **options)


@rows("S1.3", "S1.24", "S1.25", "C86")
@pytest.mark.parametrize(
    ("argv", "options", "fields", "values", "words"),
    [
        (["p", "{n}"], {}, {}, {"n": 7}, ["p", "7"]),
        (["p", "{n}"], {}, {}, {"n": "a b; rm -rf /"}, ["p", "a b; rm -rf /"]),
        (["p", "--id={n}", "x{n}y{n}"], {}, {}, {"n": "-7"}, ["p", "--id=-7", "x-7y-7"]),
        (["p", "{{n}}"], {}, {}, {}, ["p", "{{n}}"]),
        (["p", "--", "{n}"], {}, {}, {"n": "-rf"}, ["p", "--", "-rf"]),
        (["p", "{n}"], {}, {}, {"n": -7}, ["p", "-7"]),
        (["p"], {"--draft": "d", "-v": "v"}, {"d": bool, "v": bool}, {"d": True, "v": False}, ["p", "--draft"]),
        (["p"], {"--size": "s"}, {"s": Size}, {"s": Size.A4}, ["p", "--size=a4"]),
        (["p"], {"--size": "s"}, {}, {"s": None}, ["p"]),
        (["p", "{n}"], {"--draft": "d"}, {"d": bool}, {"n": 7, "d": True}, ["p", "7", "--draft"]),
        (["p", "{n}"], {"--draft": "d"}, {"d": bool}, {"n": 7, "d": None}, ["p", "7"]),
        (["p", "{n}"], {}, {"items": list}, {"n": 7, "items": [1, 2]}, ["p", "7"]),
        (["p", "{d}"], {}, {"d": datetime.date}, {"d": datetime.date(2030, 1, 2)}, ["p", "2030-01-02"]),
        (["p", "{d}"], {}, {"d": Decimal}, {"d": Decimal("1.50")}, ["p", "1.50"]),
        (["p", "{d}"], {}, {"d": PurePosixPath}, {"d": PurePosixPath("/a/b")}, ["p", "/a/b"]),
    ],
)
def test_each_word_is_an_argument(
    argv: list[str], options: dict[str, str], fields: dict[str, type], values: dict[str, Any], words: list[str]
) -> None:
    one = command(argv, options=options, fields=fields)
    one.check(values)
    expected = [word.replace("{{", "{").replace("}}", "}") for word in words]
    assert one.render(values) == expected
    assert shlex.split(one.shown(values)) == expected


@rows("C86")
@pytest.mark.parametrize(
    ("argv", "fields", "values", "words"),
    [
        (["p", "{n}"], {}, {"n": True}, "n must be"),
        (["p", "{n}"], {}, {"n": 1.5}, "n must be"),
        (["p", "{n}"], {}, {"n": None}, "n must be"),
        (["p", "{n}"], {"n": int}, {"n": "7"}, "n must be int"),
        (["p", "{n}"], {"n": list}, {"n": [1]}, "cannot stand on a command line"),
        (["p", "{n}"], {"n": float}, {"n": float("nan")}, "cannot stand on a command line"),
        (["p", "{n}"], {}, {"n": "a\0b"}, "NUL"),
        (["p", "{n}"], {}, {"n": "--force"}, 'put "--" before'),
        (["p", "{n}{n}"], {}, {"n": "-"}, 'put "--" before'),
        (["kill", "{n}"], {}, {"n": "-1"}, 'put "--" before'),
        (["p", "{n}"], {"n": Decimal}, {"n": Decimal("-inf")}, 'put "--" before'),
    ],
)
def test_a_value_that_cannot_stand_there_is_told_and_never_left_out(
    argv: list[str], fields: dict[str, type], values: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadArguments, match=words):
        command(argv, fields=fields).check(values)


@rows("S1.23")
@pytest.mark.parametrize(
    ("argv", "options", "words"),
    [
        ("ls -l", {}, "argv is a list"),
        ([], {}, "argv is a list"),
        (["{p}"], {}, "program itself"),
        (["p", "{a.b}"], {}, "no name of a field"),
        (["p", "{a!r}"], {}, "only {field}"),
        (["p", "{"], {}, "written twice"),
        (["p", "{}"], {}, "no name of a field"),
        (["p"], {"options": {"draft": "d"}}, "no name of an option"),
        (["p"], {"options": {"--a b": "d"}}, "no name of an option"),
        (["p"], {"output": "sometimes"}, "output must be"),
        (["p"], {"stdin": "yaml"}, "stdin must be"),
    ],
)
def test_what_is_no_command_is_told_where_it_is_made(argv: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        command(argv, **options)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_text_arrives_as_one_argument(text: str) -> None:
    one = command(["p", "--", "{t}"])
    one.check({"t": text})
    assert one.render({"t": text}) == ["p", "--", text]


def test_a_command_is_a_task_with_a_signature() -> None:
    app = Dray("sqlite://")
    pdf = app.command("make-pdf", ["bin/pdf", "{id}"], options={"--draft": "draft"}, fields={"draft": bool})
    assert str(inspect.signature(pdf.task.target)) == "(*, id: str | int, draft: bool = None)"
    bound = pdf.bind(id=7)
    assert bound.job.task == "make-pdf"
    for wrong in ({}, {"id": 7, "more": 1}, {"id": 1.5}, {"id": 7, "draft": "yes"}):
        with pytest.raises(BadArguments):
            pdf.bind(**wrong)
    app.command("make-pdf", ["bin/pdf", "{id}"], options={"--draft": "draft"}, fields={"draft": bool})  # a reloaded module
    with pytest.raises(TaskError, match="two tasks"):
        app.command("make-pdf", ["bin/other"])


@rows("S1.5")
def test_by_hand_it_runs_here_and_raises(capfd: pytest.CaptureFixture[str]) -> None:
    app = Dray("sqlite://")
    say = app.command(
        "say", [sys.executable, "-c", "import sys; print(sys.argv[1:], sys.stdin.read())", "{what}"], stdin="json"
    )
    say(what="x y")
    assert capfd.readouterr().out == '[\'x y\'] {"what":"x y"}\n\n'
    fail = app.command("fail", ["false"])
    with pytest.raises(subprocess.CalledProcessError):
        fail()
    with pytest.raises(BadArguments):
        say(what=1.5)
