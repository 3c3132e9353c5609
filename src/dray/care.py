"""Looking after an installation: what the dead hold, and what ended long ago."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from dray import events, pids
from dray.durations import show_duration
from dray.errors import BadOption, UnknownWorker, WorkerLives
from dray.job import ENDED, State
from dray.settings import Settings
from dray.store.base import Beat, Freed
from dray.store.prune import Kept
from dray.store.read import CAP
from dray.store.rescue import Watch
from dray.store.sql import SqlStore
from dray.store.workers import WorkerRow, WorkerState
from dray.stuck import LONG, Search, Stuck

BEATS = 2.0  # so many beats left out make a worker silent
YOUNGER = 60.0  # seconds a process must be younger than a worker's row to be another: clocks may drift, and be put right

Waiting = Callable[[Sequence[WorkerRow], float], None]


class Whereabouts(StrEnum):
    """What can be known from here of a worker's process."""

    OVER = "over"  # the worker has ended, or was declared dead
    GONE = "gone"  # it was on this host, where no process has its number
    REPLACED = "replaced"  # another process has its number by now
    LIVES = "lives"
    ELSEWHERE = "elsewhere"  # on another host, whose processes cannot be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """What became of the silent, and of what the dead held.

    declared    workers that were declared dead
    spared      silent ones whose beat has moved on
    jobs        what was freed, also of those that were dead before
    """

    declared: list[WorkerRow] = field(default_factory=list)
    spared: list[WorkerRow] = field(default_factory=list)
    jobs: list[Freed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many jobs of each state are gone, or would be, and how many as old as these are kept, and why."""

    gone: Mapping[State, int]
    kept: Mapping[State, Kept]


def free(store: SqlStore) -> list[Freed]:
    """Free what the dead hold, whoever declared them so (S0.35, C16)."""
    jobs: list[Freed] = []
    while (done := store.rescue()).freed:
        jobs += done.jobs
        events.emit("rescue.jobs", count=done.freed, failed=len(done.failed))
        for job_id in done.failed:
            events.emit("job.failed", job_id=job_id, error="its worker died")
    return jobs


