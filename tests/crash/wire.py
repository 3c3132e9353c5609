"""A network between a worker and its database that can fail in the ways that real ones do."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress

from sqlalchemy.engine import make_url

from tests.servers import free_port

CHUNK = 65536
PREPARED = re.compile(rb"(_pg3_[0-9]+)\0COMMIT\0")


class Wire:
    """Passes on what comes in at a port of its own. `url` is the database's, by way of this wire."""

    def __init__(self, url: str) -> None:
        target = make_url(url)
        assert target.host is not None
        assert target.port is not None
        self._target = (target.host, target.port)
        self._gates = [_open_gate()]  # the last one is that of the lines to come
        self._lock = threading.Lock()
        self._cuts = 0
        self._arrives = True
        self.cut = 0  # commits whose answer was swallowed so far
        self._orders: dict[int, bool] = {}  # by the client's port: hang up at its next request; does that still arrive?
        self._lines: list[_Line] = []
        self._port = free_port()
        self._door: socket.socket | None = None
        self.url = target.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)
        self.restore()

    def silence(self) -> None:
        """Pass nothing on any more, and close nothing: what a pulled plug looks like."""
        self._gates[-1].clear()

    def half_open(self) -> None:
        """The connections there are stay silent for ever, and new ones work: somebody on the way has forgotten the old."""
        self._gates[-1].clear()
        self._gates.append(_open_gate())

    def hang_up(self) -> None:
        """Break all connections; new ones work."""
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            line.hang_up()

    def refuse(self) -> None:
        """Break all connections, and refuse new ones."""
        door, self._door = self._door, None
        if door is not None:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)  # wakes who waits there
            door.close()
        self.hang_up()

    def restore(self) -> None:
        """Let the silent speak, and new ones in."""
        self._gates[-1].set()
        if self._door is None:
            self._door = socket.create_server(("127.0.0.1", self._port))
            threading.Thread(target=self._serve, args=(self._door,), daemon=True).start()

    def swallow_commits(self, count: int, *, arrives: bool = True) -> None:
        """Let the next commits happen, or get lost on the way, and hang up: nobody can know what became of them."""
        with self._lock:
            self._cuts, self._arrives = count, arrives

    def hang_up_at_next(self, port: int, *, arrives: bool) -> None:
        """Hang up on the client with this port at its next request: before that arrives, or instead of the answer to it."""
        with self._lock:
            self._orders[port] = arrives

    def close(self) -> None:
        self.refuse()
        for gate in self._gates:
            gate.set()

    def _serve(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = door.accept()
                threading.Thread(target=self._connect, args=(client, self._gates[-1]), daemon=True).start()

    def _connect(self, client: socket.socket, gate: threading.Event) -> None:
        with client:
            gate.wait()
            with suppress(OSError), socket.create_connection(self._target) as server:
                line = _Line(self, client, server, gate)
                with self._lock:
                    self._lines.append(line)
                back = threading.Thread(target=line.answer, daemon=True)
                back.start()
                line.ask()
                back.join()

    def take_cut(self) -> bool:
        """Whether this commit is to be cut off."""
        with self._lock:
            if self._cuts == 0:
                return False
            self._cuts -= 1
            return True

    @property
    def arrives(self) -> bool:
        """Whether a commit that is cut off reaches the server."""
        return self._arrives

    def take_order(self, port: int) -> bool | None:
        """What was ordered for this request; None: nothing."""
        with self._lock:
            return self._orders.pop(port, None)

    def count_cut(self) -> None:
        with self._lock:
            self.cut += 1


def _open_gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


class _Line:
    """One connection through the wire; it passes things on while its gate is open."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket, gate: threading.Event) -> None:
        self._wire, self._client, self._server, self._gate = wire, client, server, gate
        self._port: int = client.getpeername()[1]
        self._cut = False
        self._names: set[bytes] = set()  # of prepared commits

    def ask(self) -> None:
        with suppress(OSError):
            while said := self._client.recv(CHUNK):
                self._gate.wait()
                arrives = self._wire.take_order(self._port)
                if arrives is False:
                    break
                self._cut = self._cut or arrives is True or (self._is_commit(said) and self._wire.take_cut())
                if self._cut and arrives is None and not self._wire.arrives:
                    self._wire.count_cut()
                    break
                self._server.sendall(said)
        self.hang_up()

    def _is_commit(self, said: bytes) -> bool:
        """Also when PostgreSQL's driver has prepared the statement, and only its name goes over the wire from then on."""
        self._names |= set(PREPARED.findall(said))
        return b"COMMIT" in said or any(b"\0" + name + b"\0" in said for name in self._names)

    def answer(self) -> None:
        with suppress(OSError):
            while said := self._server.recv(CHUNK):
                self._gate.wait()
                if self._cut:
                    self._wire.count_cut()
                    break
                self._client.sendall(said)
        self.hang_up()

    def hang_up(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
