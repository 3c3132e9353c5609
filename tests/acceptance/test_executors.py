"""Where jobs run: threads, the event loop, processes of their own, programs; and what ends them when their time is over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.job import State
from tests.acceptance.site import SHOP, Site, end, gone, site_at
from tests.servers import Database, is_alive, wait_until

rows = pytest.mark.rows

TASKS = (
    SHOP
    + """
import sys

@app.task(timeout=0.4, retry=1)
def dawdle():
    while True:
        time.sleep(0.01)

@app.task(timeout=0.4, retry=1)
def tidy():
    try:
        while True:
            time.sleep(0.01)
    except TimedOut:
        current_job().log("tidied")
        raise

@app.task(timeout=0.3, hard_timeout=0.8, retry=1)
def stubborn():
    try:
        while True:
            time.sleep(0.01)
    except TimedOut:
        a_place_to_be_seen()

def a_place_to_be_seen():
    while True:
        time.sleep(0.05)

@app.task(timeout=0.4, retry=1)
async def adawdle():
    await asyncio.sleep(60)

@app.task(timeout=0.3, hard_timeout=0.8, retry=1)
async def astubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@app.task(timeout=0.3, hard_timeout=0.8, retry=1)
async def ablocking():
    a_place_to_be_seen()

@app.task(timeout=0.3, retry=1)
async def leaves_a_thread():
    await asyncio.to_thread(wait_for, "never", 600)

@app.task(timeout=0.3, hard_timeout=0.8, retry=1, on_crash="fail")
def entangled():
    import re
    re.match("(a+)+$", "a" * 60 + "b")  # for ages, and it never lets go of the interpreter's lock

@app.task(isolate=True, retry=1, timeout=0.5, hard_timeout=1.5)
def alone(what):
    match what:
        case "pid":
            current_job().log("said from there")
            return os.getpid()
        case "exit":
            os._exit(7)
        case "segfault":
            import ctypes
            ctypes.string_at(0)
        case "sleep":
            time.sleep(60)
        case "stubborn":
            try:
                time.sleep(60)
            except TimedOut:
                a_place_to_be_seen()
        case "raise":
            raise ValueError("from there")

@app.task(isolate=True, retry=1)
async def aalone():
    await asyncio.sleep(0.01)
    return os.getpid()

@app.task(isolate=True, retry=1)
def until_cancelled():
    Path("looping").touch()
    while True:
        current_job().check()
        time.sleep(0.01)

@app.task(isolate=True, retry=1)
def deaf():
    Path("looping").touch()
    time.sleep(600)

@app.task(isolate=Isolate(memory="400M"), retry=1)
def eat():
    return len(bytearray(4 * 10**9))

@app.task(isolate=Isolate(jobs=2), retry=1)
def two_each():
    return os.getpid()

@app.task(isolate=True, retry=1)
def spawns():
    note.using(parent=current_job()).enqueue("child")

@app.task(isolate=True, retry=1, on_crash="fail")
def once_only():
    os._exit(1)

@app.metadata
def where(ctx):
    return {"pid": os.getpid()}

say = app.command("say", [sys.executable, "say.py", "{how}"], retry=1, output="always")
ask = app.command("ask", [sys.executable, "say.py", "{how}"], fields={"how": str, "n": int}, stdin="json", output="always")
quiet = app.command("quiet", [sys.executable, "say.py", "{how}"], retry=1)
limited = app.command("limited", [sys.executable, "say.py", "{how}"], retry=1, timeout=0.5, hard_timeout=3)
missing = app.command("missing", ["./is-not-there"], retry=1)
"""
)


SAY = r"""
import json, os, sys, time
how = sys.argv[1]
if how == "stdin": print("got", json.load(sys.stdin))
if how == "both": print("to out"); print("to err", file=sys.stderr)
if how == "fail": print("reason", file=sys.stderr); sys.exit(3)
if how == "killed": os.kill(os.getpid(), 9)
if how == "flood":
    line = "x" * 1023 + "\n"
    for n in range(64 * 1024): sys.stdout.write(line)
