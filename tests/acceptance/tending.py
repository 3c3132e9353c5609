"""For stories about `dray tend`: the real command on an app whose jobs wait until they are let go, and note that they ran."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dray import Dray, State
from tests.servers import children_of, is_alive, wait_until

SHOP = """
import os
import subprocess
import time
from pathlib import Path
from dray import Dray, current_job

app = Dray(os.environ["SHOP_URL"], create_tables=True, ttl=60)

def note(word):
    line = f"{word} {current_job().id} {os.getpid()}\\n".encode()
    number = os.open("receipt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(number, line)
    os.close(number)

@app.task
def hold():
    note("begin")
    print("holding", current_job().id)
    until = time.monotonic() + 100
    while not Path("gate").exists() and time.monotonic() < until:
        time.sleep(0.01)
    print("let go", current_job().id)
    note("end")

@app.task
def talk(count):
    for _ in range(count):
        print("y" * 99)

@app.task
def look():
    listed = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True, check=True)
    return [listed.stdout, sorted(name for name in os.environ if "TENDER" in name)]
"""
PATIENCE = 60.0
_LINE = re.compile(r"^\S+ +\w+ +tend\.(\w+) (.*)$", re.MULTILINE)


def hold() -> None: ...


def talk(count: int) -> None: ...


def look() -> None: ...


@dataclass
class Tending:
    """A tender of a test, and what can be seen of it."""

    folder: Path
    url: str
    process: subprocess.Popen[bytes]
    app: Dray = field(init=False)

    def __post_init__(self) -> None:
        self.app = Dray(self.url, create_tables=True, ttl=60)
        for task in (hold, talk, look):
            self.app.task(task)
        self.app.store.ensure()

    # --- what it says ---------------------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def events(self, *names: str) -> list[tuple[str, dict[str, str]]]:
        """Its own log lines of these kinds: the event, and its facts."""
        found = []
        for name, rest in _LINE.findall(self.log):
            if not names or name in names:
                facts = re.findall(r'(\w+)=("[^"]*"|\S*)', rest)
                found.append((name, {fact: value.strip('"') for fact, value in facts}))
        return found

    def status(self) -> dict[str, Any]:
        """The status file; without pools as long as there is none."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / "status").read_text())
            return found
        return {"pools": []}

    def workers(self, *states: str) -> list[dict[str, Any]]:
        return [
            worker for pool in self.status()["pools"] for worker in pool["workers"] if not states or worker["state"] in states
        ]

    def until(self, count: int, *states: str) -> list[dict[str, Any]]:
        """Wait until so many workers are in one of these states."""
        self.wait(lambda: len(self.workers(*states)) == count, f"{count} workers that are {' or '.join(states) or 'there'}")
        return self.workers(*states)

    def until_says(self, text: str, times: int = 1) -> str:
        """Wait until its log has a text, as a pattern; gives the last line with it."""
        self.wait(lambda: len(re.findall(text, self.log, re.MULTILINE)) >= times, f"{text!r} in the log")
        return [line for line in self.log.splitlines() if re.search(text, line)][-1]

    def wait(self, fact: Any, what: str, seconds: float = PATIENCE) -> None:
        def happened() -> bool:
            return bool(fact()) or (self.process.poll() is not None and _ended(what))

        try:
            wait_until(happened, what, seconds)
        except (TimeoutError, EOFError):
            print(self.log)
            print(json.dumps(self.status(), indent=1))
            raise

    # --- what is done to it ---------------------------------------------------------------------------------------------

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, code: int = 0) -> None:
        try:
            assert self.process.wait(PATIENCE) == code
        except BaseException:
            print(self.log)
            raise

    def enqueue(self, task: str, times: int = 1, **arguments: Any) -> list[int]:
        return [self.app.enqueue(task, **arguments).id for _ in range(times)]

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def close_gate(self) -> None:
        (self.folder / "gate").unlink()

    # --- what became of the jobs ----------------------------------------------------------------------------------------

    def notes(self) -> list[tuple[str, int, int]]:
        """What jobs have noted, in its order: begin or end, the job, the process."""
        with suppress(FileNotFoundError):
            lines = (self.folder / "receipt").read_text().splitlines()
            return [(word, int(job), int(pid)) for word, job, pid in map(str.split, lines)]
        return []

    def begun(self) -> int:
        return sum(word == "begin" for word, _, _ in self.notes())

    def until_begun(self, count: int) -> None:
        self.wait(lambda: self.begun() >= count, f"{count} jobs to begin")

    def counts(self) -> Counter[State]:
        """How many jobs are in each state, where there are any."""
        return +Counter(self.app.store.desk.counts())

    def until_all_ended(self) -> None:
        ended = {State.SUCCEEDED, State.FAILED, State.CANCELLED}
        self.wait(lambda: not any(number for state, number in self.counts().items() if state not in ended), "all jobs to end")

    def fewest_after(self, count: int) -> int:
        """How few workers there ever were that had not been told to end, once there had been so many."""
        working: set[str] = set()
        fewest: list[int] = []
        for name, facts in self.events("started", "retires", "died", "ended"):
            if name == "started":
                working.add(facts["pid"])
            else:
                working.discard(facts["pid"])
            if fewest or len(working) >= count:
                fewest.append(len(working))
        return min(fewest)


@contextmanager
def tending(
    folder: Path,
    url: str,
    *words: str,
    before: tuple[str, ...] = (),
    app: str = "shop:app",
    variables: dict[str, str] | None = None,
) -> Iterator[Tending]:
    """`dray tend` with these words; all of it is gone afterwards."""
    (folder / "shop.py").write_text(SHOP)
    command = [*before, sys.executable, "-m", "dray", "tend", "-A", app, "--status-file", "status", *words]
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "SHOP_URL": url, "PYTHONWARNINGS": "ignore", **(variables or {})},
            start_new_session=True,
        )
    tended = Tending(folder, url, process)
    try:
        yield tended
    finally:
        end_family(process.pid)
        process.wait()
        tended.app.close()


def _ended(what: str) -> bool:
    raise EOFError(f"the tender has ended; waited for {what}")


def family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    return [pid, *(one for child in children_of(pid) for one in family(child))]


def end_family(pid: int) -> None:
    """Kill a process and all below it: stopped first, it can start nothing that would be overlooked."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    for one in reversed(family(pid)):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def gone(*pids: int) -> bool:
    return not any(map(is_alive, pids))
