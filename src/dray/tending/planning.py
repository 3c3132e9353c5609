"""How many workers a pool should have, and the next step towards it: values in, one decision out. No clock, no process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dray.durations import show_duration, show_size
from dray.errors import BadOption

SETTLED = 10.0  # seconds a surplus has to last, and a worker to have lived, before one is retired because of it
OVERDUE_AGE = 2.0  # times its limit: a worker that is never idle is not waited for any longer than this
OVERDUE_MEMORY = 1.5
FOREVER = float("inf")


class Stage(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # not registered yet: neither busy nor to spare
    UP = "up"
    LEAVING = "leaving"  # told to end; it may still run jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many workers some queues should have (S1.36–S1.40). A limit of None is none. BadOption if it makes no sense.

    queues      none: all
    least       workers that are always there
    spare       workers with a free slot that are kept ready
    most        processes there ever are, those that are about to end included
    max_age     seconds after which a worker is replaced when idle
    max_output  bytes it may have written
    max_memory  bytes of memory it may have
    """

    name: str
    queues: tuple[str, ...] = ()
    least: int = 2
    spare: int = 1
    most: int = 5
    max_age: float | None = None
    max_output: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise BadOption(f"{self.name}: min = {self.least} is more than max = {self.most}")
        if self.most < 1:
            raise BadOption(f"{self.name}: max = {self.most} allows no worker")
        if self.least < 1 and self.spare < 1:
            raise BadOption(f"{self.name}: min = 0 and spare = 0 would never start a worker")

    def target(self, busy: int) -> int:
        """How many workers there should be when so many have no free slot (C77).

        >>> [Pool(name="mail", least=2, spare=1, most=5).target(busy) for busy in (0, 1, 2, 4, 5)]
        [2, 2, 3, 5, 5]
        """
        return min(max(busy + self.spare, self.least), self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is known of one worker.

    running, slots  jobs it runs, and could run
    age             seconds since its start
    output, memory  bytes it has written and has in memory
    outdated        to be replaced whatever it does
    """

    pid: int
    stage: Stage = Stage.UP
    running: int = 0
    slots: int = 1
    age: float = 0.0
    output: int = 0
    memory: int = 0
    outdated: bool = False

    @property
    def is_busy(self) -> bool:
        return self.stage is Stage.UP and self.running >= self.slots

    @property
    def is_idle(self) -> bool:
        return self.stage is Stage.UP and self.running == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start one more worker."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """Tell a worker to start nothing more, and to end when what it runs has ended."""

    pid: int
    why: str


Decision = Start | Retire | None


@dataclass(frozen=True, slots=True)
class Census:
    """How many there are of each kind; starting ones are counted for themselves (C78)."""

    starting: int
    busy: int
    idle: int
    up: int
    leaving: int

    @property
    def working(self) -> int:
        return self.starting + self.up


def census(members: Iterable[Member]) -> Census:
    """Count the workers of a pool."""
    members = list(members)

    def number(fits: Callable[[Member], bool]) -> int:
        return sum(map(fits, members))

    return Census(
        starting=number(lambda one: one.stage is Stage.STARTING),
        busy=number(lambda one: one.is_busy),
        idle=number(lambda one: one.is_idle),
        up=number(lambda one: one.stage is Stage.UP),
        leaving=number(lambda one: one.stage is Stage.LEAVING),
    )


def surplus(pool: Pool, members: Iterable[Member]) -> int:
    """How many workers more there are than needed; below zero, how many are missing."""
    count = census(members)
    return count.working - pool.target(count.busy)


def plan(pool: Pool, members: Sequence[Member], *, surplus_for: float = 0.0, may_start: bool = True) -> Decision:
    """Decide the one next change to a pool (S1.42, S1.44, C77).

    surplus_for     seconds for which `surplus` has been above zero without a break
    may_start       False while it waits after workers that died at their start
    """
    count = census(members)
    target, room = pool.target(count.busy), pool.most - len(members)
    if count.working < target:
        why = "min" if count.working < pool.least else f"{pool.spare} spare wanted ({count.busy} busy)"
        return Start(why=why) if may_start and room > 0 else None
    if count.starting == 0 and (old := _due(pool, members)) is not None:
        return _replace(old, extra=count.working - target, room=room, leaving=count.leaving, may_start=may_start)
    if count.working > target and surplus_for >= SETTLED and count.leaving == 0:
        return _shrink(pool, members, extra=count.working - target)
    return None


def _replace(old: Retire, *, extra: int, room: int, leaving: int, may_start: bool) -> Decision:
    """First the new one, then the old one; only where there is no room for both, the other way round, one at a time."""
    if extra > 0:
        return old
    if room > 0:
        return Start(why=f"for {old.pid}: {old.why}") if may_start else None
    return old if leaving == 0 else None


def _shrink(pool: Pool, members: Iterable[Member], extra: int) -> Decision:
    if extra == 1 and any(_worn(pool, one) for one in members):
        return None  # it may be the one that was started to replace a worn one, which runs a job again
    idle = [one for one in members if one.is_idle and one.age >= SETTLED]
    oldest = max(idle, key=lambda one: one.age, default=None)
    return None if oldest is None else Retire(pid=oldest.pid, why="surplus")


def _due(pool: Pool, members: Iterable[Member]) -> Retire | None:
    """The worker to be replaced next: idle ones before those that run something, then by age."""
    due = [one for one in members if one.is_idle and _worn(pool, one)] or [
        one for one in members if one.stage is Stage.UP and _worn(pool, one, overdue=True)
    ]
    first = max(due, key=lambda one: one.age, default=None)
    return None if first is None else Retire(pid=first.pid, why=_worn(pool, first))


def _worn(pool: Pool, one: Member, *, overdue: bool = False) -> str:
    """Why a worker should be replaced once it is idle, in words; empty if it should not. `overdue`: even if it is not idle.

    Output is no reason to disturb a worker that runs jobs: what it has written has been passed on, and is not kept.
    """
    ages, memories = (OVERDUE_AGE, OVERDUE_MEMORY) if overdue else (1.0, 1.0)
    if one.outdated:
        return "reload"
    if one.age > ages * (pool.max_age or FOREVER):
        return f"age {show_duration(int(one.age))}"
    if one.memory > memories * (pool.max_memory or FOREVER):
        return f"memory {show_size(one.memory)}"
    if one.output > (pool.max_output or FOREVER) and not overdue:
        return f"output {show_size(one.output)}"
    return ""
