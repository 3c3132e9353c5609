"""Jobs as data: JSON with a version, lines of JSON, CSV, ids."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

from dray.cli.words import iso
from dray.job import Flag, JobRow

VERSION = 1  # of the JSON: it rises when a field goes away or changes its meaning

_FIELDS = (
    *("id", "state", "reason", "queue", "task", "priority", "attempt", "max_attempts", "crashes", "snoozes"),
    *("group", "limit", "parent_id", "covered_by", "expires_at"),
    *("key", "owner", "worker_id", "created_at", "run_at", "ready_at", "claimed_at", "started_at", "finished_at"),
    *("pid", "cpu_seconds", "memory_before", "memory_after", "peak_before", "peak_after"),
    *("args", "result", "report", "error", "note", "metadata"),
)
_STORED = ("args", "result", "metadata")  # JSON already: shown as such, or as text when it is damaged


def job_facts(row: JobRow) -> dict[str, Any]:
    """Everything a row says, as JSON can carry it."""
    facts: dict[str, Any] = {name: _plain(name, getattr(row, name)) for name in _FIELDS}
    return facts | {"held": bool(row.flags & Flag.HELD), "cancel_requested": bool(row.flags & Flag.CANCEL)}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if name in _STORED and value is not None:
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return value
    return msgspec.to_builtins(value)


def as_json(facts: Mapping[str, Any]) -> str:
    """One JSON object on one line, its version first."""
    return msgspec.json.encode({"v": VERSION, **facts}, enc_hook=str).decode()


def print_json(facts: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    click.echo(as_json(facts))


def print_csv(rows: Iterable[JobRow]) -> None:
    """Print a header and a line for each job."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [*_FIELDS, "held", "cancel_requested"]
    writer.writerow(names)
    for row in rows:
        facts = job_facts(row) | {name: getattr(row, name) for name in _STORED}
        writer.writerow([_cell(facts[name]) for name in names])
    click.echo(text.getvalue(), nl=False)


def _cell(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | bool) else value


def print_ids(rows: Sequence[JobRow]) -> None:
    """Print an id on each line."""
    for row in rows:
        click.echo(row.id)
