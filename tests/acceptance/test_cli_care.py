"""The verbs of those who look after an installation, as a person calls them: rescue."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_cli import PATIENCE, Shell

APP = """
import time
from dray import Dray

app = Dray()

@app.task(queue="mail")
def nap(seconds: float) -> None:
    time.sleep(seconds)

@app.task(queue="orders", on_crash="fail")
def order(seconds: float) -> None:
    time.sleep(seconds)
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shop.py").write_text(APP)
    return Shell(tmp_path, {"DRAY_APP": "shop:app", "DRAY_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db"})


def until(happens: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sql(shell: Shell, statement: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(shell.folder / "shop.db", timeout=10)) as connection, connection:
        return list(connection.execute(statement, values))


def started(shell: Shell, *ids: str) -> bool:
    rows = sql(shell, "SELECT id FROM dray_jobs WHERE started_at IS NOT NULL")
    return {int(id) for id in ids} <= {row[0] for row in rows}


def kill_with_its_heart(worker: subprocess.Popen[str]) -> None:
    """As a host does that goes down, or whoever ends a whole container: nobody is left to write it down."""
    hearts = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    assert hearts
    for heart in hearts:
        os.kill(int(heart), signal.SIGKILL)
    worker.kill()
    worker.communicate(timeout=PATIENCE)


@pytest.mark.rows("S0.35", "C14", "C16", "C18")
def test_a_dead_worker_is_rescued_by_who_knows_that_it_is_dead(shell: Shell) -> None:
    first, second = shell.out("enqueue", "nap", "seconds:=60"), shell.out("enqueue", "order", "seconds:=60")
    worker = shell.start("worker", "-c", "2")
    try:
        until(lambda: started(shell, first, second))
        refused = shell.run("rescue", "--worker", "1", "--yes", code=4)
        assert f"dray: worker 1 lives: process {worker.pid} is on this host; stop it first" in refused.stderr
    finally:
        kill_with_its_heart(worker)
    assert shell.json("show", first)["state"] == "running"
    told = shell.out("rescue", "--worker", "1", "--yes").splitlines()
    assert told[0].startswith(f"worker 1 (pid {worker.pid} on ")
    assert told[0].endswith("is dead")
    assert told[1] == f"{first}  nap  ready again"
    assert told[2].startswith(f"{second}  order  failed: ")
    assert [shell.json("show", id)["state"] for id in (first, second)] == ["ready", "failed"]
    assert shell.json("rescue", "--worker", "1") == {"declared_dead": [], "heard_again": [], "jobs": []}
    shell.run("rescue", "--worker", "99", code=3)


@pytest.mark.rows("S0.35", "C18")
def test_the_silent_are_watched_and_the_worker_of_another_host_is_asked_about(shell: Shell) -> None:
    shell.run("init")
    assert "nobody is silent" in shell.run("rescue").stderr
    shell.variables |= {"DRAY_TTL": "2s", "DRAY_BEAT": "0.3s"}
    row = "INSERT INTO dray_workers (state, host, pid, queues, concurrency, started_at, beat_at, generation)"
    for _ in range(2):
        sql(shell, row + " VALUES (0, 'far-away', 7, '*', 1, 1, 1, 0)")
    asked = shell.run("rescue", "--worker", "1", code=2)
    assert "worker 1 (pid 7 on far-away) was heard of" in asked.stderr
    assert "add --yes" in asked.stderr
    assert shell.terminal("rescue", "--worker", "1", types="n\n")[0] == 2
    assert shell.json("rescue", "--worker", "1", "--yes")["declared_dead"] == [1]
    begun = time.monotonic()
    told = shell.run("rescue")
    assert time.monotonic() - begun > 2
    assert (told.stdout, told.stderr) == (
        "worker 2 (pid 7 on far-away) is dead\n",
        "watching worker 2 (pid 7 on far-away) for 2s\n",
    )


@pytest.mark.rows("C100", "S1.52")
def test_prune_says_what_it_keeps_and_why(shell: Shell) -> None:
    parent = shell.out("enqueue", "nap", "seconds:=0")
    child = shell.out("enqueue", "nap", "seconds:=0", "--after", parent, "--in", "1h")
    shell.run("worker", "--burst")
    told = shell.out("prune", "--older-than", "0s", "--yes").splitlines()
    assert [line.split() for line in told[:3]] == [["succeeded", "0"], ["failed", "0"], ["cancelled", "0"]]
    assert told[3:] == ["succeeded           1  kept: jobs that have not ended depend on how they ended"]
    kept = shell.json("prune", "--older-than", "0s", "--dry-run")["kept"]
    assert kept["succeeded"] == {"needed": 1, "halting": 0}
    shell.run("cancel", child)
    assert "kept" not in shell.out("prune", "--older-than", "0s", "--yes")


@pytest.mark.rows("S3.83")
def test_what_is_stuck_is_told_with_what_to_do(shell: Shell) -> None:
    first = shell.out("enqueue", "nap", "seconds:=0")
    told = shell.run("stuck")
    assert (told.stdout, told.stderr) == ("", "nothing is stuck\n")
    sql(shell, "UPDATE dray_jobs SET ready_at = ready_at - 7200000000")
    line = shell.run("stuck", code=1).stdout.splitlines()[1]
    assert line.split() == ["no", "worker", "mail", "nap", "1", "2h", "dray", "worker", "mail"]
    assert shell.out("stuck", "--ids", code=1) == first
    (one,) = shell.json("stuck", "--queue", "mail", "--task", "nap", code=1)["stuck"]
    assert (one["kind"], one["ids"], one["more"], one["advice"]) == ("no worker", [int(first)], False, "dray worker mail")
    assert shell.json("stuck", "--older-than", "3h")["stuck"] == []
    shell.run("worker", "--burst")
    assert shell.out("stuck") == ""
