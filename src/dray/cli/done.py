"""What was done in some time, task by task: the second half of `dray stats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from dray.cli.output import Cell, Column, print_table
from dray.cli.words import about
from dray.durations import show_size
from dray.rollup import Numbers, facts, summed

Done = Mapping[tuple[str, str], Numbers]

COLUMNS = (
    Column("TASK", flexible=True),
    Column("QUEUE"),
    *(Column(name, right=True) for name in ("RUNS", "FAILED", "RETRIED", "WAIT P95", "RUN P50", "RUN P95", "CPU", "MEMORY")),
)


def done_facts(done: Done) -> Iterator[dict[str, Any]]:
    """Each task and queue with its numbers, the most runs first."""
    for (task, queue), numbers in _by_runs(done):
        yield {"task": task, "queue": queue, **facts(numbers)}


def print_done(done: Done) -> None:
    """A table of it, and all of it together."""
    click.echo()
    if not done:
        click.echo("nothing was done in this time")
        return
    rows = [_row(task, queue, numbers) for (task, queue), numbers in _by_runs(done)]
    if len(rows) > 1:
        rows.append(_row("all", "", summed(done.values())))
    print_table(COLUMNS, rows)


def _by_runs(done: Done) -> list[tuple[tuple[str, str], Numbers]]:
    return sorted(done.items(), key=lambda item: (-item[1].runs, item[0]))


def _row(task: str, queue: str, numbers: Numbers) -> list[Cell]:
    shown = facts(numbers)
    return [
        Cell(task, "bold"),
        Cell(queue),
        Cell(f"{shown['runs']:,}"),
        Cell(f"{shown['failed']:,}", "bold red" if shown["failed"] else ""),
        Cell(f"{shown['retried']:,}"),
        Cell(_time(shown["wait_p95"])),
        Cell(_time(shown["run_p50"])),
        Cell(_time(shown["run_p95"])),
        Cell(_time(shown["cpu_seconds"])),
        Cell(show_size(shown["memory_most"]) if shown["memory_most"] else "-"),
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else about(seconds)
