"""`dray jobs` and `dray show`: looking at jobs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from dray.admin import read_filter
from dray.calls import call_text
from dray.cli.detail import detail_lines
from dray.cli.facts import as_json, job_facts, print_csv, print_ids, print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import option, verb
from dray.cli.output import Cell, Column, note, on_terminal, print_table, state_cell
from dray.cli.words import iso, when
from dray.job import JobRow, State
from dray.store.filters import DEEPLY

FORMATS = ("table", "json", "jsonl", "csv", "ids")
COLUMNS = (
    Column("ID", right=True),
    Column("STATE"),
    Column("QUEUE"),
    Column("TASK", flexible=True),
    Column("TRY", right=True),
    Column("SINCE"),
    Column("NOTE", flexible=True),
)


@verb(
    "jobs",
    "dray jobs",
    "dray jobs state:failed queue:mail since:1h",
    "dray jobs label:customer=42 -o csv > jobs.csv",
    "dray jobs task:old.cleanup -o ids | dray cancel -",
)
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="Show at most so many.")
@option("--before", type=int, metavar="ID", help="Show those older than this job: the next page.")
@option("-o", "--output", "form", type=click.Choice(FORMATS), help="How to print; --json is -o json.")
def jobs(words: tuple[str, ...], limit: int, before: int | None, form: str | None) -> None:
    """List jobs, the newest first.

    \b
    A FILTER is one or more of
      state:failed,retrying   queue:mail   task:send_invoice   key:invoice-7   owner:ann
      label:customer=42       worker:3     reason:held         since:1h        until:2030-02-28
      group:customer-42       text:timeout
    `text` is what arguments or error contain; it and `group` look among the newest 100,000 jobs.
    Names are exact. `since` and `until` look at the time of the enqueue.

    On a terminal times are relative; elsewhere they are ISO 8601 and nothing is cut.
    """
    form = form or ("json" if wants_json() else "table")
    wanted = read_filter(words)
    found = open_admin().jobs(wanted, limit=limit, before=before)
    if wanted.is_deep:
        note(DEEPLY)
    if form == "json":
        print_json({"jobs": [job_facts(row) for row in found], "next": _next(found, limit)})
    elif form == "jsonl":
        for row in found:
            click.echo(as_json(job_facts(row)))
    elif form == "csv":
        print_csv(found)
    elif form == "ids":
        print_ids(found)
    else:
        _print(found, limit)


def _next(found: Sequence[JobRow], limit: int) -> int | None:
    return found[-1].id if len(found) == limit else None


def _print(found: Sequence[JobRow], limit: int) -> None:
    if not found:
        note("no jobs")
        return
    now = datetime.now(UTC) if on_terminal() else None
    if now is not None:
        print_table(COLUMNS, [job_cells(row, now) for row in found])
    else:
        created = Column("CREATED")
        rows = [[*job_cells(row, None)[:-1], Cell(iso(row.created_at)), job_cells(row, None)[-1]] for row in found]
        print_table([*COLUMNS[:-1], created, COLUMNS[-1]], rows)
    last = _next(found, limit)
    if last is not None:
        note(f"there may be more: --before {last}")


def job_cells(row: JobRow, now: datetime | None) -> list[Cell]:
    """A job in one line."""
    attempt = f"{row.attempt}" if row.max_attempts is None else f"{row.attempt}/{row.max_attempts}"
    return [
        Cell(str(row.id), "bold"),
        state_cell(row.state),
        Cell(row.queue),
        Cell(call_text(row.task, row.args)),
        Cell(attempt),
        Cell(when(_since(row), now=now), "dim"),
        Cell(_note(row), "red" if row.state is State.FAILED else "dim"),
    ]


def _since(row: JobRow) -> datetime | None:
    """The instant that matters in its state: when it ended, started or became ready, or when it is due."""
    match row.state:
        case State.SUCCEEDED | State.FAILED | State.CANCELLED:
            return row.finished_at
        case State.RUNNING:
            return row.started_at or row.claimed_at
        case State.SCHEDULED | State.RETRYING:
            return row.run_at
        case State.READY:
            return row.ready_at
        case _:
            return None


def _note(row: JobRow) -> str:
    parts = [row.reason, row.error if row.state in (State.FAILED, State.RETRYING) else None, row.note]
    return " · ".join(str(part) for part in parts if part)


@verb(
    "show",
    "dray show 17",
    "dray show 17 --json | jq .result",
)
@click.argument("job_id", metavar="ID", type=int)
@option("--lines", type=click.IntRange(0), default=1000, show_default=True, metavar="N", help="Lines of its log to show.")
def show(job_id: int, lines: int) -> None:
    """Show everything about one job: attempts with tracebacks, labels, result, report, log."""
    details = open_admin().job(job_id, lines=lines)
    if not wants_json():
        for line in detail_lines(details):
            click.echo(line)
        return
    rest = {
        "labels": dict(details.labels),
        "children": list(details.children),
        "attempts": [msgspec.to_builtins(one) for one in details.attempts],
        "log": [msgspec.to_builtins(one) for one in details.output],
    }
    print_json(dict(itertools.chain(job_facts(details.row).items(), rest.items())))