if how == "sleep": open("sleeping", "w").write(str(os.getpid())); time.sleep(600)
if how == "family":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("sleeping", "w").write(f"{os.getpid()} {child.pid}"); time.sleep(600)
if how == "slowly":
    print("first", flush=True)
    while not os.path.exists("go"): time.sleep(0.01)
if how == "polite":
    import signal
    signal.signal(signal.SIGTERM, lambda *_: None)
    open("sleeping", "w").write("1"); time.sleep(2)
if how == "patient":
    import signal
    signal.signal(signal.SIGTERM, lambda *_: None)
    open("waiting", "w").write("1")
    while not os.path.exists("go"): time.sleep(0.01)
if how == "env": print({name: value for name, value in os.environ.items() if name.startswith("DRAY_")})
if how == "raw": sys.stdout.buffer.write(b"\xff\x00 \xc3\xa4\n")
if how == "left":
    import subprocess
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_at(tmp_path, f"sqlite:///{tmp_path}/shop.db", TASKS) as site:
        (site.folder / "say.py").write_text(SAY)
        yield site


def log_of(site: Site, job_id: int) -> list[tuple[str, str]]:
    return [(line.stream, line.text) for line in site.app.store.desk.read_output(job_id)]


def traceback_of(site: Site, job_id: int) -> str:
    (attempt,) = site.app.store.desk.attempts(job_id)
    return attempt.traceback or ""


# --- limits of time ---------------------------------------------------------------------------------------------------------


@rows("S1.28")
def test_a_run_that_takes_too_long_is_ended_by_an_exception_where_it_is(site: Site) -> None:
    ids = [site.enqueue(task) for task in ("dawdle", "adawdle", "tidy")]
    site.worker()
    for id in ids:
        assert (site.ended(id).state, site.row(id).error) == (State.FAILED, "TimedOut: it ran longer than 400ms")
    assert "time.sleep(0.01)" in traceback_of(site, ids[0])
    assert "asyncio.sleep(60)" in traceback_of(site, ids[1])
    assert ("message", "tidied") in log_of(site, ids[2])


@pytest.mark.parametrize("task", ["stubborn", "astubborn", "ablocking"])
def test_a_run_that_does_not_heed_it_is_ended_with_its_process_and_seen_where_it_was(site: Site, task: str) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    job = site.enqueue(task)
    row = site.ended(job)
    assert row.error == "TimedOut: it did not end in time, and was ended after 800ms"
    place = "astubborn" if task == "astubborn" else "a_place_to_be_seen"
    assert place in traceback_of(site, job)
    site.says(process, "goes on past its end")
    site.let_go("gate")  # what ran beside it is not cut
    assert site.ended(held).state is State.SUCCEEDED
    site.says(process, "worker.started", times=2)  # a new life, without the thread that goes on for ever
    assert site.ended(site.enqueue("note", "after")).state is State.SUCCEEDED
    assert end(process) == 0


def test_a_worker_does_not_wait_for_ever_for_a_thread_that_a_job_has_left_behind(site: Site) -> None:
    job = site.enqueue("leaves_a_thread")
    process = site.worker()
    assert site.ended(job).error == "TimedOut: it ran longer than 300ms"
    assert end(process) == 0


def test_a_run_that_keeps_the_interpreter_to_itself_is_ended_with_its_process_and_seen_where_it_was(site: Site) -> None:
    """No thread of the worker can end it, or do anything else."""
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    job = site.enqueue("entangled", flags=4)
    assert process.wait(60) == -signal.SIGABRT
    assert "no line of Python has run in it for seconds, and a job goes on past its last limit" in site.log(process)
    assert "in entangled" in site.log(process)
    site.let_go("gate")
    site.worker()
    assert 'its task says on_crash="fail"' in site.ended(job).error
    assert site.ended(held).state is State.SUCCEEDED  # which nobody had waited for longer than that