class Care:
    """What somebody has to do now and then, if the workers do not; `Admin.care` gives one.

    clock, sleep, host    time and place; only tests give them
    """

    def __init__(
        self,
        store: SqlStore,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        watch: Watch | None = None,
        host: str | None = None,
    ) -> None:
        self._store, self._roster, self._settings = store, store.roster, settings
        self._sleep = sleep
        self._watch = watch or Watch(ttl=settings.ttl)
        self._host = (socket.gethostname() if host is None else host)[:200]  # as long as it is stored

    # --- all who are silent ---------------------------------------------------------------------------------------------

    def rescue(self, on_wait: Waiting = lambda silent, left: None) -> Rescue:
        """Declare those dead whose beat is seen to stand still for a full TTL, and free what the dead hold (C14, C18).

        Takes no time when nobody is silent, and not the whole TTL when all who were are heard again. `on_wait` is told who
        is watched, and for how many seconds more. Raises StoreUnavailable when the database goes away or takes no writes
        meanwhile: then nobody can beat, and nobody is declared dead.
        """
        silent = {worker.id: worker for worker in self._roster.listing() if self._is_silent(worker)}
        seen: dict[int, int] = {}
        found = Rescue()
        while silent:
            self._roster.sign()
            beats = {beat.worker_id: beat for beat in self._roster.beats()}
            for beat in self._watch.observe(beats.values()):
                if self._declare(beat):
                    silent.pop(beat.worker_id, None)
                    found.declared.append(self._row(beat.worker_id))
            for id in list(silent):
                if id not in beats:
                    del silent[id]  # it has ended, or somebody else was first
                elif beats[id].beat_at != seen.setdefault(id, beats[id].beat_at):
                    found.spared.append(silent.pop(id))
            if silent:
                on_wait(list(silent.values()), self._left(silent))
                self._sleep(self._watch.next_look(self._settings.ttl / 6))
        found.jobs.extend(free(self._store))
        return found

    def _is_silent(self, worker: WorkerRow) -> bool:
        return worker.silent_for > BEATS * self._settings.beat

    def _left(self, silent: dict[int, WorkerRow]) -> float:
        since = max(self._watch.seen[id][1] for id in silent)
        return max(0.0, since + self._watch.ttl - self._watch.clock())

    def _declare(self, beat: Beat) -> bool:
        dead = self._roster.declare_dead(beat)
        if dead:
            events.emit("rescue.dead_worker", worker_id=beat.worker_id)
        return dead

    # --- one who is known to be dead ------------------------------------------------------------------------------------

    def whereabouts(self, worker_id: int) -> tuple[WorkerRow, Whereabouts]:
        """A worker, and what can be known of its process from here. Raises UnknownWorker."""
        worker = self._row(worker_id)
        if worker.state is not WorkerState.ALIVE:
            return worker, Whereabouts.OVER
        if worker.host != self._host:
            return worker, Whereabouts.ELSEWHERE
        process = pids.find(worker.pid)
        if process is None:
            return worker, Whereabouts.GONE
        lasted = worker.silent_for + (worker.beat_at - worker.started_at).total_seconds()
        if process.age is not None and process.age < lasted - YOUNGER:
            return worker, Whereabouts.REPLACED
        return worker, Whereabouts.LIVES

    def rescue_worker(self, worker_id: int, *, sure: bool = False, on_wait: Waiting = lambda silent, left: None) -> Rescue:
        """Declare a worker dead whose process is known to be, and free what the dead hold (S0.35, C18).

        A process that lives on this host is never taken for dead. One that is gone is, at once if it has been silent for two
        beats; before that its beat is watched, since a container of the same host name has processes that are not seen here.
        `sure`: the caller knows, also of other hosts. Raises UnknownWorker, WorkerLives, and BadOption for a worker on
        another host when not sure.
        """
        worker, where = self.whereabouts(worker_id)
        if where is Whereabouts.LIVES:
            why = f"process {worker.pid} is on this host; stop it first, or let a rescue without its id watch its beat"
            raise WorkerLives(worker_id, why)
        if where is Whereabouts.ELSEWHERE and not sure:
            raise BadOption(f"worker {worker_id} is on {worker.host}, where this host cannot look: say that you are sure")
        found = Rescue()
        if where is not Whereabouts.OVER:
            self._bury(
                worker, watched=not sure and (where is Whereabouts.REPLACED or not self._is_silent(worker)), told=on_wait
            )
            found.declared.append(worker)
        found.jobs.extend(free(self._store))
        return found

    def _bury(self, worker: WorkerRow, *, watched: bool, told: Waiting) -> None:
        beat = self._beat(worker.id)
        if watched and beat is not None:
            told([worker], BEATS * self._settings.beat)
            self._sleep(BEATS * self._settings.beat)
        if beat is not None and not self._declare(beat) and self._beat(worker.id) is not None:
            silent = show_duration(round(worker.silent_for))
            raise WorkerLives(worker.id, f"it was silent for {silent}, and then its beat moved; is it in another container?")

    def _beat(self, worker_id: int) -> Beat | None:
        return next((beat for beat in self._roster.beats() if beat.worker_id == worker_id), None)

    def _row(self, worker_id: int) -> WorkerRow:
        worker = self._roster.find(worker_id)
        if worker is None:
            raise UnknownWorker(worker_id)
        return worker

    # --- what is stuck --------------------------------------------------------------------------------------------------

    def stuck(self, older_than: float = LONG, *, queue: str | None = None, task: str | None = None) -> list[Stuck]:
        """Jobs that run for longer than so many seconds or under a dead worker, and those that wait for longer and will go on
        waiting, by reason, queue and task, with what to do (S3.83).

        Looks at the longest-waiting 1,000 of each queue and priority, so that it costs the same with any backlog.
        """
        return Search(self._store, self._settings, older_than, queue, task).all()

    # --- age -----------------------------------------------------------------------------------------------------------------

    def prune(
        self,
        older_than: float | None = None,
        states: Iterable[State] = ENDED,
        *,
        dry_run: bool = False,
        on_progress: Callable[[State, int], None] = lambda state, count: None,
    ) -> Pruned:
        """Delete jobs of these states that ended more than so many seconds ago (C100); without an age, as the settings say.

        What something still refers to stays, and is counted. `dry_run` only counts, up to the cap plus one. Deletes in batches
        and tells `on_progress` the count so far after each.
        """
        desk = self._store.desk
        gone: dict[State, int] = {}
        kept: dict[State, Kept] = {}
        for state in (state for state in State if state in frozenset(states)):
            age = self._age(state) if older_than is None else older_than
            gone[state] = desk.count_prunable(state, age, CAP) if dry_run else 0
            while not dry_run and (count := desk.prune_batch(state, age)):
                gone[state] += count
                on_progress(state, gone[state])
            kept[state] = desk.count_kept(state, age, CAP)
        return Pruned(gone=gone, kept=kept)

    def _age(self, state: State) -> float:
        if not state.ended:
            raise BadOption(f"only ended jobs can be pruned; {state} is not an end")
        age: float = getattr(self._settings, f"keep_{state}")
        return age
