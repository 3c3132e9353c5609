"""The processes of a trial: hired, killed, replaced, and counted at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import sqlalchemy as sa

import dray
from tests.crash.ledger import Ledger
from tests.crash.receipt import Account, read, steady
from tests.crash.shop import Plan, Shop
from tests.servers import is_alive, wait_until

ROOT = Path(__file__).parents[2]
EXIT_LOST = 75
Role = Literal["work", "produce"]
Mode = Literal["witness", "family"]


@dataclass
class Hand:
    """One process of the crew, from its start to its end."""

    name: str
    role: Role
    process: subprocess.Popen[bytes]
    log: Path
    hired: float
    mode: Mode | None = None  # how it was killed, if it was
    ended: float | None = None  # just before it was killed, or when its end was seen
    gone: float | None = None  # when a kill had done its work

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Crew:
    """Workers and producers on one database; all that they write is in one folder."""

    def __init__(self, url: str, folder: Path, *, ttl: float, concurrency: int = 4, seed: object = 0) -> None:
        self.plan = Plan(crew=uuid4().hex, url=url, folder=str(folder), ttl=ttl, concurrency=concurrency)
        self.seed = seed
        self.hands: list[Hand] = []
        self.shop = Shop(self.plan, "test")
        self.shop.app.store.ensure()

    def hire(self, role: Role, **different: Any) -> Hand:
        """Start one more worker or producer; `different` is what its plan has instead of the crew's."""
        number = len(self.hands)
        name = f"{role}-{number}"
        log = Path(self.plan.folder, f"{name}.log")
        # A producer's numbers are its own: nobody who comes after a killed one uses any of them again.
        arguments = [name] if role == "work" else [name, f"{self.seed}-{number}", str(number * 1_000_000)]
        package = str(Path(dray.__file__).parents[1])
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"tests.crash.{role}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", **replace(self.plan, **different).variable},
                start_new_session=True,
            )
        self.hands.append(Hand(name, role, process, log, steady()))
        return self.hands[-1]

    def hire_workers(self, count: int, **different: Any) -> list[Hand]:
        """Start workers, and return when they work."""
        hands = [self.hire("work", **different) for _ in range(count)]
        for hand in hands:
            wait_until(lambda name=hand.name: self.account().of("worker.started", name) != [], f"{hand.name} to start")
        return hands

    def present(self, role: Role) -> list[Hand]:
        """Those that were neither killed nor seen to end."""
        return [hand for hand in self.hands if hand.role == role and hand.ended is None]

    def kill(self, hand: Hand, mode: Mode) -> None:
        """Kill a process with SIGKILL: alone, so that its heartbeat process is a witness, or with its whole family."""
        children = children_of(hand.pid) if mode == "family" else []
        hand.mode, hand.ended = mode, steady()
        # The children first: they would have the time to write down what they see.
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        hand.process.kill()
        hand.process.wait()
        hand.gone = steady()

    def look_after(self) -> list[Hand]:
        """Take note of those that ended by themselves."""
        gone = [hand for hand in self.hands if hand.ended is None and hand.code is not None]
        for hand in gone:
            hand.ended = steady()
        return gone

    def account(self) -> Account:
        return read(self.plan.receipt)

    def stop(self, role: Role, seconds: float = 60.0) -> None:
        """Ask all of a role to end, and wait until they have."""
        hands = self.present(role)
        for hand in hands:
            hand.send(signal.SIGTERM)
        wait_until(lambda: all(hand.code is not None for hand in hands), f"{role} to end", seconds)
        self.look_after()

    def survivors(self) -> list[int]:
        """Processes that belong to this trial and still run: workers, producers, heartbeat processes."""
        mark = self.plan.crew.encode()
        return [pid for pid in processes() if mark in _environment(pid) and is_alive(pid)]

    def close(self) -> None:
        """End whatever is left; a test that failed leaves all kinds of things."""
        for hand in self.hands:
            with suppress(ProcessLookupError):
                hand.process.kill()
            hand.process.wait()
        for pid in self.survivors():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.shop.app.close()

    def tails(self) -> str:
        """The last words of those that still worked at the end, and of those that ended by themselves."""
        told = [hand for hand in self.hands if hand.mode is None][-6:]
        return "\n".join(f"--- {hand.name} (pid {hand.pid}, exit {hand.code})\n{hand.tail()}" for hand in told)


@contextmanager
def crew_of(url: str, folder: Path, *, ttl: float, concurrency: int = 4, seed: object = 0) -> Iterator[Crew]:
    """A crew that is gone afterwards; when the test fails it tells what it last said."""
    crew = Crew(url, folder, ttl=ttl, concurrency=concurrency, seed=seed)
    try:
        yield crew
    except BaseException:
        print(crew.tails())
        with suppress(sa.exc.DBAPIError):  # it may be the very reason
            ledger = Ledger(url)
            print("not ended:", *[row for row in ledger.rows() if row.live][:8], sep="\n    ")
            print("workers (state, pid):", ledger.workers())
        raise
    finally:
        crew.close()


def processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def children_of(pid: int) -> list[int]:
    """The children of a process, whichever of its threads started them."""
    return [child for child in processes() if _parent(child) == pid]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
