"""A server that takes a connection and says nothing was waited for without end where the driver's limit ends with the
connection (PyMySQL), and a peer that had vanished was noticed by the kernel only, after a quarter of an hour. An idle worker
whose connections led nowhere, while new ones would have worked, hung on them for as long: no job was started by it.
"""

from __future__ import annotations

import os
import socket
import time

import pytest

from dray import Dray
from dray.errors import StoreUnavailable
from dray.store import connect
from dray.store.lines import file_number
from tests.crash.wire import Wire
from tests.servers import Database


@pytest.mark.rows("S2.80", "C87")
def test_a_greeting_that_does_not_come_is_not_waited_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if database.server is None:
        pytest.skip("SQLite has files, not connections")
    for name in ("connect_timeout", "read_timeout"):
        if name in connect._UNLESS_GIVEN[database.name]:
            monkeypatch.setitem(connect._UNLESS_GIVEN[database.name], name, 2)
    wire = Wire(database.url)
    wire.silence()
    app = Dray(wire.url, create_tables=True)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        app.store.ensure()
    assert time.monotonic() - began < 15
    wire.restore()
    app.store.ensure()
    app.close()
    wire.close()


def test_a_statement_may_take_longer_than_a_greeting(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if database.name != "mysql":
        pytest.skip("only its driver has one limit for both")
    monkeypatch.setitem(connect._UNLESS_GIVEN["mysql"], "read_timeout", 1)
    app = Dray(database.url)
    assert app.store.database.once(lambda connection: connection.exec_driver_sql("SELECT SLEEP(1.5)").scalar()) == 0
    app.close()


@pytest.mark.rows("S2.80")
def test_a_peer_that_has_vanished_is_noticed_within_half_a_minute(database: Database) -> None:
    if database.server is None:
        pytest.skip("SQLite has files, not connections")
    app = Dray(database.url)

    def options(connection: object) -> dict[str, int]:
        number = file_number(connection.connection.dbapi_connection)  # type: ignore[attr-defined]
        with socket.socket(fileno=os.dup(number)) as line:  # type: ignore[attr-defined]
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            found = {name: line.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}
            return {**found, "on": line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}

    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000, "on": 1}
    assert app.store.database.once(options) == wanted
    app.close()
