"""The sockets under our connections: dead ones are noticed, and those on which somebody hangs can be broken."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DisconnectionError

# A peer that vanished without a word is noticed in about half a minute; by itself the kernel takes 15 minutes, or two hours.
QUIET, ASK_EVERY, ASK = 15, 5, 3  # seconds without a word before it is asked for one, between two questions; how many
UNHEARD = 30_000  # milliseconds that what was sent may stay unacknowledged

_OPTIONS = {"TCP_KEEPIDLE": QUIET, "TCP_KEEPINTVL": ASK_EVERY, "TCP_KEEPCNT": ASK, "TCP_USER_TIMEOUT": UNHEARD}


class Lines:
    """The connections of one database that are in use just now, and since when."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[int, tuple[Any, float]] = {}

    @contextmanager
    def watched(self, connection: Any) -> Iterator[None]:
        """While a thread uses this connection of the driver's, others may break it."""
        with self._lock:
            self._busy[id(connection)] = (connection, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                del self._busy[id(connection)]

    def hang_up(self, longer_than: float) -> None:
        """Break those that have been in use for longer (seconds): whoever waits on one gets an error at once."""
        now = time.monotonic()
        with self._lock:
            for connection, since in self._busy.values():
                if now - since > longer_than:
                    _shut_down(connection)


def _shut_down(connection: Any) -> None:
    number = file_number(connection)
    if number is None:
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
        line.shutdown(socket.SHUT_RDWR)


def set_up(connection: Any) -> None:
    """Make the kernel notice a peer that has vanished, where the driver cannot be asked to."""
    number = file_number(connection)
    if number is None or hasattr(connection, "pgconn"):
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as line:  # it may be no TCP
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS.items():
            if hasattr(socket, name):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def refuse_stale(connection: Any, record: object, proxy: object) -> None:
    """Throw away a pooled connection that the server has closed, without asking the server (S2.80, C87).

    A server has nothing to say on an idle connection but farewell: if there is something to read, it is dead. Without this
    look an enqueue on it would end in OutcomeUnknown, though nothing was sent.
    """
    number = file_number(connection)
    if number is None:
        return
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLHUP | select.POLLERR)
    if poll.poll(0):
        raise DisconnectionError("the server closed this connection")


def file_number(connection: Any) -> int | None:
    """The file descriptor of a connection's socket; None for what has none."""
    if hasattr(connection, "pgconn"):
        return int(connection.pgconn.socket)
    sock = getattr(connection, "_sock", None)
    return None if sock is None else int(sock.fileno())
