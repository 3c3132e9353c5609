"""The application under trial: tasks of every temper, each of which writes on the receipt that it runs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dray import Dray, Retry, Snooze, Unique, current_job
from tests.crash.receipt import Account, Receipt, read, steady

VARIABLE = "CRASH_PLAN"  # also the mark by which every process of a trial is known, heartbeat processes included
FULL = "full"  # the gate behind which producers wait: a long queue would hide how soon a rescued job is started
GATE_PATIENCE = 60.0  # seconds after which a waiting job gives up, so that nothing outlives a broken test


@dataclass(frozen=True)
class Plan:
    """What the processes of one trial have in common."""

    crew: str
    url: str
    folder: str
    ttl: float
    concurrency: int = 4
    poll: float | None = None  # seconds between the looks of an idle worker, where it is not to find jobs by looking

    @classmethod
    def given(cls) -> Plan:
        """The plan of this process."""
        return cls(**json.loads(os.environ[VARIABLE]))

    @property
    def variable(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @property
    def receipt(self) -> Path:
        return Path(self.folder, "receipt")

    def gate(self, name: str) -> Path:
        """A file that says something to others: `hold` jobs wait for the one with the name of their process."""
        return Path(self.folder, f"gate-{name}")


def end_with(boss: int) -> None:
    """Make this process end with the tests that started it, even if those are killed."""

    def watch() -> None:
        while os.getppid() == boss:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Shop:
    """An app and its tasks, in a process that is called `name`."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        self.receipt = Receipt(plan.receipt)
        self.app = Dray(plan.url, create_tables=True, ttl=plan.ttl)
        self.tasks: dict[str, Any] = {}
        self._open()
        self._open_lines()

    def move(self, plan: Plan) -> None:
        """Go on with the same tables under another plan, with a receipt of its own."""
        self.receipt.close()
        self.plan, self.receipt = plan, Receipt(plan.receipt)

    def account(self) -> Account:
        return read(self.plan.receipt)

    def close(self) -> None:
        self.app.close()
        self.receipt.close()

    @contextmanager
    def _run(self, n: int) -> Iterator[str]:
        job = current_job()
        assert job is not None
        self.receipt.write("start", n, job.id, job.fence, self.name, steady(), f"pid={os.getpid()}")
        outcome = "failed"
        try:
            yield f"{self.name}:{job.fence}"
            outcome = "done"
        except Snooze:
            outcome = "snoozed"
            raise
        finally:
            self.receipt.write("end", n, job.id, job.fence, self.name, steady(), outcome)

    def _entangled(self) -> Any:
        def entangled(n: int, seconds: float) -> str:
            """Keep the interpreter to itself, for ages, the first time."""
            with self._run(n) as mark:
                job = current_job()
                assert job is not None
                if job.fence == 1:
                    re.match("(a+)+$", "a" * 60 + "b")
                return mark

        return entangled

    def _open(self) -> None:
        task = self.app.task

        def plain(n: int, seconds: float) -> str:
            with self._run(n) as mark:
                time.sleep(seconds)
                return mark

        async def nap(n: int, seconds: float) -> str:
            with self._run(n) as mark:
                await asyncio.sleep(seconds)
                return mark

        def flaky(n: int, seconds: float) -> str:
            """Fail at the first attempt: a death gives the attempt back, so only a failure leads on to the second."""
            with self._run(n) as mark:
                time.sleep(seconds)
                job = current_job()
                assert job is not None
                if job.attempt == 1:
                    raise RuntimeError("as always at first")
                return mark

        def snoozing(n: int, seconds: float) -> str:
            with self._run(n) as mark:
                time.sleep(seconds)
                job = current_job()
                assert job is not None
                if job.fence == 1:
                    raise Snooze(0.1)
                return mark

        def careful(n: int, seconds: float) -> str:
            with self._run(n) as mark:
                time.sleep(seconds)
                return mark

        def hold(n: int, seconds: float) -> str:
            """Wait until the test opens the gate of this process."""
            with self._run(n) as mark:
                deadline = time.monotonic() + GATE_PATIENCE
                while not self.plan.gate(self.name).exists() and time.monotonic() < deadline:
                    time.sleep(0.005)
                return mark

        self.tasks = {
            "plain": task(plain),
            "nap": task(nap),
            "flaky": task(retry=Retry.after(0.1, 0.1, 0.1))(flaky),
            "snoozing": task(snoozing),
            "careful": task(on_crash="fail")(careful),
            "hold": task(hold),
            "entangled": task(self._entangled()),
        }

    def _open_lines(self) -> None:
        """Tasks for what others wait for."""

        def ahead(n: int, seconds: float) -> str:
            with self._run(n) as mark:
                time.sleep(seconds)
                return mark

        def spawning(n: int, seconds: float) -> str:
            """Spawn two children. Cut off and run again it asks for the same ones, which are made once."""
            with self._run(n) as mark:
                children = Unique(scope="ever", by=["n"])
                self.add(10 * n + 1, "plain", count=2, parent=current_job(), unique=children, group="children")
                return mark

        task = self.app.task
        self.tasks["ahead"] = task(run_ahead=3)(ahead)
        self.tasks["spawning"] = task(retry=Retry.after(0.1, 0.1, 0.1))(spawning)

    def add(self, n: int, kind: str, seconds: float = 0.0, count: int = 1, **options: Any) -> list[int]:
        """Add jobs n, n+1, ... in one call, with an entry on the receipt before and after."""
        task = self.tasks[kind].using(key=f"n{n}", **options)
        self.receipt.write("intend", n, count, kind)
        for number in range(n, n + count) if "after" in options else ():
            self.receipt.write("needs", number, *options["after"])
        if count == 1:
            jobs = [task.enqueue(n, seconds)]
        else:
            jobs = self.app.enqueue_many(task.bind(n + offset, seconds) for offset in range(count))
        ids = [job.id for job in jobs]
        self.receipt.write("added" if all(job.created for job in jobs) else "kept", n, *ids)
        return ids
