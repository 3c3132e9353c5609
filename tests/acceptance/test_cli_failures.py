"""The verbs about what fails and what was done, as a person calls them: stats --since, errors, notify, show, worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.test_cli import Shell

rows = pytest.mark.rows

APP = """
from dray import Dray, Permanent

app = Dray()

@app.metadata
def release(ctx):
    return {"release": "2.4.1"}

@app.task(queue="mail")
def send(number: int) -> int:
    return number

@app.task(queue="bank")
def pay(number: int) -> None:
    raise Permanent(f"invoice {number} was refused: token=abc")

@app.on_notify
def heard(notice):
    with open("heard", "a") as out:
        out.write(f"{notice.event} {notice.task} {notice.count}\\n")
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shop.py").write_text(APP)
    return Shell(tmp_path, {"DRAY_APP": "shop:app", "DRAY_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db"})


@pytest.fixture
def worked(shell: Shell) -> Shell:
    for number in range(3):
        shell.out("enqueue", "send", f"number:={number}")
    for number in range(2):
        shell.out("enqueue", "pay", f"number:={number}")
    shell.run("worker", "--burst")
    return shell


@rows("S2.79", "S2.77", "S2.78")
def test_stats_say_what_was_done(worked: Shell) -> None:
    told = worked.out("stats", "--since", "1h").splitlines()
    assert [line.split()[:5] for line in told if line.startswith(("send", "pay", "all"))] == [
        ["send", "mail", "3", "0", "0"],
        ["pay", "bank", "2", "2", "0"],
        ["all", "5", "2", "0", told[-1].split()[4]],
    ]
    done = {one["task"]: one for one in worked.json("stats", "--since", "1h")["done"]}
    assert (done["send"]["succeeded"], done["pay"]["failed"], done["pay"]["runs"]) == (3, 2, 2)
    assert done["send"]["memory_most"] > 10_000_000
    assert done["send"]["run_p95"] < 5
    assert "TASK" not in worked.out("stats")


@rows("S2.14", "S2.77", "S2.78")
def test_show_says_what_a_run_cost(worked: Shell) -> None:
    shown = worked.out("show", "1")
    assert "process " in shown
    assert "of processor, memory " in shown
    assert '{"release":"2.4.1"}' in shown
    facts = worked.json("show", "1")
    assert facts["metadata"] == {"release": "2.4.1"}
    assert facts["pid"] > 0
    assert facts["memory_after"] > 10_000_000


@rows("C97", "C44")
def test_errors_are_put_together_and_shown_one_by_one(worked: Shell) -> None:
    (line,) = [line for line in worked.out("errors").splitlines() if "pay" in line]
    kind, task, failed, final, *_ = line.split()
    assert (task, failed, final) == ("pay", "2", "2")
    assert "token=***" in line
    one = worked.out("errors", kind)
    assert "2 attempts, 2 jobs failed for good" in one
    assert "in pay" in one
    assert "abc" not in one
    assert sorted(worked.out("errors", kind, "--ids").split()) == ["4", "5"]  # two slots: either may have ended first
    assert sorted(worked.json("errors", kind[:4])["jobs"]) == [4, 5]
    assert json.loads(worked.out("errors", "--json"))["final"] == 2
    worked.run("errors", "zzz", code=2)
    worked.run("errors", "--ids", code=2)
    assert worked.out("errors", "--since", "0s") == ""


@rows("S2.3", "S4.39")
def test_notify_tells_what_waits_and_tries_channels_out(worked: Shell, tmp_path: Path) -> None:
    worked.variables["DRAY_NOTIFY_AFTER"] = "1h"
    assert worked.out("notify").strip() == "1 notice told"
    assert worked.out("notify").strip() == "0 notices told"
    assert (tmp_path / "heard").read_text() == "failed pay 2\n"
    assert worked.out("notify", "--test").splitlines() == ["✓ log", "✓ shop.heard"]
    worked.variables |= {"DRAY_WEBHOOK": "http://127.0.0.1:9/", "DRAY_MAIL": "smtp://127.0.0.1:9"}
    worked.run("notify", code=2)  # mail_from and mail_to are missing
    worked.variables |= {"DRAY_MAIL_FROM": "dray@example.org", "DRAY_MAIL_TO": "ann@example.org"}
    told = worked.run("notify", "--test", code=1).stdout
    assert "✗ mail: ConnectionRefusedError" in told
    assert "✗ webhook: URLError" in told


@rows("S0.48", "S3.25", "S3.26", "C53")
def test_a_worker_takes_queues_by_weight_and_only_some_tasks(shell: Shell) -> None:
    for number in range(4):
        shell.out("enqueue", "send", f"number:={number}")
        shell.out("enqueue", "pay", f"number:={number}")
    shell.run("worker", "--burst", "--task", "send", "mail:5", "bank:1", "--strategy", "weighted")
    assert [shell.json("show", str(id))["state"] for id in (1, 2)] == ["succeeded", "ready"]
    shell.run("worker", "--burst", "--strategy", "strict", "bank", "mail", "--no-task", "send")
    assert shell.json("show", "2")["state"] == "failed"
    assert "weight 0" in shell.run("worker", "--strategy", "weighted", "mail:0", code=2).stderr
    shell.run("worker", "--strategy", "strict", code=2)
    shell.run("worker", "--task", "send", "--no-task", "send", code=2)
    assert "has no task 'sned'" in shell.run("worker", "--burst", "--task", "sned").stderr
