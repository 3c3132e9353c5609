"""One job from top to bottom, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
import msgspec

from dray.admin import Details
from dray.calls import call_text
from dray.cli.output import GLYPHS, STYLES, on_terminal
from dray.cli.words import about, clean, one_line, when
from dray.durations import show_size
from dray.job import Flag, JobRow, State
from dray.report import Kind, Report
from dray.store.output import OutputLine
from dray.store.read import AttemptRow

KIND_STYLES = {Kind.INFO: "cyan", Kind.SUCCESS: "green", Kind.WARNING: "yellow", Kind.ERROR: "red"}

SHOWN = 20  # ids in a line


def detail_lines(details: Details) -> Iterator[str]:
    """Everything that is known of a job, the most wanted first."""
    now = datetime.now(UTC) if on_terminal() else None
    row = details.row
    yield _headline(row)
    yield from _facts(details, now)
    if row.error:
        yield from _section("error")
        yield from _indented(row.error)
    if row.metadata is not None:
        yield from _section("metadata")
        yield from _indented(row.metadata)
    if row.result is not None:
        yield from _section("result")
        yield from _indented(row.result)
    if row.report is not None:
        yield from _section("report")
        yield from (f"  {line}" for line in report_lines(row.report))
    if details.attempts:
        yield from _section("attempts that did not succeed")
        for attempt in details.attempts:
            yield from _attempt(attempt, now)
    if details.output:
        yield from _section("log")
        yield from (_log_line(line, now) for line in details.output)


def _headline(row: JobRow) -> str:
    word = f"{GLYPHS[row.state]} {row.state}" if on_terminal() else str(row.state)
    return f"job {row.id}  {click.style(word, fg=STYLES[row.state], bold=True)}  {one_line(call_text(row.task, row.args))}"


def _facts(details: Details, now: datetime | None) -> Iterator[str]:
    row = details.row
    attempt = f"{row.attempt}" if row.max_attempts is None else f"{row.attempt} of {row.max_attempts}"
    counted = [f"{row.snoozes} snoozes"] * bool(row.snoozes) + [f"{row.crashes} deaths of its worker"] * bool(row.crashes)
    facts: list[tuple[str, str | None]] = [
        ("queue", row.queue),
        ("priority", str(row.priority)),
        ("attempt", ", ".join([attempt, *counted])),
        ("waits for", None if row.reason is None else str(row.reason)),
        ("group", row.group),
        ("limit", row.limit),
        ("key", row.key),
        ("owner", row.owner),
        ("labels", "  ".join(f"{name}={value}" for name, value in details.labels.items()) or None),
        ("created", when(row.created_at, now=now)),
        ("due", _due(row, now)),
        ("started", None if row.started_at is None else when(row.started_at, now=now)),
        ("finished", _finished(row, now)),
        ("worker", _worker(row)),
        ("used", _used(row)),
        ("parent", None if row.parent_id is None else str(row.parent_id)),
        ("children", _ids(details.children)),
        ("covered by", None if row.covered_by is None else str(row.covered_by)),
        ("asked for", _asked(row)),
        ("note", row.note),
    ]
    for name, value in facts:
        if value:
            yield f"  {click.style(f'{name:10}', dim=True)} {one_line(value)}"


def _due(row: JobRow, now: datetime | None) -> str | None:
    return when(row.run_at, now=now) if row.run_at is not None and not row.state.ended else None


def _finished(row: JobRow, now: datetime | None) -> str | None:
    if row.finished_at is None:
        return None
    ran = "" if row.run_seconds is None else f", ran for {about(row.run_seconds)}"
    return when(row.finished_at, now=now) + ran


def _worker(row: JobRow) -> str | None:
    if row.worker_id is None:
        return None
    return str(row.worker_id) if row.pid is None else f"{row.worker_id}, process {row.pid}"


def _used(row: JobRow) -> str | None:
    """What its last run cost. Memory is that of the whole process."""
    if row.memory_before is None or row.memory_after is None:
        return None
    cpu = "" if row.cpu_seconds is None else f"{row.cpu_seconds:.3f}s of processor, "
    peak = "" if row.peak_after is None else f", at most {show_size(row.peak_after)}"
    if not row.memory_before:  # of a program: it began with nothing, and what is left of it is nothing
        return f"{cpu}memory{peak.removeprefix(',')}"
    return f"{cpu}memory {show_size(row.memory_before)} before, {show_size(row.memory_after)} after{peak}"


def _ids(ids: Sequence[int]) -> str | None:
    shown = ", ".join(map(str, ids[:SHOWN]))
    return f"{shown} and {len(ids) - SHOWN} more" if len(ids) > SHOWN else shown or None


def _asked(row: JobRow) -> str | None:
    asked = ["hold"] * bool(row.flags & Flag.HELD) + ["cancel"] * bool(row.flags & Flag.CANCEL)
    return " and ".join(asked) if asked and not row.state.ended else None


def _attempt(attempt: AttemptRow, now: datetime | None) -> Iterator[str]:
    became = attempt.state or "an unknown state"
    fg = STYLES[attempt.state] if isinstance(attempt.state, State) else None
    worker = "" if attempt.worker_id is None else f"  worker {attempt.worker_id}"
    shown = click.style(became, fg=fg)
    yield f"  {attempt.attempt}.  → {shown}  {when(attempt.finished_at, now=now)}{worker}"
    yield from _indented(attempt.traceback or attempt.error or "", 6)


def _log_line(line: OutputLine, now: datetime | None) -> str:
    moment = f"{line.at.astimezone():%H:%M:%S}" if now is not None else when(line.at)
    stream = "" if line.stream == "message" else f"{one_line(line.stream)}: "
    return f"  {click.style(moment, dim=True)}  {stream}{clean(line.text)}"


def _section(title: str) -> Iterator[str]:
    yield ""
    yield click.style(title, bold=True)


def _indented(text: str, depth: int = 2) -> Iterator[str]:
    for line in text.rstrip().splitlines():
        yield " " * depth + clean(line)


def report_lines(report: Report, depth: int = 0) -> Iterator[str]:
    """A report as an indented tree, the kind of each message in front of it."""
    kind = click.style(f"{report.kind:8}", fg=KIND_STYLES[report.kind])
    data = "" if report.data is None else f"  {msgspec.json.encode(report.data).decode()}"
    yield f"{'  ' * depth}{kind} {one_line(report.message + data)}"
    for child in report.children:
        yield from report_lines(child, depth + 1)
