"""Redis, for the peers that live on it: private like the database servers of the tests, and with nothing kept on disk."""

from __future__ import annotations

import shutil
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from tests.servers import NotInstalled, Server


class Redis(Server):
    """Each database is the one that the server has, emptied."""

    what = "Redis"
    user = "redis"
    stop_signals: ClassVar = {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}

    def __init__(self) -> None:
        super().__init__()
        program = shutil.which("redis-server")
        if program is None:
            raise NotInstalled(self.what, "redis-server")
        self.program = program

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def url_of(self, database: str) -> str:
        return self.url

    def connect(self) -> Any:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def ask(self, command: str) -> str:
        """Send a command as one would type it, and give the answer as it comes."""
        with closing(self.connect()) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer.decode()

    def create_database(self, name: str) -> str:
        self.ask("FLUSHALL")
        return self.url

    def drop_database(self, name: str) -> None:
        self.ask("FLUSHALL")

    @property
    def pid_file(self) -> Path:
        return self.folder / "pid"

    def version(self) -> str:
        told = self.ask("INFO server").splitlines()
        return next(line.partition(":")[2] for line in told if line.startswith("redis_version:"))

    def _initialise(self) -> None:
        self._run("mkdir", f"{self.folder}/data")

    def _command(self) -> list[str]:
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder / "data", "pidfile": self.pid_file}
        given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [self.program, *given, "--save", "", "--appendonly", "no"]

    def _data_folder(self) -> str:
        return self.ask("CONFIG GET dir").splitlines()[4]
