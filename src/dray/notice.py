"""What somebody is told: that jobs have failed for good, or so often that it is worth a look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Event(StrEnum):
    """What a notice is about."""

    ATTEMPTS = "attempts"  # a job has failed as many times as its task names in `notify_at` (S2.3)
    FAILED = "failed"  # a job has failed for good
    DIGEST = "digest"  # all that failed since the last digest (S4.39)


class Failure(NamedTuple):
    """One job in a notice."""

    job_id: int
    queue: str
    attempt: int
    error: str | None
    at: datetime | None


class Group(NamedTuple):
    """Failures alike, in a digest: how many, and the newest of them."""

    task: str
    error: str | None
    failed: int
    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What is told at once: failures of one task in one way, or a digest of all.

    id           stays the same when it has to be told again, because a worker died while it told it
    fingerprint  the same for what fails in the same place in the same way; None: unknown
    failures     the first ones; `count` says how many there are
    groups       in a digest instead: failures alike, most of them first
    since        of a digest: when the one before was made
    """

    id: int
    event: Event
    task: str
    fingerprint: int | None
    count: int
    failures: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()
    since: datetime | None = None

    @property
    def error(self) -> str | None:
        """What the first of them said."""
        return self.failures[0].error if self.failures else None
