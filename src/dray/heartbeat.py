"""The process that beats for a worker. It is started as a file, imports nothing of Dray, and so stays small.

It lives beside the worker because nothing there can be trusted to run in time: a C call that holds the interpreter lock
stops every thread. Once every few seconds it moves the worker's row on; it also hears what wakes the worker, because it has
a connection to spare. On its standard input it gets a line of JSON with all that it needs to be ready, then one with what
to say for which worker, and later "q" to quit; on its standard output it says:

    r         ready to beat
    b TIME    the row was moved; TIME is when the statement was sent (CLOCK_BOOTTIME, seconds)
    n         something may be ready
    a TEXT    the database refuses connections, or to write anything: it is away for everybody
    l         the row says that this worker is dead

When the worker dies, this process is the first to know, and writes it down: nobody has to wait for the lease to run out. And it
ends a worker that cannot do so itself, because no line of Python runs in it any more.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import importlib.util
import json
import os
import random
import select
import signal
import sys
import time
from typing import Any

GLANCE = 1.0  # seconds between looks at the parent, at most
POLL = 0.005  # seconds between looks at SQLite's change counter: 5 microseconds each, and as much to wake up for it
PEEK, PEEKS, POLLS = 0.001, 20, 60  # the same while a commit seems under way; that many looks, then as above, at most so many
MORE = 10  # looks after a commit was seen
DEAF_AFTER = 5.0  # seconds between the last that was heard and a commit: longer takes no writer from the log to the commit
BLIND = 1.0  # the same where the system says when the file is written to: only to find out that it does not
GIVE_UP = 60.0  # seconds after the worker's death in which its row is tried to be written
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady() -> float:
    """Seconds by a clock that also runs while the machine sleeps, the same in all processes."""
    return time.clock_gettime(_STEADY)


def say(line: str) -> None:
    """Tell the worker; if it is not there any more, that is noticed elsewhere."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


