"""What goes over the wire: how often an enqueue has to wait for the server, and what it says when the wire is cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy.engine import make_url

from dray import Dray
from dray.errors import OutcomeUnknown, StoreUnavailable
from dray.job import Done, Finish, State
from dray.lifecycle import decide
from dray.sender import FunctionTask
from dray.store.sql import SqlStore
from dray.store.wakeup import DEBOUNCE, channel
from tests.servers import Database, wait_until


class Turn(NamedTuple):
    """One wait for the server: what was sent on which connection, up to the first byte of the answer."""

    connection: int
    request: bytes


class Proxy:
    """Stands between a driver and its server, counts their turns, and cuts the wire when told to."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._turns: list[tuple[int, bytearray]] = []
        self._asked: dict[int, bool] = {}  # whether this connection waits for an answer
        self._mute: set[int] = set()  # connections that were cut: no answer comes through any more
        self._cut: tuple[int, bool] | None = None  # after so many more requests; whether the last of them is passed on
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._server))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    number = len(self._pairs)
                    self._pairs.append((client, server))
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(number, client, server), daemon=True).start()

    def _ask(self, number: int, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                pass_on, close = self._note(number, data)
                if pass_on:
                    server.sendall(data)
                if close:
                    _hang_up(client)
                    # The server has read what it was sent before it sees the end; it may take its time to obey.
                    server.shutdown(socket.SHUT_WR)
                    return
        _hang_up(client, server)

    def _note(self, number: int, data: bytes) -> tuple[bool, bool]:
        with self._lock:
            fresh = not self._asked.get(number, False)
            self._asked[number] = True
            if fresh:
                self._turns.append((number, bytearray()))
            self._last(number).extend(data)
            if self._cut is None or not fresh:
                return True, False
            left, pass_on = self._cut
            if left > 1:
                self._cut = left - 1, pass_on
                return True, False
            self._cut = None
            self._mute.add(number)
            return pass_on, True

    def _last(self, number: int) -> bytearray:
        return next(request for connection, request in reversed(self._turns) if connection == number)

    def _answer(self, number: int, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                with self._lock:
                    self._asked[number] = False
                    if number in self._mute:
                        break
                client.sendall(data)
        _hang_up(client, server)

    # --- what a test asks and says ------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Count from here."""
        with self._lock:
            self._turns.clear()

    @property
    def turns(self) -> list[Turn]:
        with self._lock:
            return [Turn(number, bytes(request)) for number, request in self._turns]

    def cut_after(self, requests: int = 1, *, passed_on: bool) -> None:
        """Cut the wire when so many more requests were sent; the server gets the last of them, or does not."""
        with self._lock:
            self._cut = (requests, passed_on)

    def cut_no_more(self) -> None:
        with self._lock:
            self._cut = None

    def cut_idle(self) -> None:
        """Do what a server does that closes idle connections."""
        with self._lock:
            pairs = list(self._pairs)
        for client, server in pairs:
            _hang_up(client, server)

    def close(self) -> None:
        """Let nobody in any more, and nobody stay."""
        _hang_up(self._listener)
        self.cut_idle()


def _hang_up(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class Wired:
    """An app whose way to the database leads through the proxy."""

    def __init__(self, database: Database) -> None:
        url = make_url(database.url)
        assert url.port is not None
        self.proxy = Proxy(url.port)
        through = url.set(port=self.proxy.port).render_as_string(hide_password=False)
        self.app = Dray(through, create_tables=True)
        self.beside = Dray(database.url)  # past the proxy
        self.send: FunctionTask[[int], None] = self.app.task(name="send")(send)
        self.channel = channel(self.store.tables).encode()  # is in each notification, also in one of a prepared statement
        # What is asked once, of the database or on each connection, is asked before anything is counted.
        self.send.enqueue(0)
        self.store.bell.flush(10)
        with self.store.database.engine.connect():
            self.send.enqueue(0)
        self.settle()

    @property
    def store(self) -> SqlStore:
        return self.app.store

    def settle(self) -> None:
        self.store.bell.flush(10)
        self.proxy.forget()

    def turns(self) -> list[Turn]:
        """Those of the enqueue. The notification of PostgreSQL's listeners is a hint that goes out after it."""
        bell = self.channel, b"pg_notify"  # once it is prepared, the statement is only named
        return [turn for turn in self.all_turns() if not any(word in turn.request for word in bell)]

    def all_turns(self) -> list[Turn]:
        self.store.bell.flush(10)
        return self.proxy.turns

    def args(self) -> list[str]:
        """The arguments of all jobs but the first two, as somebody sees them whose wire is whole."""
        store = self.beside.store
        with store.database.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT args FROM dray_jobs ORDER BY id").scalars().all()
        return [*rows][2:]

    def close(self) -> None:
        self.beside.close()
        self.app.close()
        self.proxy.close()


def send(number: int) -> None: ...


@pytest.fixture
def wired(database: Database) -> Iterator[Wired]:
    if database.name == "sqlite":
        pytest.skip("SQLite has no wire")
    wired = Wired(database)
    yield wired
    wired.close()


# --- round trips ----------------------------------------------------------------------------------------------------------


def test_a_plain_enqueue_is_one_round_trip(wired: Wired) -> None:
    wired.send.enqueue(7)
    (turn,) = wired.turns()
    assert b"INSERT INTO" in turn.request
    assert wired.args() == ['{"a":[7]}']


def test_so_is_each_one_after_it(wired: Wired) -> None:
    for number in range(24):
        wired.send.using(priority=number, key=f"k{number}", owner="ann").enqueue(number)
    turns = wired.turns()
    # psycopg prepares a statement when a connection has used it a few times: one more turn, once on each connection.
    assert 24 <= len(turns) <= 24 + len({turn.connection for turn in turns})
    assert len(wired.args()) == 24


def test_many_jobs_are_one_round_trip(wired: Wired) -> None:
    wired.app.enqueue_many(wired.send.bind(number) for number in range(500))
    assert len(wired.turns()) == 1
    assert len(wired.args()) == 500


def test_the_notification_is_sent_for_many_and_not_in_the_way(wired: Wired) -> None:
    wired.app.enqueue_many(wired.send.bind(number) for number in range(500))
    told = [turn for turn in wired.all_turns() if wired.channel in turn.request]
    assert len(told) == (1 if wired.store.tables.dialect.name == "postgresql" else 0)


def test_the_first_after_a_silence_tells_on_its_own_connection_and_those_behind_it_leave_that_to_a_thread(wired: Wired) -> None:
    if wired.store.tables.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL has notifications")
    silence(wired)
    wired.send.enqueue(1)
    job, hint = wired.proxy.turns  # both before it came back
    assert b"INSERT INTO" in job.request or wired.channel not in job.request
    assert wired.channel in hint.request
    assert hint.connection == job.connection
    for number in range(50):
        wired.send.enqueue(number)
    told = [turn for turn in wired.all_turns() if wired.channel in turn.request]
    assert len(told) < 25  # not each of them


@pytest.mark.parametrize("arrives", [True, False])
def test_a_hint_that_is_lost_is_no_failure_of_the_enqueue(wired: Wired, arrives: bool) -> None:
    if wired.store.tables.dialect.name != "postgresql":
        pytest.skip("only PostgreSQL has notifications")
    silence(wired)
    wired.proxy.cut_after(2, passed_on=arrives)
    wired.send.enqueue(1)
    assert wired.channel in wired.proxy.turns[-1].request  # that was what was cut
    wired.send.enqueue(2)
    assert wired.args() == ['{"a":[1]}', '{"a":[2]}']


def silence(wired: Wired) -> None:
    """Until the next enqueue is one with nothing before it."""
    wired.settle()
    over = time.monotonic() + DEBOUNCE
    wait_until(lambda: time.monotonic() > over, "silence")


# --- a wire that is cut ---------------------------------------------------------------------------------------------------


def test_a_connection_that_the_server_closed_is_replaced_without_a_word(wired: Wired) -> None:
    for number in range(3):
        wired.proxy.cut_idle()
        wired.send.enqueue(number)
        wired.store.bell.flush(10)
    assert wired.args() == ['{"a":[0]}', '{"a":[1]}', '{"a":[2]}']


@pytest.mark.parametrize("arrives", [True, False])
def test_a_cut_after_the_request_leaves_the_outcome_open_and_names_the_keys(wired: Wired, arrives: bool) -> None:
    wired.proxy.cut_after(passed_on=arrives)
    with pytest.raises(OutcomeUnknown, match="invoice-7") as caught:
        wired.send.using(key="invoice-7").enqueue(7)
    assert caught.value.keys == ("invoice-7",)
    if arrives:  # it is there, once: the enqueue was not sent a second time
        wait_until(lambda: wired.args() != [], "the server to obey")
    wired.send.enqueue(8)
    assert wired.args() == (['{"a":[7]}'] if arrives else []) + ['{"a":[8]}']
    assert wired.app.unfinished_keys(["invoice-7"]) == (["invoice-7"] if arrives else [])


def test_many_jobs_in_several_statements_are_all_there_or_none(wired: Wired) -> None:
    jobs = [wired.send.bind(number) for number in range(2500)]  # BEGIN, three INSERTs, COMMIT
    for requests in (2, 3, 4):
        wired.store.bell.flush(10)
        wired.proxy.cut_after(requests, passed_on=True)
        with pytest.raises((OutcomeUnknown, StoreUnavailable)):
            wired.app.enqueue_many(jobs)
    assert wired.args() == []
    wired.app.enqueue_many(jobs)
    assert len(wired.args()) == 2500


def test_who_cannot_connect_is_told_that_the_database_is_away(wired: Wired) -> None:
    wired.proxy.close()
    with pytest.raises(StoreUnavailable):  # nothing was sent, so there is nothing unknown about it
        wired.send.enqueue(7)
    with pytest.raises(StoreUnavailable):
        wired.app.job(1)
    assert wired.args() == []


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("request_number", [1, 2, 3, 4, 5])
def test_ends_whose_answer_was_lost_are_written_once(wired: Wired, arrives: bool, request_number: int) -> None:
    wired.app.enqueue_many(wired.send.bind(number) for number in range(3))  # with them come those that were there first
    worker = wired.store.roster.register(host="h", pid=1, queues="*", concurrency=1)
    runs = wired.store.claim(worker, wired.store.pickup([]), 10)
    finishes = [Finish(run, decide(run, Done(result=str(run.id)))) for run in runs]
    wired.settle()
    wired.proxy.cut_after(request_number, passed_on=arrives)
    done: Any = None
    try:
        done = wired.store.finish(finishes)
    except StoreUnavailable:
        # What was sent last may be under way yet; it holds the locks until it is done or undone.
        done = wired.store.finish(finishes, again=True)
    wired.proxy.cut_no_more()  # where ends take fewer requests
    assert done.accepted == {run.lease for run in runs}
    jobs = [wired.beside.store.desk.job(run.id) for run in runs]
    assert [(job.state, job.result) for job in jobs if job is not None] == [(State.SUCCEEDED, str(run.id)) for run in runs]
    assert wired.store.finish(finishes).accepted == set()
