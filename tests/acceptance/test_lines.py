"""Groups, limits and dependencies under fire: producers and workers of several processes, of whom some are killed, and every
fifth settling is left out; at the end nothing is stuck, nothing ran beside or before what it must not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dray.job import State
from dray.store import open_store
from dray.store.filters import Filter
from dray.store.sql import SqlStore
from tests.crash.lines import GROUPS
from tests.effort import MINUTES, seconds
from tests.servers import Database

pytestmark = [pytest.mark.long, pytest.mark.timeout(max(600, 240 * MINUTES))]

SLICE = 3.0  # seconds of producing
PRODUCERS, WORKERS = 3, 4
KILL_EVERY = 0.7  # seconds
PATIENCE = 30.0  # seconds in which at least one job has to end
ENOUGH = 1_000  # jobs that wait: a stress of minutes is to keep the lines busy, not to make them long

WAITING = [state for state in State if not state.ended]
LIVE = Filter(states=frozenset(WAITING))


class Crew:
    """The processes of one trial."""

    def __init__(self, url: str, folder: Path, mode: str, chance: random.Random) -> None:
        self.url, self.folder, self.mode, self.chance = url, folder, mode, chance
        self.workers: list[subprocess.Popen[bytes]] = []
        self.producers: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def start(self, role: str, seed: int, duration: float) -> subprocess.Popen[bytes]:
        words = [role, self.url, str(self.folder), self.mode, str(seed), str(duration)]
        with (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen([sys.executable, "-m", "tests.crash.lines", *words], stderr=errors)

    def hire(self) -> None:
        self.workers.append(self.start("work", self.chance.randrange(2**31), 0))

    def kill_one(self, store: SqlStore) -> None:
        """Kill a worker that is at work, and let another take over what it held."""
        victim = self.chance.choice(self.workers)
        note = self.folder / f"worker-{victim.pid}"
        if not note.exists():
            return
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self.workers.remove(victim)
        store.roster.leave(int(note.read_text()))
        self.killed += 1
        self.hire()

    def ease(self, waiting: int) -> None:
        """Let the producers pause while there is enough to do."""
        if waiting >= ENOUGH:
            (self.folder / "enough").touch()
        else:
            (self.folder / "enough").unlink(missing_ok=True)

    def end(self) -> None:
        (self.folder / "stop").touch()
        for process in [*self.producers, *self.workers]:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.rows("S2.23", "S2.54", "S2.57", "S2.58", "S4.16", "S4.21", "S0.14", "S0.31", "C7", "C47", "C48", "C57", "C68")
@pytest.mark.parametrize("mode", ["gates", "edges"])
def test_nothing_is_stuck_or_run_beside_what_it_must_not(database: Database, tmp_path: Path, mode: str) -> None:
    seed = int(os.environ.get("DRAY_TEST_SEED") or random.SystemRandom().randrange(2**31))
    store = open_store(database.url, create_tables=True)
    store.ensure()
    duration = seconds(SLICE)
    crew = Crew(database.url, tmp_path, mode, random.Random(seed))
    try:
        for _ in range(WORKERS):
            crew.hire()
        crew.producers = [crew.start("produce", number, duration) for number in range(PRODUCERS)]
        next_kill = time.monotonic() + KILL_EVERY
        while any(process.poll() is None for process in crew.producers):
            if time.monotonic() > next_kill:
                crew.kill_one(store)
                next_kill = time.monotonic() + KILL_EVERY
            store.rescue()
            crew.ease(sum(store.desk.counts(cap=ENOUGH).get(state, 0) for state in WAITING))
            time.sleep(0.05)
        assert all(process.returncode == 0 for process in crew.producers), (tmp_path / "errors").read_text()[-3000:]
        _wait_for_the_end(store)
    finally:
        crew.end()
    made = sorted(id for number in range(PRODUCERS) for id in json.loads((tmp_path / f"made-{number}").read_text()))
    again = sum(int(file.read_text()) for file in tmp_path.glob("conflicts-*"))
    told = f"{database.name} {mode}: {len(made)} jobs, {crew.killed} workers killed, {again} conflicts, DRAY_TEST_SEED={seed}"
    print(told)
    assert not (tmp_path / "violations").exists(), f"{told}\n{(tmp_path / 'violations').read_text()[:3000]}"
    counts = store.desk.counts(cap=10_000_000)
    assert {state: number for state, number in counts.items() if number} == {State.SUCCEEDED: len(made)}, told
    if mode == "gates":
        _check_order(tmp_path, told)
    conflicts = [line for line in (tmp_path / "errors").read_text().splitlines() if "deadlock" in line.lower()]
    assert not conflicts, f"{told}: a deadlock came through: {conflicts[0]}"
    store.close()


def _wait_for_the_end(store: SqlStore) -> None:
    deadline, least = time.monotonic() + PATIENCE, float("inf")
    while True:
        store.rescue()
        counts = store.desk.counts(cap=10_000_000)
        live = {state: number for state, number in counts.items() if number and not state.ended}
        if not live:
            return
        if sum(live.values()) < least:  # a long line takes its time; one that does not move is stuck
            deadline, least = time.monotonic() + PATIENCE, sum(live.values())
        if time.monotonic() > deadline:
            stuck = [f"{row.id}: {row.state} {row.reason} {row.group} {row.limit}" for row in store.desk.jobs(LIVE, limit=20)]
            raise AssertionError(f"stuck: {live}\n" + "\n".join(stuck))
        time.sleep(0.1)


def _check_order(folder: Path, told: str) -> None:
    """The first start of each is in the order of the ids: who was killed is started once more, before any other."""
    for group in GROUPS:
        ids = [int(line) for line in (folder / f"order-{group}").read_text().split()]
        firsts = list(dict.fromkeys(ids))
        assert firsts == sorted(firsts), f"{told}: {group} ran out of order"
        assert ids == sorted(ids), f"{told}: {group} came back to an earlier one"