# --- processes of their own -------------------------------------------------------------------------------------------------


@rows("S1.6")
def test_what_an_isolated_job_does_to_its_process_stays_there(site: Site) -> None:
    held = site.enqueue("hold", "gate")
    process = site.worker()
    site.is_held("gate")
    by_what = {what: site.enqueue("alone", what) for what in ("pid", "exit", "segfault", "sleep", "stubborn", "raise")}
    other, asynchronous = site.enqueue("alone", "pid"), site.enqueue("aalone")
    pid = json.loads(site.ended(by_what["pid"]).result)
    assert pid != process.pid
    assert site.row(by_what["pid"]).pid == pid
    assert json.loads(site.row(by_what["pid"]).metadata)["pid"] == pid
    assert log_of(site, by_what["pid"]) == [("message", "said from there")]
    assert json.loads(site.ended(other).result) != process.pid
    assert json.loads(site.ended(asynchronous).result) != process.pid
    assert site.ended(by_what["raise"]).error == "ValueError: from there"
    assert site.ended(by_what["sleep"]).error == "TimedOut: it ran longer than 500ms"
    assert "time.sleep(60)" in traceback_of(site, by_what["sleep"])
    assert site.ended(by_what["stubborn"]).error == "TimedOut: it did not end in time, and was ended after 1.5s"
    assert "a_place_to_be_seen" in traceback_of(site, by_what["stubborn"])
    assert site.ended(by_what["exit"]).error == "worker died 3 times (its own process ended with exit code 7)"
    assert "SIGSEGV" in site.ended(by_what["segfault"]).error
    site.let_go("gate")
    assert (site.ended(held).state, process.poll()) == (State.SUCCEEDED, None)
    assert end(process) == 0


def test_a_crash_of_what_must_not_run_twice_fails_it_at_once(site: Site) -> None:
    job = site.enqueue("once_only", flags=4)
    site.worker()
    assert 'its task says on_crash="fail"' in site.ended(job).error
    assert site.row(job).fence == 1


def test_a_job_that_takes_more_memory_than_it_may_fails_alone(site: Site) -> None:
    job = site.enqueue("eat")
    process = site.worker()
    assert site.ended(job).error.startswith("MemoryError")
    assert "bytearray" in traceback_of(site, job)
    assert process.poll() is None


def test_the_kernel_takes_the_process_of_the_job_before_the_worker(site: Site) -> None:
    job = site.enqueue("deaf")
    process = site.worker()
    wait_until((site.folder / "looping").exists, "it loops", 60)
    (told,) = json.loads(site.dray("stack", str(job), "--json"))["jobs"]
    assert "deaf" in told["stack"]
    children = [pid for pid in _below(process.pid) if "dray.outside.child" in _command(pid)]
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in children]
    assert scores
    assert set(scores) == {1000}
    assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) < 1000
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # as the kernel does it
    wait_until(lambda: site.row(job).crashes == 1, "the crash is counted", 60)
    assert "SIGKILL, out of memory?" in site.row(job).note
    assert process.poll() is None


def test_a_process_does_so_many_runs_and_no_more(site: Site) -> None:
    ids = [site.enqueue("two_each") for _ in range(6)]
    site.worker("-c", "1")
    pids = [site.ended(id).result for id in ids]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2, 2]


def test_an_isolated_job_can_have_children(site: Site) -> None:
    job = site.enqueue("spawns")
    site.worker()
    assert site.ended(job).state is State.SUCCEEDED
    assert site.noted() == ["child"]
    (child,) = [row for row in site.app.store.desk.jobs(_all()) if row.task == "note"]
    assert child.parent_id == job


