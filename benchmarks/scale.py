"""`python -m benchmarks scale`: that cost does not grow with history or backlog, by counters. No figure is judged."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import beds, machine, pinned
from benchmarks.filling import Burden, fill
from benchmarks.operations import OPERATIONS, hold
from benchmarks.scale_report import ScaleReport, Sheet

BURDENS = (
    Burden(name="1 k live"),
    Burden(name="100 k live", ready=100_000),
    Burden(name="2 M live", ready=2_000_000),
    Burden(name="5 M ended", ended=5_000_000),
    Burden(name="2 M scheduled", later=2_000_000),
    Burden(name="1,000 queues", ready=100_000, queues=1000),
)
HELD = 60.0  # seconds a snapshot is kept open
WIDTH = 150


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks scale", description="Measure whether cost grows with history or backlog.")
    parser.add_argument("--database", action="append", choices=beds.NAMES, help="only this one; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="a part of the rows, such as 0.01")
    parser.add_argument(
        "--held", type=float, default=HELD, metavar="SECONDS", help=f"how long a snapshot is kept open ({HELD:g})"
    )
    parser.add_argument("--output", type=Path, default=Path("scale.json"), metavar="FILE")
    return parser.parse_args(given)


def measure(sheet: Sheet, bed: beds.Bed, burden: Burden, console: Console) -> None:
    """All operations under one burden."""
    with bed.fresh() as url, hold(url) as hand:
        began = time.monotonic()
        fill(hand.app, burden)
        filled = time.monotonic()
        for operation in OPERATIONS:
            sheet.add(operation.name, burden.name, operation.read(hand))
        _say(
            console,
            f"{bed.name} {burden.name}: filled in {filled - began:.0f} s, measured in {time.monotonic() - filled:.0f} s",
        )


def measure_pinned(sheet: Sheet, bed: beds.Bed, seconds: float, console: Console) -> None:
    """With a snapshot kept open: while jobs wait, and while each is taken as soon as it comes."""
    for name, waiting in (("1,000 jobs wait", 1000), ("none waits", 0)):
        with bed.fresh() as url, hold(url) as hand:
            fill(hand.app, Burden(name=name, ready=waiting, ended=0, due=0))
            sheet.pinned[name] = pinned.read(hand, seconds)
            _say(console, f"{bed.name} a snapshot kept open: {name}")


def _say(console: Console, line: str) -> None:
    console.print(line, style="dim", highlight=False)


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    console = Console()
    console.width = max(console.width, WIDTH)
    burdens = [burden.scaled(options.scale) for burden in BURDENS]
    with beds.made(options.database or list(beds.NAMES), console.print) as found:
        versions = machine.versions() | {bed.name: bed.version for bed in found}
        report = ScaleReport(burdens, options.scale, machine.facts(), versions)
        for bed in found:
            sheet = report.sheet(bed.name)
            for burden in burdens:
                measure(sheet, bed, burden, console)
                report.save(options.output)  # whoever stops it early keeps what there is
            measure_pinned(sheet, bed, options.held, console)
            report.save(options.output)
    report.show(console)
    console.print(f"written to {options.output}", highlight=False)
