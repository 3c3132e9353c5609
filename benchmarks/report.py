"""Medians and ratios of what was measured, as tables for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import ROWS, Figures, Size

RATE = "jobs/s"


@dataclass(slots=True)
class Series:
    """All repetitions of one row on one database."""

    database: str
    row: str
    figures: list[Figures] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # processors that everybody else used meanwhile

    def median(self, name: str) -> float:
        return median(one[name] for one in self.figures)


class Report:
    """What was measured so far."""

    def __init__(self, size: Size, machine: dict[str, str], versions: dict[str, str]) -> None:
        self.size, self.machine, self.versions = size, machine, versions
        self.series: dict[tuple[str, str], Series] = {}

    def add(self, database: str, row: str, figures: Figures, others: float) -> None:
        one = self.series.setdefault((database, row), Series(database, row))
        one.figures.append(figures)
        one.others.append(others)

    def ratio(self, series: Series) -> float | None:
        """To the raw row: the median of what each repetition says, whose two halves were measured side by side."""
        beside = ROWS[series.row].raw
        if beside is None:
            return None
        pairs = zip(series.figures, self.series[series.database, beside].figures, strict=False)
        return median(mine[RATE] / raw[RATE] for mine, raw in pairs)

    def save(self, path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {
                "database": one.database,
                "row": one.row,
                "median": {name: one.median(name) for name in one.figures[0]},
                "raw": ROWS[one.row].raw,
                "ratio": self.ratio(one),
                "others": median(one.others),
                "repetitions": one.figures,
            }
            for one in self.series.values()
        ]
        facts = {"machine": self.machine, "versions": self.versions, "size": asdict(self.size), "rows": rows}
        path.write_text(json.dumps(facts, indent=2) + "\n")

    def show(self, console: Console) -> None:
        for facts in (self.machine, self.versions):
            console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
        console.print(f"{self.size.jobs} jobs, median of {self.size.repetitions}", highlight=False)
        rates = [one for one in self.series.values() if RATE in one.figures[0]]
        waits = [one for one in self.series.values() if RATE not in one.figures[0]]
        if rates:
            console.print(self._rates(rates))
        if waits:
            console.print(self._waits(waits))

    def _rates(self, rates: list[Series]) -> Table:
        table = _table(RATE, "lowest", "highest", "of raw", "others' CPU")
        for one in rates:
            values = [figures[RATE] for figures in one.figures]
            ratio = self.ratio(one)
            shown = [f"{value:,.0f}" for value in (median(values), min(values), max(values))]
            share = "" if ratio is None else f"{ratio:.2f}"
            table.add_row(one.database, one.row, *shown, share, f"{median(one.others):.1f}")
        return table

    def _waits(self, waits: list[Series]) -> Table:
        names = list(waits[0].figures[0])
        table = _table(*names, "others' CPU")
        for one in waits:
            table.add_row(one.database, one.row, *(f"{one.median(name):.1f}" for name in names), f"{median(one.others):.1f}")
        return table


def _table(*columns: str) -> Table:
    table = Table("database", "row")
    for name in columns:
        table.add_column(name, justify="right")
    for column in table.columns:
        column.no_wrap = True
    return table
