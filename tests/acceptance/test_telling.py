"""Telling people of failures: to a real mail server and a real web server, once each, whoever dies meanwhile."""

from __future__ import annotations

import email.policy
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from dray import Dray, Permanent, Retry, State, mail, notify
from dray.errors import ConfigurationError
from dray.notice import Notice
from dray.notify import Notifier, channels_of, next_tick
from dray.store import open_store
from dray.testing import run_all
from dray.worker import Worker
from tests.servers import Database, wait_until

rows = pytest.mark.rows


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def subject_of(mail: Message) -> str:
    return str(mail["Subject"]).strip()  # a long one may begin on a line of its own


class Mailbox:
    """A mail server on loopback that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.before: Callable[[], None] = lambda: None  # called before a mail is taken
        self.port = free_port()
        self.controller = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.before()
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def texts(self) -> list[tuple[str, str]]:
        """Subject and body of each."""
        return [(subject_of(mail), mail.get_payload(decode=True).decode().replace("\r\n", "\n")) for mail in self.mails]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    mailbox.controller.start()
    yield mailbox
    if mailbox.controller.server is not None:
        mailbox.controller.stop()


def app_on(database: Database, **settings: Any) -> Dray:
    # Workers leave it to the tests to tell, unless these say otherwise.
    app = Dray(database.url, create_tables=True, **{"beat": 0.3, "ttl": 5, "notify_after": "1h", **settings})
    app.store.ensure()
    return app


def tell(app: Dray) -> int:
    """Tell what waits, as a worker does now and then."""
    return Notifier(app.store.desk, channels_of(app), gathered=0.0, digest=app.settings.digest).round()


# --- what is told ---------------------------------------------------------------------------------------------------------


@rows("S2.3", "S2.42", "S4.29", "S4.39", "C33", "C96", "C97")
def test_a_worker_mails_what_failed_for_good_and_what_failed_many_times(database: Database, mailbox: Mailbox) -> None:
    app = app_on(database, mail=mailbox.url, mail_from="dray@example.org", mail_to="ann@example.org, bob@example.org")

    @app.task(retry=Retry.after(0, 0, 0), notify_at=2)
    def pay(invoice: int) -> None:
        raise ConnectionError("cannot reach postgresql://ann:hunter2@db/shop")

    @app.task
    def quiet() -> None:
        raise Permanent("closed account\nwith a second line")

    job, other = pay.enqueue(7), quiet.enqueue()
    run_all(app)
    tell(app)
    assert job.refresh().state is State.FAILED
    texts = dict(mailbox.texts())
    assert sorted(texts) == [
        "pay failed: ConnectionError: cannot reach postgresql://ann:***@db/shop",
        "pay has failed 2 times: ConnectionError: cannot reach postgresql://ann:***@db/shop",
        "quiet failed: Permanent: closed account with a second line",
    ]
    assert f"`dray retry {other.id}`" in texts["quiet failed: Permanent: closed account with a second line"]
    assert (
        f"job {job.id}, attempt 4: ConnectionError"
        in texts["pay failed: ConnectionError: cannot reach postgresql://ann:***@db/shop"]
    )
    assert not any("hunter2" in text for text in texts.values())
    assert {mail["To"] for mail in mailbox.mails} == {"ann@example.org, bob@example.org"}
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == 3
    assert tell(app) == 0  # each once
    app.close()


@rows("S4.39", "S2.42")
def test_a_worker_tells_by_itself(database: Database, mailbox: Mailbox) -> None:
    settings = {"mail": mailbox.url, "mail_from": "dray@example.org", "mail_to": "ann@example.org"}
    app = app_on(database, **settings, notify_after="0s")

    @app.task
    def pay() -> None:
        raise Permanent("no")

    pay.enqueue()
    worker = Worker(app)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: bool(mailbox.mails), "it has mailed", 30)
    finally:
        worker.stop()
        thread.join(30)
    assert [subject_of(mail) for mail in mailbox.mails] == ["pay failed: Permanent: no"]
    app.close()


@rows("S2.3", "C33")
def test_attempts_are_told_of_once_for_each_job_also_after_a_retry_by_hand(database: Database) -> None:
    app, told = app_on(database), list[Notice]()
    app.on_notify(told.append)

    @app.task(retry=Retry.after(0, 0, 0, 0), notify_at=2)
    def work() -> None:
        raise ValueError("boom")

    job = work.enqueue()
    run_all(app)
    tell(app)
    app.store.desk.retry([job.id])
    run_all(app)
    tell(app)
    assert Counter(str(notice.event) for notice in told) == {"attempts": 1, "failed": 2}
    assert [notice.failures[0].attempt for notice in told if notice.event == "attempts"] == [2]
    app.close()


@rows("S4.39", "C96")
def test_a_digest_names_what_failed_for_good_and_not_what_is_still_tried(database: Database, mailbox: Mailbox) -> None:
    app = app_on(database, mail=mailbox.url, mail_from="dray@example.org", mail_to="ann@example.org", digest="0 10 * * 1")

    @app.task(retry=[3600])
    def still_tried() -> None:
        raise ValueError("patience")

    @app.task
    def lost(number: int) -> None:
        raise Permanent(f"row {number}")

    assert tell(app) == 0  # from now on
    still_tried.enqueue()
    for number in (1, 1, 2):
        lost.enqueue(number)
    run_all(app)
    tell(app)
    app.store.database.transact(
        lambda connection: connection.execute(app.store.tables.text("UPDATE {controls} SET until_at = 0 WHERE kind = 2"))
    )
    tell(app)
    (digest,) = [text for text in mailbox.texts() if text[0].startswith("3 jobs have failed since")]
    lines = [line.split() for line in digest[1].splitlines() if "lost:" in line]
    assert [line[:2] for line in lines] == [["2", "lost:"], ["1", "lost:"]]
    assert "still_tried" not in digest[1]
    assert tell(app) == 0
    app.close()


def test_a_digest_is_due_at_the_next_instant_of_its_expression() -> None:
    monday = 1_704_103_200_000_000  # 2024-01-01 10:00 UTC, a Monday
    assert next_tick("0 10 * * 1", monday - 1_000_000) == monday
    assert next_tick("0 10 * * 1", monday) == monday + 7 * 86_400_000_000


def test_texts_of_ones_own_take_the_place_of_ours(database: Database, mailbox: Mailbox, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "failed.txt").write_text(
        "Subject: [$queue] $task is broken\n\nLook at http://dray/jobs/$job ($unknown)\n"
    )
    settings = {"mail": mailbox.url, "mail_from": "dray@example.org", "mail_to": "ann@example.org"}
    app = app_on(database, **settings, mail_templates=str(tmp_path / "texts"))

    @app.task(queue="bank")
    def pay() -> None:
        raise Permanent("no")

    job = pay.enqueue()
    run_all(app)
    tell(app)
    assert mailbox.texts() == [("[bank] pay is broken", f"Look at http://dray/jobs/{job.id} ($unknown)\n")]
    app.close()
    for wrong, told in (("nowhere", "no folder"), ("texts", "first line")):
        (tmp_path / "texts" / "failed.txt").write_text("no subject")
        with pytest.raises(ConfigurationError, match=told):
            channels_of(Dray(database.url, **settings, mail_templates=str(tmp_path / wrong)))
    with pytest.raises(ConfigurationError, match="mail_from and mail_to"):
        channels_of(Dray(database.url, mail=mailbox.url))


def test_a_password_is_not_sent_in_the_clear(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "_LOCAL", ())  # as to any other machine
    channel = mail.Mail(f"smtp://ann:hunter2@127.0.0.1:{mailbox.port}", "dray@example.org", ("ann@example.org",))
    with pytest.raises(ConfigurationError, match="offers no TLS, and a password is not sent in the clear"):
        channel.tell(notify.trial_notice())
    assert mailbox.mails == []


def test_a_subject_cannot_smuggle_in_a_header(database: Database, mailbox: Mailbox) -> None:
    app = app_on(database, mail=mailbox.url, mail_from="dray@example.org", mail_to="ann@example.org")

    @app.task
    def work() -> None:
        raise Permanent("x\r\nBcc: eve@example.org")

    work.enqueue()
    run_all(app)
    tell(app)
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    app.close()


# --- a web server ---------------------------------------------------------------------------------------------------------


class Hook(HTTPServer):
    """A web server that takes posts, and answers them with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.status, self.posts = 204, list[tuple[dict[str, str], bytes]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/in"


class _Taker(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((dict(self.headers), body))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", self.server.url)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@rows("C96", "C97")
def test_a_webhook_gets_signed_json(database: Database, hook: Hook) -> None:
    app = app_on(database, webhook=hook.url, webhook_key="key of ours")

    @app.task
    def pay(number: int) -> None:
        raise Permanent("token=abc was refused")

    jobs = [pay.enqueue(number) for number in range(3)]
    run_all(app)
    tell(app)
    ((headers, body),) = hook.posts
    assert headers["Dray-Signature"] == f"sha256={hmac.new(b'key of ours', body, hashlib.sha256).hexdigest()}"
    content = json.loads(body)
    assert (content["event"], content["task"], content["count"]) == ("failed", "pay", 3)
    assert [one["job_id"] for one in content["failures"]] == [job.id for job in jobs]
    assert content["failures"][0]["error"] == "Permanent: token=*** was refused"
    assert b"abc" not in body
    app.close()


@pytest.mark.parametrize("status", [500, 302])
def test_a_channel_that_does_not_work_is_tried_again_and_no_other_hears_it_twice(
    database: Database, hook: Hook, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(notify, "FIRST_AGAIN", 0.2)
    settings = {"mail": mailbox.url, "mail_from": "dray@example.org", "mail_to": "ann@example.org"}
    app, told = app_on(database, webhook=hook.url, **settings), list[Notice]()
    app.on_notify(told.append)

    @app.task
    def pay() -> None:
        raise Permanent("no")

    hook.status = status
    mailbox.controller.stop()
    pay.enqueue()
    run_all(app)
    assert tell(app) == 1
    assert len(hook.posts) == 1
    hook.status = 200
    mailbox.controller = Controller(mailbox, hostname="127.0.0.1", port=mailbox.port)
    mailbox.controller.start()
    wait_until(lambda: tell(app) == 1, "it is tried again", 30)
    assert len(hook.posts) == 2
    assert len({headers["Dray-Notice"] for headers, _ in hook.posts}) == 1  # so that the receiver can tell
    assert len(mailbox.mails) == len(told) == 1
    time.sleep(0.5)
    assert tell(app) == 0
    app.close()


def test_functions_that_raise_or_hang_are_called_once_and_keep_nothing_from_the_others(database: Database, hook: Hook) -> None:
    app = app_on(database, webhook=hook.url, hook_limit=0.2)
    release, called = threading.Event(), list[str]()

    @app.on_notify
    def hangs(notice: Notice) -> None:
        called.append("hangs")
        release.wait(60)

    @app.on_notify
    def raises(notice: Notice) -> None:
        called.append("raises")
        raise SystemExit(1)

    @app.task
    def pay() -> None:
        raise Permanent("no")

    pay.enqueue()
    run_all(app)
    tell(app)
    release.set()
    assert called == ["hangs", "raises"]
    assert len(hook.posts) == 1
    assert tell(app) == 0
    app.close()


# --- races and crashes ----------------------------------------------------------------------------------------------------


TELLER = """
import os, sys
from dray import Dray, notify
from dray.notify import Notifier, channels_of

notify.LEASE = 2.0
app = Dray(os.environ["URL"], mail=os.environ["MAIL"], mail_from="dray@example.org", mail_to="ann@example.org")
if os.environ.get("DEADLY"):
    app.on_notify(lambda notice: os._exit(9))
teller = Notifier(app.store.desk, channels_of(app), gathered=0.0)
print("ready", flush=True)
sys.stdin.readline()
while not os.path.exists(os.environ["STOP"]):
    teller.round()
"""


def start_teller(database: Database, mailbox: Mailbox, folder: Path, **environment: str) -> subprocess.Popen[str]:
    known = {**os.environ, "URL": database.url, "MAIL": mailbox.url, "STOP": str(folder / "stop"), **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", TELLER], env=known, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@rows("S2.3", "S4.29", "C33", "C96")
def test_each_failure_is_mailed_once_though_two_compete_and_one_is_killed_while_it_mails(
    database: Database, mailbox: Mailbox, tmp_path: Path
) -> None:
    app = app_on(database)
    names = [f"task-{number}" for number in range(12)]
    for name in names:

        def body() -> None:
            raise Permanent("no")

        app.task(name=name)(body)
        app.enqueue(name)
    run_all(app)
    store = open_store(database.url)
    victim, *others = [start_teller(database, mailbox, tmp_path) for _ in range(3)]
    killed = threading.Event()

    def kill() -> None:
        if len(mailbox.mails) == 3 and not killed.is_set():
            killed.set()
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            raise ConnectionResetError  # the fourth mail was on its way, and was not taken

    mailbox.before = kill
    try:
        go(victim)
        wait_until(killed.is_set, "the first is killed in the middle", 30)
        for process in others:
            go(process)
        wait_until(
            lambda: not store.database.once(lambda c: c.execute(store.tables.text("SELECT id FROM {notices}")).all()),
            "all is told",
            30,
        )
    finally:
        (tmp_path / "stop").touch()
        for process in (victim, *others):
            process.kill()
            process.communicate()
    subjects = Counter(subject_of(mail) for mail in mailbox.mails)
    # Between the server's answer and the note of it lies a moment in which nobody knows: such a mail is sent again under the
    # same number, and mail programs show it once.
    assert set(subjects) == {f"{name} failed: Permanent: no" for name in names}
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == 12
    assert sum(subjects.values()) <= 13
    store.close()
    app.close()


@rows("C34")
def test_a_function_that_kills_whoever_calls_it_is_given_up(database: Database, mailbox: Mailbox, tmp_path: Path) -> None:
    app = app_on(database)

    @app.task
    def work() -> None:
        raise Permanent("no")

    work.enqueue()
    run_all(app)
    deaths = 0

    def waits() -> bool:
        rows = app.store.database.once(lambda c: c.execute(app.store.tables.text("SELECT id FROM {notices}")).all())
        return bool(rows)

    deadline = time.monotonic() + 60
    while waits():
        assert time.monotonic() < deadline
        process = start_teller(database, mailbox, tmp_path, DEADLY="1")
        go(process)
        try:
            deaths += process.wait(4) == 9
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            process.kill()
            process.communicate()
    assert deaths == notify.MOST_DEATHS
    assert app.store.desk.counts()[State.FAILED] == 1  # that it failed stands where it stood
    app.close()
