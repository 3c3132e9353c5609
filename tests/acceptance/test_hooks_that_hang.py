"""Hooks that never return: what they keep stays bounded, and a worker with too many of them is replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dray import Dray, Retry, State, events, stragglers
from dray.errors import JobFailed
from dray.worker import Worker
from tests.acceptance.site import SHOP, Site, end, site_at
from tests.servers import wait_until

HANGS = """
from dray import Retry

def hangs(*told):
    time.sleep(3600)

@app.task(isolate=True, on_error=hangs, retry=Retry.none())
def fails_apart():
    raise ValueError("boom")

@app.task(after_run=hangs)
def fine():
    pass
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db", SHOP + HANGS) as site:
        yield site


def children_of_threads(pid: int) -> list[str]:
    """The processes that any of its threads has started."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # that thread has just ended
            found += listed.read_text().split()
    return found


def test_a_process_with_a_hook_that_hangs_is_ended(site: Site) -> None:
    jobs = [site.enqueue("fails_apart") for _ in range(6)]
    process = site.worker("-c", "2", DRAY_HOOK_LIMIT="0.2")
    assert {site.ended(job).error for job in jobs} == {"ValueError: boom"}
    # Its heart, and one that is kept ready.
    wait_until(lambda: len(children_of_threads(process.pid)) <= 2, "none of them is left", 30)
    assert end(process) == 0
    assert "too_many" not in site.log(process)


def test_a_worker_with_too_many_hooks_that_hang_begins_anew(site: Site) -> None:
    jobs = [site.enqueue("fine") for _ in range(3 * stragglers.MOST)]
    process = site.worker("-c", "8", "--grace", "1s", DRAY_HOOK_LIMIT="0.2")
    for job in jobs:
        assert site.ended(job).state is State.SUCCEEDED
        assert len(os.listdir(f"/proc/{process.pid}/task")) < stragglers.MOST + 3 * 8
    site.says(process, "hooks hang, and can only be ended with this process")
    site.says(process, "worker.started", times=2)
    assert end(process) == 0


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Dray]:
    app = Dray(f"sqlite:///{tmp_path}/dray.db", create_tables=True, beat=0.3, ttl=5, hook_limit=0.1)
    app.store.ensure()
    yield app
    app.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ["after_run", "on_error"])
def test_they_are_counted_as_long_as_they_hang(
    app: Dray, monkeypatch: pytest.MonkeyPatch, asynchronous: bool, kind: str
) -> None:
    monkeypatch.setattr(stragglers, "MOST", 3)
    release, told = threading.Event(), list[str]()

    def hang(*_: Any) -> None:
        release.wait(60)

    def work() -> None:
        if kind == "on_error":
            raise ValueError("boom")

    async def awork() -> None:
        work()

    task: Callable[[], Any] = awork if asynchronous else work
    hooks: Any = {kind: hang}
    app.task(name="work", retry=Retry.none(), **hooks)(task)
    worker = Worker(app, concurrency=1)
    unlisten = events.listen(lambda event, facts: told.append(event))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        for _ in range(2):
            with suppress(JobFailed):
                app.enqueue("work").wait(30)
        wait_until(lambda: stragglers.count() == 2, "two hooks hang", 30)
        release.set()
        wait_until(lambda: stragglers.count() == 0, "they have ended after all", 30)
        release.clear()
        for _ in range(3):
            app.enqueue("work")
        thread.join(30)
        assert not thread.is_alive()
        assert worker.standing.again
        assert told.count("hook.too_many") == 1
        assert told.count("worker.stopped") == 1
    finally:
        release.set()
        unlisten()
        worker.stop_now()
        thread.join(30)
