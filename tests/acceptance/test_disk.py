"""A disk that runs full, a file that cannot be written: said in one line, waited for, and nothing is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.test_outages import PATIENCE, SEED, TTL, pause
from tests.crash.crew import ROOT, crew_of
from tests.crash.disks import FullDisk, Immutable, NoDisk, small_disk
from tests.crash.outages import Outage, Weather
from tests.crash.scenes import nobody_is_left
from tests.effort import MINUTES, seconds
from tests.servers import MariaDB, Postgres, Server

pytestmark = pytest.mark.long

APP = """
from dray import Dray

app = Dray()


@app.task
def note(text: str) -> None: ...
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    try:
        with small_disk(tmp_path / "disk", 8) as folder:
            yield folder
    except NoDisk:
        pytest.skip("a disk that can be filled takes root and the right to mount")


SOMETIMES = 100  # there may be room for the odd write, so that it is back and away again


def while_it_lasts(begin: Callable[[], object], end: Callable[[], object], cuts: int = SOMETIMES) -> Outage:
    """For a moment; the first time for longer than the TTL."""
    lasts = [1.3 * TTL]

    def outage(chance: random.Random) -> int:
        begin()
        try:
            pause(lasts.pop() if lasts else chance.uniform(0.1, 0.8))
        finally:
            end()
        return cuts

    return outage


def trial(folder: Path, url: str, outage: Outage, slice_of: float) -> None:
    print(f"\nDRAY_TEST_SEED={SEED}")
    with crew_of(url, folder, ttl=TTL, concurrency=3, seed=SEED) as crew:
        weather = Weather(crew, random.Random(SEED))
        weather.strike(outage, seconds(slice_of) / 2, least=2)
        assert any(weather.away(hand) for hand in weather.workers), "nobody noticed the long one"
        weather.end()
        nobody_is_left(crew, weather.ledger)


@pytest.mark.rows("C14", "C24")
@pytest.mark.timeout(PATIENCE)
def test_a_disk_that_runs_full_under_load_loses_nothing_and_kills_nobody(disk: Path, tmp_path: Path) -> None:
    full = FullDisk(disk)
    trial(tmp_path, f"sqlite:///{disk}/dray.db", while_it_lasts(full.begin, full.end), 3)


@pytest.mark.rows("C14", "C24")
@pytest.mark.timeout(PATIENCE)
def test_a_file_that_turns_read_only_under_load_loses_nothing_and_kills_nobody(tmp_path: Path) -> None:
    if not Immutable.works(tmp_path):
        pytest.skip("a file that nobody may write any more takes root, chattr and its file system")
    file = tmp_path / "dray.db"
    frozen = Immutable(file, Path(f"{file}-wal"))
    trial(tmp_path, f"sqlite:///{file}", while_it_lasts(frozen.begin, frozen.end, cuts=1), 3)


# --- what a person is told ------------------------------------------------------------------------------------------------


VERBS = [("init",), ("enqueue", "-A", "shop:app", "note", "text=hi"), ("worker", "-A", "shop:app", "--burst")]
FULL = "free some space on the disk it lies on"
BROKEN = "look whether its disk is full or broken"
CLOSED = "let this user write the file and its folder"
NOWHERE = "its folder has to exist, and this user has to be allowed to write there"


