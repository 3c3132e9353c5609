"""Real database servers, started privately: on a free port of 127.0.0.1, their data in a temporary folder.

No pytest is needed:

    with Postgres() as server:
        url = server.create_database("shop")

Run by root, a server runs as the user that its Debian package made; run by anybody else, as that person. It
ends with the process that started it, however that process ends.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

StopMode = Literal["fast", "immediate"]

PATIENCE = 60.0  # seconds, for a start (crash recovery is part of it) and for an end

# Waits for the end of the tests, which closes its standard input even if they are killed with -9. Then it
# ends the server, if the number in the pid file still is the server's, and removes the folder.
GUARD = """
pid_file=$1 folder=$2
read -r _
pid=$(head -n 1 "$pid_file")
runs() { grep -q -- "$folder" "/proc/$pid/cmdline"; }
runs && kill -QUIT "$pid"
for _ in $(seq 100); do runs && sleep 0.1 || break; done
rm -rf -- "$folder"
"""


class NotInstalled(RuntimeError):
    """The server's programs are not on this machine."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} is not installed; as root: apt-get install {package}")
        self.package = package


@dataclass(frozen=True)
class Database:
    """An empty database for one test; `name` is SQLAlchemy's word: sqlite, postgresql or mysql."""

    name: str
    url: str
    server: Server | None  # SQLite has none


class Server(ABC):
    """A database server of our own. Stopped or killed, it starts again with the same data and port."""

    what: ClassVar[str]
    user: ClassVar[str]
    stop_signals: ClassVar[Mapping[StopMode, signal.Signals]]

    def __init__(self, *, fast: bool = False, settings: Mapping[str, str] | None = None) -> None:
        """Prepare a server. With `fast`, a commit survives a crash of the server but not of the machine: all is in memory."""
        self.fast = fast
        self.settings = dict(settings or {})
        self.port = free_port()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The SQLAlchemy URL of the database that the server came with."""

    @property
    def folder(self) -> Path:
        """Where everything of this server lies: `data`, `log`, its socket."""
        if self._folder is None:
            raise LookupError(f"{self.what} was never started")
        return self._folder

    @property
    def pid(self) -> int:
        """The process id of the server; a LookupError while it is down."""
        if self._process is None or not self.running:
            raise LookupError(f"{self.what} is down")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it answers. The first start makes the data."""
        if self.running:
            raise RuntimeError(f"{self.what} is running already")
        self.kill()  # tidies up, if it died by itself
        if self._folder is None:
            self._move_in()
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # A Ctrl-C is meant for the tests, which then stop the server in their own time.
                start_new_session=True,
                # With no `runuser` in between: a killed server has to be our own child, to be collected at
                # once. Until then it would look alive to PostgreSQL, which would refuse to start.
                **self._as_user(),
            )
        try:
            wait_until(self._answers, f"{self.what} to answer on port {self.port}")
        except BaseException:
            self.kill()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data; after "immediate" the next start begins with crash recovery."""
        if self._process is not None and self.running:
            self._process.send_signal(self.stop_signals[mode])
            self._process.wait(PATIENCE)
        self.kill()  # nothing is left to kill, as a rule; it tidies up

    def kill(self) -> None:
        """Kill every process of the server with SIGKILL, and return when they are gone. The data stays."""
        if self._process is None:
            return
        # Stopped, it can start no process that we would overlook.
        self._process.send_signal(signal.SIGSTOP)
        children = children_of(self._process.pid) if self.running else []
        self._process.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.wait(PATIENCE)
        self._process = None
        wait_until(lambda: not any(map(is_alive, children)), f"{self.what} to be gone")
        # Once its number belongs to another process, a pid file left behind would forbid the next start.
        self.pid_file.unlink(missing_ok=True)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start, with the same data on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End the server and remove its data."""
        try:
            self.stop("immediate")
        finally:
            self.kill()
        if self._guard is not None:
            self._guard.communicate(timeout=PATIENCE)
            self._guard = self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def connect(self) -> Any:
        """Give a DB-API connection to the server's own database, in autocommit."""

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements in the server's own database and give the rows of the last one."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def create_database(self, name: str) -> str:
        """Make an empty database and give its SQLAlchemy URL."""
        self.execute(f"CREATE DATABASE {checked(name)}")
        return self.url_of(name)

    @abstractmethod
    def end_sessions(self, name: str) -> None:
        """End whatever is connected to a database, with what it left open."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Remove a database if it is there, even while somebody is connected to it."""

    @abstractmethod
    def url_of(self, database: str) -> str:
        """Give the SQLAlchemy URL of one of the server's databases."""

    @property
    @abstractmethod
    def pid_file(self) -> Path:
        """Where the server writes its process id."""

    @abstractmethod
    def _initialise(self) -> None: ...

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _data_folder(self) -> str: ...

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", **self._as_user())
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def _move_in(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"dray-{self.user}-", dir=memory() if self.fast else None))
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "guard", str(self.pid_file), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            if os.geteuid() == 0:
                shutil.chown(self._folder, self.user, pwd.getpwnam(self.user).pw_gid)
            self._initialise()
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.what} ended while it started:\n{(self.folder / 'log').read_text()[-4000:]}")
        try:
            # Another server may have taken the port, and would answer in the name of ours.
            return Path(self._data_folder()) == self.folder / "data"
        except Exception:  # every driver says "not yet" in its own words; the deadline puts an end to it
            return False


