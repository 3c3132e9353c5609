"""The tender as a process that keeps workers: more and fewer of them, their deaths, its own, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dray import State
from tests.acceptance.tending import end_family, family, gone, tending
from tests.servers import Database, children_of

rows = pytest.mark.rows


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dray.db"


@pytest.fixture
def one_slot() -> tuple[str, ...]:
    return ("--", "-c", "1")


@rows("S1.34", "S1.36", "S1.37", "S1.38", "S1.43", "S1.44", "C75", "C77")
def test_it_follows_the_load_up_to_max_and_down_to_min(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(tmp_path, url, "--min", "1", "--max", "3", *one_slot) as tender:
        tender.until(1, "idle")
        tender.enqueue("hold")
        tender.until(1, "busy")
        tender.until(1, "idle")  # one to spare
        tender.enqueue("hold", 5)
        tender.until(3, "busy")
        tender.open_gate()
        tender.until_all_ended()
        tender.until(1)
        assert tender.counts()[State.SUCCEEDED] == 6
        assert max(int(facts["workers"]) for _, facts in tender.events("started")) == 3
        assert [facts["why"] for _, facts in tender.events("retires")] == ["surplus"] * 2
        assert len(tender.events("started")) == 3, "nobody came and went in between"
        assert tender.events("died") == []


@rows("C79")
def test_workers_that_die_at_their_start_are_started_more_and_more_seldom(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "1", app="shop:nothing") as tender:
        last = tender.until_says(r"all: \d+ workers? died at start, the last with exit code 2; next try in \ds", 2)
        assert "warning" in last
        tender.send(signal.SIGTERM)
        tender.ends()
        lines = tender.log.splitlines()
        started = [line for line in lines if " tend.started " in line]
        assert 3 <= len(started) <= 6
        assert any("has no 'nothing'" in line for line in lines), "what the worker says can be read"


@rows("S1.47", "S0.20", "C18")
@pytest.mark.parametrize("dies", ["alone", "with its witness"])
def test_a_killed_worker_is_replaced_and_its_job_runs_again_at_once(
    tmp_path: Path, database: Database, dies: str, one_slot: tuple[str, ...]
) -> None:
    with tending(tmp_path, database.url, "--min", "1", "--spare", "0", "--max", "1", *one_slot) as tender:
        (first,) = tender.until(1, "idle")
        (job,) = tender.enqueue("hold")
        tender.until_begun(1)
        if dies == "alone":
            os.kill(first["pid"], signal.SIGKILL)
        else:
            end_family(first["pid"])
        tender.until_begun(2)  # long before the lease of 60 s has run out
        (died,) = [facts for _, facts in tender.events("died")]
        assert (died["pid"], died["how"]) == (str(first["pid"]), "SIGKILL")
        assert {pid for _, _, pid in tender.notes()} == {first["pid"], tender.workers()[0]["pid"]}
        tender.open_gate()
        tender.until_all_ended()
        row = tender.app.store.desk.job(job)
        assert row is not None
        assert (row.state, row.fence) == (State.SUCCEEDED, 2)


def test_a_tender_that_is_killed_leaves_nobody_behind_and_no_job_undone(
    tmp_path: Path, url: str, one_slot: tuple[str, ...]
) -> None:
    with tending(tmp_path, url, "--min", "2", "--max", "2", *one_slot) as tender:
        orphans = [worker["pid"] for worker in tender.until(2, "idle")]
        jobs = tender.enqueue("hold", 6)
        tender.until_begun(2)
        everybody = family(tender.process.pid)
        tender.process.kill()
        tender.process.wait()
        (tmp_path / "status").unlink()
        with tending(tmp_path, url, "--min", "2", "--max", "2", *one_slot) as other:
            other.until_begun(4)
            other.open_gate()
            other.until_all_ended()
            other.wait(lambda: gone(*everybody), "the first family to end")
            assert other.counts() == {State.SUCCEEDED: 6}
        notes = tender.notes()
        assert sorted(job for word, job, _ in notes if word == "begin") == jobs, "each of them once"
        assert sorted(job for word, job, _ in notes if word == "end") == jobs
        assert {pid for word, _, pid in notes[:2]} == set(orphans)
        assert "its tender is gone" not in tender.log, "they had nobody left to tell"


@rows("S1.46", "S1.48", "S1.50", "S1.29")
def test_a_signal_lets_running_jobs_end_and_says_for_whom_it_waits(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(tmp_path, url, "--min", "2", "--max", "2", *one_slot) as tender:
        tender.until(2, "idle")
        tender.enqueue("hold", 1)
        tender.until(1, "busy")
        os.killpg(tender.process.pid, signal.SIGTERM)  # as a terminal does, and init systems do more than that
        tender.until_says(r"stopping: [12] workers?, 1 busy \(hold \d+s\); again to stop now", 2)
        assert tender.status()["state"] == "stopping"
        assert len(tender.until(1)) == 1
        tender.open_gate()
        tender.ends()
        assert tender.counts() == {State.SUCCEEDED: 1}
        assert not (tmp_path / "status").exists()
        assert tender.events("died") == []


@rows("S1.30", "S1.48")
def test_a_second_signal_gives_jobs_back_at_once(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(tmp_path, url, "--min", "1", "--max", "1", *one_slot) as tender:
        tender.until(1, "idle")
        tender.enqueue("hold")
        tender.until(1, "busy")
        everybody = family(tender.process.pid)
        tender.send(signal.SIGINT)
        tender.until_says("stopping: 1 worker, 1 busy")
        tender.send(signal.SIGTERM)
        tender.ends()
        assert tender.counts() == {State.READY: 1}
        assert [word for word, _, _ in tender.notes()] == ["begin"]
        tender.wait(lambda: gone(*everybody), "all of them to be gone")


def test_a_hangup_replaces_all_workers_and_cuts_off_no_job(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(tmp_path, url, "--min", "2", "--max", "3", *one_slot, "--grace", "100ms") as tender:
        tender.until(2, "idle")
        tender.enqueue("hold")
        tender.until(1, "busy")
        before = {worker["pid"] for worker in tender.until(2)}
        tender.send(signal.SIGHUP)
        tender.wait(lambda: len({one["pid"] for one in tender.workers("idle")} - before) == 2, "two new workers")
        tender.open_gate()
        tender.wait(lambda: not before & {one["pid"] for one in tender.workers()}, "the old ones to be gone")
        tender.until_all_ended()
        assert tender.counts() == {State.SUCCEEDED: 1}
        assert [word for word, _, _ in tender.notes()] == ["begin", "end"]
        assert {facts["why"] for _, facts in tender.events("retires")} <= {"reload", "surplus"}
        assert tender.fewest_after(2) >= 2
        assert tender.events("died") == []


def test_new_code_that_does_not_work_replaces_nobody(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(tmp_path, url, "--min", "2", "--max", "3", *one_slot) as tender:
        before = {worker["pid"] for worker in tender.until(2, "idle")}
        good = (tmp_path / "shop.py").read_text()
        (tmp_path / "shop.py").write_text("this is wrong")
        tender.send(signal.SIGHUP)
        tender.until_says("died at start, the last with exit code 2")
        assert {worker["pid"] for worker in tender.workers("idle")} == before
        (tmp_path / "shop.py").write_text(good)
        tender.wait(lambda: len({one["pid"] for one in tender.workers("idle")} - before) == 2, "two new workers")
        tender.wait(lambda: not before & {one["pid"] for one in tender.workers()}, "the old ones to be gone")
        assert tender.fewest_after(2) >= 2


@rows("S1.36", "S1.39")
def test_old_workers_are_replaced_and_never_are_there_fewer_than_min(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "2", "--max", "3", "--max-age", "2s") as tender:
        tender.wait(lambda: len(tender.events("ended")) >= 4, "four workers to be retired")
        assert all(facts["why"].startswith("age ") for _, facts in tender.events("retires"))
        assert tender.fewest_after(2) == 2
        assert max(int(facts["workers"]) for _, facts in tender.events("started")) == 3
        assert tender.events("died") == []


@rows("S1.31", "S1.40", "C76")
def test_who_has_printed_too_much_is_replaced_and_all_of_it_is_passed_on(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "1", "--max", "2", "--max-output", "50K") as tender:
        (first,) = tender.until(1, "idle")
        tender.enqueue("talk", count=1000)
        tender.wait(lambda: tender.events("retires") != [], "it to be retired")
        (retired,) = [facts for _, facts in tender.events("retires")]
        assert retired["pid"] == str(first["pid"])
        assert re.fullmatch(r"output 9\d(\.\d)? KiB", retired["why"])
        tender.wait(lambda: gone(first["pid"]), "it to be gone")
        assert tender.log.count("y" * 99 + "\n") == 1000


@rows("S1.34", "S1.41")
def test_each_pool_has_workers_of_its_own(tmp_path: Path, url: str) -> None:
    words = ("--pool", "mail=2..3", "--pool", "default=1..1", "--spare", "0", "--", "-c", "1")
    with tending(tmp_path, url, *words) as tender:
        tender.until(3, "idle")
        tender.enqueue("hold", 2)
        tender.until_begun(1)
        mail, default = tender.status()["pools"]
        assert (mail["name"], mail["queues"], mail["min"], mail["max"], mail["idle"]) == ("mail", ["mail"], 2, 3, 2)
        assert (default["name"], len(default["workers"])) == ("default", 1)
        tender.until(1, "busy")
        tender.open_gate()
        tender.until_all_ended()
        lines = [line for line in tender.log.splitlines() if "worker.started" in line]
        assert sorted(re.findall(r"queues=(\w+)", "\n".join(lines))) == ["default", "mail", "mail"]


def test_the_status_file_says_who_is_there_and_what_they_do(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "2", "--", "-c", "3") as tender:
        tender.until(2, "idle")
        (job,) = tender.enqueue("hold")
        (working,) = tender.until(1, "working")
        tender.until_says(f"^holding {job}$")
        status = tender.status()
        (pool,) = status["pools"]
        assert (status["v"], status["pid"], status["state"]) == (1, tender.process.pid, "tending")
        assert (pool["name"], pool["queues"], pool["target"], pool["busy"], pool["idle"]) == ("all", [], 2, 0, 1)
        assert (working["running"], working["slots"]) == (1, 3)
        assert [(one["id"], one["task"]) for one in working["jobs"]] == [(job, "hold")]
        assert {pid for _, _, pid in tender.notes()} == {working["pid"]}
        assert working["worker_id"] > 0
        assert 1_000_000 < working["memory"] < 500_000_000
        assert working["output"] > 0
        assert working["age"] > 0
        tender.send(signal.SIGUSR1)
        line = tender.until_says(r"tend\.worker pool=all .* state=working running=1/3 .* jobs=\"hold \d+s\"")
        assert f"pid={working['pid']}" in line
        assert "tend.pool pool=all min=2 max=5 target=2 starting=0 busy=0 idle=1 up=2 leaving=0" in tender.log
        tender.open_gate()
        tender.until(2, "idle")


@rows("S1.35")
def test_a_command_that_says_nothing_of_itself_is_taken_for_a_worker(tmp_path: Path, url: str) -> None:
    with tending(
        tmp_path, url, "--min", "2", "--worker-command", f"{sys.executable} -c 'import time; time.sleep(99)'"
    ) as tender:
        tender.until(2, "starting")
        tender.until(2, "idle")
        tender.send(signal.SIGTERM)
        tender.ends()
        assert tender.log.count("says nothing of itself") == 1
        assert tender.events("died") == []
        assert len(tender.events("started")) == 2


FOREIGN = r"""
import os, socket
line = socket.socket(fileno=int(os.environ["DRAY_TENDER_FD"]))
line.sendall(b'nonsense\n{"x": 1}\n[]\n7\n\xff\n{"running": "many"}\n')
line.sendall(b'{"worker": 1}\n{"running": 2, "slots": 2, "jobs": [[7, "knit", 3.0]]}\n')
while b"stop" not in line.recv(4096):
    pass
