"""A worker that is told to begin anew while its database is away."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.job import State
from dray.store.workers import WorkerState
from tests.acceptance.site import Site, end, site_at
from tests.servers import Database, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "disk").mkdir()
    with site_at(tmp_path, f"sqlite:///{tmp_path}/disk/shop.db") as site:
        yield site


def unmount(site: Site) -> None:
    """Take away the folder with the database: who has it open notices nothing, and nobody else can open it."""
    (site.folder / "disk").rename(site.folder / "away")


def mount(site: Site) -> None:
    (site.folder / "away").rename(site.folder / "disk")


def begun_anew_without_a_database(site: Site) -> subprocess.Popen[str]:
    process = site.worker()
    site.says(process, "worker.started")
    unmount(site)
    process.send_signal(signal.SIGHUP)
    site.says(process, "store.away")
    return process


def test_it_waits_and_goes_on(site: Site) -> None:
    process = begun_anew_without_a_database(site)
    process.send_signal(signal.SIGHUP)  # again, and again it waits
    site.says(process, "store.away", times=2)
    mount(site)
    site.says(process, "store.back")
    assert site.ended(site.enqueue("note", 1)).state is State.SUCCEEDED
    assert end(process) == 0


def test_it_can_be_ended_meanwhile(site: Site) -> None:
    assert end(begun_anew_without_a_database(site)) == 0


def test_who_is_only_started_says_that_there_is_no_database(site: Site) -> None:
    unmount(site)
    assert "its folder has to exist" in site.dray("worker", code=69)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_who_could_say_no_goodbye_says_it_later(stoppable: Database, tmp_path: Path) -> None:
    assert stoppable.server is not None
    with site_at(tmp_path, stoppable.url) as site:
        process = site.worker()
        site.says(process, "worker.started")
        stoppable.server.stop()
        process.send_signal(signal.SIGHUP)
        site.says(process, "worker.stopped")
        site.says(process, "store.away", times=2)  # of the one that was, and of the one that will be
        stoppable.server.start()
        site.says(process, "store.back")
        job = site.enqueue("note", 1)
        assert site.ended(job).state is State.SUCCEEDED
        (now, before) = site.app.store.roster.listing(alive_only=False)
        wait_until(lambda: site.app.store.roster.find(before.id).state is WorkerState.ENDED, "its goodbye", 30)  # type: ignore[union-attr]
        assert now.state is WorkerState.ALIVE
        assert "rescue.dead_worker" not in site.log(process)
        assert end(process) == 0
