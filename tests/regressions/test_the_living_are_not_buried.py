"""While nobody can write, on a full disk, in a file that has become read-only or is locked for long, everybody can be read: all
beats were seen to stand still, so that the first worker who could write again declared the others dead, and itself. A worker
whose file was locked for longer than the TTL also ended itself, with all that it ran.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dray import Dray, heartbeat
from dray.pulse import Pulse
from dray.upkeep import Upkeep


@pytest.mark.rows("C14", "C24")
def test_who_cannot_beat_judges_nobody(tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db", ttl=30)
    app.store.ensure()
    app.store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    now, may_judge = [1000.0], [True]
    upkeep = Upkeep(app, may_judge=lambda: may_judge[0])
    upkeep._watch.clock = lambda: now[0]

    def watch(seconds: float) -> bool:
        """Look every few seconds; whether the silent one still counts as alive."""
        until = now[0] + seconds
        while now[0] < until:
            now[0] += 5
            upkeep.rescue()
        return len(app.store.roster.beats()) == 1

    assert watch(20)
    may_judge[0] = False
    assert watch(100)
    may_judge[0] = True
    assert watch(25), "nothing seen before counts"
    assert not watch(15)
    app.close()


@pytest.mark.rows("C14")
def test_a_file_locked_for_all_is_told_from_one_that_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    app.store.ensure()
    worker_id = app.store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    said: list[str] = []
    monkeypatch.setattr(heartbeat, "say", said.append)
    pulse = Pulse()
    plan = {**app.store.roster.heartbeat_plan(worker_id), "period": 0.02, "listen": False, **pulse.plan(ttl=30)}
    heart = heartbeat.Heart(plan, os.getpid())

    def words(beats: int) -> list[str]:
        said.clear()
        for _ in range(beats):
            heart.beat()
        return [line[0] for line in said]

    with closing(sqlite3.connect(tmp_path / "dray.db", isolation_level=None)) as other:
        assert words(1) == ["b"]
        other.execute("BEGIN IMMEDIATE")
        assert words(3) == ["a", "a"], "the first may have met somebody who is about to end"
        # Others write, and only we do not get our turn: they may well have given us up.
        other.execute("UPDATE dray_workers SET pid = 2")
        other.execute("COMMIT")
        other.execute("BEGIN IMMEDIATE")
        assert words(1) == []
        assert words(1) == ["a"]
        other.execute("ROLLBACK")
        assert words(1) == ["b"]
    heart.disconnect()
    app.close()
