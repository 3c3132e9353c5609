"""A place where Dray is installed: a folder with an app in it, a database, and the real command in processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dray
from dray import Dray
from dray.job import State
from tests.servers import is_alive, wait_until

PACKAGE = str(Path(dray.__file__).parents[1])

SHOP = '''
import asyncio, os, time
from pathlib import Path
from dray import Dray, TimedOut, current_job
from dray.options import Isolate

app = Dray(os.environ["SITE_URL"], create_tables=True, beat=0.3, ttl=6, grace=20)

def wait_for(name, seconds=60.0):
    end = time.monotonic() + seconds
    Path(f"{name}.here").touch()
    while not Path(name).exists() and time.monotonic() < end:
        time.sleep(0.01)

@app.task
def note(what):
    with open("noted", "a") as file:
        file.write(f"{what}\\n")

@app.task
def hold(name):
    """Be busy until a file of this name is there."""
    wait_for(name)
    note(name)

@app.task
def version():
    return Path("version").read_text()
'''


class Site:
    """The folder, the database and what runs there."""

    def __init__(self, folder: Path, url: str, source: str = SHOP) -> None:
        self.folder, self.url = folder, url
        self.home = folder  # where commands are started that stay
        self.before: tuple[str, ...] = ()  # words that start them
        (folder / "shop.py").write_text(source)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAY_")},
            "SITE_URL": url,
            "PYTHONPATH": PACKAGE,
            "HOME": str(folder),
        }
        self.app = Dray(url, create_tables=True)
        self.app.store.ensure()
        self._processes: list[subprocess.Popen[str]] = []

    def dray(self, *words: str, code: int | None = 0, app: bool = True, timeout: float = 90, **env: str) -> str:
        """Run a command to its end; gives what it wrote on both streams."""
        done = subprocess.run(
            self._command(words, app=app),
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout)
        return done.stdout

    def start(self, *words: str, app: bool = True, **env: str) -> subprocess.Popen[str]:
        """Start a command; its log is in the file `log-N`."""
        number = len(self._processes)
        with open(self.folder / f"log-{number}", "w") as log:
            process = subprocess.Popen(
                [*self.before, *self._command(words, app=app)],
                cwd=self.home,
                env={**self.env, "PWD": str(self.home), **env},  # as a shell would say
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._processes.append(process)
        return process

    def worker(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start a worker, and wait until it is registered."""
        before = {worker.id for worker in self.app.store.roster.listing()}
        process = self.start("worker", *words, **env)

        def is_there() -> bool:
            assert process.poll() is None, self.log(process)
            return any(worker.id not in before and worker.pid == process.pid for worker in self.app.store.roster.listing())

        wait_until(is_there, "the worker is registered", 60)
        return process

    def log(self, process: subprocess.Popen[str]) -> str:
        """What a started command has written so far."""
        return (self.folder / f"log-{self._processes.index(process)}").read_text()

    def says(self, process: subprocess.Popen[str], words: str, times: int = 1) -> None:
        """Wait until a command has written these words; it may end with them, but not before."""

        def has_said() -> bool:
            ended = process.poll()  # first: its last words may be these
            said = self.log(process)
            assert ended is None or said.count(words) >= times, f"it ended with {ended}, and never said {words!r}:\n{said}"
            return said.count(words) >= times

        try:
            wait_until(has_said, f"{words!r} in the log of {process.args}", 60)
        except TimeoutError as error:
            error.add_note(self.log(process))
            raise

    def enqueue(self, task: str, *args: Any, **options: Any) -> int:
        """Insert a job by hand, as it would be stored; gives its id."""
        from dray.job import NewJob

        payload = self.app.codec.encode_call(args, options.pop("kwargs", {}))
        job = NewJob(task=task, args=payload, **{"queue": "default", "max_attempts": 1, **options})
        return self.app.store.add([job])[0].id

    def ended(self, job_id: int, seconds: float = 60) -> Any:
        """Wait for the end of a job; gives its row."""
        wait_until(lambda: self.row(job_id).state.ended, f"the end of job {job_id}", seconds)
        return self.row(job_id)

    def runs(self, job_id: int) -> None:
        """Wait until a job runs."""
        wait_until(lambda: self.row(job_id).state is State.RUNNING, f"job {job_id} runs", 60)

    def row(self, job_id: int) -> Any:
        row = self.app.store.desk.job(job_id)
        assert row is not None
        return row

    def noted(self) -> list[str]:
        """What the task `note` has noted."""
        file = self.folder / "noted"
        return file.read_text().split() if file.exists() else []

    def let_go(self, name: str) -> None:
        """Let the `hold` jobs of this name end."""
        (self.folder / name).touch()

    def is_held(self, name: str) -> None:
        """Wait until a `hold` job of this name has begun."""
        wait_until((self.folder / f"{name}.here").exists, f"{name} is held", 60)

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.app.close()

    def _command(self, words: tuple[str, ...], *, app: bool) -> list[str]:
        verb, *rest = words
        return [sys.executable, "-m", "dray", verb, *(["-A", "shop:app"] if app else ["--database-url", self.url]), *rest]


@contextmanager
def site_at(folder: Path, url: str, source: str = SHOP) -> Iterator[Site]:
    """A site that is cleared up."""
    site = Site(folder, url, source)
    try:
        yield site
    finally:
        site.close()


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM, seconds: float = 60) -> int:
    """Send a signal and wait for the end; gives the exit code."""
    process.send_signal(number)
    return process.wait(seconds)


def gone(pid: int) -> None:
    """Wait until no process has this number."""
    wait_until(lambda: not is_alive(pid), f"the end of process {pid}", 30)
