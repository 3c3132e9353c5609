"""Isolated jobs and commands ran on beside the second run that others had begun. One was in a call into C that kept the
interpreter's lock when its worker was killed: nothing in its process could notice. And those of a worker that was frozen, by a
signal or by a freezer, waited for a word of it for as long as that took.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from dray.job import State
from tests.acceptance.site import SHOP, Site, gone, site_at
from tests.servers import wait_until

TTL = 4.0

BEGIN = r'''
import os, time
from pathlib import Path

def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def begin(kind):
    """Note that a run has begun, and how many that had begun before live still; whether it is the first of its kind."""
    before = [line.split() for line in Path("begun").read_text().splitlines()] if Path("begun").exists() else []
    beside = sum(lives(pid) for other, pid, _ in before if other == kind)
    with open("begun", "a") as file:
        file.write(f"{kind} {os.getpid()} {beside}\n")
    return not any(other == kind for other, *_ in before)

def wait():
    end = time.monotonic() + 60
    while not Path("go").exists() and time.monotonic() < end:
        time.sleep(0.05)
'''

TASKS = (
    SHOP.replace("ttl=6", f"ttl={TTL:g}")
    + """
import ctypes, sys
from begin import begin, wait

@app.task(isolate=True)
def isolated():
    begin("isolated")
    wait()

@app.task(isolate=True)
def entangled():
    if begin("entangled"):
        ctypes.PyDLL(None).usleep(20_000_000)  # unlike CDLL it keeps the lock

command = app.command("command", [sys.executable, "-c", "from begin import *; begin('command'); wait()"])
"""
)


class Begun(NamedTuple):
    kind: str
    pid: int
    beside: int  # that had begun before, and lived still


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db", TASKS) as site:
        (site.folder / "begin.py").write_text(BEGIN)
        yield site
        (site.folder / "go").touch()
    with suppress(FileNotFoundError):  # what a failure has left: stopped, it would be there for ever
        for pid in map(int, (site.folder / "stopped").read_text().split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def begun(site: Site) -> list[Begun]:
    file = site.folder / "begun"
    lines = file.read_text().splitlines() if file.exists() else []
    return [Begun(kind, int(pid), int(beside)) for kind, pid, beside in map(str.split, lines)]


def all_begin(site: Site, number: int) -> list[Begun]:
    """Wait until so many runs have begun; gives those that are the second of their job."""
    wait_until(lambda: len(begun(site)) == number, f"{number} runs to begin", 60)
    return begun(site)[number // 2 :]


def started(site: Site, kinds: Sequence[str]) -> tuple[list[int], subprocess.Popen[str]]:
    """A worker that runs a job of each kind; gives their ids too."""
    ids = [site.enqueue(kind) for kind in kinds]
    worker = site.worker("-c", str(len(kinds)))
    all_begin(site, len(kinds))
    return ids, worker


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def below(pid: int, words: str = "") -> list[int]:
    """The children of a process that have these words in their command lines."""
    mine = [int(name) for name in os.listdir("/proc") if name.isdecimal() and _stat(int(name))[1:2] == [str(pid)]]
    return [one for one in mine if words in Path(f"/proc/{one}/cmdline").read_text()]


def freeze(site: Site, *pids: int) -> None:
    with open(site.folder / "stopped", "a") as file:
        file.writelines(f"{pid}\n" for pid in pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def thaw(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_call_into_c_does_not_outlive_its_worker(site: Site) -> None:
    _, worker = started(site, ["entangled"])
    worker.kill()
    worker.wait(10)
    site.worker()
    assert all_begin(site, 2)[0].beside == 0


@pytest.mark.parametrize("heart", ["beats", "is frozen too"])
def test_what_a_frozen_worker_has_begun_ends_before_others_begin_it_again(site: Site, heart: str) -> None:
    # The last can notice nothing by itself: the heart sees to it.
    kinds = ["isolated", "command", *(["entangled"] if heart == "beats" else [])]
    ids, worker = started(site, kinds)
    frozen = [worker.pid, *(below(worker.pid, "heartbeat.py") if heart == "is frozen too" else ())]
    freeze(site, *frozen)
    site.worker("-c", str(len(kinds)))
    again = all_begin(site, 2 * len(kinds))
    assert {run.kind: run.beside for run in again} == dict.fromkeys(kinds, 0)
    thaw(*frozen)
    (site.folder / "go").touch()
    assert [(site.ended(id).state, site.row(id).fence) for id in ids] == [(State.SUCCEEDED, 2)] * len(ids)


def test_what_was_frozen_with_its_worker_ends_when_it_thaws(site: Site) -> None:
    ids, worker = started(site, ["isolated", "command"])
    pids = [run.pid for run in begun(site)]
    outside, heart = below(worker.pid, "outside"), below(worker.pid, "heartbeat.py")
    freeze(site, worker.pid, *heart, *outside, *pids)
    time.sleep(TTL)
    thaw(*outside, *pids)  # neither the worker nor its heart
    for pid in pids:
        gone(pid)
    thaw(worker.pid, *heart)
    (site.folder / "go").touch()
    site.worker()
    # It was no failure of theirs, of which they may have but one: they run anew.
    assert [(site.ended(id).state, site.row(id).fence) for id in ids] == [(State.SUCCEEDED, 2)] * 2


def test_a_worker_that_is_frozen_for_a_moment_loses_nothing(site: Site) -> None:
    ids, worker = started(site, ["isolated", "command"])
    freeze(site, worker.pid)
    time.sleep(TTL / 2)
    thaw(worker.pid)
    time.sleep(TTL / 2)
    (site.folder / "go").touch()
    assert [(site.ended(id).state, site.row(id).fence) for id in ids] == [(State.SUCCEEDED, 1)] * 2
    assert worker.poll() is None


def test_a_database_that_is_away_for_everybody_ends_nothing(site: Site) -> None:
    ids, worker = started(site, ["isolated", "command"])
    with closing(sqlite3.connect(site.folder / "shop.db", isolation_level=None, timeout=30)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        time.sleep(1.7 * TTL)
        somebody.execute("COMMIT")
    (site.folder / "go").touch()
    assert [(site.ended(id).state, site.row(id).fence) for id in ids] == [(State.SUCCEEDED, 1)] * 2
    assert worker.poll() is None