@pytest.mark.parametrize(("task", "within"), [("until_cancelled", 8.0), ("deaf", 25.0)])
def test_an_isolated_job_is_cancelled_if_need_be_by_its_end(site: Site, task: str, within: float) -> None:
    job = site.enqueue(task)
    process = site.worker()
    wait_until((site.folder / "looping").exists, "it loops", 60)
    site.dray("cancel", str(job))
    assert site.ended(job, within).state is State.CANCELLED
    assert process.poll() is None


@rows("S1.30")
def test_a_killed_worker_takes_its_processes_and_programs_with_it(site: Site) -> None:
    site.enqueue("deaf")
    site.enqueue("say", kwargs={"how": "family"})
    process = site.worker()
    for file in ("looping", "sleeping"):
        wait_until((site.folder / file).exists, f"{file} is there", 60)
    wait_until(lambda: len((site.folder / "sleeping").read_text().split()) == 2, "both are named", 10)
    programs = [int(pid) for pid in (site.folder / "sleeping").read_text().split()]
    children = [pid for pid in _below(process.pid) if "dray.outside.child" in _command(pid)]
    assert children
    process.kill()
    process.wait(10)
    for pid in (*children, *programs):
        gone(pid)


# --- programs ---------------------------------------------------------------------------------------------------------------


@rows("S1.6", "S1.8", "S1.12", "S1.13", "S1.24", "C80", "C86")
def test_a_program_is_done_when_it_ends_with_zero_and_both_its_streams_are_kept(site: Site) -> None:
    both, fail, killed, nothing = (
        *(site.enqueue("say", kwargs={"how": how}) for how in ("both", "fail", "killed")),
        site.enqueue("missing"),
    )
    asks = site.enqueue("ask", kwargs={"how": "stdin", "n": 7})
    raw = site.enqueue("say", kwargs={"how": "raw"})
    env = site.enqueue("say", kwargs={"how": "env"})
    site.worker()
    assert site.ended(both).state is State.SUCCEEDED
    assert sorted(log_of(site, both)) == [("stderr", "to err"), ("stdout", "to out")]
    assert site.row(both).cpu_seconds > 0
    assert site.row(both).peak_after > 0
    assert site.ended(fail).error == "CommandFailed: exit code 3: reason"
    assert traceback_of(site, fail) == "reason"
    assert site.ended(killed).error == "CommandFailed: killed by SIGKILL"
    assert site.ended(nothing).error == "CommandFailed: ./is-not-there could not be started: No such file or directory"
    assert site.ended(asks).state is State.SUCCEEDED
    assert log_of(site, asks) == [("stdout", "got {'how': 'stdin', 'n': 7}")]
    assert site.ended(raw).state is State.SUCCEEDED
    assert log_of(site, raw)[0][1].endswith("ä")
    assert f"'DRAY_JOB_ID': '{env}'" in (site.ended(env) and log_of(site, env)[0][1])


@rows("S1.21")
def test_output_is_kept_as_is_wanted_and_to_be_seen_while_it_comes(site: Site) -> None:
    fails, works = (site.enqueue("quiet", kwargs={"how": how}) for how in ("fail", "slowly"))
    site.worker()
    assert site.ended(fails).state is State.FAILED
    assert log_of(site, fails) == [("stderr", "reason")]
    wait_until(lambda: log_of(site, works) == [("stdout", "first")], "it is seen while it runs", 60)
    site.let_go("go")
    assert site.ended(works).state is State.SUCCEEDED
    wait_until(lambda: log_of(site, works) == [], "it is forgotten", 30)


@rows("C76", "C80")
def test_a_flood_of_output_is_kept_at_both_ends_and_the_worker_does_not_grow(site: Site) -> None:
    first = site.enqueue("say", kwargs={"how": "both"})
    process = site.worker()
    site.ended(first)
    _forget_peak(process.pid)
    before = _memory(process.pid, "VmRSS")
    job = site.enqueue("say", kwargs={"how": "flood"})
    assert site.ended(job, 120).state is State.SUCCEEDED
    grown = _memory(process.pid, "VmHWM") - before
    print(f"64 MiB of output: the worker grew by {grown / 1024:.1f} MiB at most")
    lines = log_of(site, job)
    assert sum(len(text) for _, text in lines) <= 2**20
    assert any(stream == "note" and "left out here" in text for stream, text in lines)
    assert grown <= 16 * 1024  # its cap of 1 MiB, as strings and on their way into the database


