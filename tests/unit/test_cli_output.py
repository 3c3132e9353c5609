"""What the verbs print: tables, details, reports, facts, stats."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from dray.admin import Details, Stats, read_filter
from dray.cli import facts, jobs, stats
from dray.cli.detail import detail_lines, report_lines
from dray.cli.output import Cell, Column, fit, print_table
from dray.cli.stats import Rule
from dray.errors import BadFilter, BadOption
from dray.job import Flag, JobRow, Reason, State
from dray.report import Report
from dray.store.filters import Filter
from dray.store.output import OutputLine
from dray.store.read import AttemptRow, QueueCount
from dray.store.workers import WorkerRow, WorkerState

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
TIMES = ("run_at", "ready_at", "claimed_at", "started_at", "finished_at")
EMPTY: dict[str, Any] = dict.fromkeys((*TIMES, "reason", "key", "owner", "worker_id", "result", "report", "error", "note"))
READY = JobRow(
    **EMPTY | {"ready_at": NOW},
    id=17,
    state=State.READY,
    queue="mail",
    task="send",
    priority=100,
    args='{"k":{"to":"ann"}}',
    fence=0,
    attempt=0,
    max_attempts=20,
    crashes=0,
    snoozes=0,
    flags=Flag(0),
    created_at=NOW,
)
FAILED = replace(
    READY,
    state=State.FAILED,
    attempt=1,
    ready_at=None,
    worker_id=3,
    started_at=NOW + timedelta(seconds=1),
    finished_at=NOW + timedelta(seconds=2.5),
    error="ValueError: no\nway",
    report=Report.warning("1 of 2", Report.error("row 2", data={"row": 2})),
    note="as it was",
    key="k-1",
)


def test_a_plain_table_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column("ID", right=True), Column("TASK", flexible=True), Column("NOTE")]
    long = "x" * 300
    print_table(columns, [[Cell("7"), Cell(long), Cell("red\x1b[31m\nend", "red")], [Cell("12"), Cell("a"), Cell("")]])
    assert capsys.readouterr().out.splitlines() == [
        f"ID  TASK{' ' * 296}  NOTE",
        f" 7  {long}  red\\x1b[31m\\nend",
        "12  a",
    ]


def test_a_table_on_a_terminal_is_cut_and_coloured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.cli.output.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "24")
    columns = [Column("ID"), Column("TASK", flexible=True)]
    with click.Context(click.Command("x"), color=True):
        print_table(columns, [[Cell("1234"), Cell("日本語" * 10, "bold red")]])
    title, line = capsys.readouterr().out.splitlines()
    assert "\x1b[1m" in title
    assert "\x1b[31m" in line
    assert click.unstyle(line) == "1234  日本語日本語日本 …"  # each of these signs takes two places


@pytest.mark.parametrize("room", [0, 10, 79, 200])
def test_what_has_to_be_whole_stays_whole(room: int) -> None:
    widths = fit([5, 90, 30], [False, True, True], room)
    assert widths[0] == 5
    assert all(width >= 8 for width in widths[1:])
    assert sum(widths) + 4 <= max(room, 25)


def test_a_failed_job_from_top_to_bottom() -> None:
    attempt = AttemptRow(
        job_id=17,
        fence=1,
        attempt=1,
        state=State.FAILED,
        worker_id=3,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=2.5),
        error="ValueError: no",
        traceback="Traceback:\n  line 1\nValueError: no",
    )
    line = OutputLine(id=1, fence=1, at=NOW, stream="message", text="working \x1b[2J")
    details = Details(row=FAILED, labels={"customer": "42"}, attempts=[attempt], output=[line])
    assert [click.unstyle(one).rstrip() for one in detail_lines(details)] == [
        'job 17  failed  send(to="ann")',
        "  queue      mail",
        "  priority   100",
        "  attempt    1 of 20",
        "  key        k-1",
        "  labels     customer=42",
        "  created    2024-02-29T12:00:00.000Z",
        "  started    2024-02-29T12:00:01.000Z",
        "  finished   2024-02-29T12:00:02.500Z, ran for 1.5s",
        "  worker     3",
        "  note       as it was",
        "",
        "error",
        "  ValueError: no",
        "  way",
        "",
        "report",
        "  warning  1 of 2",
        '    error    row 2  {"row":2}',
        "",
        "attempts that did not succeed",
        "  1.  → failed  2024-02-29T12:00:02.500Z  worker 3",
        "      Traceback:",
        "        line 1",
        "      ValueError: no",
        "",
        "log",
        "  2024-02-29T12:00:00.000Z  working \\x1b[2J",
    ]


def test_a_held_and_a_waiting_job_say_so() -> None:
    row = replace(READY, state=State.BLOCKED, reason=Reason.HELD, flags=Flag.HELD | Flag.CANCEL, run_at=NOW, snoozes=2)
    lines = list(detail_lines(Details(row=row, labels={}, attempts=[], output=[])))
    text = click.unstyle("\n".join(lines))
    assert "waits for  held" in text
    assert "asked for  hold and cancel" in text
    assert "attempt    0 of 20, 2 snoozes" in text
    assert "due        2024-02-29" in text


def test_a_report_is_a_tree() -> None:
    report = Report.info("a\nb", Report.success("c", Report.error("d")))
    assert [click.unstyle(line) for line in report_lines(report)] == [
        "info     a\\nb",
        "  success  c",
        "    error    d",
    ]


def test_a_job_in_one_line() -> None:
    cells = [cell.text for cell in jobs.job_cells(FAILED, NOW + timedelta(seconds=62.5))]
    assert cells == ["17", "failed", "mail", 'send(to="ann")', "1/20", "1m ago", "ValueError: no\nway · as it was"]
    assert jobs.job_cells(READY, None)[5].text == "2024-02-29T12:00:00.000Z"


def test_json_has_a_version_and_whole_values() -> None:
    told = json.loads(facts.as_json(facts.job_facts(FAILED)))
    assert told["v"] == 1
    assert told["args"] == {"k": {"to": "ann"}}
    assert told["finished_at"] == "2024-02-29T12:00:02.500Z"
    assert told["report"]["children"][0]["data"] == {"row": 2}
    assert told["held"] is False
    damaged = facts.job_facts(replace(FAILED, args="{", result="[1"))
    assert (damaged["args"], damaged["result"]) == ("{", "[1")


def test_csv(capsys: pytest.CaptureFixture[str]) -> None:
    facts.print_csv([FAILED])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("id,state,reason,queue,task,priority,")
    assert lines[0].startswith("17,failed,,mail,send,100,1,20,0,0,,,,,,k-1,,3,2024-02-29T12:00:00.000Z,,,,")


# --- filters ----------------------------------------------------------------------------------------------------------------


def test_a_filter_in_words() -> None:
    one = Filter(states=frozenset({State.FAILED}), queue="mail")
    assert read_filter("state:failed queue:mail") == one
    assert read_filter(["state:failed", " queue:mail "]) == one
    assert read_filter({"state": "failed", "queue": "mail"}) == one
    assert read_filter(one) is one
    assert read_filter("") == Filter() == read_filter([])
    assert read_filter("key:my own key label:a=b:c") == Filter(key="my own key", label=("a", "b:c"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("failed", "is no filter"), ("state:failed state:ready", "twice"), ("colour:red", "cannot be listed by 'colour'")],
)
def test_a_filter_that_is_none(text: str, says: str) -> None:
    with pytest.raises(BadFilter, match=says):
        read_filter(text)


# --- stats ------------------------------------------------------------------------------------------------------------------

WORKER = WorkerRow(
    id=3,
    state=WorkerState.ALIVE,
    host="web-1",
    pid=7,
    queues="mail,reports",
    concurrency=10,
    started_at=NOW,
    beat_at=NOW,
    ended_at=None,
    silent_for=2.0,
)
STATS = Stats(
    counts={**dict.fromkeys(State, 0), State.READY: 10_001, State.FAILED: 3, State.SCHEDULED: 1},
    queues=[
        QueueCount(queue="mail", ready=10_001, running=2, oldest=130.0),
        QueueCount(queue="web", ready=0, running=1, oldest=None),
    ],
    workers=[WORKER],
    next_due=-42.0,
    cap=10_000,
)


def test_stats_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    stats._print(STATS)
    assert capsys.readouterr().out.splitlines() == [
        "QUEUE    READY  RUNNING  OLDEST",
        "mail   10,000+        2   2m10s",
        "web          0        1       -  ! no worker",
        "",
        "1 scheduled · 10,000+ ready · 3 failed · due since 42s",
        "1 worker on web-1, 10 slots",
    ]


def test_stats_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stats._print(Stats(counts=dict.fromkeys(State, 0), queues=[], workers=[], next_due=None, cap=10))
    assert capsys.readouterr().out == "no jobs\nno worker is alive\n"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("failed>2", "failed>2: failed is 3"),
        ("failed > 3", None),
        ("failed>=3", "failed>=3: failed is 3"),
        ("failed=3", "failed=3: failed is 3"),
        ("ready>100", "ready>100: ready is 10,000+"),
        ("oldest>2m", "oldest>2m: oldest is 2m10s"),
        ("oldest>5m", None),
        ("workers<2", "workers<2: workers is 1"),
        ("silent>1s", "silent>1s: silent is 2s"),
        ("overdue>30", "overdue>30: overdue is 42s"),
    ],
)
def test_a_check_for_monitoring(rule: str, said: str | None) -> None:
    assert Rule.parse(rule).broken(STATS) == said


@pytest.mark.parametrize("rule", ["", "failed", "failed>x", "nothing>3", "oldest>soon", "failed>1.5"])
def test_a_rule_that_is_none(rule: str) -> None:
    with pytest.raises(BadOption, match="--fail-if"):
        Rule.parse(rule)


@pytest.mark.parametrize(("number", "length"), [(0, 0), (1, 1), (50, 10), (100, 20)])
def test_a_bar(number: int, length: int) -> None:
    assert len(stats._bar(number, 100)) == length
