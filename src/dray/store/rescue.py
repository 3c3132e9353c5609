"""Freeing what the dead held: a standing condition, not an event, so that a rescuer who dies half-way changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace
from sqlalchemy import Connection, Row

from dray.job import Change, Claim, Died, Finish, Lease, Ready, State
from dray.lifecycle import DEFAULT_RETRY, decide, heed
from dray.store.attempts import recorded
from dray.store.base import Freed
from dray.store.claim import CLAIM_COLUMNS
from dray.store.finish import finish
from dray.store.owed import Owed
from dray.store.tables import Tables
from dray.store.workers import ALIVE, Beat


class Rescued(NamedTuple):
    """What one pass did: how many jobs it freed, those that are ready again, those that failed for good, and each of them."""

    freed: int
    ready: list[Ready]
    failed: list[int]
    jobs: Sequence[Freed] = ()


# Arguments are not needed to judge a death, and may be large. The sum keeps planners, who believe that one is soon met with,
# from walking along the ids of all that waits: jobs that run are as few as workers have room for, and an index has them.
_COLUMNS = ", ".join("'' AS args" if column == "args" else f"j.{column}" for column in CLAIM_COLUMNS)
_LOST = (
    f"SELECT {_COLUMNS}, j.started_at, {{now}} AS now FROM {{jobs}} j WHERE j.state = 1 AND NOT EXISTS"
    f" (SELECT 1 FROM {{workers}} w WHERE w.id = j.worker_id AND w.state = {ALIVE}) ORDER BY j.id + 0 LIMIT :n"
)
_LOCK = {"sqlite": "", "postgresql": " FOR NO KEY UPDATE OF j SKIP LOCKED", "mysql": " FOR UPDATE SKIP LOCKED"}


def anything_lost(connection: Connection, tables: Tables) -> bool:
    """Whether there is anything to rescue: asked without a lock, since mostly there is not."""
    return connection.execute(tables.text(_LOST), {"n": 1}).first() is not None


def rescue(connection: Connection, tables: Tables, limit: int = 500) -> tuple[Rescued, Owed]:
    """Free up to `limit` running jobs whose worker is not alive, or has no row at all (C14, C16, C18).

    What surely ran is a crash of that job; what perhaps ran goes back uncounted. Each move is fenced like any other: a result
    that was committed a moment before wins.
    """
    statement = tables.text(_LOST + _LOCK[tables.dialect.name])
    rows = connection.execute(statement, {"n": limit}).all()
    if not rows:
        return Rescued(0, [], []), Owed()
    known = recorded(connection, tables, [Lease(row.id, row.fence) for row in rows])
    finishes = [_freed(row, known) for row in rows]
    done, owed = finish(connection, tables, finishes)
    freed = [one for one in finishes if one.claim.lease not in done.refused]
    failed = [one.claim.id for one in freed if one.change.state is State.FAILED]
    return Rescued(len(freed), done.ready, failed, [_told(one) for one in freed]), owed


def _told(one: Finish) -> Freed:
    # The flags were read under the lock, so this is what the finish made of it too.
    claim, change = one.claim, heed(one.change, one.claim.flags)
    return Freed(claim.id, claim.task, claim.queue, claim.worker_id, change.state, change.error)


def _freed(row: Row[Any], known: Mapping[Lease, Change]) -> Finish:
    """The end of a run whose worker has died. What it had put on record before stands."""
    claim = Claim(*row[: len(CLAIM_COLUMNS)])
    started = row.started_at is not None
    ran = max(0, row.now - row.started_at) / 1_000_000 if started else 0.0
    change = known.get(claim.lease)
    if change is None:
        return Finish(claim, decide(claim, Died(started=started)), ran=ran, started=started)
    if change.state is State.RETRYING:  # the delay is its task's to say, which nobody here knows
        change = replace(change, delay=DEFAULT_RETRY.delay(claim.attempt))
    return Finish(claim, change, ran=ran, recorded=True)


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first also runs while the machine sleeps


@dataclass(slots=True)
class Watch:
    """One rescuer's own observation of the others' heartbeats.

    A worker is given up only after its beat was seen to stand still for a full TTL by somebody whose own connection held all
    that time. So a database that was away, or a rescuer that was, kills nobody: the watch starts anew.
    """

    ttl: float  # seconds
    clock: Callable[[], float] = field(default=lambda: time.clock_gettime(_STEADY))
    seen: dict[int, tuple[int, float]] = field(default_factory=dict)  # worker -> its beat, and since when it stands there
    last: float | None = None

    def observe(self, beats: Iterable[Beat]) -> list[Beat]:
        """Take note of the beats as they are now; gives those that have stood still for the whole TTL."""
        now = self.clock()
        if self.last is not None and now - self.last > self.ttl / 2:
            self.broken()  # we were asleep or stopped ourselves: what happened meanwhile was not watched
        self.last = now
        fresh: dict[int, tuple[int, float]] = {}
        still = []
        for beat in beats:
            before = self.seen.get(beat.worker_id)
            since = before[1] if before is not None and before[0] == beat.beat_at else now
            fresh[beat.worker_id] = (beat.beat_at, since)
            if now - since >= self.ttl:
                still.append(beat)
        self.seen = fresh
        return still

    def broken(self) -> None:
        """The connection broke: nothing seen before it counts."""
        self.seen.clear()
        self.last = None

    def next_look(self, period: float) -> float:
        """Seconds until the next look: the period, or sooner when a watched beat will have stood still for the TTL."""
        now = self.clock()
        ends = [since + self.ttl - now for _, since in self.seen.values() if since + self.ttl - now > 0]
        return min([period, *[end + 0.001 for end in ends]])
