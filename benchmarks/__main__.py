"""`python -m benchmarks [row ...]`: measure, show, and write benchmark.json. No figure is judged."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks import beds, machine, profile, scale
from benchmarks.beds import Bed
from benchmarks.peer_rows import Guest
from benchmarks.peers.catalogue import FOLDER, PEERS, NotThere
from benchmarks.report import Report
from benchmarks.rows import DRAY, Row, Size, all_rows, chosen

WIDTH = 124  # in a pipe too: a table that is cut off tells nothing
GROUPS = (DRAY, *PEERS)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="Measure Dray beside the bare drivers and its peers.",
        epilog="'benchmarks scale' measures whether cost grows with history or backlog, 'benchmarks profile' where the time of"
        " a job goes; each has a --help of its own",
    )
    names = [*GROUPS, *all_rows()]
    parser.add_argument("rows", nargs="*", metavar="row", help=f"{', '.join(names)}; none: all of them")
    parser.add_argument("--database", action="append", choices=beds.NAMES, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many are drained (100000); where that takes long, fewer")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions (3)")
    parser.add_argument("--quick", action="store_true", help="2000 jobs, one repetition")
    parser.add_argument("--peers", type=Path, default=FOLDER, metavar="FOLDER", help="where the peers are installed")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), metavar="FILE")
    given = parser.parse_args()
    if unknown := sorted(set(given.rows) - set(names)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(names)}")
    return given


class Round:
    """What is to be measured, and the report that grows of it."""

    def __init__(self, given: argparse.Namespace, report: Report, say: Callable[[str], None]) -> None:
        self.report, self._say = report, say
        self._names, self._rows = given.rows, all_rows(given.peers)
        self._databases = given.database or list(beds.NAMES)
        for name, peer in PEERS.items():
            if any(row.group == name for bed in self._databases for row in self.on(bed)):
                try:
                    peer.check(given.peers)
                    report.versions[name] = Guest(peer, given.peers).versions()
                except NotThere as missing:
                    self._leave_out(str(missing))
                    self._rows = {row.name: row for row in self._rows.values() if row.group != name}

    def on(self, database: str) -> list[Row]:
        return chosen(self._rows.values(), self._names, database)

    @contextmanager
    def beds(self) -> Iterator[list[Bed]]:
        """The databases on which there is anything to measure."""
        with beds.made([name for name in self._databases if self.on(name)], self._leave_out) as found:
            self.report.versions |= {bed.name: bed.version for bed in found}
            yield found

    def measure(self, bed: Bed, row: Row) -> None:
        """One repetition of one row, on an empty database. A peer that fails is left out from then on; Dray may not."""
        try:
            with bed.fresh() as url:
                jobs = row.jobs(self.report.size)
                if row.fill is not None:
                    row.fill(url, jobs)
                    bed.analyze(url)
                watch = machine.Watch()
                figures = row.run(url, jobs, self.report.size)
                self.report.add(bed.name, row, figures, watch.others())
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if row.group == DRAY:
                raise
            self._say("\n".join([str(error), *getattr(error, "__notes__", [])]))
            self.report.leave_out(bed.name, row, str(error).splitlines()[0])
            del self._rows[row.name]

    def _leave_out(self, what: object) -> None:
        self._say(f"left out: {what}")
        self.report.left_out.append(str(what))


def sized(given: argparse.Namespace) -> Size:
    return Size(
        jobs=given.jobs or (2_000 if given.quick else 100_000),
        repetitions=given.repeat or (1 if given.quick else 3),
        idle=1.0 if given.quick else 5.0,
    )


def main() -> None:
    # An end from outside goes the same way as Ctrl-C: no worker and no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    # The settings of whoever measures must not reach what is measured.
    for name in [name for name in os.environ if name.startswith("DRAY_")]:
        del os.environ[name]
    if sys.argv[1:2] == ["scale"]:  # too long to be one of the rows
        scale.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["profile"]:
        profile.main(sys.argv[2:])
        return
    given = arguments()
    console = Console()
    console.width = max(console.width, WIDTH)
    report = Report(sized(given), machine.facts(), machine.versions())
    plan = Round(given, report, lambda text: console.print(text, highlight=False, markup=False))
    with plan.beds() as found:
        if not found:
            sys.exit("nothing is left to measure")
        # All rows once, then all again: what disturbs the machine for a minute disturbs a row and its raw one alike.
        for repetition in range(1, report.size.repetitions + 1):
            for bed in found:
                for row in plan.on(bed.name):
                    step = f"{repetition}/{report.size.repetitions} {bed.name} {row.name}"
                    console.print(step, style="dim", highlight=False)
                    plan.measure(bed, row)
            report.save(given.output)  # whoever stops it early keeps what there is
    report.show(console)
    console.print(f"written to {given.output}", highlight=False)


if __name__ == "__main__":
    main()
