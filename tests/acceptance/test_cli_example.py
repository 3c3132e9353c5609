"""`dray example`: an installation is tried before there is any task of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_cli import Shell

APP = "from dray import Dray\napp = Dray()\n\n@app.task\ndef own() -> None: ...\n"
EMPTY = "from dray import Dray\napp = Dray()\n"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "empty.py").write_text(EMPTY)
    return Shell(tmp_path, {"DRAY_DATABASE_URL": f"sqlite:///{tmp_path}/shop.db"})


@pytest.mark.rows("S1.53", "S1.54", "S0.16")
def test_examples_are_run_by_the_worker_of_any_app(shell: Shell) -> None:
    shell.run("init")
    told = shell.run("example", "--count", "10", "--fail", "20%", "--slow", "0.01s", "--message", "hello")
    assert told.stdout == "10 jobs enqueued in default: jobs 1 to 10\n"
    assert "dray worker -A module:app --burst" in told.stderr
    shell.run("worker", "-A", "empty:app", "--burst", "-c", "5")
    assert shell.out("jobs", "state:failed", "-o", "ids").split() == ["10", "5"]
    first, fifth = shell.json("show", "1"), shell.json("show", "5")
    assert (first["state"], first["result"], first["attempt"]) == ("succeeded", "hello 1", 1)
    assert [line["text"] for line in first["log"]] == ["hello 1"]
    assert fifth["error"] == "Permanent: hello 5 was asked to fail"
    made = shell.json("example", "--queue", "mail")
    assert (made["task"], made["queue"], made["ids"]) == ("dray.example", "mail", [11])
    shell.variables["DRAY_APP"] = "shop:app"
    assert "→ dray worker --burst" in shell.run("example").stderr
    assert shell.out("enqueue", "dray.example", "message=by hand") == "13"
    shell.run("worker", "mail", "default", "--burst")
    assert [shell.json("show", id)["result"] for id in ("11", "12", "13")] == ["an example 1", "an example 1", "by hand 1"]


def test_what_makes_no_sense_is_refused(shell: Shell) -> None:
    shell.run("init")
    for words in (["--fail", "120%"], ["--fail", "some"], ["--count", "0"], ["--slow", "soon"], ["--message", " "]):
        shell.run("example", *words, code=2)
    assert shell.json("jobs")["jobs"] == []


def test_only_what_dray_has_is_run_under_its_names(shell: Shell) -> None:
    shell.run("init")
    shell.variables["DRAY_APP"] = "shop:app"
    shell.run("enqueue", "dray.other", code=3)
    (shell.folder / "shop.py").write_text(APP + "\n@app.task(name='dray.other')\ndef other() -> None: ...\n")
    assert "names that begin with 'dray.' are Dray's own" in shell.run("worker", "--burst", code=2).stderr
