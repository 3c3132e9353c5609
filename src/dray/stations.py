"""Where a job has to wait on its way to ready: pure, so that enqueue, due, release, retry and settle cannot disagree.

A job passes its parents, its time, an operator's hold, its group, its limit, in this order. What it holds of a gate is a
small number on its row, so that a gate has no count of its own that could be wrong.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

from dray.job import FOLLOWS, Flag, Reason, State, name_hash

GROUP, LIMIT = "group", "limit"  # the kinds of gates


class Held(IntEnum):
    """What a job has of its group or limit; NULL: it is not in the line of it."""

    COVERED = -1  # it has left the line of its group: another does its work
    WAITS = 0  # it stands in line
    HOLDS = 1  # it is at the head of its group, or is one of those that its limit allows
    FOLLOWS = FOLLOWS  # of its group: the worker that has the head runs this one after it


class Place(NamedTuple):
    """Where a job comes to stand, and what it holds there."""

    state: State
    reason: Reason | None
    group_held: int | None
    limit_held: int | None


class Arriving(Protocol):
    """What has to be known of a job whose parents have ended and whose time has come."""

    @property
    def flags(self) -> int: ...
    @property
    def group_hash(self) -> int | None: ...
    @property
    def group_held(self) -> int | None: ...
    @property
    def limit_hash(self) -> int | None: ...
    @property
    def limit_held(self) -> int | None: ...


def gate_hash(kind: str, name: str | None) -> int | None:
    """The number under which a gate is kept: a group and a limit of the same name are two."""
    return None if name is None else name_hash(f"{kind}:{name}")


READY = Place(State.READY, None, None, None)
HELD = Place(State.BLOCKED, Reason.HELD, None, None)  # it gives back what it holds, so that it keeps nobody waiting


def enter(job: Arriving) -> Place:
    """Where this job stands now: at the first station that keeps it, or ready.

    A job that never held its gates goes to the end of their lines: only settle, which knows all that stand there, lets one
    through. A head that comes back from a retry holds its group still.
    """
    if job.flags & Flag.HELD:
        return HELD
    group = None if job.group_hash is None else job.group_held or Held.WAITS
    if group == Held.WAITS:
        return Place(State.BLOCKED, Reason.GROUP, Held.WAITS, None)
    limit = None if job.limit_hash is None else job.limit_held or Held.WAITS
    if limit == Held.WAITS:
        return Place(State.BLOCKED, Reason.LIMIT, group, Held.WAITS)
    return Place(State.READY, None, group, limit)
