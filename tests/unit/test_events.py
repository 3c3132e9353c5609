"""What happens is told to the log of the application, to listeners, and to nobody who did not ask."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dray import events
from dray.cli import LOCKED, cli

PROGRAM = "from dray import events; events.emit('job.failed', job_id=7, error='boom')"


@pytest.mark.rows("S2.10")
def test_who_has_set_up_no_log_is_told_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.rows("S2.10")
def test_who_has_set_up_a_log_finds_it_there(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dray"):
        events.emit("job.failed", job_id=7, error="boom")
        events.emit("job.finished", job_id=8)  # debug
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dray", logging.CRITICAL)
    assert record.getMessage() == "job.failed job_id=7 error=boom"


def test_what_is_told_of_each_job_is_made_only_if_somebody_hears_it() -> None:
    assert events.heard("job.failed") == logging.getLogger("dray").isEnabledFor(logging.CRITICAL)
    assert not events.heard("job.finished")
    heard: list[str] = []
    stop = events.listen(lambda event, facts: heard.append(event))
    try:
        assert events.heard("job.finished")
        events.emit("job.finished", job_id=8)
    finally:
        stop()
    assert heard == ["job.finished"]


def test_who_wants_to_hear_of_some_things_is_told_of_no_others() -> None:
    heard: list[str] = []
    stop = events.listen(lambda event, facts: heard.append(event), ["store.locked"])
    try:
        assert events.heard("store.locked")
        assert not events.heard("job.finished")
        events.emit("job.finished", job_id=8)
        events.emit("store.locked", file="x.db")
    finally:
        stop()
    assert heard == ["store.locked"]


def test_no_verb_listens_to_what_is_told_of_each_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(events, "listen", lambda listener, names=None: asked.append(names) or (lambda: None))
    with pytest.raises(SystemExit):
        cli(["--version"])
    assert asked == [[LOCKED]]


def test_a_listener_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: str, facts: object) -> None:
        raise RuntimeError("no")

    stop = events.listen(broken)
    try:
        events.emit("job.finished", job_id=8)
    finally:
        stop()
    assert "a listener failed on job.finished" in caplog.text