class FileWatch:
    """Hears at once when a file is written to, so that nobody has to look; only Linux can. Raises OSError where not."""

    MODIFY = 0x2  # IN_MODIFY

    def __init__(self, path: str) -> None:
        try:
            ctypes = importlib.import_module("ctypes")  # not every Python has it, and only this has a use for it
            libc = ctypes.CDLL(None, use_errno=True)
            self.number = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        except (ImportError, AttributeError) as missing:
            raise OSError("no inotify here") from missing
        if self.number < 0 or libc.inotify_add_watch(self.number, os.fsencode(path), self.MODIFY) < 0:
            self.close()
            raise OSError(ctypes.get_errno(), "cannot watch", path)

    def was_written(self) -> bool:
        """Whether something was written since this was asked last."""
        heard = False
        with contextlib.suppress(BlockingIOError):
            while os.read(self.number, 65536):
                heard = True
        return heard

    def close(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class Commits:
    """Notices commits of others to an SQLite file, by its change counter.

    The log is written to before a commit can be seen: once that was heard, the counter is looked at until it moves.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.version: object = None
        self.watch: FileWatch | None = None
        self.heard = float("-inf")  # when the log was written to last
        self.looks = POLLS  # since then
        self.quiet_until = 0.0
        try:
            path = connection.execute("PRAGMA database_list").fetchone()[2]
            connection.execute("PRAGMA data_version").fetchone()  # the log is there once the database has been read
            self.watch = FileWatch(path + "-wal")
        except OSError:
            pass

    def pause(self) -> float:
        """Seconds until the next look, if nothing is heard before."""
        if self.watch is None:
            return POLL
        if (left := self.quiet_until - steady()) > 0:
            return left
        return BLIND if self.looks >= POLLS else PEEK if self.looks < PEEKS else POLL

    def sources(self) -> list[int]:
        """What to wait for. Not while it looks every millisecond anyway: each page of the commit under way would be heard. Nor
        for a moment after that commit: among hundreds a second, not each has to be told of."""
        waits = self.looks >= PEEKS and steady() >= self.quiet_until
        return [self.watch.number] if self.watch is not None and waits else []

    def moved(self) -> bool:
        """Whether there was a commit since the last look."""
        self.listen()
        self.looks += 1
        version = self.connection.execute("PRAGMA data_version").fetchone()
        if version == self.version:
            return False
        if self.version is not None:
            self.listen()  # once more: the commit may have come between the two looks
            if steady() - self.heard > DEAF_AFTER:
                self.close()  # look often instead
            self.looks = POLLS - MORE  # another may follow that was written to the log before this could be seen
        self.version = version
        self.quiet_until = steady() + POLL
        return True

    def listen(self) -> None:
        if self.watch is not None and self.watch.was_written():
            self.heard, self.looks = steady(), 0

    def wrote(self) -> bool:
        """We have just committed something ourselves: what was heard of that leads nowhere, since there is one writer at a
        time. Whether there was a commit of somebody else."""
        self.listen()
        self.looks = POLLS
        return self.moved()

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
            self.watch = None


class Heart:
    """One connection, one row, one parent."""

    def __init__(self, plan: dict[str, Any], parent: int) -> None:
        self.plan = plan
        self.parent = parent
        self.driver = self.load(plan["driver"])
        self.connection: Any = None
        self.commits: Commits | None = None  # of others, where they have to be looked for
        self.next_beat = 0.0
        self.stuck_at: object = None  # SQLite's change counter when the last beat found the file locked
        self.period = float(plan["period"])
        self.told_to_quit = False
        self.pulse, self.lifeline = beside("pulse"), beside("lifeline")
        self.term = self.pulse.Term(int(plan["page"]), float(plan["ttl"]))
        self.orders = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  unbuffered: what select() sees is all there is

    def load(self, driver: str) -> Any:
        if not self.is_postgresql:
            return importlib.import_module(driver)
        # psycopg loads asyncio, which loads this; neither is used here, and libpq has its own: 4 MB less.
        modules: dict[str, Any] = sys.modules
        modules.setdefault("ssl", None)
        try:
            return importlib.import_module(driver)
        except ImportError:  # it has found a use for it
            del modules["ssl"]
            return importlib.import_module(driver)

    def connect(self) -> Any:
        """The connection, made when there is none."""
        if self.connection is not None:
            return self.connection
        connection = self.driver.connect(*self.plan["arguments"], **self.plan["keywords"])
        if hasattr(connection, "isolation_level") and self.is_sqlite:
            connection.isolation_level = None
        elif callable(getattr(connection, "autocommit", None)):
            connection.autocommit(True)
        else:
            connection.autocommit = True
        cursor = connection.cursor()
        for statement in self.plan["setup"]:
            cursor.execute(statement)
        if self.is_postgresql and self.plan["listen"]:
            connection.add_notify_handler(lambda _: say("n"))  # what arrives with the answer to a statement
            cursor.execute(f'LISTEN "{self.plan["channel"]}"')
            say("n")  # whatever was said while we were not listening
        if self.is_sqlite and self.plan["listen"]:
            self.commits = Commits(connection)
        self.connection = connection
        return connection

    @property
    def is_sqlite(self) -> bool:
        return str(self.plan["driver"]).partition(".")[0] == "sqlite3"  # SQLAlchemy says sqlite3.dbapi2

    @property
    def is_postgresql(self) -> bool:
        return bool(self.plan["driver"] == "psycopg")

    def disconnect(self) -> None:
        if self.commits is not None:
            self.commits.close()
            self.commits = None
        if self.connection is not None:
            with contextlib.suppress(Exception):
                self.connection.close()
        self.connection = None

    def execute(self, statement: str) -> int:
        """Run a statement and give the number of rows it changed. A locked SQLite file is waited for, as everywhere."""
        deadline = steady() + min(self.period, GLANCE)
        while True:
            try:
                cursor = self.connect().cursor()
                cursor.execute(statement)
                return int(cursor.rowcount)
            except Exception as error:
                if not self.is_busy(error) or steady() > deadline:
                    raise
            time.sleep(random.uniform(0.0005, 0.0015))

    def is_busy(self, error: Exception) -> bool:
        """Whether somebody else was writing just then: SQLITE_BUSY or SQLITE_LOCKED, whatever is added to them."""
        return self.is_sqlite and getattr(error, "sqlite_errorcode", 0) & 0xFF in (5, 6)

    def beat(self) -> None:
        """Move the row on, and say so."""
        if self.parent_is_stopped():
            self.next_beat = steady() + self.period
            return  # somebody froze the worker: its jobs are for others when the lease has run out
        sent = steady()
        try:
            changed = self.execute(self.plan["beat"])
        except Exception as error:
            busy = self.is_busy(error)
            if not busy:
                self.disconnect()
            # What fails at once was refused: the database is away for everybody. What hung may be our network alone.
            if self.is_locked_for_all() if busy else steady() - sent < self.period:
                self.term.refuse(steady())
                say("a " + " ".join(str(error).split())[:300])
            self.next_beat = steady() + min(self.period, 0.5)
            return
        self.stuck_at = None
        self.term.beaten(sent, alive=bool(changed))
        say(f"b {sent!r}" if changed else "l")
        self.next_beat = sent + self.period
        with contextlib.suppress(Exception):  # a broken connection is noticed when it is used next
            if self.commits is not None:
                if self.commits.wrote():
                    say("n")
                return
            self.hear(readable=True)  # what was read together with the answer makes nobody's socket readable

    def is_locked_for_all(self) -> bool:
        """Whether nobody has written since the last beat that found the file locked: then nobody can have taken over."""
        before = self.stuck_at
        try:
            self.stuck_at = self.connect().execute("PRAGMA data_version").fetchone()
        except Exception:
            self.stuck_at = None
        return before is not None and before == self.stuck_at

    def parent_is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self.parent}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False

    def parent_is_gone(self) -> bool:
        return os.getppid() != self.parent

    def wait(self) -> bool:
        """Wait for the next beat or for something to tell; False when told to quit, or when the parent is gone."""
        pause = min(max(self.next_beat - steady(), 0.0), GLANCE) if self.has_worker else GLANCE
        sources: list[Any] = [0]
        if self.commits is not None:
            pause = min(pause, self.commits.pause())
            sources += self.commits.sources()
        elif self.is_postgresql and self.connection is not None:
            sources.append(self.connection.pgconn.socket)
        readable, _, _ = select.select(sources, [], [], pause)
        if 0 in readable:
            return self.obey(self.orders.readline())
        try:
            self.hear(len(readable) > 0)
        except Exception:
            self.disconnect()
            self.next_beat = steady()
        return True

    def obey(self, order: bytes) -> bool:
        """Take what the worker says; False when told to quit, or when it is not there any more."""
        self.told_to_quit = order.startswith(b"q")
        if self.told_to_quit or not order:
            return False
        self.plan.update(json.loads(order))
        self.next_beat = 0.0
        return True

    @property
    def has_worker(self) -> bool:
        return "beat" in self.plan

    def get_ready(self) -> None:
        """Do what takes long before it is in a hurry: on a busy machine that may be longer than a short TTL."""
        with contextlib.suppress(Exception):  # the first beat will say what is wrong
            self.connect()
        say("r")

    def hear(self, readable: bool) -> None:
        """Pass on that something may be ready."""
        if self.connection is None:
            return
        if self.commits is not None:
            if self.commits.moved():
                say("n")
        elif self.is_postgresql and readable:
            self.connection.pgconn.consume_input()
            heard = 0
            while self.connection.pgconn.notifies() is not None:
                heard += 1
            if heard:
                say("n")

    def live(self) -> None:
        """Beat until told to quit, or until the worker is gone; then write its death down."""
        glance = 0.0
        while True:
            if self.has_worker and steady() >= self.next_beat:
                self.beat()
            if not self.wait():
                break
            if steady() - glance > GLANCE:
                glance = steady()
                # What it said last comes first: it may have run a job and died while we were slow.
                if self.parent_is_gone() and not select.select([self.orders], [], [], 0)[0]:
                    break
        if self.told_to_quit or not self.has_worker:
            return
        # Standard input can have been closed by the worker, too: only a new parent proves that the old one is dead.
        deadline = steady() + 0.2
        while not self.parent_is_gone() and steady() < deadline:
            time.sleep(0.005)
        if self.parent_is_gone():
            self.write_death()

    def has_lost(self) -> bool:
        """Whether others may be about to take over what the worker runs."""
        return self.has_worker and bool(self.term.is_over())

    def write_death(self) -> None:
        self.lifeline.cut(self.plan["line"])  # where a fork of it, made behind Python's back, still holds the line
        deadline = steady() + GIVE_UP
        while steady() < deadline:
            try:
                self.execute(self.plan["death"])
            except Exception:
                self.disconnect()
                time.sleep(0.1)
            else:
                return


def beside(name: str) -> Any:
    """A module in the folder of this file, which is no place to import from: its other names would hide those of others."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Read the plan from standard input and live by it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # it ends with its worker, not with the terminal
    with open(0, "rb", buffering=0, closefd=False) as orders:
        plan = json.loads(orders.readline())
    heart = Heart(plan, int(plan["parent"]))
    watch = heart.pulse.Watch(int(plan["page"]), heart.parent, frozen=heart.parent_is_stopped, gone=heart.parent_is_gone)
    _thread.start_new_thread(watch.keep, (heart.has_lost, lambda: heart.lifeline.cut(plan["line"]), plan["ttl"]))
    heart.get_ready()
    heart.live()


if __name__ == "__main__":
    main()
