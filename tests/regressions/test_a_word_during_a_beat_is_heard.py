"""A notification that arrived while the heartbeat process moved its row on was read by the driver together with the answer, and
passed on to nobody: the worker did not hear of that job, and found it when it next looked by itself.
"""

from __future__ import annotations

import os
import select

import psycopg
import pytest

from dray import Dray, heartbeat
from dray.pulse import Pulse
from tests.servers import Database


@pytest.mark.parametrize("while_it_waits", [True, False])
def test_a_word_during_a_beat_is_heard(database: Database, monkeypatch: pytest.MonkeyPatch, while_it_waits: bool) -> None:
    if database.name != "postgresql":
        pytest.skip("only PostgreSQL has notifications")
    app = Dray(database.url, create_tables=True)
    app.store.ensure()
    worker_id = app.store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    said: list[str] = []
    monkeypatch.setattr(heartbeat, "say", said.append)
    pulse = Pulse()
    plan = {**app.store.roster.heartbeat_plan(worker_id), "period": 5, "listen": True, **pulse.plan(ttl=30)}
    if while_it_waits:
        # Told at the end of the statement, so that it comes with the answer.
        plan["beat"] = f"{plan['beat']} AND pg_notify('{plan['channel']}', '') IS NOT NULL"
    heart = heartbeat.Heart(plan, os.getpid())
    heart.connect()
    said.clear()
    if not while_it_waits:
        with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute(f"NOTIFY {plan['channel']}")
        readable, _, _ = select.select([heart.connection.pgconn.socket], [], [], 10)
        assert readable
    heart.beat()
    assert sorted({line[0] for line in said}) == ["b", "n"]
    heart.disconnect()
    app.close()
