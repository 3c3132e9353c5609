"""The real `dray` command, as a process of its own: every verb, every exit code, and what it loads."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Database

SHOP = """
import sys
import time
from dray import Dray, Permanent, Report, current_job

app = Dray()
print("a word of the application's own", file=sys.stderr)

@app.task(queue="mail")
def send(invoice_id: int, to: str = "ann") -> str:
    return f"sent {invoice_id} to {to}"

@app.task
def bad(why: str = "never works") -> None:
    raise Permanent(why)

@app.task
def nap(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current_job().check()
        time.sleep(0.01)

@app.task
def talk() -> Report:
    current_job().log("a line \\x1b[2J of the log")
    return Report.warning("1 of 2", Report.info("row 2"))

@app.task
def loaded() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules} & {"rich", "alembic", "sqlalchemy"})
"""
PATIENCE = 60.0


@dataclass
class Shell:
    """A folder with an app in it, where `dray` is called."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONWARNINGS": "ignore", **self.variables}

    def run(self, *words: str, stdin: str = "", code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Call `dray` with these words; `code` is the exit code it has to end with."""
        done = subprocess.run(
            [sys.executable, "-m", "dray", *words],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        assert "Traceback (most recent call last)" not in done.stderr or "-v" in words
        return done

    def out(self, *words: str, stdin: str = "", code: int = 0) -> str:
        return self.run(*words, stdin=stdin, code=code).stdout.strip()

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run(*words, "--json", code=code).stdout)
        assert told.pop("v") == 1
        return told

    def terminal(self, *words: str, types: str = "") -> tuple[int, str]:
        """Call `dray` in a terminal of its own, where somebody types; gives the exit code and what was seen."""
        ours, theirs = pty.openpty()
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "dray", *words],
                cwd=self.folder,
                env={**self.environment, "COLUMNS": "100", "TERM": "xterm"},
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
            )
            os.close(theirs)
            os.write(ours, types.encode())
            seen = b"".join(_until_closed(ours))
            return child.wait(PATIENCE), seen.decode().replace("\r\n", "\n")
        finally:
            os.close(ours)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dray", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            some = os.read(terminal, 4096)
        except OSError:  # Linux says so when the other side is closed
            return
        if not some:
            return
        yield some


def make_shell(folder: Path, url: str) -> Shell:
    (folder / "shop.py").write_text(SHOP)
    return Shell(folder, {"DRAY_APP": "shop:app", "DRAY_DATABASE_URL": url})


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An app on SQLite, without a database yet."""
    return make_shell(tmp_path, f"sqlite:///{tmp_path}/shop.db")


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shell:
    """An app on each of the databases in turn, without tables yet."""
    return make_shell(tmp_path, database.url)


# --- the main story, on every database --------------------------------------------------------------------------------------


@pytest.mark.rows("C92", "S3.78")
def test_a_day_of_an_operator(shop: Shell) -> None:
    assert "run 'dray init'" in shop.run("init", "--check", code=5).stderr
    shop.run("jobs", code=5)
    assert shop.out("init").startswith("0001")
    assert shop.out("init") == "up to date"
    shop.run("init", "--check")

    ids = [shop.out("enqueue", "bad", f"why=reason {number}", "--label", "day=1") for number in range(3)]
    sent = shop.out("enqueue", "send", "invoice_id:=7", "--priority", "1", "--key", "k-7")
    later = shop.json("enqueue", "nap", "seconds:=0", "--in", "1h")
    assert later["state"] == "scheduled"
    stats = shop.out("stats")
    assert "default" in stats
    assert "! no worker" in stats
    assert "1 scheduled · 4 ready · next due in 59m" in stats

    shop.run("worker", "--burst", "-c", "4")
    assert shop.out("jobs", "state:failed", "label:day=1", "-o", "ids").split() == ids[::-1]
    (row,) = shop.json("jobs", "key:k-7")["jobs"]
    assert (row["state"], row["result"], row["queue"]) == ("succeeded", "sent 7 to ann", "mail")
    shown = shop.out("show", ids[0])
    assert shown.startswith(f'job {ids[0]}  failed  bad(why="reason 0")')
    assert "raise Permanent(why)" in shown
    assert "labels     day=1" in shown

    preview = shop.run("retry", "state:failed", "--dry-run")
    assert "3 jobs match   bad 3" in preview.stderr
    assert "--yes" in shop.run("retry", "state:failed", code=2).stderr
    assert shop.out("retry", "state:failed", "--yes") == "3 jobs retried"
    assert shop.out("cancel", str(later["id"])) == f"{later['id']}  scheduled → cancelled"
    assert shop.out("cancel", "task:bad", "--yes") == "3 jobs cancelled"
    refused = shop.run("retry", sent, code=4).stderr
    assert refused.splitlines()[-1] == f"dray: job {sent} is succeeded and cannot be retried"
    assert shop.out("retry", sent, "--force") == f"{sent}  succeeded → ready"
    shop.run("worker", "--burst")

    told = shop.json("doctor")
    assert told["healthy"] is True
    assert shop.json("prune", "--older-than", "0s", "--dry-run")["pruned"] == {"succeeded": 1, "failed": 0, "cancelled": 4}
    assert "cancelled           4" in shop.out("prune", "--older-than", "0s", "--yes")
    assert shop.run("jobs").stderr.splitlines()[-1] == "no jobs"


def test_no_password_is_ever_shown(shop: Shell) -> None:
    url = shop.variables["DRAY_DATABASE_URL"]
    secret = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    shop.run("init")
    told = shop.run("doctor", "-v", code=None)
    assert not secret or secret not in told.stdout + told.stderr


# --- enqueue ----------------------------------------------------------------------------------------------------------------


def test_enqueue_and_wait(shell: Shell) -> None:
    worker = shell.start("worker", "-c", "2")
    try:
        done = shell.run("enqueue", "send", "invoice_id:=9", "to=bob", "--wait", "--timeout", "50")
        assert (done.stdout, "job 1 enqueued" in done.stderr) == ("sent 9 to bob\n", True)
        failed = shell.run("enqueue", "bad", "--wait", code=1)
        assert failed.stdout == ""
        assert failed.stderr.endswith("dray: job 2 failed: Permanent: never works\n")
        assert shell.out("enqueue", "talk", "--wait").splitlines() == ["warning  1 of 2", "  info     row 2"]
        heavy = json.loads(shell.out("enqueue", "loaded", "--wait"))
        assert heavy == ["sqlalchemy"]  # and neither rich nor Alembic
        late = shell.run("enqueue", "nap", "seconds:=30", "--wait", "--timeout", "0.2s", code=124)
        assert "has not ended" in late.stderr
        asked = shell.out("cancel", "5")
        assert asked in ("5  running: asked to end", "5  ready → cancelled")
        _until(lambda: shell.json("show", "5")["state"] == "cancelled")
    finally:
        worker.terminate()
        _, log = worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    started = next(line for line in log.splitlines() if "worker.started" in line)
    assert started.split()[1:3] == ["info", "worker.started"]
    assert 'job.failed job_id=2 task=bad attempt=1 error="Permanent: never works"' in log
    shown = shell.out("show", "3")
    assert "a line \\x1b[2J of the log" in shown


def _until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_arguments_at_once(shell: Shell) -> None:
    shell.run("enqueue", "send", "--args", "-", stdin='{"invoice_id": 3}')
    (shell.folder / "args.json").write_text("[4]")
    shell.run("enqueue", "send", "--args", "@args.json", "to=cy")
    rows = shell.json("jobs")["jobs"]
    assert [row["args"] for row in rows] == [{"a": [4], "k": {"to": "cy"}}, {"k": {"invoice_id": 3}}]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["enqueue", "sned"], 3, "task 'sned' is not registered; did you mean 'send'?"),
        (["enqueue", "send"], 2, "missing a required argument: 'invoice_id'"),
        (["enqueue", "send", "invoice_id:=7", "--at", "2030-01-01", "--in", "1h"], 2, "--in or --at, not both"),
        (["enqueue", "send", "invoice_id:=7", "--timeout", "1s"], 2, "--timeout goes with --wait"),
        (["enqueue", "send", "-A", "shop:nothing"], 2, "the module shop has no 'nothing'; did you mean shop:app?"),
        (["worker", "-A", "nothing:app"], 2, "there is no module 'nothing'"),
        (["show", "7"], 3, "there is no job 7"),
        (["retry", "7"], 3, "there is no job 7"),
        (["cancel", "7"], 3, "there is no job 7"),
        (["jobs", "colour:red"], 2, "jobs cannot be listed by 'colour'"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(shell: Shell, words: list[str], code: int, says: str) -> None:
    shell.run("init")
    told = shell.run(*words, code=code)
    assert told.stdout == ""
    assert told.stderr.splitlines()[-1].startswith("dray: ")
    assert says in told.stderr


# --- looking ----------------------------------------------------------------------------------------------------------------


def test_looking_makes_no_database(shell: Shell) -> None:
    for words in (["jobs"], ["stats"], ["show", "1"], ["retry", "1"], ["prune", "--defaults", "--yes"]):
        assert "no database file" in shell.run(*words, code=5).stderr
    assert shell.run("doctor", code=1).stdout.count("dray init") == 1
    assert list(shell.folder.glob("*.db")) == []


def test_looking_needs_no_app(shell: Shell) -> None:
    shell.run("enqueue", "send", "invoice_id:=1")
    del shell.variables["DRAY_APP"]
    assert shell.out("jobs", "-o", "ids") == "1"
    assert "which app?" in shell.run("worker", code=2).stderr
    assert "which app?" in shell.run("enqueue", "send", code=2).stderr


def test_a_broken_app_does_not_stop_who_looks(shell: Shell) -> None:
    shell.run("enqueue", "send", "invoice_id:=1")
    (shell.folder / "shop.py").write_text("from dray import Dray\n1 / 0\n")
    told = shell.run("jobs", "-o", "ids")
    assert told.stdout == "1\n"
    assert "warning: shop cannot be imported: ZeroDivisionError: division by zero" in told.stderr
    assert "line 2" in shell.run("jobs", "-v").stderr
    shell.run("worker", code=2)
    assert "fail  app " in shell.run("doctor", code=1).stdout
    # Without the app nobody knows which database is meant, and the default is not it.
    del shell.variables["DRAY_DATABASE_URL"]
    shell.run("jobs", code=2)


def test_an_old_schema(shell: Shell) -> None:
    shell.run("init")
    _change(shell, "UPDATE dray_version SET version_num = '0000'")
    assert "run 'dray init'" in shell.run("jobs", code=5).stderr
    shell.run("worker", "--burst", code=5)
    shell.run("init", "--check", code=5)


def _change(shell: Shell, statement: str) -> None:
    with sqlite3.connect(shell.folder / "shop.db") as connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("url", ["postgresql://ann:secret@127.0.0.1:1/x", "mysql://ann:secret@127.0.0.1:1/x"])
def test_a_database_that_is_away(shell: Shell, url: str) -> None:
    told = shell.run("jobs", "--database-url", url, code=69)
    assert "cannot be used right now" in told.stderr
    assert "secret" not in told.stderr
    checked = shell.run("doctor", "--database-url", url, code=1)
    assert "fail  database" in checked.stdout
    assert "secret" not in checked.stdout


def test_some_ids_can_be_moved_and_some_not(shell: Shell) -> None:
    for number in range(3):
        shell.run("enqueue", "send", f"invoice_id:={number}")
    shell.run("cancel", "1")
    told = shell.run("cancel", "-", stdin="1 2\n99\n", code=1)
    assert told.stdout == "2  ready → cancelled\n"
    assert told.stderr.splitlines()[-2:] == [
        "dray: job 1 is cancelled and cannot be cancelled",
        "dray: there is no job 99; it may have been pruned",
    ]
    moved = shell.json("retry", "1", "99", code=1)
    assert moved["retried"] == [{"id": 1, "before": "cancelled", "after": "ready"}]
    assert [one["id"] for one in moved["failed"]] == [99]


@pytest.mark.rows("S1.51", "C2")
def test_retry_says_of_each_what_became_of_it_and_ends_honestly(shell: Shell) -> None:
    shop = shell
    shop.run("init")
    for _ in range(3):
        shop.run("enqueue", "bad")
    shop.run("worker", "--burst")
    waits = shop.out("enqueue", "send", "invoice_id:=1", "--after", "1")
    asked = shop.run("retry", f"1,2,{waits}", "3,99", "--dry-run", code=1)
    assert asked.stderr.splitlines()[1:] == [
        *(f"{id}  failed: would be retried" for id in (1, 2, 3)),
        f"dray: job {waits} is blocked and cannot be retried",
        "dray: there is no job 99; it may have been pruned",
        "dry run: nothing changed",
    ]
    told = shop.run("retry", f"1,2, {waits}", "99", code=1)
    assert told.stdout == "1  failed → ready\n2  failed → ready\n"
    assert told.stderr.splitlines()[-2:] == [
        f"dray: job {waits} is blocked and cannot be retried",
        "dray: there is no job 99; it may have been pruned",
    ]
    assert shop.out("retry", "-", stdin="1,3\n2") == "1  ready already\n3  failed → ready\n2  ready already"
    shop.run("retry", "98,99", code=3)
    shop.run("retry", "99", "--dry-run", code=3)
    shop.run("retry", "99", waits, code=4)
    shop.run("retry", waits, "--dry-run", code=4)
    assert shop.run("retry", "task:nothing", "--yes").stderr == "a word of the application's own\nno job matches\n"
    shop.run("worker", "--burst")
    assert [row["state"] for row in shop.json("jobs", "task:bad")["jobs"]] == ["failed"] * 3, "each has been run once more"
    assert [len(shop.json("show", id)["attempts"]) for id in ("1", "2", "3")] == [2, 2, 2]


def test_a_list_goes_on_where_it_ended(shell: Shell) -> None:
    for number in range(5):
        shell.run("enqueue", "send", f"invoice_id:={number}")
    first = shell.run("jobs", "--limit", "3")
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["ID", "5", "4", "3"]
    assert "--before 3" in first.stderr
    assert shell.out("jobs", "--before", "3", "-o", "ids").split() == ["2", "1"]
    assert [json.loads(line)["id"] for line in shell.out("jobs", "-o", "jsonl").splitlines()] == [5, 4, 3, 2, 1]


def test_more_jobs_than_a_page_are_moved_to_the_last(shell: Shell) -> None:
    program = "import shop; shop.app.enqueue_many(shop.send.bind(n) for n in range(1203))"
    subprocess.run([sys.executable, "-c", program], cwd=shell.folder, env=shell.environment, check=True)
    told = shell.run("cancel", "queue:mail", "--limit", "3", "--yes")
    assert told.stdout == "3 jobs cancelled\n"
    assert shell.out("cancel", "queue:mail", "--yes") == "1,200 jobs cancelled"
    assert shell.run("cancel", "queue:mail", "--yes").stderr.splitlines()[-1] == "no job matches"
    assert shell.json("stats")["counts"]["cancelled"] == 1203


def test_stats_as_a_check(shell: Shell) -> None:
    shell.run("enqueue", "send", "invoice_id:=1")
    shell.run("stats", "--fail-if", "failed>0")
    told = shell.run("stats", "--fail-if", "ready>0", "--fail-if", "workers<1", code=1)
    assert told.stderr.splitlines()[-2:] == ["dray: ready>0: ready is 1", "dray: workers<1: workers is 0"]
    assert shell.json("stats")["counts"]["ready"] == 1


def test_the_doctor_finds_what_is_wrong(shell: Shell) -> None:
    shell.run("enqueue", "send", "invoice_id:=1")
    shell.variables |= {"DRAY_CONCURENCY": "3", "DRAY_JOBS_LIMIT": "5"}
    # Of another length: in the same second Python would take it for the file that it has compiled.
    (shell.folder / "shop.py").write_text(SHOP.replace("def send(", "def dispatch("))
    told = shell.run("doctor", code=1).stdout
    assert "warn  settings   the variable DRAY_CONCURENCY is set, but nothing reads it" in told
    assert "call it DRAY_CONCURRENCY, or unset it" in told
    assert "DRAY_JOBS_LIMIT" not in told
    assert "fail  queues     queue 'mail' has 1 ready job and no worker" in told
    assert "→ dray worker mail" in told
    assert "warn  tasks      'send' is in 1 waiting jobs but not registered" in told
    assert "database_url" in told
    assert told.splitlines()[-1] == "1 failed, 3 warnings", told


def test_the_schema_as_sql_needs_no_connection(shell: Shell) -> None:
    for url in ("sqlite:///no/where.db", "postgresql://nobody@127.0.0.1:1/x", "mysql://nobody@127.0.0.1:1/x"):
        assert "CREATE TABLE" in shell.out("init", "--sql", "--database-url", url)


def test_a_worker_without_tasks_is_warned(shell: Shell) -> None:
    (shell.folder / "empty.py").write_text("from dray import Dray\napp = Dray()\n")
    told = shell.run("worker", "-A", "empty:app", "--burst")
    assert "empty:app has no tasks" in told.stderr


def test_limits_of_a_worker(shell: Shell) -> None:
    for number in range(3):
        shell.run("enqueue", "send", f"invoice_id:={number}")
    shell.run("worker", "mail", "--max-jobs", "2", "-c", "1")
    assert len(shell.out("jobs", "state:succeeded", "-o", "ids").split()) == 2
    shell.run("worker", "other", "--max-time", "0.1s", "--no-upkeep", "--grace", "1s")
    assert len(shell.out("jobs", "state:ready", "-o", "ids").split()) == 1


# --- in a terminal ----------------------------------------------------------------------------------------------------------


def test_in_a_terminal_it_asks(shell: Shell) -> None:
    for number in range(2):
        shell.run("enqueue", "send", f"invoice_id:={number}")
    code, seen = shell.terminal("cancel", "queue:mail", types="n\n")
    assert code == 2
    assert "cancel 2 jobs? [y/N]: n" in seen
    assert "nothing changed" in seen
    code, seen = shell.terminal("cancel", "queue:mail", types="y\n")
    assert code == 0
    assert "2 jobs cancelled" in seen


def test_in_a_terminal_it_is_read_by_a_person(shell: Shell) -> None:
    shell.run("enqueue", "send", "invoice_id:=1", "to=" + "x" * 300)
    code, seen = shell.terminal("jobs")
    assert code == 0
    assert "\x1b[36m○ ready" in seen
    assert "s ago" in seen
    assert "x…" in seen
    shell.variables["NO_COLOR"] = "1"
    assert "\x1b[" not in shell.terminal("jobs")[1]


def test_ctrl_c_ends_a_wait(shell: Shell) -> None:
    waiting = shell.start("enqueue", "send", "invoice_id:=1", "--wait")
    assert waiting.stderr is not None
    while "enqueued" not in waiting.stderr.readline():
        assert waiting.poll() is None
    time.sleep(0.1)
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 130


# --- what it costs ----------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy(shell: Shell) -> None:
    program = (
        "import sys\nfrom dray.cli import main\nsys.argv = ['dray', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=shell.folder, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "click" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "rich", "cronsim", "psycopg", "pymysql"}


def test_the_worker_verb_loads_neither_rich_nor_alembic(shell: Shell) -> None:
    program = "import sys\nimport dray.cli.worker\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"rich", "alembic"} & set(done.stdout.split())