line.sendall(b'"bye"\n')
"""


@rows("S1.35")
def test_any_program_can_be_a_worker_that_speaks_as_one(tmp_path: Path, url: str) -> None:
    (tmp_path / "foreign.py").write_text(FOREIGN)
    with tending(tmp_path, url, "--min", "1", "--max", "1", "--worker-command", f"{sys.executable} foreign.py") as tender:
        (worker,) = tender.until(1, "busy")
        assert (worker["worker_id"], worker["running"], worker["jobs"][0]["task"]) == (1, 2, "knit")
        tender.send(signal.SIGTERM)
        tender.until_says(r"stopping: 1 worker, 1 busy \(knit \d+s\); again to stop now")
        tender.ends()
        assert tender.events("died") == []


@rows("S1.42")
def test_what_a_job_starts_holds_no_line_to_the_tender(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "1", "--spare", "0") as tender:
        (worker,) = tender.until(1, "idle")
        (job,) = tender.enqueue("look")
        listed, variables = tender.app.job(job).wait(60).result
        assert "socket:" not in listed
        assert variables == []
        (heart,) = children_of(worker["pid"])
        held = {os.readlink(f"/proc/{heart}/fd/{number}") for number in os.listdir(f"/proc/{heart}/fd")}
        assert not any(name.startswith("socket:") for name in held)


def test_it_is_small(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--min", "1", "--spare", "0") as tender:
        tender.until(1, "idle")
        status = Path(f"/proc/{tender.process.pid}/status").read_text()
        (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        assert int(kilobytes) < 25_000
    heavy = {"alembic", "asyncio", "msgspec", "rich", "sqlalchemy", "dray.app", "dray.worker"}
    program = f"import sys, dray.cli, dray.cli.tend; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_as_process_1_it_collects_whoever_is_left(
    tmp_path: Path, url: str, first_of_a_container: tuple[str, ...], one_slot: tuple[str, ...]
) -> None:
    with tending(tmp_path, url, "--min", "1", "--max", "2", *one_slot, before=first_of_a_container) as tender:
        tender.until(1, "idle")
        assert tender.status()["pid"] == 1
        (tender_pid,) = children_of(tender.process.pid)
        (worker,) = children_of(tender_pid)
        (heart,) = children_of(worker)
        tender.enqueue("hold")
        tender.until_begun(1)
        os.kill(worker, signal.SIGKILL)
        tender.until_begun(2)
        tender.wait(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (worker, heart)), "both to be collected")
        tender.open_gate()
        tender.until_all_ended()
        os.kill(tender_pid, signal.SIGTERM)
        tender.ends()


def test_a_program_that_is_not_there_ends_it_with_one_line(tmp_path: Path, url: str) -> None:
    with tending(tmp_path, url, "--worker-command", "./no-such-program --fast") as tender:
        tender.ends(2)
        assert tender.log == "dray: --worker-command: there is no program './no-such-program'\n"


def test_a_reader_that_is_gone_stops_nobody(tmp_path: Path, url: str, one_slot: tuple[str, ...]) -> None:
    with tending(
        tmp_path, url, "--min", "1", "--spare", "0", *one_slot, before=("sh", "-c", '"$@" 2>&1 | head -n 2', "-")
    ) as tender:
        tender.until(1, "idle")
        tender.enqueue("talk", 3, count=5000)
        tender.until_all_ended()
        assert tender.counts() == {State.SUCCEEDED: 3}
