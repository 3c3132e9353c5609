"""The verbs: their help, their variables, and the one place where an error becomes an exit code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import dray.errors
from dray import cli as doors
from dray.cli import EXIT_CODES, VERBS, cli
from dray.cli.log import OneLine
from dray.cli.options import Common, GlobalOption
from dray.errors import DrayError

CONTEXT = click.Context(cli, info_name="dray")


def run(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="dray", **options)


def command(name: str) -> click.Command:
    found = cli.get_command(CONTEXT, name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", VERBS)
def test_the_list_of_verbs_says_what_the_verbs_say(name: str) -> None:
    assert command(name).name == name
    assert VERBS[name].words
    assert command(name).help


@pytest.mark.parametrize("name", VERBS)
def test_every_help_has_examples_and_the_variables_of_all_flags(name: str) -> None:
    text = run(name, "--help").output
    assert f"Examples:\n    dray {name}" in text
    together = " ".join(text.split())
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert isinstance(parameter.envvar, str)
            assert parameter.envvar in together


@pytest.mark.parametrize("name", VERBS)
def test_the_global_options_may_stand_behind_the_verb(name: str) -> None:
    flags = {flag for parameter in command(name).params for flag in parameter.opts}
    assert {"-A", "--app", "--database-url", "--json", "-v", "--verbose", "--color"} <= flags


def test_a_variable_is_called_as_its_flag() -> None:
    variables = {parameter.envvar for parameter in command("enqueue").params}
    assert {"DRAY_ENQUEUE_IN", "DRAY_ENQUEUE_ARGS", "DRAY_APP", "DRAY_JSON"} <= variables


def test_a_setting_is_not_read_from_its_variable_twice() -> None:
    (option,) = [one for one in command("worker").params if one.name == "concurrency"]
    context = click.Context(command("worker"), info_name="worker", parent=CONTEXT)
    assert option.resolve_envvar_value(context) is None  # the settings do, and know where it came from


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["job"], "there is no verb 'job'; did you mean jobs?"),
        (["xyz"], "there is no verb 'xyz'; there are init, worker,"),
        (["jobs", "--limit", "0"], "(see 'dray jobs --help')"),
        (["enqueue"], "Missing argument 'TASK'"),
        (["enqueue", "t", "--in", "soon"], "is not a duration"),
        (["enqueue", "t", "--at", "noon"], "'noon' is no time"),
        (["prune"], "how old?"),
        (["prune", "--older-than", "1d", "--defaults"], "how old?"),
        (["retry"], "which jobs?"),
        (["cancel", "1", "state:ready"], "ids or a filter, not both"),
        (["cancel", "state:failed"], "failed jobs cannot be cancelled"),
        (["retry", "state:succeeded"], "succeeded jobs cannot be retried without --force"),
        (["retry", "9" * 30], "is no job id"),
        (["retry", "1,x"], "'1,x' is no filter"),
        (["cancel", "1,2", "state:ready"], "ids or a filter, not both"),
        (["retry", "nonsense"], "'nonsense' is no filter"),
        (["stats", "--fail-if", "failed"], "write NAME>NUMBER"),
        (["stats", "--fail-if", "oldest>soon"], "'soon' is no time"),
        (["init", "--check", "--sql"], "not both"),
        (["tend", "--min", "6"], "all: min = 6 is more than max = 5"),
        (["tend", "--min", "0", "--spare", "0"], "would never start a worker"),
        (["tend", "--pool", "mail=8..2"], "mail: min = 8 is more than max = 2"),
        (["tend", "--pool", "mail"], "write QUEUE=MIN..MAX, such as mail=2..8"),
        (["tend", "--pool", "mail=1..2", "--pool", "mail=2..3"], "names a queue twice"),
        (["tend", "mail", "--pool", "mail=1..2"], "with --pool the queues"),
        (["tend", "--pool", "mail=1..2", "--max", "3"], "with --pool the queues"),
        (["tend", "--max-output", "much"], "is not a size"),
        (["tend", "--worker-command", "no-such-program --fast"], "there is no program 'no-such-program'"),
        (["tend", "--worker-command", "'"], "No closing quotation"),
        (["tend", "--worker-command", ""], "--worker-command is empty"),
        (["tend", "--status-file", "/no/such/folder/x"], "there is no such folder"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("dray: ")
    assert result.stdout == ""


def test_ids_from_standard_input_are_checked() -> None:
    result = run("retry", "-", input="1 2\nx\n")
    assert (result.exit_code, result.stderr) == (2, "dray: 'x' is no job id\n")


def test_no_verb_shows_the_help_and_is_wrong_usage() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Verbs:" in result.stderr


def test_the_version() -> None:
    assert run("--version").output == f"dray {dray.__version__}\n"


def test_every_error_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(dray.errors).values() if isinstance(kind, type) and issubclass(kind, DrayError)]
    for kind in kinds:
        codes = [code for wide, code in EXIT_CODES if issubclass(kind, wide)]
        assert codes, kind


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (dray.errors.UnknownJob(7), 3),
        (dray.errors.UnknownTask("x"), 3),
        (dray.errors.IllegalMove(7, "running", "retried"), 4),
        (dray.errors.SchemaError("old"), 5),
        (dray.errors.StoreUnavailable("away"), 69),
        (dray.errors.OutcomeUnknown([]), 69),
        (dray.errors.StoreError("refused"), 1),
        (dray.errors.JobFailed(7, "failed", "x"), 1),
        (dray.errors.NotFinished(7, "ready"), 124),
        (dray.errors.BadOption("x"), 2),
        (dray.errors.ConfigurationError("x"), 2),
    ],
)
def test_exit_codes(error: DrayError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert doors._say(error, Common()) == code
    assert capsys.readouterr().err == f"dray: {error}\n"


def test_an_error_is_one_line_whatever_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    cause = ValueError("the cause")
    error = DrayError("two\n  lines")
    error.__cause__ = cause
    doors._say(error, Common())
    assert capsys.readouterr().err == "dray: two lines\n"
    doors._say(error, Common(verbose=True))
    assert "ValueError: the cause" in capsys.readouterr().err


def test_a_log_line_is_one_line() -> None:
    facts = {"job_id": 7, "error": "it\nbroke"}
    record = logging.LogRecord("dray", logging.WARNING, __file__, 1, "%s %s", ("job.failed", "…"), None)
    record.dray = facts
    record.created = 0.0
    assert OneLine(short=False).format(record) == "1970-01-01T00:00:00.000Z warning  job.failed job_id=7 error=it\\nbroke"
    other = logging.LogRecord("shop", logging.INFO, __file__, 1, "two %s", ("a\nb",), None)
    assert OneLine(short=True).format(other).endswith(" info     two a\\nb")


@pytest.mark.parametrize("name", VERBS)
def test_the_reference_knows_every_flag(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    _, _, rest = text.partition(f"\n## dray {name}\n")
    chapter = rest.partition("\n## ")[0]
    assert f"$ dray {name}" in chapter
    assert VERBS[name].words in chapter
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            place = text if isinstance(parameter, GlobalOption) else chapter
            assert f"`{parameter.envvar}`" in place
            assert parameter.opts[0] in place
    assert all(f"| {code} |" in text for _, code in EXIT_CODES)
