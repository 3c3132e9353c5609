"""What was measured at scale, as tables for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.filling import Burden
from benchmarks.operations import Reading

UNIT = {"sqlite": "steps of its virtual machine", "postgresql": "pages", "mariadb": "rows and index entries"}


@dataclass(slots=True)
class Sheet:
    """All that was measured on one database, by operation and burden."""

    database: str
    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    pinned: dict[str, tuple[Reading, Reading, int]] = field(default_factory=dict)

    def add(self, operation: str, burden: str, reading: Reading) -> None:
        self.readings.setdefault(operation, {})[burden] = reading

    def growth(self, operation: str) -> float:
        """The dearest against the first, by counters."""
        works = [reading.work for reading in self.readings[operation].values()]
        return max(works) / max(1.0, works[0])


class ScaleReport:
    """What was measured so far."""

    def __init__(self, burdens: list[Burden], scale: float, machine: dict[str, str], versions: dict[str, str]) -> None:
        self.burdens, self.scale, self.machine, self.versions = burdens, scale, machine, versions
        self.sheets: dict[str, Sheet] = {}

    def sheet(self, database: str) -> Sheet:
        return self.sheets.setdefault(database, Sheet(database))

    def save(self, path: Path) -> None:
        facts: dict[str, Any] = {
            "machine": self.machine,
            "versions": self.versions,
            "scale": self.scale,
            "burdens": [asdict(burden) for burden in self.burdens],
            "databases": {name: _sheet_facts(sheet) for name, sheet in self.sheets.items()},
        }
        path.write_text(json.dumps(facts, indent=2) + "\n")

    def show(self, console: Console) -> None:
        for facts in (self.machine, self.versions):
            console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
        for sheet in self.sheets.values():
            console.print(f"\n{sheet.database}: {UNIT[sheet.database]}, and milliseconds", highlight=False)
            console.print(self._growth(sheet))
            if sheet.pinned:
                console.print(_pinned(sheet))

    def _growth(self, sheet: Sheet) -> Table:
        table = _table("operation", *(burden.name for burden in self.burdens), "growth")
        for operation, readings in sheet.readings.items():
            shown = [_shown(readings[burden.name]) if burden.name in readings else "" for burden in self.burdens]
            table.add_row(operation, *shown, f"{sheet.growth(operation):,.2f}")
        return table


def _pinned(sheet: Sheet) -> Table:
    table = _table("claim and finish 100, a snapshot kept open", "at first", "at the end", "growth", "jobs meanwhile")
    for name, (first, last, jobs) in sheet.pinned.items():
        table.add_row(name, _shown(first), _shown(last), f"{last.work / first.work:,.2f}", f"{jobs:,}")
    return table


def _shown(reading: Reading) -> str:
    return f"{reading.work:,.0f} · {reading.ms:,.1f}"


def _sheet_facts(sheet: Sheet) -> dict[str, Any]:
    return {
        "unit": UNIT[sheet.database],
        "operations": {
            operation: {
                "growth": sheet.growth(operation),
                "readings": {burden: reading._asdict() for burden, reading in readings.items()},
            }
            for operation, readings in sheet.readings.items()
        },
        "pinned": {
            name: {"first": first._asdict(), "last": last._asdict(), "growth": last.work / first.work, "jobs": jobs}
            for name, (first, last, jobs) in sheet.pinned.items()
        },
    }


def _table(*columns: str) -> Table:
    table = Table(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    for column in table.columns:
        column.no_wrap = True
    return table
