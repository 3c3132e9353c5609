"""The database goes away and comes back, the network fails: everybody waits, says so once, and goes on.

Every trial ends with the audit against the receipt, with no death that anything may be put down to. DRAY_TEST_SEED repeats
one; `make stress MINUTES=n` makes them longer.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.audit import Story, summary
from tests.crash.crew import EXIT_LOST, Crew, Hand, crew_of
from tests.crash.ledger import Ledger
from tests.crash.outages import Outage, Weather
from tests.crash.receipt import steady
from tests.crash.scenes import all_done_once, check, first_holder, held, nobody_is_left, runs_of
from tests.crash.wire import Wire
from tests.effort import MINUTES, seconds
from tests.servers import Database, Server, wait_until

pytestmark = pytest.mark.long

SEED = int(os.environ.get("DRAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
TTL = 1.5
PATIENCE = 180 + MINUTES * 60  # seconds for one trial


def pause(seconds: float) -> None:
    until = steady() + seconds
    wait_until(lambda: steady() > until, "the outage to be over", seconds + 10)


# --- the server goes away -------------------------------------------------------------------------------------------------


def restarts(server: Server) -> Outage:
    """Stopped in every way there is, for a moment mostly; the first time for longer than the TTL."""
    modes = ["fast", "immediate", "kill"]
    away = [1.3 * TTL]

    def outage(chance: random.Random) -> int:
        if not modes:
            modes.extend(chance.sample(["fast", "immediate", "kill"], 3))
        mode = modes.pop()
        if mode == "kill":
            server.kill()
        else:
            server.stop("fast" if mode == "fast" else "immediate")
        pause(away.pop() if away else chance.uniform(0.0, 0.7))
        server.start()
        return 1

    return outage


@pytest.mark.rows("C14", "C24", "S2.80", "C87")
@pytest.mark.timeout(PATIENCE)
def test_a_server_that_comes_and_goes_loses_nothing_and_kills_nobody(stoppable: Database, tmp_path: Path) -> None:
    assert stoppable.server is not None
    print(f"\n{stoppable.name}: DRAY_TEST_SEED={SEED}")
    with crew_of(stoppable.url, tmp_path, ttl=TTL, concurrency=3, seed=SEED) as crew:
        weather = Weather(crew, random.Random(SEED))
        weather.strike(restarts(stoppable.server), seconds(4) / 2, least=3)
        assert [len(weather.away(hand)) for hand in weather.workers] >= [1, 1], "nobody noticed the long one"
        if stoppable.name == "postgresql":
            print(f"told of a job within {weather.still_hears() * 1000:.0f} ms")
        weather.end()
        nobody_is_left(crew, weather.ledger)


@pytest.mark.rows("C14", "C24")
@pytest.mark.timeout(PATIENCE)
def test_a_file_that_somebody_locks_for_longer_than_the_ttl_kills_nobody(tmp_path: Path) -> None:
    """A VACUUM, a long transaction of the application: to the workers it is no outage, and they wait."""
    print(f"\nDRAY_TEST_SEED={SEED}")
    file, lasts = tmp_path / "dray.db", [1.8 * TTL]

    def locked(chance: random.Random) -> int:
        with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            pause(lasts.pop() if lasts else chance.uniform(0.1, 0.8))
            somebody.execute("COMMIT")
        return 0

    with crew_of(f"sqlite:///{file}", tmp_path, ttl=TTL, concurrency=3, seed=SEED) as crew:
        weather = Weather(crew, random.Random(SEED))
        weather.strike(locked, seconds(3) / 2, least=1)
        weather.end()
        nobody_is_left(crew, weather.ledger)


# --- a bad network --------------------------------------------------------------------------------------------------------


def bad_network(wire: Wire) -> Outage:
    """All that can happen to connections short of a silence that outlasts the TTL."""

    def cut(chance: random.Random) -> int:
        wire.hang_up()
        return 1

    def refused(chance: random.Random) -> int:
        wire.refuse()
        pause(chance.uniform(0.1, 1.0))
        wire.restore()
        return 1

    def silent(chance: random.Random) -> int:
        wire.silence()
        pause(chance.uniform(0.1, 1.0))
        wire.restore()
        return 1

    def silent_then_cut(chance: random.Random) -> int:
        wire.silence()
        return refused(chance)

    def in_a_commit(chance: random.Random) -> int:
        before, count = wire.cut, chance.randint(1, 4)
        wire.swallow_commits(count, arrives=chance.random() < 0.5)
        wait_until(lambda: wire.cut >= before + count, "commits to be cut off", 20)
        return count

    def flapping(chance: random.Random) -> int:
        count = chance.randint(3, 8)
        for _ in range(count):
            wire.refuse()
            pause(chance.uniform(0.0, 0.1))
            wire.restore()
            pause(chance.uniform(0.0, 0.1))
        return count

    kinds = [cut, refused, silent, silent_then_cut, in_a_commit, flapping]
    left: list[Outage] = []

    def outage(chance: random.Random) -> int:
        if not left:
            left.extend(chance.sample(kinds, len(kinds)))
        return left.pop()(chance)

    return outage


@pytest.mark.rows("C14", "C25", "S2.80", "C87")
@pytest.mark.timeout(PATIENCE)
def test_a_network_that_fails_in_every_way_loses_nothing_and_kills_nobody(
    stoppable: Database, wire: Wire, tmp_path: Path
) -> None:
    print(f"\n{stoppable.name}: DRAY_TEST_SEED={SEED}")
    with crew_of(stoppable.url, tmp_path, ttl=6.0, concurrency=3, seed=SEED) as crew:
        weather = Weather(crew, random.Random(SEED), url=wire.url)
        weather.strike(bad_network(wire), seconds(4) / 2, least=6)
        if stoppable.name == "postgresql":
            print(f"told of a job within {weather.still_hears() * 1000:.0f} ms")
        weather.end()
        nobody_is_left(crew, weather.ledger)


@pytest.mark.rows("C14", "C25")
@pytest.mark.timeout(120)
def test_a_commit_without_an_answer_loses_and_repeats_nothing(stoppable: Database, wire: Wire, tmp_path: Path) -> None:
    """Claims and results whose commit happened, or did not: the worker cannot know, and has to find out."""
    ttl = 30.0  # nobody may wait for the lease to run out: the worker is alive
    with crew_of(stoppable.url, tmp_path, ttl=ttl) as crew:
        ledger = Ledger(stoppable.url)
        crew.hire_workers(1, url=wire.url)
        for turn in range(1, 6):
            wire.swallow_commits(turn)
            for offset, kind in enumerate(("plain", "flaky", "snoozing", "careful", "nap")):
                crew.shop.add(1000 * turn + 100 * offset, kind, 0.002, count=10)
            wait_until(lambda: ledger.live() == 0, f"all jobs to end after {turn} commits without an answer", 30)
        # Now results and nothing else: all slots are taken, so that nothing is claimed meanwhile.
        crew.shop.add(9000, "hold", count=crew.plan.concurrency)
        wait_until(lambda: len(held(crew)) == crew.plan.concurrency, "all slots to be taken")
        cut = wire.cut
        wire.swallow_commits(4)  # the odd one may be of another thread
        crew.plan.gate("work-0").touch()
        wait_until(lambda: ledger.live() == 0 and wire.cut >= cut + 4, "results to be written without an answer", 30)
        assert crew.account().of("job.lease_lost") == [], "what was written is taken for refused"
        crew.stop("work")
        story = Story(account=crew.account(), rows=ledger.rows(), ttl=ttl)
        print("\n" + summary(story))
        check(story)
        nobody_is_left(crew, ledger)


def it_comes_back(crew: Crew, wire: Wire, ledger: Ledger, silent: Hand, other: Hand) -> None:
    """The network does; the one that has ended meanwhile is all that anything may be put down to."""
    crew.look_after()
    crew.plan.gate(other.name).touch()
    wire.restore()
    all_done_once(crew, ledger, crew.plan.ttl, [silent])


@pytest.mark.rows("C12", "C19")
@pytest.mark.timeout(120)
def test_a_worker_whose_network_falls_silent_ends_before_others_take_over(
    stoppable: Database, wire: Wire, tmp_path: Path
) -> None:
    """Nothing is refused and nothing answers: every thread that has asked the database something hangs."""
    ttl = 4.0
    with crew_of(stoppable.url, tmp_path, ttl=ttl) as crew:
        ledger = Ledger(stoppable.url)
        silent, other = first_holder(crew, url=wire.url)
        wire.silence()
        stopped = steady()
        wait_until(runs_of(crew, other), "the other worker to take over", 3 * ttl + 10)
        begun = min(start.time for start in held(crew) if start.holder == other.name)
        assert silent.code == EXIT_LOST, "others started before it had ended"
        print(f"\nothers began {begun - stopped:.2f} s after the silence, with a TTL of {ttl:g} s")
        it_comes_back(crew, wire, ledger, silent, other)


@pytest.mark.timeout(120)
def test_a_worker_whose_network_and_python_stand_still_is_ended_before_others_take_over(
    stoppable: Database, wire: Wire, tmp_path: Path
) -> None:
    """No thread of it can see that its time is up. What it runs would run on beside the others."""
    ttl = 5.0
    with crew_of(stoppable.url, tmp_path, ttl=ttl) as crew:
        ledger = Ledger(stoppable.url)
        (silent,) = crew.hire_workers(1, url=wire.url)
        crew.shop.add(1, "hold", count=2)
        wait_until(lambda: len(held(crew)) == 2, "both long jobs to run")
        crew.shop.add(11, "entangled")
        wait_until(lambda: len(crew.account().starts) == 3, "the third to keep the interpreter to itself")
        (other,) = crew.hire_workers(1)
        wire.silence()
        wait_until(runs_of(crew, other), "the other worker to take over", 3 * ttl + 10)
        assert silent.code == -signal.SIGKILL, "others started before it had ended"
        it_comes_back(crew, wire, ledger, silent, other)


@pytest.mark.rows("S2.80", "C87")
@pytest.mark.timeout(120)
def test_an_idle_worker_whose_connections_lead_nowhere_makes_new_ones(stoppable: Database, wire: Wire, tmp_path: Path) -> None:
    """Half-open: somebody on the way has forgotten the connections there are. Nothing is refused, and new ones would work."""
    ttl = 2.0
    with crew_of(stoppable.url, tmp_path, ttl=ttl) as crew:
        ledger = Ledger(stoppable.url)
        (hand,) = crew.hire_workers(1, url=wire.url)
        wire.half_open()
        crew.shop.add(1, "plain", count=3)
        wait_until(lambda: ledger.live() == 0, "the jobs to be done", 3 * ttl + 10)
        assert hand.code is None
        crew.shop.add(10, "plain", count=3)
        wait_until(lambda: ledger.live() == 0, "the next ones to be done", 5)
        all_done_once(crew, ledger, ttl, [])
