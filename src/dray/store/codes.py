"""The codes that rows are written in, and how instants are stored."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from dray.job import Reason, State
from dray.stations import Held

# Narrow codes: they stand in every row and every index. The SQL view shows them in words.
STATE = {
    State.READY: 0,
    State.RUNNING: 1,
    State.SCHEDULED: 2,
    State.RETRYING: 3,
    State.BLOCKED: 4,
    State.SUCCEEDED: 10,
    State.FAILED: 11,
    State.CANCELLED: 12,
}
STATE_OF = {code: state for state, code in STATE.items()}
REASON = {
    Reason.PARENTS: 1,
    Reason.GROUP: 2,
    Reason.LIMIT: 3,
    Reason.HELD: 4,
    Reason.UNKNOWN_TASK: 5,
    Reason.CHILDREN: 6,
    Reason.COVERED: 7,
}
REASON_OF = {code: reason for reason, code in REASON.items()}

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

READY, RUNNING, SCHEDULED, RETRYING, BLOCKED = 0, 1, 2, 3, 4
HOLDS = int(Held.HOLDS)
SUCCEEDED, FAILED, CANCELLED = 10, 11, 12
# Each with an index of its own, where there are indexes of some rows only.
WAITING = (State.SCHEDULED, State.RETRYING, State.BLOCKED)
UNUSUAL = (State.FAILED, State.CANCELLED)


def instant(microseconds: object) -> datetime | None:
    """An aware datetime for a stored instant; None where there is none, or none that a calendar knows."""
    if not isinstance(microseconds, int):
        return None
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None


def document(ids: Iterable[int]) -> str:
    """Ids as a statement takes them in its parameter `doc`."""
    return msgspec.json.encode(list(ids)).decode()
