"""Where processes under test come from: a process that has loaded everything already, and only forks."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import dray

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds that a child may take


class Nursery:
    """One child at a time, from its birth to its end."""

    def __init__(self) -> None:
        self.pid = 0  # of the child, while there is one
        self._open()

    def _open(self) -> None:
        package = str(Path(dray.__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fork"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}"},
            start_new_session=True,
        )
        self._heard = b""

    def bear(self, order: Mapping[str, object]) -> None:
        """Start a child."""
        if self.pid:  # a test that failed has left one behind
            self.close()
            self._open()
        self._say(json.dumps(order))
        self.pid = self._hear("pid")[1]

    def wait(self) -> int | None:
        """Wait until the child has ended, and give its exit code; None when it was frozen."""
        word, number = self._hear("ended", "stopped")
        if word == "stopped":
            return None
        self.pid = 0
        return number

    def wake(self) -> None:
        """Let a frozen child go on."""
        self._say("")

    def close(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.pid = 0
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self, *words: str) -> tuple[str, int]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._heard:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            said = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not said:
                raise TimeoutError(f"waited {PATIENCE:g} s for a child to be {' or '.join(words)}")
            self._heard += said
        line, self._heard = self._heard.split(b"\n", 1)
        word, number = line.decode().split(" ")
        assert word in words, line
        return word, int(number)
