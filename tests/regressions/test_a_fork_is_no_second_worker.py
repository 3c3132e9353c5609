"""A task forked, and its child ended by sys.exit() or by a return, as in any script. That came back into the worker: a copy of
it, with a copy of all the jobs that had been fetched ahead. It ran them a second time, and never ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.context import Context
from dray.job import Claim, Done
from dray.limits import Limits
from dray.runner import Prepared
from dray.worker import Worker


def exits() -> None:
    sys.exit(3)


def returns() -> None:
    pass


def raises() -> None:
    raise ValueError("in the child")


@pytest.mark.parametrize(("child", "code"), [(exits, 3), (returns, 0), (raises, 1)])
@pytest.mark.parametrize("on_loop", [False, True])
def test_a_fork_that_comes_back_ends_there(child: Callable[[], None], code: int, on_loop: bool, tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    codes: list[int] = []

    def forks() -> None:
        if (pid := os.fork()) == 0:
            child()
        else:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    async def aforks() -> None:
        forks()

    app.task(name="t")(aforks if on_loop else forks)
    facts: dict[str, Any] = {**dict.fromkeys(Claim.__struct_fields__, 1), "queue": "q", "task": "t", "args": "{}"}
    context = Context(Claim(**{**facts, "key": None, "owner": None}))
    prepared = app.runner.prepare(context, "{}")
    assert isinstance(prepared, Prepared)
    ran = asyncio.run(app.runner.arun(prepared, context)) if on_loop else app.runner.run(prepared, context)
    assert ran.outcome == Done()
    assert codes == [code]


def test_what_waits_in_a_worker_is_run_once(tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    runs, forked = tmp_path / "runs", list[int]()

    @app.task
    def forks() -> None:
        if (pid := os.fork()) == 0:
            sys.exit()
        forked.append(pid)
        deadline = time.monotonic() + 2
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
            time.sleep(0.01)

    @app.task
    def pay(number: int) -> None:
        with runs.open("a") as file:
            file.write(f"{number}\n")

    app.enqueue_many([pay.bind(number) for number in range(2000)])
    app.enqueue_many([forks.bind()])
    app.enqueue_many([pay.bind(number) for number in range(2000, 2500)])
    Worker(app, concurrency=1, limits=Limits(burst=True)).run()
    app.close()
    os.kill(forked[0], signal.SIGKILL)  # it has ended, unless something is wrong
    os.waitpid(forked[0], 0)
    assert sorted(map(int, runs.read_text().split())) == list(range(2500))
