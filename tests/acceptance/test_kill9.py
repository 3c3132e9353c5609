"""The promises about crashes, proved with real processes that are killed, frozen, cut off and asked to end.

DRAY_TEST_KILLS and DRAY_TEST_TTL (seconds) make the trial longer: `make stress`. DRAY_TEST_SEED repeats one.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from tests.crash.audit import Story, summary
from tests.crash.crew import EXIT_LOST, children_of, crew_of
from tests.crash.ledger import ALIVE, RUNNING, SUCCEEDED, Ledger
from tests.crash.receipt import steady
from tests.crash.scenes import all_done_once, busy_worker, check, claimed, first_holder, held, nobody_is_left, runs_of
from tests.crash.trial import MIXTURE, Trial
from tests.effort import kills
from tests.servers import Database, wait_until

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("DRAY_TEST_KILLS", "0")) or kills(least=len(MIXTURE))
TTL = float(os.environ.get("DRAY_TEST_TTL", "1"))
SEED = int(os.environ.get("DRAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


# --- kill -9 --------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C12", "C14", "C16", "C18", "C25")
@pytest.mark.timeout(180 + KILLS * 12 + TTL * 6)
def test_kill_9_loses_nothing_and_repeats_only_what_it_cut_off(durable: Database, tmp_path: Path) -> None:
    print(f"\n{durable.name}: {KILLS} kills, TTL {TTL:g} s, DRAY_TEST_SEED={SEED}")
    began = steady()
    with crew_of(durable.url, tmp_path, ttl=TTL, seed=SEED) as crew:
        trial = Trial(crew, kills=KILLS, seed=SEED)
        trial.run()
        here = {hand.pid for hand in crew.present("work")}
        patience = TTL + TTL / 6 + 10
        wait_until(lambda: trial.ledger.alive() == here, "only the living to count as alive", patience)
        crew.stop("work")
        story = trial.story()
        print(summary(story))
        print(f"{steady() - began:.0f} s; the slowest start of a worker took {trial.slowest:.1f} s")
        check(story)
        # A producer may have been asked to end before it could listen.
        well = {"work": (0, EXIT_LOST), "produce": (0, -signal.SIGTERM)}
        assert [hand.name for hand in crew.hands if hand.mode is None and hand.code not in well[hand.role]] == []
        nobody_is_left(crew, trial.ledger)


@pytest.mark.rows("C14", "C18")
@pytest.mark.timeout(120)
def test_a_death_that_was_seen_needs_no_ttl(durable: Database, tmp_path: Path) -> None:
    ttl = 18.0
    with crew_of(durable.url, tmp_path, ttl=ttl) as crew:
        killed, other = first_holder(crew)
        crew.kill(killed, "witness")
        wait_until(runs_of(crew, other), "the other worker to take over", ttl / 6 + 6)
        crew.plan.gate(other.name).touch()
        wait_until(lambda: Ledger(durable.url).live() == 0, "all jobs to end", 10)
        crew.stop("work")


@pytest.mark.rows("C14", "C18")
@pytest.mark.timeout(120)
def test_a_kill_is_no_crash_of_what_was_only_fetched(durable: Database, tmp_path: Path) -> None:
    with crew_of(durable.url, tmp_path, ttl=6, concurrency=2) as crew:
        ledger = Ledger(durable.url)
        hand = busy_worker(crew, ledger)
        running = {start.id for start in held(crew)}
        fetched = {row.id for row in ledger.rows() if row.state == RUNNING} - running
        crew.kill(hand, "witness")
        (other,) = crew.hire_workers(1)
        crew.plan.gate(other.name).touch()
        wait_until(lambda: ledger.live() == 0, "all jobs to end", 30)
        crew.stop("work")
        rows = {row.id: row for row in ledger.rows()}
        assert {(rows[id].state, rows[id].crashes, rows[id].attempt) for id in fetched} == {(SUCCEEDED, 0, 1)}
        assert {(rows[id].state, rows[id].attempt) for id in running} == {(SUCCEEDED, 1)}
        nobody_is_left(crew, ledger)


# --- zombies --------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C12", "C13", "C19")
@pytest.mark.timeout(120)
def test_a_worker_frozen_past_its_ttl_finds_its_jobs_done_by_others(durable: Database, tmp_path: Path) -> None:
    ttl = 1.5
    with crew_of(durable.url, tmp_path, ttl=ttl, concurrency=4) as crew:
        ledger = Ledger(durable.url)
        frozen, other = first_holder(crew)
        frozen.send(signal.SIGSTOP)
        wait_until(runs_of(crew, other), "the other worker to take over", 4 * ttl + 10)
        crew.plan.gate(frozen.name).touch()
        frozen.send(signal.SIGCONT)
        refused = lambda: frozen.code == EXIT_LOST or len(crew.account().of("job.lease_lost", frozen.name)) == 2  # noqa: E731
        wait_until(refused, "the late results to be refused", 15)
        crew.plan.gate(other.name).touch()
        story = all_done_once(crew, ledger, ttl, [frozen])
        assert {row.result for row in story.rows} == {f"{other.name}:2"}
        # Frozen with two jobs in its hands, it has surely been running them: that counts, and nothing else does.
        assert [row.crashes for row in story.rows if row.crashes > 1] == []


@pytest.mark.rows("C12", "C13", "C17")
@pytest.mark.timeout(120)
def test_a_late_result_is_refused_while_another_runs_the_job(durable: Database, tmp_path: Path) -> None:
    """The worst zombie: alive and well, given up by the others, and the last to hear of it."""
    ttl = 9.0
    with crew_of(durable.url, tmp_path, ttl=ttl, concurrency=4) as crew:
        ledger = Ledger(durable.url)
        # With both its slots taken it asks for nothing, and so hears nothing.
        zombie, other = first_holder(crew, concurrency=2)
        for heart in children_of(zombie.pid):
            os.kill(heart, signal.SIGSTOP)  # else it would hear of its death from its own heart
        ledger.declare_dead(zombie.pid)
        wait_until(runs_of(crew, other), "the other worker to take over", ttl)
        crew.plan.gate(zombie.name).touch()
        lost = lambda: len(crew.account().of("job.lease_lost", zombie.name)) == 2  # noqa: E731
        wait_until(lost, "the late results to be refused", 10)
        assert {row.state for row in ledger.rows()} == {RUNNING}
        crew.shop.add(100, "plain", 1.0, count=12)  # to which it must not help itself in its old life
        crew.plan.gate(other.name).touch()
        # With nothing running it needs not end: it begins a new life under a new id, and works on.
        wait_until(lambda: {zombie.pid, other.pid} == ledger.alive(), "the zombie to be a worker again", ttl + 15)
        wait_until(lambda: ledger.live() == 0, "all jobs to end", 30)
        crew.stop("work")
        story = Story(account=crew.account(), rows=ledger.rows(), declared_dead={zombie.name}, ttl=ttl)
        assert {row.result for row in story.rows if row.task == "hold"} == {f"{other.name}:2"}
        assert {row.fence for row in story.rows if row.task == "plain"} == {1}
        check(story)
        nobody_is_left(crew, ledger)


@pytest.mark.rows("C12", "C19")
@pytest.mark.timeout(120)
def test_a_worker_that_cannot_beat_ends_before_others_take_over(durable: Database, tmp_path: Path) -> None:
    ttl = 3.0
    with crew_of(durable.url, tmp_path, ttl=ttl, concurrency=4) as crew:
        ledger = Ledger(durable.url)
        silent, other = first_holder(crew)
        stopped, hearts = steady(), children_of(silent.pid)
        for heart in hearts:
            os.kill(heart, signal.SIGSTOP)
        wait_until(lambda: silent.code is not None, "the worker to end by itself", 2 * ttl + 10)
        ended = steady()
        crew.look_after()
        assert silent.code == EXIT_LOST
        wait_until(runs_of(crew, other), "the other worker to take over", 3 * ttl + 10)
        begun = [start.time for start in held(crew) if start.holder == other.name]
        assert min(begun) > ended - 0.2, "others started before it had ended"  # its end was seen a moment after it came
        print(f"\nended {ended - stopped:.2f} s after its last beat, with a TTL of {ttl:g} s")
        assert ended - stopped < ttl
        for heart in hearts:
            os.kill(heart, signal.SIGCONT)  # it wakes up without a worker, and has to end
        crew.plan.gate(other.name).touch()
        all_done_once(crew, ledger, ttl, [silent])


@pytest.mark.timeout(120)
def test_an_idle_worker_whose_heart_hangs_gets_another(durable: Database, tmp_path: Path) -> None:
    ttl = 2.0
    with crew_of(durable.url, tmp_path, ttl=ttl) as crew:
        ledger = Ledger(durable.url)
        (hand,) = crew.hire_workers(1)
        (heart,) = children_of(hand.pid)
        os.kill(heart, signal.SIGSTOP)
        (first,) = ledger.workers()
        wait_until(lambda: len(ledger.workers()) > 1, "a new life under a new id", 3 * ttl + 10)
        crew.shop.add(1, "plain", count=5)
        wait_until(lambda: ledger.live() == 0, "the jobs to be done", 10)
        assert {row.worker_id for row in ledger.rows()}.isdisjoint({first})
        wait_until(lambda: ledger.workers()[first][0] != ALIVE, "the old life to be over", 3 * ttl + 10)
        crew.stop("work")
        nobody_is_left(crew, ledger)


# --- asked to end ---------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C14", "C22", "C23")
def test_sigterm_hands_back_what_waits_and_lets_end_what_runs(durable: Database, tmp_path: Path) -> None:
    with crew_of(durable.url, tmp_path, ttl=10, concurrency=2) as crew:
        ledger = Ledger(durable.url)
        hand = busy_worker(crew, ledger)
        ahead = claimed(ledger) - 2
        hand.send(signal.SIGTERM)
        wait_until(lambda: claimed(ledger) == 2, "what was fetched ahead to go back", 5)
        back = [row for row in ledger.rows() if row.live and row.state != RUNNING]
        assert len(back) >= ahead > 0
        assert {(row.attempt, row.crashes) for row in back} == {(0, 0)}
        assert hand.code is None, "what runs gets its time"
        crew.plan.gate(hand.name).touch()
        wait_until(lambda: hand.code == 0, "the worker to end", 10)
        crew.look_after()
        assert {row.state for row in ledger.rows() if row.task == "hold"} == {SUCCEEDED}
        assert ledger.alive() == set()
        crew.hire_workers(1)
        all_done_once(crew, ledger, 10, [])


@pytest.mark.rows("C22", "C23")
def test_a_second_sigterm_releases_what_runs(durable: Database, tmp_path: Path) -> None:
    with crew_of(durable.url, tmp_path, ttl=10, concurrency=2) as crew:
        ledger = Ledger(durable.url)
        hand = busy_worker(crew, ledger)
        hand.send(signal.SIGTERM)
        wait_until(lambda: claimed(ledger) == 2, "what was fetched ahead to go back", 5)
        hand.send(signal.SIGTERM)
        wait_until(lambda: hand.code is not None, "the worker to end at once", 5)
        crew.look_after()
        assert hand.code == 0
        live = [row for row in ledger.rows() if row.live]
        assert {row.task for row in live} >= {"hold"}
        assert {(row.state, row.attempt, row.crashes) for row in live} == {(0, 0, 0)}
        other = crew.hire("work")
        crew.plan.gate(other.name).touch()
        wait_until(lambda: ledger.live() == 0, "all jobs to end", 30)
        assert {row.attempt for row in ledger.rows()} == {1}
        crew.stop("work")
        nobody_is_left(crew, ledger)
