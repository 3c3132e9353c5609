"""An SQLite file that another process keeps locked: whoever waits for it says so soon, and gives up when it has said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dray.store.locked import holder
from tests.acceptance.site import Site, site_at
from tests.servers import wait_until

LOCK = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute(f"BEGIN {sys.argv[2]}")
print("held", flush=True)
sys.stdin.read()
held.execute("ROLLBACK")
"""
SOON = "import dray.store.connect as it; it.FILE_PATIENCE = 1.5; from dray.cli import main; main()"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db") as site:
        yield site


@pytest.fixture
def lock(site: Site) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Lets a process lock the file, in one of SQLite's ways, until its standard input is closed."""
    started = []

    def begin(how: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", LOCK, str(site.folder / "shop.db"), how]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_what_is_waited_for_is_told_soon_and_then_it_goes_on(
    site: Site, lock: Callable[[str], subprocess.Popen[str]], how: str
) -> None:
    holds = lock(how)
    waits = site.start("stop", "--stay")
    site.says(waits, f"shop.db is locked by process {holds.pid} (python")
    assert "waiting for at most 60 s" in site.log(waits)
    assert waits.poll() is None
    assert holds.stdin is not None
    holds.stdin.close()
    assert waits.wait(30) == 0
    assert site.log(waits).count("is locked by") == 1


@pytest.mark.parametrize(
    "words",
    [
        *(["stop", "--stay"], ["start"], ["pause", "mail"], ["resume", "mail"], ["example"], ["prune", "--defaults", "--yes"]),
        *(["retry", "1"], ["cancel", "1"], ["hold", "1"], ["release", "1"], ["move", "1", "--priority", "7"]),
        *(["unblock", "--group", "g"], ["enqueue", "-A", "shop:app", "note", "what=1"], ["run", "-A", "shop:app", "1"]),
        *(["process", "-A", "shop:app"], ["worker", "-A", "shop:app", "--once"]),
    ],
    ids=lambda words: words[0],
)
def test_every_verb_that_writes_gives_up_in_time(
    site: Site, lock: Callable[[str], subprocess.Popen[str]], words: list[str]
) -> None:
    site.enqueue("note", 1, group="g")
    holds = lock("IMMEDIATE")
    command = [sys.executable, "-c", SOON, *words]
    environment = {**site.env, "DRAY_DATABASE_URL": site.url}
    done = subprocess.run(command, cwd=site.folder, env=environment, capture_output=True, text=True, timeout=60)
    said = done.stderr
    assert done.returncode == 69, (done.stdout, said)
    assert said.count(f"process {holds.pid} (python") == 2  # no second wait behind the first
    assert f"process {holds.pid} (python" in said.splitlines()[0]
    assert f"stayed locked for 1.5 s by process {holds.pid} (python" in said.splitlines()[-1]
    assert "let it commit, or end it" in said.splitlines()[-1]


@pytest.mark.parametrize("words", [["stop"], ["stop", "--stay"], ["pause", "mail"], ["reload"]], ids=" ".join)
def test_a_timeout_is_for_the_file_as_well(site: Site, lock: Callable[[str], subprocess.Popen[str]], words: list[str]) -> None:
    site.worker()
    lock("IMMEDIATE")
    assert "stayed locked for 2 s" in site.dray(*words, "--timeout", "2s", app=False, code=69)


def test_who_waits_is_not_taken_for_who_holds(site: Site, lock: Callable[[str], subprocess.Popen[str]]) -> None:
    file = site.folder / "shop.db"
    assert holder(str(file)) is None
    holds = lock("IMMEDIATE")
    site.dray("jobs", app=False)
    assert (holder(str(file)) or "").startswith(f"process {holds.pid} (")
    holds.kill()
    wait_until(lambda: holder(str(file)) is None, "nobody has it", 30)
    assert holder(str(site.folder / "missing.db")) is None
