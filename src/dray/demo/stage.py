"""The worker processes of the demonstration: started like those of any application, and one of them killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

PATIENCE = 5.0  # seconds a worker gets to end by itself
LONGEST = "10m"  # workers end by themselves, should nobody be left to stop them


class DemoFailed(Exception):
    """The demonstration did not go as it must; the text says what was seen."""


@dataclass(slots=True)
class Actor:
    """A worker process; `worker_ids` are what the database has called it since it registered, the latest last."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    worker_ids: list[int] = field(default_factory=list)
    killed: bool = False
    done: int = 0
    held: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The end of what it has logged."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
        return ""


class Stage:
    """Starts workers on one queue and makes sure that none is left behind.

    folder      where their logs go
    settings    the environment they are given, on top of ours
    """

    def __init__(self, folder: Path, queue: str, settings: Mapping[str, str]) -> None:
        self._folder, self._queue = folder, queue
        self._environment = {**os.environ, **settings}
        self.actors: list[Actor] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Actor:
        """Start one more worker."""
        number = len(self.actors) + 1
        log = self._folder / f"worker-{number}.log"
        command = [sys.executable, "-m", "dray", "worker", self._queue, "-A", "dray.demo.census:app"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--concurrency", "4", "--max-time", LONGEST],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop them in good order
            )
        self.actors.append(Actor(number, process, log))
        return self.actors[-1]

    def check(self) -> None:
        """Raise DemoFailed when a worker has ended that nobody killed."""
        for actor in self.actors:
            if not actor.killed and (code := actor.process.poll()) is not None:
                raise DemoFailed(f"worker {actor.number} ended by itself with exit code {code}:\n{actor.last_words()}")

    def kill(self, actor: Actor, count: Callable[[], list[int]]) -> None:
        """Kill a worker with SIGKILL; `count` tells what it holds at this moment.

        It is frozen for the instant of counting: else it would end some of them between the count and the kill.
        """
        actor.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(actor.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            raise DemoFailed(f"worker {actor.number} ended before it could be killed:\n{actor.last_words()}")
        actor.held = count()
        actor.killed = True
        actor.process.kill()
        actor.process.wait()

    def stop(self) -> None:
        """End all workers: asked first, then killed."""
        living = [actor.process for actor in self.actors if actor.process.poll() is None]
        for process in living:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in living:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Place:
    """The folder where a demonstration leaves its database and logs, for one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None

    def __enter__(self) -> Place:
        self.folder.mkdir(exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise DemoFailed(f"another demo is running in {self.folder}; wait for it, or start in another folder") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def database(self, *, keep: bool) -> Path:
        """Where the database will be: instead of that of an earlier run, or, to keep that, beside it."""
        path = self.folder / "jobs.db"
        if keep:
            numbers = (n for n in range(2, 10_000) if not (self.folder / f"jobs-{n}.db").exists())
            return self.folder / f"jobs-{next(numbers)}.db" if path.exists() else path
        for old in [*self.folder.glob("jobs.db*"), *self.folder.glob("worker-*.log")]:
            old.unlink()
        return path
