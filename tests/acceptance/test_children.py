"""Processes for isolated jobs, close up: what is meant for one run never reaches another, and a death is always noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dray.codec import Codec
from dray.context import Context
from dray.forks import close_in_forks
from dray.job import Cancelled, Claim, Died, Done, Failed, Snoozed
from dray.options import Isolate
from dray.outside.children import Child, ChildGrip, Children, Plan, run
from dray.pulse import Pulse
from dray.runner import Ran
from tests.servers import is_alive, wait_until

APP = '''
import os, subprocess, sys, threading, time
from pathlib import Path
from dray import Dray, TimedOut, current_job

app = Dray("sqlite://")

@app.task
def pid():
    return os.getpid()

@app.task
def wait(name, checks=True):
    Path(f"{name}.here").touch()
    while not Path(name).exists():
        if checks:
            current_job().check()
        time.sleep(0.01)
    return name

@app.task
def forks(name):
    """A fork of it has whatever it has open."""
    if os.fork() == 0:
        Path(f"{name}.here").write_text(str(os.getpid()))
        time.sleep(600)
        os._exit(0)
    time.sleep(600)

kept = []

@app.task
def grows(size):
    kept.append(b"x" * size)
    return os.getpid()

@app.task
def says_much():
    threads = [threading.Thread(target=lambda: [current(job) for _ in range(300)]) for job in [current_job()] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "ok"

def current(job):
    job.log("x" * 2000)

@app.task
def terminates():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process.terminate()
    return process.wait(10)

@app.task
def starts(name):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(f"{name}.here").write_text(str(process.pid))
    time.sleep(600)

@app.task(timeout=1)
def late():
    time.sleep(600)

@app.before_run
def slow(ctx):
    if ctx.task == "late":
        time.sleep(1)
'''

ISOLATE = Isolate()


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    (tmp_path / "kids.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    children = Children(Plan(app="kids:app"), 4, Pulse())
    yield children
    children.stop()


def taken(children: Children) -> Child:
    child = children.take()
    assert isinstance(child, Child), child
    return child


def claim(task: str, *args: Any) -> Claim:
    return Claim(
        *(1, 1, 1, 0, 0, 1, 0, 100, "q", task, Codec().encode_call(args, {}), None, None, 0, 0),
    )


class Run:
    """A run in a thread of its own, as in a slot."""

    def __init__(self, child: Child, task: str, *args: Any) -> None:
        self.child, self.lines = child, list[str]()
        self.grip = ChildGrip(child)
        self.context = Context(claim(task, *args), lambda claim, kind, text: self.lines.append(text))
        self.came: list[Ran] = []
        self._thread = threading.Thread(target=self._work, args=(claim(task, *args),))
        self._thread.start()

    def _work(self, claim: Claim) -> None:
        try:
            self.came.append(run(self.child, claim, self.context, ISOLATE, lambda ran: None).ran)
        finally:
            self.grip.release()

    def end(self, seconds: float = 30) -> Any:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it goes on"
        return self.came[0].outcome


def is_there(name: str) -> None:
    wait_until(Path(f"{name}.here").exists, f"{name} has begun", 30)


def test_a_cancel_for_a_run_that_is_over_reaches_no_other(children: Children) -> None:
    child = taken(children)
    first = Run(child, "pid")
    assert isinstance(first.end(), Done)
    second = Run(child, "wait", "second")
    is_there("second")
    first.grip.cancel()
    first.grip.time_out()
    assert first.grip.end(lambda: None) is None
    time.sleep(0.3)
    Path("second").touch()
    assert second.end() == Done(result='"second"')
    third = Run(child, "wait", "third")
    is_there("third")
    third.grip.cancel()
    assert third.end() == Cancelled()
    children.give_back(child, ISOLATE)


def test_a_cancel_that_comes_before_its_run_is_kept_for_it(children: Children) -> None:
    child = taken(children)
    grip = ChildGrip(child)
    grip.cancel()
    assert Run(child, "wait", "never").end() == Cancelled()
    children.give_back(child, ISOLATE)


def test_a_death_is_noticed_though_a_fork_lives_on(children: Children) -> None:
    child = taken(children)
    one = Run(child, "forks", "fork")
    is_there("fork")
    os.kill(child.process.pid, signal.SIGKILL)
    outcome = one.end(10)
    assert isinstance(outcome, Died)
    assert outcome.started
    assert "SIGKILL" in outcome.how
    fork = int(Path("fork.here").read_text())
    wait_until(lambda: not is_alive(fork), "the fork goes with it", 10)
    children.drop(child)


def test_what_a_run_has_started_ends_with_it(children: Children) -> None:
    child = taken(children)
    one = Run(child, "starts", "started")
    is_there("started")
    wait_until(lambda: Path("started.here").read_text() != "", "its number is there", 10)
    assert one.grip.end(lambda: None) is True
    assert isinstance(one.end(10), Died)
    pid = int(Path("started.here").read_text())
    wait_until(lambda: not is_alive(pid), "it is gone", 10)
    children.drop(child)


def test_many_threads_may_speak_at_once(children: Children) -> None:
    child = taken(children)
    one = Run(child, "says_much")
    assert one.end() == Done(result='"ok"')
    assert len(one.lines) == 1200
    children.give_back(child, ISOLATE)


def test_what_a_run_starts_heeds_signals(children: Children) -> None:
    child = taken(children)
    assert Run(child, "terminates").end() == Done(result=str(-signal.SIGTERM))
    children.give_back(child, ISOLATE)


def test_time_that_a_hook_has_taken_counts(children: Children) -> None:
    child = taken(children)
    one = Run(child, "late")
    time.sleep(0.3)  # within the hook
    one.grip.time_out()
    outcome = one.end(20)
    assert isinstance(outcome, Failed)
    assert outcome.error == "TimedOut: it ran longer than 1s"
    children.give_back(child, ISOLATE)


def test_one_that_has_died_while_it_waited_is_used_by_nobody(children: Children) -> None:
    child = taken(children)
    assert isinstance(Run(child, "pid").end(), Done)
    children.give_back(child, ISOLATE)
    os.kill(child.process.pid, signal.SIGKILL)
    wait_until(child.has_ended, "it is dead", 10)
    other = taken(children)
    assert other is not child
    assert isinstance(Run(other, "pid").end(), Done)
    children.give_back(other, ISOLATE)


def test_one_that_has_grown_is_replaced(children: Children) -> None:
    pids = []
    for size in (1, 1, 200_000_000, 1):
        child = taken(children)
        pids.append(Run(child, "grows", size).end().result)
        children.give_back(child, ISOLATE)
    assert pids[0] == pids[1] == pids[2] != pids[3]


def test_a_job_that_finds_no_process_comes_again_later_and_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    children = Children(Plan(app="not_there:app"), 4, Pulse())
    before = len(os.listdir("/proc/self/fd"))
    delays = []
    for _ in range(4):
        found = children.take()
        assert isinstance(found, Ran)
        assert isinstance(found.outcome, Snoozed)
        assert "not_there" in str(found.outcome.why)
        delays.append(found.outcome.delay)
    assert delays == [1.0, 2.0, 4.0, 8.0]
    assert len(os.listdir("/proc/self/fd")) == before
    nobody = Children(None, 4, Pulse()).take()
    assert isinstance(nobody, Ran)
    assert "dray worker -A" in str(nobody.outcome.why)  # type: ignore[union-attr]


def test_a_child_whose_worker_is_gone_ends(tmp_path: Path) -> None:
    (tmp_path / "kids.py").write_text(APP)
    (tmp_path / "parent.py").write_text(
        "import os, sys, time\n"
        "from dray.outside.children import Children, Plan\n"
        "from dray.pulse import Pulse\n"
        "children = Children(Plan(app='kids:app'), 2, Pulse())\n"
        "child = children.take()\n"
        "if os.fork() == 0: time.sleep(600)\n"  # it has all that its parent had open
        "print(child.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )

    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(sys.modules["dray"].__file__ or "").parents[1]), str(tmp_path)]),
    }
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait(10)
        wait_until(lambda: not is_alive(pid), "the child is gone", 20)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.close()


def test_a_fork_keeps_no_end_that_tells_of_our_death() -> None:
    ours, theirs = socket.socketpair()
    close_in_forks(ours)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(0)
    try:
        ours.close()
        theirs.settimeout(10)
        assert theirs.recv(1) == b""
    finally:
        os.write(writing, b"x")
        os.waitpid(pid, 0)
        for number in (reading, writing):
            os.close(number)
        theirs.close()
