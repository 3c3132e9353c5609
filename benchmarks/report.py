"""Medians and ratios of what was measured, as tables for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.beside import comparisons
from benchmarks.rows import Figures, Row, Size
from benchmarks.series import RATE, Series

CPU = "CPU µs/job"


class Report:
    """What was measured so far."""

    def __init__(self, size: Size, machine: dict[str, str], versions: dict[str, str]) -> None:
        self.size, self.machine, self.versions = size, machine, versions
        self.series: dict[tuple[str, str], Series] = {}
        self.left_out: list[str] = []  # what was to be measured and could not be, and why

    def add(self, database: str, row: Row, figures: Figures, others: float) -> None:
        one = self.series.setdefault((database, row.name), Series(database, row))
        one.figures.append(figures)
        one.others.append(others)

    def leave_out(self, database: str, row: Row, why: str) -> None:
        """A row that failed once is not shown at all: its repetitions would no longer stand beside those of the others."""
        self.series.pop((database, row.name), None)
        self.left_out.append(f"{row.name} on {database}: {why}")

    def ratio(self, series: Series) -> float | None:
        """To the raw row: the median of what each repetition says, whose two halves were measured side by side."""
        beside = self.series.get((series.database, series.row.raw or ""))
        if beside is None:
            return None
        pairs = zip(series.figures, beside.figures, strict=False)
        measure = series.measure
        return median(mine[measure] / raw[measure] for mine, raw in pairs)

    def save(self, path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {
                "database": one.database,
                "row": one.row.name,
                "jobs": one.row.jobs(self.size),
                "median": {name: one.median(name) for name in one.figures[0]},
                "raw": one.row.raw,
                "ratio": self.ratio(one),
                "others": median(one.others),
                "repetitions": [figures | {"others": others} for figures, others in zip(one.figures, one.others, strict=True)],
            }
            for one in self.series.values()
        ]
        beside = [asdict(one) | {"ratio": one.ratio} for one in comparisons(self.series.values())]
        facts = {"machine": self.machine, "versions": self.versions, "size": asdict(self.size), "left out": self.left_out}
        path.write_text(json.dumps({**facts, "rows": rows, "beside": beside}, indent=2) + "\n")

    def show(self, console: Console) -> None:
        for facts in (self.machine, self.versions):
            console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
        console.print(f"median of {self.size.repetitions}", highlight=False)
        rates = [one for one in self.series.values() if RATE in one.figures[0]]
        waits = [one for one in self.series.values() if RATE not in one.figures[0]]
        if rates:
            console.print(self._rates(rates))
        if any(one.row.beside for one in rates):
            console.print(self._beside())
        if waits:
            console.print(self._waits(waits))
        for line in self.left_out:
            console.print(f"left out: {line}", highlight=False)

    def _rates(self, rates: list[Series]) -> Table:
        table = _table("database", "row", numbers=("jobs", RATE, "lowest", "highest", "of raw", CPU, "others' CPU"))
        for one in rates:
            values = [figures[RATE] for figures in one.figures]
            ratio = self.ratio(one)
            shown = [f"{value:,.0f}" for value in (one.row.jobs(self.size), median(values), min(values), max(values))]
            share = "" if ratio is None else f"{ratio:.2f}"
            cost = f"{one.median(CPU):,.0f}" if CPU in one.figures[0] else ""
            table.add_row(one.database, one.row.name, *shown, share, cost, f"{median(one.others):.1f}")
        return table

    def _beside(self) -> Table:
        table = _table("database", "Dray's", "beside the best of", numbers=("times as fast", "lowest", "highest"))
        for one in comparisons(self.series.values()):
            shown = [f"{value:.2f}" for value in (one.ratio, min(one.repetitions), max(one.repetitions))]
            table.add_row(one.database, one.row, ", ".join(one.peer_rows), *shown)
        return table

    def _waits(self, waits: list[Series]) -> Table:
        names = list(waits[0].figures[0])
        table = _table("database", "row", numbers=(*names, "p50 of raw", "others' CPU"))
        for one in waits:
            shown = [f"{one.median(name):.1f}" for name in names]
            ratio = self.ratio(one)
            share = "" if ratio is None else f"{ratio:.2f}"
            table.add_row(one.database, one.row.name, *shown, share, f"{median(one.others):.1f}")
        return table


def _table(*words: str, numbers: tuple[str, ...]) -> Table:
    table = Table(*words)
    for name in numbers:
        table.add_column(name, justify="right")
    for column in table.columns:
        column.no_wrap = True
    return table
