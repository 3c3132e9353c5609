"""The verbs about what waits, as a person calls them: why, groups, unblock, queues, pause, resume, hold, release, move."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_cli import Shell

APP = """
from dray import Dray, Limit, Permanent

app = Dray()

@app.task(queue="mail", group="customer-{customer}", on_failure="halt")
def book(customer: int, fails: bool = False) -> None:
    if fails:
        raise Permanent("no such account")

@app.task(limit=Limit("service", 1))
def call(number: int) -> None: ...
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shop.py").write_text(APP)
    return Shell(tmp_path, {"DRAY_APP": "shop:app", "DRAY_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db"})


@pytest.fixture
def halted(shell: Shell) -> Shell:
    """Job 1 has failed, and job 2 of its group waits because of that."""
    shell.out("enqueue", "book", "customer:=42", "fails:=true")
    shell.out("enqueue", "book", "customer:=42")
    shell.run("worker", "--burst")
    return shell


@pytest.mark.rows("C45", "C27")
def test_why_follows_the_chain_and_says_what_to_do(halted: Shell) -> None:
    told = halted.out("why", "2").splitlines()
    assert told[0] == "job 2: group 'customer-42' stands still, since job 1 of it failed"
    assert "dray retry 1, or dray unblock --group customer-42" in told[1]
    assert told[2].startswith("  job 1: it failed")
    causes = halted.json("why", "2")["causes"]
    assert [(cause["kind"], cause["job_id"], cause["depth"]) for cause in causes] == [("halted", 2, 0), ("ended", 1, 1)]
    halted.run("why", "99", code=3)


@pytest.mark.rows("C45")
def test_groups_shows_who_stands_still_and_unblock_lets_it_go_on(halted: Shell) -> None:
    assert "! stands still: job 1 failed" in halted.out("groups")
    assert halted.json("groups", "customer-42")["halted_by"] == [1]
    assert "customer-42" in halted.out("groups", "--stuck")
    assert halted.out("unblock", "--group", "customer-42") == "group customer-42 goes on without job 1"
    assert halted.out("groups", "--stuck") == ""
    halted.run("worker", "--burst")
    assert halted.json("show", "2")["state"] == "succeeded"
    halted.run("unblock", "2", code=2)
    halted.run("unblock", "2", "--without", "1", code=2)


@pytest.mark.rows("C84")
def test_a_queue_is_paused_with_a_reason_and_resumed(shell: Shell) -> None:
    shell.out("enqueue", "book", "customer:=7")
    assert "no worker starts anything of it" in shell.out("pause", "mail", "--for", "30m", "--reason", "the server is away")
    assert "the server is away" in shell.out("queues")
    assert shell.json("queues")["paused"]["note"] == "the server is away"
    shell.run("worker", "--burst")
    assert "queue 'mail' is paused (the server is away)" in shell.out("why", "1")
    assert shell.out("resume", "mail") == "mail goes on"
    assert shell.out("resume", "mail") == "mail was not paused"
    shell.run("worker", "--burst")
    assert shell.json("show", "1")["state"] == "succeeded"
    shell.run("pause", "mail", "--for", "1m", "--until", "2030-01-01", code=2)


def test_jobs_are_held_moved_and_released(shell: Shell) -> None:
    for number in (1, 2):
        shell.out("enqueue", "call", f"number:={number}")
    assert shell.out("hold", "1", "--reason", "ann is looking") == "1  ready → blocked"
    assert "an operator holds it: ann is looking" in shell.out("why", "1")
    assert shell.json("show", "2")["state"] == "ready", "its share of the limit went to the other"
    shell.out("move", "1", "--queue", "slow", "--priority", "7")
    assert (shell.json("show", "1")["queue"], shell.json("show", "1")["priority"]) == ("slow", 7)
    shell.out("release", "1")
    assert "limit 'service' (1) is full: jobs 2" in shell.out("why", "1")
    shell.run("move", "1", code=2)
    shell.run("worker", "--burst", "-p", "0-7")
    assert shell.json("show", "2")["state"] == "ready"
    shell.run("worker", "-p", "9-1", code=2)
