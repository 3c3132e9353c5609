"""Keeps the workers of one pool: does what the plan says, one change at a time, and says so."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict

from dray import events
from dray.durations import show_duration, show_size
from dray.errors import BadOption
from dray.process import NO_ROOM, how_it_ended
from dray.tending.backoff import Backoff
from dray.tending.hired import Hired
from dray.tending.planning import Census, Member, Pool, Retire, Stage, Start, census, plan, surplus

MEASURE_EVERY = 5.0  # seconds between looks at the memory of workers
MUTE = "the worker command says nothing of itself; its workers count as up, and never as busy"


class Keeper:
    """The workers of one pool, and what was learned from how they ended. `start` raises OSError when it cannot."""

    def __init__(self, pool: Pool, start: Callable[[], Hired]) -> None:
        self.pool = pool
        self._start = start
        self.hired: dict[int, Hired] = {}
        self.backoff = Backoff()
        self._surplus_since: float | None = None
        self._measured = float("-inf")
        self._has_started = self._knows_mutes = False

    def members(self, now: float) -> list[Member]:
        return [worker.member(now) for worker in self.hired.values()]

    def census(self, now: float) -> Census:
        return census(self.members(now))

    def turn(self, now: float) -> bool:
        """Make at most one change; says whether there was one."""
        self._look_after(now)
        members = self.members(now)
        if surplus(self.pool, members) <= 0:
            self._surplus_since = None
        elif self._surplus_since is None:
            self._surplus_since = now
        lasted = 0.0 if self._surplus_since is None else now - self._surplus_since
        match plan(self.pool, members, surplus_for=lasted, may_start=self._may_start(now, census(members))):
            case Start(why=why):
                return self._hire(why, now)
            case Retire(pid=pid, why=why):
                self._retire(self.hired[pid], why, now)
                return True
            case None:
                return False

    def _may_start(self, now: float, count: Census) -> bool:
        # After deaths one is tried at a time.
        return self.backoff.left(now) <= 0 and not (self.backoff.is_wary and count.starting)

    def _look_after(self, now: float) -> None:
        for worker in self.hired.values():
            if worker.stage(now) is Stage.UP:
                self.backoff.lived(now, worker.age(now))
            if worker.was_up(now) and not worker.speaks and not self._knows_mutes:
                self._knows_mutes = True
                events.logger.warning("%s: %s", self.pool.name, MUTE)
            if worker.lingers(now):
                worker.kill()
        if now - self._measured >= MEASURE_EVERY:
            self._measure(now)

    def _measure(self, now: float) -> None:
        self._measured = now
        for worker in self.hired.values():
            worker.measure()

    def _hire(self, why: str, now: float) -> bool:
        try:
            worker = self._start()
        except OSError as error:
            if not self._has_started and error.errno not in NO_ROOM:
                raise BadOption(f"the worker command cannot be started: {error}") from error
            self._wait(now, f"{error}", age=0.0, was_up=False, failed=True)
            return False
        self._has_started = True
        self.hired[worker.pid] = worker
        self._tell("tend.started", worker, now, why=why)
        return True

    def _retire(self, worker: Hired, why: str, now: float) -> None:
        worker.retire(why)
        self._tell("tend.retires", worker, now, worker_id=worker.worker_id, why=why)

    def reload(self) -> None:
        """Have every worker that is here now replaced."""
        for worker in self.hired.values():
            worker.outdated = True

    def ended(self, worker: Hired, code: int, now: float) -> bool:
        """A worker's process is gone; says whether it died, so that what it held should be freed."""
        asked, last = worker.asked, how_it_ended(code)
        del self.hired[worker.pid]
        # A signal ends a worker that has not begun, and a program that is none of ours, as it should.
        well = (0,) if worker.speaks else (0, -signal.SIGTERM)
        orderly = worker.said_bye or (asked is not None and code in well)
        if orderly:
            self._tell("tend.ended", worker, now, worker_id=worker.worker_id, why=asked or "by itself")
        else:
            self._tell("tend.died", worker, now, worker_id=worker.worker_id, how=last, running=worker.running)
        if asked is None:
            self._wait(now, last, age=worker.age(now), was_up=worker.was_up(now), failed=not orderly)
        return not orderly

    def _wait(self, now: float, last: str, *, age: float, was_up: bool, failed: bool) -> None:
        if self.backoff.died(now, age=age, was_up=was_up, failed=failed):
            events.logger.warning("%s: %s", self.pool.name, self.backoff.say(now, last))

    def _tell(self, event: str, worker: Hired, now: float, **facts: object) -> None:
        busy = self.census(now).busy
        events.emit(event, pool=self.pool.name, pid=worker.pid, **facts, workers=len(self.hired), busy=busy)

    # --- what can be seen -----------------------------------------------------------------------------------------------

    def show(self, now: float) -> None:
        """Say how it stands: a line for the pool, and one for each worker."""
        self._measure(now)
        count, pool = self.census(now), self.pool
        target = pool.target(count.busy)
        events.emit("tend.pool", pool=pool.name, min=pool.least, max=pool.most, target=target, **asdict(count))
        for worker in self.hired.values():
            events.emit(
                "tend.worker",
                pool=pool.name,
                pid=worker.pid,
                worker_id=worker.worker_id,
                state=state_of(worker, now),
                running=f"{worker.running}/{worker.slots}",
                age=show_duration(int(worker.age(now))),
                memory=show_size(worker.memory),
                output=show_size(worker.output),
                jobs=", ".join(busy_with(worker, now)),
            )

    def facts(self, now: float) -> dict[str, object]:
        """The same for the status file."""
        self._measure(now)
        count, pool = self.census(now), self.pool
        return {
            "name": pool.name,
            "queues": pool.queues,
            "min": pool.least,
            "spare": pool.spare,
            "max": pool.most,
            "target": pool.target(count.busy),
            **asdict(count),
            "next_start_in": round(self.backoff.left(now), 3),
            "workers": [
                {
                    "pid": worker.pid,
                    "worker_id": worker.worker_id or None,
                    "state": state_of(worker, now),
                    "running": worker.running,
                    "slots": worker.slots,
                    "jobs": [{"id": id, "task": task, "seconds": round(now - since, 3)} for id, task, since in worker.jobs],
                    "age": round(worker.age(now), 3),
                    "memory": worker.memory,
                    "output": worker.output,
                }
                for worker in self.hired.values()
            ],
        }


def busy_with(worker: Hired, now: float) -> list[str]:
    """What a worker runs and since when, in words."""
    return [f"{task} {show_duration(int(now - since))}" for _, task, since in worker.jobs]


def state_of(worker: Hired, now: float) -> str:
    """One word for a worker: starting, idle, working, busy (no free slot) or leaving."""
    member = worker.member(now)
    if member.stage is not Stage.UP:
        return member.stage.value
    return "busy" if member.is_busy else "idle" if member.is_idle else "working"
