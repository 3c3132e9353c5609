"""What happens in the demonstration, act by act: enqueue, work, kill, count, judge."""

from __future__ import annotations

import secrets
import shlex
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dray.demo import census, show
from dray.demo.ledger import Counts, Ledger, Results
from dray.demo.show import Scene, Show
from dray.demo.stage import Actor, DemoFailed, Place, Stage
from dray.durations import show_duration
from dray.settings import SETTINGS, Settings
from dray.urls import redact_url

TTL, BEAT = 3.0, 0.5  # seconds
USUAL_TTL = Settings().ttl
LOOK_EVERY = 0.1  # seconds
ENOUGH_TO_KILL = 100  # jobs; with fewer all is over before anybody has looked
STANDSTILL = 60.0  # seconds without any progress after which something must be broken
PREFIX = "dray_demo_"  # in somebody's own database: our own tables, so that no other worker there is taken for dead


@dataclass(slots=True)
class Rescue:
    """How the jobs of the killed worker fare; instants are seconds since the beginning."""

    killed_at: float
    freed_at: float | None = None


class Play:
    """One demonstration, from the files to the verdict."""

    def __init__(self, screen: Show, place: Place, *, jobs: int | None, keep: bool, database_url: str | None) -> None:
        self.screen, self.place = screen, place
        self.input = census.find_input(jobs)
        self.total = len(self.input.files)
        self.app, self.queue = census.app, census.QUEUE
        options: dict[str, object] = {"ttl": TTL, "beat": BEAT, "log_level": "warning"}
        if database_url is None:
            options["database_url"] = f"sqlite:///{show.nearby(place.database(keep=keep))}"
        else:
            options |= {"database_url": database_url, "table_prefix": PREFIX, "create_tables": True}
            self.queue += f"-{secrets.token_hex(3)}"  # there may be jobs of an earlier run
        self.app.settings = self.app.settings.override(options)
        self.ledger = Ledger(self.app, self.queue)
        self.given = options
        self.began = 0.0
        self.rescue: Rescue | None = None

    def perform(self) -> int:
        """Play it, and give the exit code."""
        self._introduce()
        self.app.store.ensure()
        with Stage(self.place.folder, self.queue, self._environment()) as stage:
            victim = self._hire(stage)
            self._enqueue()
            self.screen.open()
            self._work(stage, victim)
            self.screen.close()
            took = self._elapsed()
        found = self.ledger.results()
        self.screen.say()
        show.results(self.screen, found)
        good = self._judge(found, victim, took)
        self._what_next(found)
        self.app.close()
        return 0 if good else 1

    # --- the acts -------------------------------------------------------------------------------------------------------

    def _introduce(self) -> None:
        given, version = self.input, ".".join(map(str, sys.version_info[:3]))
        say = self.screen.say
        say(f"Dray parses the standard library of Python {version}: {len(given.library):,} files.")
        if given.packages:
            say(f"It takes {len(given.packages):,} files of installed packages too: this library is small.")
        others = show.count(len(given.others), "more file is", "more files are")
        say(f"{others} no Python at all, so that something fails and is tried again.")
        say()

    def _hire(self, stage: Stage) -> Actor:
        """Start two workers and wait until they are there; gives the one that will be killed."""
        stage.start()
        victim = stage.start()
        deadline = time.monotonic() + STANDSTILL
        while not all(actor.worker_ids for actor in stage.actors):
            if time.monotonic() > deadline:
                raise DemoFailed(f"the workers do not start; their logs are in {self.place.folder}")
            time.sleep(LOOK_EVERY)
            stage.check()
            self._recognise(stage)
        one, other = (f"worker {actor.number} (pid {actor.pid})" for actor in stage.actors)
        self.screen.say(f"Two processes work: {one} and {other}.")
        usual = f"{show_duration(TTL)} instead of the usual {show_duration(USUAL_TTL)}"
        self.screen.say(f"Their lease is {usual}, so that what follows is soon seen.")
        return victim

    def _enqueue(self) -> None:
        self.began = time.monotonic()
        task = census.census.using(queue=self.queue)
        # A retry goes to the end of the line of its priority: these are to be seen now, not when all else is done.
        urgent = task.using(priority=10)
        calls = [urgent.bind(str(path)) for path in self.input.others]
        calls += [task.bind(str(path)) for path in [*self.input.library, *self.input.packages]]
        self.app.enqueue_many(calls)
        jobs = show.count(self.total, "job")
        self.screen.say(f"{jobs} enqueued in one transaction, in {self._elapsed():.2f} s: {self._url()}")
        if self.total < ENOUGH_TO_KILL:
            self.screen.say(f"No worker is killed: with fewer than {ENOUGH_TO_KILL} jobs there is no half-way.")
        self.screen.say()

    def _work(self, stage: Stage, victim: Actor) -> None:
        changed, last = time.monotonic(), -1
        while True:
            stage.check()
            counts = self._look(stage)
            if counts.ended != last:
                changed, last = time.monotonic(), counts.ended
            if counts.ended >= self.total:
                return
            if time.monotonic() - changed > STANDSTILL:
                raise DemoFailed(f"nothing has ended for {STANDSTILL:.0f} s; the logs are in {self.place.folder}")
            if self.rescue is None and counts.ended * 2 >= self.total >= ENOUGH_TO_KILL:
                self._kill(stage, victim)
            elif self.rescue is not None and self.rescue.freed_at is None:
                self._watch_rescue(victim, self.rescue)
            time.sleep(LOOK_EVERY)

    def _look(self, stage: Stage) -> Counts:
        counts = self.ledger.counts()
        self._recognise(stage)
        for actor in stage.actors:
            actor.done = sum(counts.by_worker[worker_id] for worker_id in actor.worker_ids)
        self.screen.update(Scene(counts=counts, total=self.total, elapsed=self._elapsed(), actors=stage.actors))
        return counts

    def _recognise(self, stage: Stage) -> None:
        """Learn what the database calls our workers; one that had lost its lease has a new name."""
        known = self.ledger.worker_ids()
        for actor in stage.actors:
            actor.worker_ids = known.get(actor.pid, [])

    def _kill(self, stage: Stage, victim: Actor) -> None:
        if not self.ledger.held_by(victim.worker_ids):
            return  # it has nothing to lose just now: the next look is soon
        stage.kill(victim, lambda: self.ledger.held_by(victim.worker_ids))
        self.rescue = Rescue(killed_at=self._elapsed())
        who, held = f"worker {victim.number} (pid {victim.pid})", show.count(len(victim.held), "job")
        self.screen.say(f"✕ {who} killed with SIGKILL; it held {held}", "red")
        instead = stage.start()
        self.screen.say(f"  worker {instead.number} (pid {instead.pid}) started in its place")

    def _watch_rescue(self, victim: Actor, rescue: Rescue) -> None:
        if self.ledger.held_by(victim.worker_ids):
            return
        rescue.freed_at = self._elapsed()
        took, held = rescue.freed_at - rescue.killed_at, show.count(len(victim.held), "job")
        self.screen.say(f"✓ its {held} went back to the queue within {took:.1f} s, for the others", "green")

    # --- the verdict ----------------------------------------------------------------------------------------------------

    def _judge(self, found: Results, victim: Actor, took: float) -> bool:
        """Look at every row again, and say what is true of them."""
        ended, succeeded, failed = found.times_ended.total(), len(found.figures), len(found.failures)
        unjust = [one.path for one in found.failures if census.parses(Path(one.path))]
        verdicts = {
            f"{self.total:,} enqueued = {ended:,} ended: {succeeded:,} succeeded, {failed:,} failed": (
                self.total == ended == succeeded + failed
            ),
            "each file has exactly one result": found.times_ended == Counter(map(str, self.input.files)),
            "what failed, the parser refuses here too; all else was parsed": not unjust,
        }
        if self.total >= ENOUGH_TO_KILL:
            held = show.count(len(victim.held), "job")
            text = f"worker {victim.number} was killed with {held} in its hands; others finished them all"
            elsewhere = [found.ended_by.get(id) not in (None, *victim.worker_ids) for id in victim.held]
            verdicts[text] = victim.killed and all(elsewhere)
        for text, good in verdicts.items():
            self.screen.say(f"{'✓' if good else '✕ NOT TRUE:'} {text}", "green" if good else "bold red")
        speed = self.total / took
        self.screen.say(f"  {show.count(found.retries, 'retry', 'retries')} · {took:.1f} s · {speed:.0f} jobs/s")
        return all(verdicts.values())

    def _what_next(self, found: Results) -> None:
        dray = "dray" if shutil.which("dray") else str(show.nearby(Path(sys.executable).with_name("dray")))
        failed = found.failures[0].id if found.failures else 1
        commands = [f"export DRAY_DATABASE_URL={shlex.quote(self._url())}"]
        if "table_prefix" in self.given:
            commands.append(f"export DRAY_TABLE_PREFIX={PREFIX}")
        commands += [
            f"{dray} stats",
            f"{dray} jobs state:failed",
            f"{dray} show {failed}",
            f"{dray} retry {failed}",
            f"{dray} worker {self.queue} -A dray.demo.census:app --max-time 5s",
        ]
        self.screen.say()
        self.screen.say(f"All jobs are kept, and the workers' logs: {show.nearby(self.place.folder)}. Look around with")
        self.screen.say()
        for command in commands:
            self.screen.say(f"  {command}")

    # --- small things ---------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        """What the workers are told: the same settings as here."""
        return {SETTINGS[name].variable: str(value) for name, value in self.given.items()}

    def _url(self) -> str:
        return redact_url(str(self.given["database_url"]))

    def _elapsed(self) -> float:
        return time.monotonic() - self.began