def told(folder: Path, url: str, verb: tuple[str, ...], *, bare: bool = False, **popen: object) -> str:
    """What `dray` says when it cannot do it: a line, and the exit code for a database that cannot be used.

    bare    without the right of root to write whatever it likes
    """
    (folder / "shop.py").write_text(APP)
    strip = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if bare and os.geteuid() == 0 else []
    done = subprocess.run(
        [*strip, sys.executable, "-m", "dray", *verb],
        cwd=folder,
        env={**os.environ, "DRAY_DATABASE_URL": url, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        **popen,  # type: ignore[call-overload]
    )
    assert done.returncode == 69, (verb, done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"dray: the database {url} cannot be used right now: ")
    return line


def made(folder: Path) -> str:
    """A database with its tables; gives its URL."""
    url = f"sqlite:///{folder}/dray.db"
    dray = [sys.executable, "-m", "dray", "init", "--database-url", url]
    subprocess.run(dray, cwd=folder, check=True, capture_output=True)
    return url


@pytest.mark.rows("C24")
@pytest.mark.parametrize("there", [True, False], ids=["tables", "nothing"])
def test_who_finds_the_disk_full_is_told_to_make_room(disk: Path, tmp_path: Path, there: bool) -> None:
    url = made(disk) if there else f"sqlite:///{disk}/dray.db"
    FullDisk(disk).begin()
    for verb in VERBS:
        line = told(tmp_path, url, verb)
        assert FULL in line or BROKEN in line  # SQLite calls it an I/O error where it wants a file of shared memory


@pytest.mark.rows("C24")
def test_who_is_given_no_more_room_is_told_to_look_at_the_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for a quota; it takes no rights at all."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    for verb in VERBS:
        line = told(tmp_path, f"sqlite:///{tmp_path}/dray.db", verb, preexec_fn=limit)
        assert FULL in line or BROKEN in line


@pytest.mark.rows("C24")
@pytest.mark.parametrize("folder_too", [False, True], ids=["file", "folder"])
def test_who_may_not_write_is_told_what_to_allow(tmp_path: Path, folder_too: bool) -> None:
    place = tmp_path / "place"
    place.mkdir()
    url = made(place)
    with closing(sqlite3.connect(place / "dray.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    (place / "dray.db").chmod(0o444)
    if folder_too:
        place.chmod(0o555)
    try:
        for verb in VERBS[1:]:  # there is nothing left to do for the first
            line = told(tmp_path, url, verb, bare=True)
            assert CLOSED in line or NOWHERE in line
    finally:
        place.chmod(0o755)


@pytest.mark.rows("C24")
@pytest.mark.parametrize("exists", [True, False], ids=["closed", "missing"])
def test_who_has_no_folder_to_write_in_is_told_so(tmp_path: Path, exists: bool) -> None:
    place = tmp_path / "place"
    if exists:
        place.mkdir(mode=0o555)
    for verb in VERBS:
        assert NOWHERE in told(tmp_path, f"sqlite:///{place}/dray.db", verb, bare=True)


# --- a server's disk ------------------------------------------------------------------------------------------------------


SERVERS: dict[str, tuple[type[Server], int, dict[str, str]]] = {
    "postgresql": (Postgres, 128, {"max_wal_size": "32MB", "min_wal_size": "32MB"}),
    "mysql": (MariaDB, 256, {"innodb-log-file-size": "8M"}),
}


@pytest.fixture(params=SERVERS)
def cramped(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server whose disk can be filled."""
    if not MINUTES:
        pytest.skip("each takes a server of its own: make stress")
    request.getfixturevalue({"postgresql": "postgres_server", "mysql": "mariadb_server"}[request.param])
    kind, megabytes, settings = SERVERS[request.param]
    # In a place that the server's own user can reach.
    folder = Path(tempfile.mkdtemp(prefix="dray-disk-"))
    folder.chmod(0o755)
    try:
        with small_disk(folder / "disk", megabytes) as disk:
            monkeypatch.setattr(tempfile, "tempdir", str(disk))
            server = kind(settings=settings)
            with server:
                yield server
    except NoDisk:
        pytest.skip("a disk that can be filled takes root and the right to mount")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.rows("C14", "C24")
@pytest.mark.timeout(PATIENCE)
def test_a_server_whose_disk_runs_full_loses_nothing_and_kills_nobody(cramped: Server, tmp_path: Path) -> None:
    """Some servers refuse, some give up: then whoever looks after them starts them again."""
    full = FullDisk(cramped.folder.parent)

    def end() -> None:
        full.end()
        if not cramped.running:
            cramped.start()

    trial(tmp_path, cramped.create_database("shop"), while_it_lasts(full.begin, end), 3)
