"""`dray worker`, `process` and `run` as processes: each flag, each signal, each limit."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dray.job import State
from dray.single import Single
from tests.acceptance.site import Site, end, site_at
from tests.servers import free_port, wait_until

rows = pytest.mark.rows


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db") as site:
        yield site


LEAK = """
kept = []

@app.task
def leak():
    kept.append(b"x" * 10**8)
    time.sleep(0.2)
"""

# --- limits -----------------------------------------------------------------------------------------------------------------


@rows("S0.38")
def test_once_runs_one_job_and_ends_with_none_as_well(site: Site) -> None:
    ids = [site.enqueue("note", number) for number in range(3)]
    assert "max jobs reached" in site.dray("worker", "--once")
    assert len(site.noted()) == 1
    assert sorted(site.row(id).state for id in ids) == [State.READY, State.READY, State.SUCCEEDED]
    site.dray("worker", "--max-jobs", "2")
    assert "max cycles reached" in site.dray("worker", "--once")


@rows("S0.40", "S0.41")
def test_a_cycle_counts_though_it_finds_nothing_and_begins_so_long_after_the_last(site: Site) -> None:
    began = time.monotonic()
    log = site.dray("worker", "--max-cycles", "4", "--cycle-delay", "500ms")
    assert "max cycles reached" in log
    assert time.monotonic() - began >= 3 * 0.5  # from the start of the first to the start of the fourth


@rows("S0.39", "S0.41")
def test_between_two_looks_nothing_is_taken_whatever_is_heard(site: Site) -> None:
    site.enqueue("note", "first")
    process = site.worker("--cycle-delay", "30s")
    wait_until(lambda: site.noted() == ["first"], "its first look", 30)
    late = site.enqueue("note", "late")
    time.sleep(1.5)
    assert site.row(late).state is State.READY
    assert end(process) == 0


@rows("S0.42")
def test_a_worker_that_has_grown_ends_between_jobs(site: Site) -> None:
    source = (site.folder / "shop.py").read_text()
    (site.folder / "shop.py").write_text(source + LEAK)
    ids = [site.enqueue("leak") for _ in range(20)]
    log = site.dray("worker", "-c", "1", "--max-memory", "400M")
    assert "max memory reached" in log
    states = [site.row(id).state for id in ids]
    assert 1 <= states.count(State.SUCCEEDED) <= 5
    assert set(states) == {State.SUCCEEDED, State.READY}


@rows("S0.43")
def test_a_limit_of_time_cuts_no_job(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.start("worker", "--max-time", "1s", "--grace", "1s")
    site.says(process, "max time reached")
    assert site.row(held).state is State.RUNNING
    time.sleep(1.5)  # longer than the grace period
    assert process.poll() is None
    site.let_go("gate")
    assert process.wait(30) == 0
    assert site.ended(held).state is State.SUCCEEDED


def test_a_flag_can_be_given_as_a_variable(site: Site) -> None:
    assert "max cycles reached" in site.dray("worker", DRAY_WORKER_ONCE="1")


# --- one of a name ----------------------------------------------------------------------------------------------------------


@rows("S0.44", "S0.45", "S0.46", "C21")
def test_of_one_name_one_runs_whoever_starts_it_and_however_it_ends(site: Site) -> None:
    first = site.worker("--single", "mail/eu", "--pid-dir", "pids")
    assert [file.read_text() for file in (site.folder / "pids").iterdir()] == [f"{first.pid}\n"]
    told = site.dray("worker", "--single", "mail/eu", "--pid-dir", "pids")
    assert f"already running (pid {first.pid}" in told
    site.dray("worker", "--single", "mail/eu", "--single-strict", "--pid-dir", "pids", code=4)
    site.dray("worker", "--single", "other", "--pid-dir", "pids", "--once")
    first.kill()
    first.wait(10)
    site.dray("worker", "--single", "mail/eu", "--pid-dir", "pids", "--once")  # the stale file is no hindrance


@rows("S0.44", "C21")
def test_of_ten_that_start_at_the_same_moment_one_runs(site: Site) -> None:
    processes = [site.start("worker", "--single", "x") for _ in range(10)]
    wait_until(lambda: sum(process.poll() is None for process in processes) == 1, "one is left", 90)
    (left,) = [process for process in processes if process.poll() is None]
    assert [process.returncode for process in processes if process is not left] == [0] * 9
    site.says(left, "worker.started")
    assert end(left) == 0


def test_a_pid_dir_that_cannot_be_is_told(site: Site) -> None:
    (site.folder / "file").touch()
    assert "give another --pid-dir" in site.dray("worker", "--single", "x", "--pid-dir", "file/in", code=2)
    assert "--single NAME" in site.dray("worker", "--pid-dir", "x", code=2)


# --- signals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@rows("S3.35", "S1.29")
def test_a_stop_signal_lets_what_runs_end(site: Site, number: signal.Signals) -> None:
    held, waits = site.enqueue("hold", "gate"), site.enqueue("note", "waits")
    process = site.worker("-c", "1")
    site.is_held("gate")
    process.send_signal(number)
    site.says(process, "worker.stopping")
    site.let_go("gate")
    assert process.wait(30) == 0
    assert site.row(held).state is State.SUCCEEDED
    assert site.row(waits).state is State.READY


@rows("S1.30")
def test_a_second_stop_signal_gives_back_what_runs(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    process.send_signal(signal.SIGTERM)
    site.says(process, "worker.stopping")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (site.row(held).state, site.row(held).attempt) == (State.READY, 0)


@rows("S3.35")
def test_usr2_pauses_and_cont_goes_on(site: Site) -> None:
    held, waits = site.enqueue("hold", "gate"), site.enqueue("note", "waits")
    process = site.worker("-c", "1")
    site.is_held("gate")
    process.send_signal(signal.SIGUSR2)
    site.says(process, "worker.paused")
    site.let_go("gate")
    assert site.ended(held).state is State.SUCCEEDED  # what ran has ended
    wait_until(lambda: any(one.paused for one in site.app.store.roster.listing()), "it says so", 30)
    assert "paused" in site.dray("workers")
    assert site.row(waits).state is State.READY
    process.send_signal(signal.SIGCONT)
    assert site.ended(waits).state is State.SUCCEEDED
    assert end(process) == 0


@rows("S3.35")
def test_a_paused_worker_can_be_stopped(site: Site) -> None:
    process = site.worker()
    process.send_signal(signal.SIGUSR2)
    site.says(process, "worker.paused")
    assert end(process) == 0


def test_usr1_shows_where_jobs_are(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    process.send_signal(signal.SIGUSR1)
    site.says(process, f"job {held} hold, running for")
    site.says(process, "in wait_for")
    assert process.poll() is None


@rows("S2.74")
def test_hup_begins_anew_with_new_code_under_the_same_pid_and_lock(site: Site) -> None:
    (site.folder / "version").write_text("one")
    held = site.enqueue("hold", "gate")
    process = site.worker("--single", "x")
    site.is_held("gate")
    source = (site.folder / "shop.py").read_text()
    (site.folder / "shop.py").write_text(source.replace('Path("version").read_text()', '"two"'))
    process.send_signal(signal.SIGHUP)
    site.says(process, "worker.stopping")
    assert "already running" in site.dray("worker", "--single", "x")
    site.let_go("gate")
    lock = Single("worker-x", site.folder / ".local/state/dray")
    while site.log(process).count("worker.started") < 2:
        assert not lock.take(), "the lock was free for a moment"
    assert site.ended(held).state is State.SUCCEEDED  # it was not cut
    assert site.ended(site.enqueue("version")).result == '"two"'
    assert f"already running (pid {process.pid}" in site.dray("worker", "--single", "x")
    assert end(process) == 0


def test_who_is_paused_begins_anew_paused(site: Site) -> None:
    process = site.worker()
    process.send_signal(signal.SIGUSR2)
    site.says(process, "worker.paused")
    for _ in range(2):  # a second one while it begins does no harm
        process.send_signal(signal.SIGHUP)
    site.says(process, "worker.started", times=2)
    site.says(process, "worker.paused", times=2)
    job = site.enqueue("note", 1)
    process.send_signal(signal.SIGCONT)
    assert site.ended(job).state is State.SUCCEEDED
    assert end(process) == 0


def test_a_worker_that_drains_is_live(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker("--probe-file", "probe", "--max-time", "1s")
    site.says(process, "max time reached")
    time.sleep(2)
    assert site.dray("probe", "probe", "--live", app=False).strip() == "live"
    site.let_go("gate")
    assert process.wait(30) == 0
    assert site.row(held).state is State.SUCCEEDED


def test_who_is_told_to_end_does_not_begin_anew(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    process.send_signal(signal.SIGHUP)
    site.says(process, "worker.stopping")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    site.let_go("gate")
    assert process.wait(30) == 0
    assert site.row(held).state is State.SUCCEEDED
    assert site.log(process).count("worker.started") == 1


# --- probes -----------------------------------------------------------------------------------------------------------------


def test_a_worker_says_whether_it_is_well(site: Site) -> None:
    port = free_port()
    process = site.worker("--probe-port", str(port), "--probe-file", "probe")

    def ask(what: str) -> tuple[int, dict[str, object]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    wait_until(lambda: ask("ready")[0] == 200, "it is ready", 30)
    assert ask("live")[0] == ask("healthz")[0] == 200
    assert ask("else")[0] == 404
    wait_until(lambda: site.dray("probe", "probe", app=False, code=None).strip() == "ready", "the file says so", 30)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: "not ready" in site.dray("probe", "probe", app=False, code=None), "the file grows old", 60)
    assert "was last written" in site.dray("probe", "probe", "--live", app=False, code=1)
    process.kill()


def test_a_probe_that_cannot_be_is_told(site: Site) -> None:
    assert "no probe at" in site.dray("worker", "--probe-port", "nowhere:x", code=2)
    assert "cannot be read" in site.dray("probe", "missing", app=False, code=1)


# --- rounds -----------------------------------------------------------------------------------------------------------------


@rows("S2.69", "S4.20", "C20")
def test_a_round_does_what_is_due_and_ready_and_ends(site: Site) -> None:
    ids = [site.enqueue("note", number, priority=900 - number) for number in range(20)]
    late = site.enqueue("note", "late", delay=3600.0)
    told = site.dray("process")
    assert told.splitlines()[-1] == "20 jobs run: 20 succeeded"
    assert {site.row(id).state for id in ids} == {State.SUCCEEDED}
    assert site.row(late).state is State.SCHEDULED
    assert json.loads(site.dray("process", "--json").splitlines()[-1])["ended"] == {}


@rows("C49")
def test_a_round_goes_by_priority(site: Site) -> None:
    for number in range(10):
        site.enqueue("note", number, priority=10 - number)
    site.dray("process", "-c", "1")
    assert site.noted() == [str(number) for number in reversed(range(10))]


@rows("S2.76", "S4.37", "C20")
def test_of_two_rounds_one_runs_and_a_worker_beside_it_disturbs_nobody(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    first = site.start("process")
    site.is_held("gate")
    assert "already running" in site.dray("process")
    worker = site.worker()
    ids = [site.enqueue("note", number) for number in range(200)]
    wait_until(lambda: all(site.row(id).state.ended for id in ids), "all are done", 60)
    site.let_go("gate")
    assert first.wait(30) == 0
    assert sorted(site.noted()) == sorted(["gate", *map(str, range(200))])
    assert site.row(held).state is State.SUCCEEDED
    assert end(worker) == 0


@rows("C16", "S0.35")
def test_a_round_frees_what_a_worker_held_that_died_with_its_heart(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    hearts = [int(pid) for pid in _children(process.pid)]
    for pid in (*hearts, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(10)
    site.let_go("gate")
    site.dray("process")  # it watches for as long as a lease lasts
    assert site.row(held).state is not State.RUNNING
    site.dray("process")
    assert site.row(held).state is State.SUCCEEDED


def test_a_round_without_work_only_looks_after_things(site: Site) -> None:
    ready = site.enqueue("note", 1)
    site.dray("process", "--no-work")
    assert site.row(ready).state is State.READY


def _children(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


# --- run --------------------------------------------------------------------------------------------------------------------


@rows("S0.49", "S4.31")
def test_a_job_is_run_here_and_now_in_any_state_if_that_is_wanted(site: Site) -> None:
    ready, late = site.enqueue("note", "ready"), site.enqueue("note", "late", delay=3600.0)
    assert f"job {ready} succeeded" in site.dray("run", str(ready))
    assert "cannot be run without --force" in site.dray("run", str(late), code=4)
    site.dray("run", str(late), str(ready), "--force")
    assert site.noted() == ["ready", "late", "ready"]
    assert "there is no job 99" in site.dray("run", "99", code=3)


@rows("S0.49")
def test_a_job_that_runs_elsewhere_is_left_alone(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    assert "cancel it first" in site.dray("run", str(held), "--force", code=4)
    site.let_go("gate")
    assert site.ended(held).state is State.SUCCEEDED
    assert end(process) == 0


@rows("S0.49")
def test_one_job_is_run_and_not_those_behind_it(site: Site) -> None:
    source = (site.folder / "shop.py").read_text()
    (site.folder / "shop.py").write_text(source.replace("@app.task\ndef note", "@app.task(run_ahead=10)\ndef note"))
    ids = [site.enqueue("note", number, group="g") for number in range(3)]
    site.dray("run", str(ids[0]))
    assert site.noted() == ["0"]
    assert [site.row(id).state for id in ids] == [State.SUCCEEDED, State.READY, State.BLOCKED]


def test_a_failure_is_an_exit_code_and_a_dry_run_runs_nothing(site: Site) -> None:
    wrong = site.enqueue("version")
    assert "version()" in site.dray("run", str(wrong), "--dry-run")
    assert site.row(wrong).state is State.READY
    assert "FileNotFoundError" in site.dray("run", str(wrong), code=1)


def test_an_unknown_flag_names_the_help(site: Site) -> None:
    assert "dray worker --help" in site.dray("worker", "--nope", code=2)
