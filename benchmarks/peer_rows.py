"""The same work by others: their programs are told what to do, and measured as Dray's workers are."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import workers
from benchmarks.peers.catalogue import NotThere, Peer
from benchmarks.stamps import VARIABLE, Stamps, made

_VERSIONS = """
import importlib.metadata, json, platform, sys
print(json.dumps({"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """A peer in its own environment."""

    peer: Peer
    folder: Path

    def versions(self) -> str:
        """In a few words; its Python may be another than Dray's."""
        command = [str(self.peer.python(self.folder)), "-c", _VERSIONS, *self.peer.distributions]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotThere(f"{self.peer.title}: what was installed does not run any more: {error}") from error
        told: dict[str, str] = json.loads(done.stdout)
        own = told.pop(self.peer.name)
        return f"{own} ({', '.join(f'{name} {version}' for name, version in told.items())})"

    def fill(self, url: str, jobs: int) -> None:
        self._told("fill", url, jobs)

    def drained(self, url: str, jobs: int, count: int) -> dict[str, float]:
        with made(jobs) as stamps, self._working(url, stamps, count) as running:
            return workers.drained(running, stamps, jobs)

    def enqueued_one_by_one(self, url: str, jobs: int) -> float:
        return float(self._told("one", url, jobs))

    def enqueued_in_chunks(self, url: str, jobs: int) -> float:
        return float(self._told("many", url, jobs))

    def latencies(self, url: str, jobs: int, idle: float) -> dict[str, float]:
        self._told("fill", url, 0)
        with made(jobs + 1) as stamps, self._working(url, stamps, 1) as running:
            sent = self._told("trickle", url, jobs, stamps)
            workers.until_run(running, stamps, range(jobs), 60)
            return workers.waits(stamps, sent) | workers.idled(running, idle)

    def _command(self, what: str, url: str, number: int) -> list[str]:
        module = f"benchmarks.peers.{self.peer.name}"
        bare = url.replace("postgresql+psycopg:", "postgresql:")
        return [str(self.peer.python(self.folder)), "-m", module, what, bare, str(number)]

    def _told(self, what: str, url: str, number: int, stamps: Stamps | None = None) -> Any:
        told = os.environ | ({VARIABLE: str(stamps.path)} if stamps else {})
        command = self._command(what, url, number)
        done = subprocess.run(
            command, cwd=workers.ROOT, env=told, capture_output=True, text=True, timeout=workers.PATIENCE, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.peer.title} could not {what}:\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def _working(self, url: str, stamps: Stamps, count: int) -> AbstractContextManager[list[workers.Worker]]:
        if self.peer.forks:
            return workers.working([self._command("work", url, count)], stamps)
        return workers.working([self._command("work", url, 1)] * count, stamps)