@rows("S1.28", "S1.30")
def test_a_program_is_asked_to_end_and_then_ended_with_all_that_it_has_started(site: Site) -> None:
    job = site.enqueue("limited", kwargs={"how": "family"})
    site.worker()
    assert site.ended(job).error == "TimedOut: it ran longer than 500ms"
    for pid in (site.folder / "sleeping").read_text().split():
        gone(int(pid))


def test_a_program_that_ends_with_zero_has_done_its_work_whatever_was_asked_of_it(site: Site) -> None:
    timed, cancelled = site.enqueue("limited", kwargs={"how": "polite"}), site.enqueue("say", kwargs={"how": "patient"})
    site.worker()
    wait_until((site.folder / "waiting").exists, "it works", 60)
    site.dray("cancel", str(cancelled))
    site.let_go("go")
    assert site.ended(timed).state is State.SUCCEEDED
    assert site.ended(cancelled).state is State.SUCCEEDED


def test_a_worker_that_is_stopped_at_once_leaves_no_program_beside_its_next_run(site: Site) -> None:
    job = site.enqueue("say", kwargs={"how": "family"})
    process = site.worker()
    wait_until(lambda: len(_numbers(site)) == 2, "both are named", 60)
    programs = _numbers(site)
    process.send_signal(signal.SIGTERM)
    site.says(process, "worker.stopping")
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: site.row(job).state is State.READY, "it is given back", 30)
    assert not any(is_alive(pid) for pid in programs)
    assert process.wait(30) == 0


def test_what_a_program_leaves_behind_does_not_hold_up_its_job(site: Site) -> None:
    job = site.enqueue("say", kwargs={"how": "left"})
    began = time.monotonic()
    site.worker()
    assert site.ended(job).state is State.SUCCEEDED
    assert time.monotonic() - began < 30


def test_a_program_is_cancelled(site: Site) -> None:
    job = site.enqueue("say", kwargs={"how": "sleep"})
    site.worker()
    wait_until((site.folder / "sleeping").exists, "it sleeps", 60)
    site.dray("cancel", str(job))
    assert site.ended(job, 8).state is State.CANCELLED


@rows("S1.5", "C86")
def test_a_program_can_be_run_by_hand(site: Site) -> None:
    job = site.enqueue("say", kwargs={"how": "both"})
    assert site.dray("run", str(job), "--dry-run").rstrip().endswith(" both")
    told = site.dray("run", str(job))
    assert "to out" in told
    assert "to err" in told


@pytest.mark.long
def test_isolated_jobs_and_programs_on_every_database(tmp_path: Path, database: Database) -> None:
    with site_at(tmp_path, database.url, TASKS) as site:
        (site.folder / "say.py").write_text(SAY)
        calls = [("alone", ["pid"], {}), ("say", [], {"how": "both"}), ("note", ["x"], {}), ("alone", ["raise"], {})]
        ids = [site.enqueue(task, *args, kwargs=kwargs) for _ in range(20) for task, args, kwargs in calls]
        process = site.worker("-c", "4")
        states = [site.ended(id, 120).state for id in ids]
        assert states == [State.SUCCEEDED, State.SUCCEEDED, State.SUCCEEDED, State.FAILED] * 20
        assert end(process) == 0


def _numbers(site: Site) -> list[int]:
    file = site.folder / "sleeping"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def _all() -> object:
    from dray.store.filters import Filter

    return Filter()


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _memory(pid: int, what: str) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1])


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