class Postgres(Server):
    """PostgreSQL, the newest that is installed."""

    what = "PostgreSQL"
    user = "postgres"
    # SIGQUIT leaves without writing a checkpoint.
    stop_signals: ClassVar = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

    def __init__(self, *, fast: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(fast=fast, settings=settings)
        # Not from the PATH: a client of another version may be what is found there.
        found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
        if newest is None:
            raise NotInstalled(self.what, "postgresql")
        self.programs = newest.parent

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self) -> Any:
        import psycopg  # only when needed: this module must load where a driver is missing

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def end_sessions(self, name: str) -> None:
        self.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{checked(name)}'")

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {checked(name)} WITH (FORCE)")

    @property
    def pid_file(self) -> Path:
        return self.folder / "data" / "postmaster.pid"

    def _initialise(self) -> None:
        # Name and encoding are said here, else they would depend on who runs the tests and in which language.
        self._run(
            f"{self.programs}/initdb",
            f"--pgdata={self.folder}/data",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "fsync": "off" if self.fast else "on",
            **self.settings,
        }
        given = [f"--{name}={value}" for name, value in settings.items()]
        return [f"{self.programs}/postgres", "-D", f"{self.folder}/data", *given]

    def _data_folder(self) -> str:
        ((folder,),) = self.execute("SHOW data_directory")
        return str(folder)


class MariaDB(Server):
    """MariaDB, which stands for MySQL too."""

    what = "MariaDB"
    user = "mysql"
    stop_signals: ClassVar = {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}

    def __init__(self, *, fast: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(fast=fast, settings=settings)
        # An ordinary user's PATH leaves out the place where Debian keeps servers.
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin"
        found = [shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db")]
        if None in found:
            raise NotInstalled(self.what, "mariadb-server")
        self.server_program, self.install_program = found

    @property
    def url(self) -> str:
        return self.url_of("mysql")

    def url_of(self, database: str) -> str:
        # PyMySQL reads all certificates of the machine for each connection, unless it is told that it needs none.
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}?charset=utf8mb4&ssl_disabled=true"

    def connect(self) -> Any:
        import pymysql  # only when needed: this module must load where a driver is missing

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database="mysql",
            ssl_disabled=True,
            connect_timeout=5,
            autocommit=True,
        )

    def end_sessions(self, name: str) -> None:
        import pymysql

        sessions = f"SELECT id FROM information_schema.processlist WHERE db = '{checked(name)}'"
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sessions)
            for (session,) in cursor.fetchall():
                with suppress(pymysql.MySQLError):  # it has just ended by itself
                    cursor.execute(f"KILL {session}")

    def drop_database(self, name: str) -> None:
        self.end_sessions(name)  # a transaction that a test left open would hold up the DROP
        self.execute("SET lock_wait_timeout = 30", f"DROP DATABASE IF EXISTS {name}")

    @property
    def pid_file(self) -> Path:
        return self.folder / "pid"

    def _initialise(self) -> None:
        self._run(
            str(self.install_program),
            "--no-defaults",
            f"--datadir={self.folder}/data",
            # Two at a time would take each other's temporary tables away.
            f"--tmpdir={self.folder}/data",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def _command(self) -> list[str]:
        settings = {
            "datadir": f"{self.folder}/data",
            # A starting server clears its temporary files, so the folder must not be another server's too.
            "tmpdir": f"{self.folder}/data",
            "socket": f"{self.folder}/socket",
            "pid-file": str(self.pid_file),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "max-connections": "200",
            "character-set-server": "utf8mb4",
            "innodb-flush-log-at-trx-commit": "2" if self.fast else "1",
            **self.settings,
        }
        return [
            str(self.server_program),
            "--no-defaults",
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _data_folder(self) -> str:
        ((folder,),) = self.execute("SELECT @@datadir")
        return str(folder)


def memory() -> str | None:
    """A place for files that need not survive the machine; None where there is none with room for servers and their tests."""
    place = "/dev/shm"  # making and dropping a database takes a tenth of the time there
    roomy = os.access(place, os.W_OK) and shutil.disk_usage(place).free > 2**31
    return place if roomy else None


def free_port() -> int:
    """Give a port of 127.0.0.1 on which nobody listens."""
    # Below the range from which the system takes the near ends of connections: while a server is down, a port
    # from that range may be given to anybody, even to a client that knocks at it and so meets itself.
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def wait_until(fact: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return as soon as the fact holds; raise a TimeoutError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children_of(pid: int) -> list[int]:
    """Give the direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def checked(name: str) -> str:
    """Give back a name that can stand in SQL without quotes."""
    if not name.isidentifier():
        raise ValueError(f"not a plain name: {name!r}")
    return name
