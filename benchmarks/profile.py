"""`python -m benchmarks profile`: where the time of a job that does nothing goes, by looking at a worker 500 times a second.

py-spy looks from outside, and counts who holds the interpreter's lock: what a driver written in C does without it, such as
waiting for a server, is not in it. Nor is how the worker starts.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import beds, dray_rows, machine
from benchmarks.workers import PATIENCE, ROOT

RATE = 500  # looks a second
WIDTH = 124
# What a worker does with a job, by the function that stands for it: the innermost of these that is being called.
STEPS = {
    "find and claim it": ("store/claim.py", "store/lanes.py", "store/sql.py:claim", "intake.py"),
    "hand it to a slot": ("exchange.py", "stock.py", "slots.py:start", "item.py"),
    "run it": ("slots.py", "runner.py", "codec.py", "context.py", "executors.py"),
    "decide what becomes of it": ("finisher.py", "lifecycle.py", "tally.py"),
    "write its end": (
        "store/finish.py",
        "store/history.py",
        "store/ends.py",
        "store/attempts.py",
        "store/settle.py",
        "store/sql.py:finish",
    ),
    "look around": ("worker.py", "upkeep.py", "lease.py", "store/"),
}
LAYERS = {"SQLAlchemy": ("sqlalchemy/",), "driver": ("psycopg/", "psycopg_binary/", "pymysql/", "sqlite3/")}
IN_C = "do_execute"  # the last of Python before a driver that is written in C
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^:()]+)(:\d+)?\)$")


class Sample(NamedTuple):
    """How often a step was seen in a layer of the code."""

    step: str
    layer: str


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks profile", description="Where the time of a job that does nothing goes.")
    parser.add_argument("--database", action="append", choices=beds.SQL, help="only this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=50_000, metavar="N", help="how many are drained (50000)")
    return parser.parse_args(given)


def looked_at(url: str, jobs: int) -> Counter[Sample]:
    """A worker that drains so many jobs, as it was seen."""
    with tempfile.TemporaryDirectory(prefix="dray-bench-") as folder:
        seen = Path(folder) / "seen"
        spy = [str(Path(sys.executable).parent / "py-spy"), "record", "--gil", "--rate", str(RATE), "--format", "raw"]
        worker = [sys.executable, "-m", "dray", "worker", "-A", "benchmarks.tasks:app", "--max-jobs", str(jobs)]
        told = os.environ | {"DRAY_DATABASE_URL": url}
        try:
            done = subprocess.run(
                [*spy, "--output", str(seen), "--", *worker],
                cwd=ROOT,
                env=told,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except FileNotFoundError:
            sys.exit(f"py-spy is not installed; run: {sys.executable} -m pip install py-spy")
        if done.returncode or not seen.exists():
            sys.exit(f"py-spy could not look at the worker:\n{done.stderr[-2000:]}")
        return Counter(samples(seen.read_text()))


def samples(text: str) -> Iterator[Sample]:
    """What each look at a stack counts for; the start of the process for nothing."""
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [(match["file"], match["function"]) for match in map(_FRAME.match, stack.split(";")) if match]
        if any("importlib" in file for file, _ in frames):
            continue  # it starts
        sample = Sample(_step(frames), _layer(frames))
        yield from [sample] * int(count)


def _step(frames: list[tuple[str, str]]) -> str:
    for file, function in reversed(frames):
        _, ours, within = file.rpartition("dray/")
        if not ours:
            continue
        for step, places in STEPS.items():
            if any(f"{within}:{function}".startswith(place) for place in places):
                return step
    return "the rest of the process"


def _layer(frames: list[tuple[str, str]]) -> str:
    file, function = frames[-1] if frames else ("", "")
    if function.endswith(IN_C):
        return "driver"
    for layer, places in LAYERS.items():
        if any(place in file for place in places):
            return layer
    return "Dray"


def show(console: Console, database: str, seen: Counter[Sample], jobs: int) -> None:
    layers = ["Dray", *LAYERS]
    table = Table("what it does", title=f"{database}: microseconds of Python for each of {jobs:,} jobs", title_justify="left")
    for name in (*layers, "all"):
        table.add_column(name, justify="right")
    for step in (*STEPS, "the rest of the process", None):
        figures = [_microseconds(seen, step, layer, jobs) for layer in layers]
        table.add_row(step or "all", *(f"{figure:.1f}" for figure in (*figures, sum(figures))))
    console.print(table)


def _microseconds(seen: Counter[Sample], step: str | None, layer: str, jobs: int) -> float:
    looks = sum(count for sample, count in seen.items() if sample.layer == layer and step in (sample.step, None))
    return looks / RATE / jobs * 1e6


def main(given: Sequence[str]) -> None:
    options = arguments(given)
    console = Console()
    console.width = max(console.width, WIDTH)
    facts = {**machine.facts(), **machine.versions()}
    console.print(" · ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    with beds.made(options.database or list(beds.SQL), console.print) as found:
        for bed in found:
            with bed.fresh() as url:
                dray_rows.fill(url, options.jobs)
                bed.analyze(url)
                show(console, bed.name, looked_at(url, options.jobs), options.jobs)
