"""`python -m benchmarks [row ...]`: measure, show, and write benchmark.json. No figure is judged."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import beds, machine
from benchmarks.dray_rows import fill
from benchmarks.report import Report
from benchmarks.rows import ROWS, Row, Size, chosen

WIDTH = 110  # in a pipe too: a table that is cut off tells nothing


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure Dray beside what the drivers do alone.")
    parser.add_argument("rows", nargs="*", metavar="row", help=f"{', '.join(ROWS)}; none: all of them")
    parser.add_argument("--database", action="append", choices=beds.NAMES, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many are drained (20000)")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions (3)")
    parser.add_argument("--quick", action="store_true", help="2000 jobs, one repetition")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), metavar="FILE")
    given = parser.parse_args()
    if unknown := sorted(set(given.rows) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return given


def measure(report: Report, bed: beds.Bed, row: Row) -> None:
    """One repetition of one row, on an empty database."""
    with bed.fresh() as url:
        if row.filled:
            fill(url, report.size.jobs)
        watch = machine.Watch()
        figures = row.run(url, report.size)
        report.add(bed.name, row.name, figures, watch.others())


def main() -> None:
    given = arguments()
    # An end from outside goes the same way as Ctrl-C: no worker and no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    # The settings of whoever measures must not reach what is measured.
    for name in [name for name in os.environ if name.startswith("DRAY_")]:
        del os.environ[name]
    size = Size(
        jobs=given.jobs or (2_000 if given.quick else 20_000),
        repetitions=given.repeat or (1 if given.quick else 3),
        idle=1.0 if given.quick else 5.0,
    )
    console = Console()
    console.width = max(console.width, WIDTH)
    with beds.made(given.database or list(beds.NAMES), console.print) as found:
        report = Report(size, machine.facts(), machine.versions() | {bed.name: bed.version for bed in found})
        # All rows once, then all again: what disturbs the machine for a minute disturbs a row and its raw one alike.
        for repetition in range(1, size.repetitions + 1):
            for bed in found:
                for row in chosen(given.rows):
                    console.print(f"{repetition}/{size.repetitions} {bed.name} {row.name}", style="dim", highlight=False)
                    measure(report, bed, row)
            report.save(given.output)  # whoever stops it early keeps what there is
    report.show(console)
    console.print(f"written to {given.output}", highlight=False)


if __name__ == "__main__":
    main()
