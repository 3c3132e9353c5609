"""A deploy put its code in a folder of its own, and let the link `current` lead there. A worker that was told to reload began
anew in the folder that the link had led to when it was started, with the old code; and so did every new worker of a tender.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import events
from dray.folder import Folder
from tests.acceptance.site import SHOP, Site, end, site_at
from tests.servers import wait_until


def deploy(root: Path, number: int) -> None:
    """Put a release beside the others, and let the link lead there."""
    release = root / f"release-{number}"
    release.mkdir()
    (release / "shop.py").write_text(SHOP.replace('Path("version").read_text()', f"{number}"))
    (root / "next").symlink_to(release)
    (root / "next").replace(root / "current")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db") as site:
        (tmp_path / "shop.py").unlink()
        deploy(tmp_path, 1)
        site.home = tmp_path / "current"
        yield site


def version(site: Site) -> str | None:
    found: str | None = site.ended(site.enqueue("version")).result
    return found


def reload(site: Site) -> None:
    """Tell all workers to begin anew, and wait until others are there in their place."""
    before = {worker.id for worker in site.app.store.roster.listing()}
    site.dray("reload", app=False)
    wait_until(
        lambda: bool(now := {worker.id for worker in site.app.store.roster.listing()}) and not before & now, "others", 60
    )


def test_a_worker_begins_anew_where_the_link_leads(site: Site) -> None:
    process = site.worker()
    assert version(site) == "1"
    deploy(site.folder, 2)
    reload(site)
    assert version(site) == "2"
    deploy(site.folder, 3)  # and it still knows
    shutil.rmtree(site.folder / "release-2")
    reload(site)
    assert version(site) == "3"
    assert end(process) == 0


def test_a_tender_starts_workers_where_the_link_leads(site: Site) -> None:
    process = site.start("tend", "--min", "1", "--max", "1")
    assert version(site) == "1"
    deploy(site.folder, 2)
    (before,) = site.app.store.roster.listing()
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: all(now.id != before.id for now in site.app.store.roster.listing()), "the old one is gone", 60)
    assert version(site) == "2"
    assert end(process) == 0


def test_a_worker_whose_folder_is_gone_stays_and_says_so_once(site: Site) -> None:
    process = site.worker()
    (site.folder / "current").unlink()
    reload(site)
    reload(site)
    assert version(site) == "1"
    assert site.log(process).count("folder.gone") == 1
    assert end(process) == 0


@pytest.fixture
def by_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    deploy(tmp_path, 1)
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    return tmp_path / "current"


def test_what_the_shell_says_counts_only_if_it_is_true(by_link: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Folder().name == str(by_link)
    for wrong in ("", ".", str(by_link.parent), "/nowhere"):  # of a process that has gone elsewhere, or means nothing
        monkeypatch.setenv("PWD", wrong)
        assert Folder().name == str(by_link.resolve())


def test_an_interpreter_in_the_folder_is_the_one_that_is_there_now(by_link: Path) -> None:
    folder = Folder()
    for number in (1, 2):
        (by_link / "python").touch(0o755)
        assert folder.of(str(by_link.parent / "release-1/python")) == str(by_link / "python")
        deploy(by_link.parent, number + 1)
    old = str(by_link.parent / "release-1/python")
    assert folder.of(old) == old  # the newest has none
    assert folder.of("/usr/bin/python") == "/usr/bin/python"


def test_a_folder_that_is_gone_is_told_once(by_link: Path) -> None:
    folder, told = Folder(), list[str]()
    by_link.unlink()
    unlisten = events.listen(lambda event, facts: told.append(f"{event} {facts['folder']}"))
    try:
        here = os.getcwd()
        folder.enter()
        assert folder.now() is None
        assert os.getcwd() == here
    finally:
        unlisten()
    assert told == [f"folder.gone {by_link}"]
