"""The benchmarks still run. What they find is not judged: it depends on the machine and on who else is using it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rows import ROWS, chosen

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.timeout(300)
def test_a_quick_round_shows_every_row_and_writes_them_down(tmp_path: Path) -> None:
    done = run("--quick", "--jobs", "300", "--database", "sqlite", "--output", tmp_path / "benchmark.json")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("│")]
    assert [line[3] for line in lines] == list(ROWS)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(row["database"], row["row"]) for row in written["rows"]] == [("sqlite", name) for name in ROWS]
    for row in written["rows"]:
        assert (row["ratio"] is None) == (row["raw"] is None)
        assert len(row["repetitions"]) == 1
    assert {"machine", "versions", "size"} < set(written)


def test_a_row_brings_the_raw_one_it_is_compared_with() -> None:
    assert [row.name for row in chosen(["enqueue-one"])] == ["raw-one", "enqueue-one"]
    assert [row.name for row in chosen([])] == list(ROWS)


@pytest.mark.parametrize("arguments", [["speed"], ["--database", "oracle"]])
def test_what_is_not_there_is_refused(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2
