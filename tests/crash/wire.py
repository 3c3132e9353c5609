"""A network between a worker and its database that can fail in the ways that real ones do."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress

from sqlalchemy.engine import make_url

CHUNK = 65536
PREPARED = re.compile(rb"(_pg3_[0-9]+)\0COMMIT\0")


class Wire:
    """Passes on what comes in at a port of its own. `url` is the database's, by way of this wire."""

    def __init__(self, url: str) -> None:
        target = make_url(url)
        assert target.host is not None
        assert target.port is not None
        self._target = (target.host, target.port)
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._cuts = 0
        self.cut = 0  # commits whose answer was swallowed so far
        self._door = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._door]
        host, port = self._door.getsockname()
        self.url = target.set(host=host, port=port).render_as_string(hide_password=False)
        threading.Thread(target=self._serve, daemon=True).start()

    def silence(self) -> None:
        """Pass nothing on any more, and close nothing: what a pulled plug looks like."""
        self._open.clear()

    def restore(self) -> None:
        self._open.set()

    def swallow_commits(self, count: int) -> None:
        """Let the next commits happen, swallow the server's answer, and hang up: nobody can know what became of them."""
        with self._lock:
            self._cuts = count

    def close(self) -> None:
        self._open.set()
        for one in self._sockets:
            with suppress(OSError):
                one.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.wait()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self._sockets += [client, server]
        line = _Line(self, client, server)
        threading.Thread(target=line.answer, daemon=True).start()
        line.ask()

    def pass_on(self) -> None:
        """Wait while the wire is silent."""
        self._open.wait()

    def take_cut(self) -> bool:
        """Whether the answer to this commit is to be swallowed."""
        with self._lock:
            if self._cuts == 0:
                return False
            self._cuts -= 1
            return True

    def count_cut(self) -> None:
        with self._lock:
            self.cut += 1


class _Line:
    """One connection through the wire."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._wire, self._client, self._server = wire, client, server
        self._cut = False
        self._names: set[bytes] = set()  # of prepared commits

    def ask(self) -> None:
        with suppress(OSError):
            while said := self._client.recv(CHUNK):
                self._wire.pass_on()
                self._cut = self._cut or (self._is_commit(said) and self._wire.take_cut())
                self._server.sendall(said)
        self._hang_up()

    def _is_commit(self, said: bytes) -> bool:
        """Also when PostgreSQL's driver has prepared the statement, and only its name goes over the wire from then on."""
        self._names |= set(PREPARED.findall(said))
        return b"COMMIT" in said or any(b"\0" + name + b"\0" in said for name in self._names)

    def answer(self) -> None:
        with suppress(OSError):
            while said := self._server.recv(CHUNK):
                self._wire.pass_on()
                if self._cut:
                    self._wire.count_cut()
                    break
                self._client.sendall(said)
        self._hang_up()

    def _hang_up(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
