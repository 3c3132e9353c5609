"""The lock of a name: where its file is, and what is not followed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dray import probe, wholefile
from dray.errors import ConfigurationError
from dray.single import Single

rows = pytest.mark.rows


@rows("S0.44", "S0.45", "C21")
def test_one_has_it_until_it_lets_go(tmp_path: Path) -> None:
    one, other = Single("mail/eu", tmp_path), Single("mail/eu", tmp_path)
    assert one.take()
    assert not other.take()
    assert other.holder() == str(os.getpid())
    one.release()
    assert other.take()
    other.release()
    assert one.path == tmp_path / "mail%2feu.pid"


def test_a_file_that_was_deleted_locks_nobody_out(tmp_path: Path) -> None:
    one = Single("x", tmp_path)
    assert one.take()
    one.path.unlink()
    other = Single("x", tmp_path)
    assert other.take()  # what nobody can prevent; but then it is a lock again
    assert not Single("x", tmp_path).take()
    for each in (one, other):
        each.release()


FORKS = """
import os, sys, time
from pathlib import Path
from dray.single import Single

lock = Single("x", Path(sys.argv[1]))
assert lock.take()
if os.fork() == 0:
    time.sleep(600)
os.kill(os.getpid(), 9)
"""


def test_a_fork_that_outlives_who_had_it_does_not_keep_it(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], start_new_session=True)
    try:
        process.wait(30)
        os.killpg(process.pid, 0)  # the fork is there still
        other = Single("x", tmp_path)
        assert other.take()
        other.release()
    finally:
        os.killpg(process.pid, signal.SIGKILL)


PROBED = """
import os, sys, time
from dray import probe

server = probe.serve("0", lambda: {})
print(server.server_address[1], flush=True)
reading, writing = os.pipe()
if os.fork() == 0:
    os.write(writing, b"!")  # it has closed what it has to
    time.sleep(600)
os.read(reading, 1)
os.kill(os.getpid(), 9)
"""


def test_nor_the_port_of_its_probe() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROBED], start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        process.wait(30)
        os.killpg(process.pid, 0)  # the fork is there still
        server = probe.serve(port, dict)
        server.shutdown()
        server.server_close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_full_disk_keeps_nobody_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    one = Single("x", tmp_path)
    assert one.take()
    assert not Single("x", tmp_path).take()
    one.release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x.pid").symlink_to(victim)
    with pytest.raises(ConfigurationError, match="--pid-dir"):
        Single("x", tmp_path).take()
    assert victim.read_text() == "precious"


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "session"))  # of no account: cron has none
    folder = tmp_path / ".local/state/dray"
    assert Single("x").path == folder / "x.pid"
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others may write"):
        Single("x")


def test_a_whole_file_goes_through_no_link_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".status.{os.getpid()}").symlink_to(victim)
    for text in ("one", "two"):
        wholefile.replace(tmp_path / "status", text)
    assert (victim.read_text(), (tmp_path / "status").read_text()) == ("precious", "two")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["status", "victim"]
