"""`dray worker` as process 1: signals that come while it starts, and whoever is left to it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.job import State
from tests.acceptance.site import SHOP, Site, site_at
from tests.servers import children_of, wait_until

LEAVES = """
import subprocess

@app.task
def leave_one(code):
    '''Start a process whose parent ends at once, and give the exit code of that parent.'''
    return subprocess.run(["sh", "-c", f"(sleep 0.01 &); exit {code}"]).returncode

@app.task(isolate=True)
def leave_one_apart(code):
    return subprocess.run(["sh", "-c", f"(sleep 0.01 &); exit {code}"]).returncode

ends_with_3 = app.command("ends_with_3", ["sh", "-c", "(sleep 0.01 &); exit 3"])
"""
SLOW = """
import time
from pathlib import Path

Path("imports").touch()
time.sleep(60)
"""


@pytest.fixture
def site(tmp_path: Path, first_of_a_container: tuple[str, ...]) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db", SHOP + LEAVES) as site:
        site.before = first_of_a_container
        yield site


def first_of(process: subprocess.Popen[str]) -> int:
    """The number, out here, of the process that is number 1 in there."""
    (pid,) = children_of(process.pid)
    return pid


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_ends_it(site: Site, number: signal.Signals, code: int) -> None:
    (site.folder / "shop.py").write_text(SLOW)
    process = site.start("worker")
    wait_until((site.folder / "imports").exists, "it imports the app", 60)
    os.kill(first_of(process), number)
    assert process.wait(30) == code


def test_signals_are_passed_on_and_so_is_its_end(site: Site) -> None:
    process = site.start("worker", "-c", "1")
    site.says(process, "worker.started")
    held, waits = site.enqueue("hold", "gate"), site.enqueue("note", "waits")
    site.is_held("gate")
    os.kill(first_of(process), signal.SIGHUP)
    site.says(process, "worker.stopping")
    site.let_go("gate")
    assert site.ended(waits).state is site.row(held).state is State.SUCCEEDED
    site.says(process, "worker.started", times=2)
    os.kill(first_of(process), signal.SIGTERM)
    assert process.wait(30) == 0
    assert site.start("worker", "--nope").wait(30) == 2


def test_who_is_killed_ends_the_container(site: Site) -> None:
    process = site.start("worker")
    site.says(process, "worker.started")
    (worker,) = children_of(first_of(process))
    os.kill(worker, signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL


def test_it_collects_who_is_left_to_it_and_nobody_else(site: Site) -> None:
    codes = [site.enqueue(task, code) for code in range(20) for task in ("leave_one", "leave_one_apart")]
    commands = [site.enqueue("ends_with_3") for _ in range(5)]
    process = site.start("worker", "-c", "4")
    assert [site.ended(id).result for id in codes] == [str(code) for code in range(20) for _ in range(2)]
    assert {site.ended(id).error for id in commands} == {"CommandFailed: exit code 3"}
    first = first_of(process)
    wait_until(lambda: len(children_of(first)) == 1, "only the worker is left", 30)
    os.kill(first, signal.SIGTERM)
    assert process.wait(30) == 0


def test_what_a_terminal_says_is_said_once(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    ours, theirs = pty.openpty()
    words = ("setsid", "--ctty", "--wait", *site.before)
    site.before = ("sh", "-c", f'exec "$@" < {os.ttyname(theirs)}', "sh", *words)
    with open(ours, "wb", buffering=0) as keyboard, open(theirs):
        process = site.start("worker")
        site.is_held("gate")
        keyboard.write(b"\x03")
        site.says(process, "worker.stopping")
        site.let_go("gate")
        assert process.wait(30) == 0
        assert site.ended(held).state is State.SUCCEEDED  # a second signal would have given it back
