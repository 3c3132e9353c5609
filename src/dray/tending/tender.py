"""The tender: keeps enough workers alive, as many as there is work for, and no more than allowed (S1.34).

It has no connection to the database and knows no task: it sees processes, and what they say of themselves. So it stays small,
and nothing that can happen to an application happens to it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dray import events
from dray.folder import Folder
from dray.process import STOPPING, how_it_ended, read_signals, signals_in_a_pipe
from dray.tending.hired import Hired
from dray.tending.keeper import Keeper, busy_with
from dray.tending.planning import Pool
from dray.tending.relay import Outlet, Relay
from dray.tending.rescuer import Rescuer
from dray.tending.statusfile import StatusFile

TICK = 0.1  # seconds from a change to the next
LAZY = 1.0  # the same when nothing changes and nothing is heard
SAY_EVERY = 3.0  # seconds between two lines about whom it waits for
KILL_AFTER = 5.0  # seconds that workers get to give back what they run
LAST_RESCUES = 10.0  # seconds for rescues after that


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """How processes are started, as words: no shell is involved. The queues of a pool go behind those of a worker."""

    worker: tuple[str, ...]
    rescue: tuple[str, ...]
    folder: Folder


class Tender:
    """Tends pools of workers until told to stop: `run` gives the exit code. BadOption if the command cannot be started.

    TERM, INT and QUIT stop it: once to let running jobs end, twice to have them given back. HUP replaces all workers one by
    one, USR1 shows how they are. As process 1 of a container it collects whatever ends there.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        commands: Commands,
        *,
        outlets: tuple[Outlet, Outlet],
        status_file: Path | None = None,
    ) -> None:
        self._outlets = outlets
        self._commands = commands
        self._keepers = [Keeper(pool, self._starter(pool)) for pool in pools]
        self._rescuer = Rescuer(commands.rescue, outlets[1], commands.folder)
        self._status = None if status_file is None else StatusFile(status_file)
        self._watched = selectors.PollSelector()
        self._read_by: dict[int, Callable[[], bool]] = {}
        self._now = time.monotonic()
        self._next = 0.0  # when to plan, if nothing happens before
        self._news = False  # somebody said something
        self._changed = True  # there is one process more or less, or one is told to end; or all this begins
        self._stops = 0  # how often it was told to
        self._stopped = 0.0  # when for the last time
        self._said = 0.0
        self._has_terminal = _has_terminal()

    def run(self) -> int:
        """Tend until told to stop, and until all have ended."""
        events.emit("tend.begins", pid=os.getpid(), pools=",".join(one.pool.name for one in self._keepers))
        with signals_in_a_pipe((*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)) as number:
            self._watch(number, lambda: self._heed(number))
            try:
                while not (self._stops and self._is_done()):
                    self._turn()
            finally:
                self._leave()
        events.emit("tend.stopped", pid=os.getpid())
        for outlet in self._outlets:
            outlet.flush(LAZY)
        return 0

    # --- the loop -------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._wait(TICK if self._changed else LAZY)
        self._now = time.monotonic()
        self._collect()
        if self._stops:
            self._see_them_off()
        elif self._changed or self._news or self._now >= self._next:  # and not for each line that somebody prints
            self._next = self._now + TICK
            for keeper in self._keepers:
                self._changed |= keeper.turn(self._now)
        if self._rescuer.turn():
            self._watch_relays(self._rescuer.relays)
        self._write_status()

    def _wait(self, seconds: float) -> None:
        """Wait for something to happen, and deal with it."""
        self._changed = self._news = False
        pauses = [seconds, *(left for keeper in self._keepers if (left := keeper.backoff.left(self._now)) > 0)]
        for key, _ in self._ready(min(pauses)):
            read = self._read_by.get(key.fd)
            if read is not None and not read():
                self._forget(key.fd)
        for outlet in self._outlets:
            outlet.flush()

    def _ready(self, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
        """What can be read; what is said to a full outlet is left where it is. An outlet with a rest is waited for as well."""
        writing = [outlet.number for outlet in self._outlets if outlet.has_more]
        with self._also(writing):
            return [(key, what) for key, what in self._watched.select(seconds) if key.fd not in writing]

    @contextlib.contextmanager
    def _also(self, writing: list[int]) -> Iterator[None]:
        full = [relay.number for relay in self._relays() if relay.outlet.is_full and relay.number in self._read_by]
        for number in full:
            self._watched.unregister(number)
        for number in writing:
            self._watched.register(number, selectors.EVENT_WRITE)
        try:
            yield
        finally:
            for number in writing:
                self._watched.unregister(number)
            for number in full:
                self._watched.register(number, selectors.EVENT_READ)

    def _relays(self) -> Iterator[Relay]:
        for worker in self._everybody():
            yield from worker.relays
        yield from self._rescuer.relays

    def _watch(self, number: int, read: Callable[[], bool]) -> None:
        self._read_by[number] = read
        self._watched.register(number, selectors.EVENT_READ)

    def _watch_relays(self, relays: Sequence[Relay]) -> None:
        for relay in relays:
            self._watch(relay.number, relay.read)

    def _forget(self, number: int) -> None:
        if self._read_by.pop(number, None) is not None:
            self._watched.unregister(number)

    def _everybody(self) -> list[Hired]:
        return [worker for keeper in self._keepers for worker in keeper.hired.values()]

    # --- workers --------------------------------------------------------------------------------------------------------

    def _starter(self, pool: Pool) -> Callable[[], Hired]:
        def start() -> Hired:
            worker = Hired([*self._commands.worker, *pool.queues], self._outlets, self._commands.folder, self._now)
            self._watch_relays(worker.relays)
            self._watch(worker.socket, lambda: self._hear(worker))
            return worker

        return start

    def _hear(self, worker: Hired) -> bool:
        self._news = True
        return worker.hear(time.monotonic())

    def _collect(self) -> None:
        """Take note of processes that ended: ours, and any that was left to process 1."""
        while (pid := _ended_one()) is not None:
            found = [(keeper, worker) for keeper in self._keepers if (worker := keeper.hired.get(pid)) is not None]
            for _, worker in found:
                worker.hear(self._now)  # its last word may have come together with its end
                if not worker.said_bye:
                    worker.kill()  # what its jobs had started must not run on beside the next run of these jobs
            code = _collect_one(pid)
            for keeper, worker in found:
                self._bury(keeper, worker, code)
            if pid == self._rescuer.pid:
                for relay in self._rescuer.relays:
                    self._forget(relay.number)
                self._rescuer.ended(None if code == 0 else how_it_ended(code))

    def _bury(self, keeper: Keeper, worker: Hired, code: int) -> None:
        self._changed = True
        for number in (worker.socket, *(relay.number for relay in worker.relays)):
            self._forget(number)
        worker.close()
        if keeper.ended(worker, code, self._now) and worker.worker_id:
            self._rescuer.add(worker.worker_id)

    # --- signals --------------------------------------------------------------------------------------------------------

    def _heed(self, number: int) -> bool:
        for heard in read_signals(number):
            if heard in STOPPING or (heard is signal.SIGHUP and self._has_terminal and not _has_terminal()):
                self._stop(heard)
            elif heard is signal.SIGHUP and not self._stops:
                events.emit("tend.reloads", workers=len(self._everybody()))
                for keeper in self._keepers:
                    keeper.reload()
                self._news = True
            elif heard is signal.SIGUSR1:
                for keeper in self._keepers:
                    keeper.show(time.monotonic())
        return True

    def _stop(self, number: signal.Signals) -> None:
        self._stops += 1
        self._stopped, self._said = time.monotonic(), float("-inf")
        for worker in self._everybody():
            if self._stops == 1:
                worker.stop(number.name)
            elif self._stops == 2:
                worker.stop_now(number.name)
            else:
                worker.kill()

    def _see_them_off(self) -> None:
        """Say for whom it waits, again and again; after the second signal it does not wait long."""
        everybody = self._everybody()
        if everybody and self._now - self._said >= SAY_EVERY:
            self._said = self._now
            events.logger.info("%s", self._farewell(everybody))
            for worker in everybody:
                worker.ask()
        if self._stops > 1 and self._now - self._stopped >= KILL_AFTER:
            for worker in everybody:
                worker.kill()

    def _farewell(self, everybody: Sequence[Hired]) -> str:
        """One line, such as `stopping: 3 workers, 2 busy (send_mail 4s, send_mail 1s); again to stop now`."""
        busy = [worker for worker in everybody if worker.running]
        jobs = ", ".join(job for worker in busy for job in busy_with(worker, self._now))
        who = f"{len(everybody)} worker{'' if len(everybody) == 1 else 's'}, {len(busy)} busy"
        return f"stopping: {who}{f' ({jobs})' if jobs else ''}{'; again to stop now' if self._stops == 1 else ''}"

    def _is_done(self) -> bool:
        too_late = self._stops > 1 and self._now - self._stopped > KILL_AFTER + LAST_RESCUES
        return not self._everybody() and (self._rescuer.is_idle or too_late)

    # --- what can be seen -----------------------------------------------------------------------------------------------

    def _write_status(self) -> None:
        status = self._status
        if status is not None and status.is_due(self._now, changed=self._changed, news=self._news):
            pools = [keeper.facts(self._now) for keeper in self._keepers]
            status.write({"state": "stopping" if self._stops else "tending", "pools": pools}, self._now)

    def _leave(self) -> None:
        if self._status is not None:
            self._status.remove()
        for worker in self._everybody():  # an error of our own: they notice that we are gone, and end
            worker.close()
        self._watched.close()


def _ended_one() -> int | None:
    """A process that has ended and is yet to be collected: until then nobody else can have its number."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _collect_one(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _has_terminal() -> bool:
    """Whether there is a terminal to us, which may be closed one day: that is a HUP which means something else."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
