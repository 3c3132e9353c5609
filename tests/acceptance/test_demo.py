"""The demonstration as a stranger meets it: the command is run, and what it says is counted again here, in another way."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dray.demo import census

JOBS = 150
DRAY = [sys.executable, "-m", "dray"]
TIMEOUT = 110  # seconds; a few on a machine that has nothing else to do


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to run in; no process may be left that works there."""
    yield tmp_path
    deadline = time.monotonic() + 10
    while left := processes_in(tmp_path):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def counted_here(files: list[Path]) -> dict[str, int]:
    """The same figures, by a recursive visitor instead of a walk, and lines by another rule."""

    class Counter(ast.NodeVisitor):
        def __init__(self) -> None:
            self.totals = {"parsed": 0, "lines": 0, "functions": 0, "classes": 0, "imports": 0}

        def generic_visit(self, node: ast.AST) -> None:
            name = type(node).__name__
            for word, kinds in (
                ("functions", ("FunctionDef", "AsyncFunctionDef")),
                ("classes", ("ClassDef",)),
                ("imports", ("Import", "ImportFrom")),
            ):
                self.totals[word] += name in kinds
            super().generic_visit(node)

    counter = Counter()
    for file in files:
        source = file.read_bytes()
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        counter.visit(tree)
        counter.totals["parsed"] += 1
        counter.totals["lines"] += len(re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", source))
    return counter.totals


def stored_results(path: Path) -> dict[str, int]:
    """The sum of the results, straight from the tables."""
    totals = {"parsed": 0, "lines": 0, "functions": 0, "classes": 0, "imports": 0}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for (text,) in connection.execute("SELECT result FROM dray_all_jobs WHERE state = 'succeeded'"):
            (fields,) = [value for value in find_dicts(msgspec.json.decode(text)) if "functions" in value]
            totals["parsed"] += 1
            for name in ("lines", "functions", "classes", "imports"):
                totals[name] += fields[name]
    return totals


def find_dicts(value: object) -> Iterator[dict[str, int]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from find_dicts(one)


@pytest.mark.timeout(TIMEOUT + 30)
def test_a_worker_is_killed_and_every_job_is_done_once(folder: Path) -> None:
    done = subprocess.run(
        [*DRAY, "demo", "--jobs", str(JOBS)], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert "\x1b" not in said, "control codes in a file"
    assert done.stderr == ""

    killed = re.search(r"worker 2 \(pid \d+\) killed with SIGKILL; it held (\d+) job", said)
    assert killed is not None
    assert int(killed[1]) > 0
    assert "went back to the queue" in said
    assert "worker 3" in said

    files = census.find_input(JOBS).files
    expected = counted_here(files)
    failed = len(files) - expected["parsed"]
    assert len(files) == JOBS
    assert failed >= 1
    assert f"{JOBS} enqueued = {JOBS} ended: {expected['parsed']} succeeded, {failed} failed" in said
    for name in ("lines", "functions", "classes", "imports"):
        assert re.search(rf"^ *{expected[name]:,}  {name} *$", said, re.MULTILINE), name

    (database,) = folder.glob(".dray-demo/*.db")
    assert stored_results(database) == expected
    with contextlib.closing(sqlite3.connect(database)) as connection:
        calls = [args for (args,) in connection.execute("SELECT args FROM dray_all_jobs")]
        tries = [attempt for (attempt,) in connection.execute("SELECT attempt FROM dray_all_jobs WHERE state = 'failed'")]
    assert sorted(msgspec.json.decode(args)["a"][0] for args in calls) == sorted(map(str, files))
    assert tries == [3] * failed


@pytest.mark.timeout(TIMEOUT + 30)
def test_what_it_tells_to_try_next_works(folder: Path) -> None:
    done = subprocess.run(
        [*DRAY, "demo", "--jobs", "20"], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [line.strip() for line in done.stdout.rpartition("Look around with")[2].splitlines() if line.strip()]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert len(commands) == 6
    script = "\n".join(["set -e", *commands])
    tried = subprocess.run(
        ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


@pytest.mark.timeout(TIMEOUT + 30)
def test_ctrl_c_leaves_no_worker_behind(folder: Path) -> None:
    process = subprocess.Popen([*DRAY, "demo"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "%" in line:
                break
        assert len(processes_in(folder)) >= 3
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Interrupted" in complaint
    assert "Traceback" not in complaint
