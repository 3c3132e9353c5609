"""The benchmarks still run. What they find is not judged: it depends on the machine and on who else is using it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.operations import OPERATIONS
from benchmarks.rows import all_rows, chosen
from benchmarks.scale import BURDENS

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.timeout(300)
def test_a_quick_round_shows_every_row_of_drays_and_writes_them_down(tmp_path: Path) -> None:
    done = run("dray", "--quick", "--jobs", "300", "--database", "sqlite", "--output", tmp_path / "benchmark.json")
    assert done.returncode == 0, done.stderr
    names = [row.name for row in chosen(all_rows().values(), ["dray"], "sqlite")]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("│")]
    assert [line[3] for line in lines] == names
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert [(row["database"], row["row"]) for row in written["rows"]] == [("sqlite", name) for name in names]
    for row in written["rows"]:
        assert (row["ratio"] is None) == (row["raw"] not in names)
        assert len(row["repetitions"]) == 1
        assert ("CPU µs/job" in row["median"]) == row["row"].startswith("drain")
    assert {"machine", "versions", "size", "beside"} < set(written)
    assert written["left out"] == []


def test_a_peer_that_is_not_there_is_said_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "oban.reason").write_text("it needs a newer Python")
    done = run("oban", "huey", "--peers", tmp_path)
    assert "left out: Oban: it needs a newer Python" in done.stdout
    assert "left out: Huey: " in done.stdout
    assert (done.returncode, done.stderr) == (1, "nothing is left to measure\n")


@pytest.mark.timeout(300)
def test_a_small_round_at_scale_shows_every_operation_under_every_burden(tmp_path: Path) -> None:
    output = tmp_path / "scale.json"
    done = run("scale", "--scale", "0.001", "--held", "0.1", "--database", "sqlite", "--output", output)
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    assert [burden["name"] for burden in written["burdens"]] == [burden.name for burden in BURDENS]
    sheet = written["databases"]["sqlite"]
    assert list(sheet["operations"]) == [operation.name for operation in OPERATIONS]
    for operation in sheet["operations"].values():
        assert list(operation["readings"]) == [burden.name for burden in BURDENS]
        assert all(reading["work"] > 0 < reading["ms"] for reading in operation["readings"].values())
    assert len(sheet["pinned"]) == 2
    assert all(name in done.stdout for name in sheet["operations"])


@pytest.mark.parametrize("arguments", [["speed"], ["--database", "oracle"]])
def test_what_is_not_there_is_refused(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2
