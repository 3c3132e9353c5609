"""What the engine may ask of a store, with the promise of each method. `dray.testing.StoreContract` tests the promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dray.job import Added, Claim, Finish, Lease, NewJob, Ready


class Exchange(NamedTuple):
    """What finishing a batch and claiming the next came to. Ends not in `accepted` had lost their lease."""

    accepted: set[Lease]
    ready: list[Ready]
    claims: list[Claim]


class Pickup(Protocol):
    """What one worker remembers between its claims; made by `Store.pickup` and passed back unread."""

    @property
    def queues(self) -> tuple[str, ...]: ...


class EngineStore(Protocol):
    """The part of a store that the worker's loop stands on. Everything raises StoreUnavailable when the database is away."""

    def add(self, jobs: Sequence[NewJob], connection: Any = None) -> list[Added]:
        """Insert jobs, all or none, and give ids in the order of the jobs. On a caller's connection it is the caller's commit
        that makes them exist. A single job without labels is one round trip."""
        ...

    def pickup(self, queues: Sequence[str]) -> Pickup:
        """Begin to claim from these queues, by exact name; none: from all."""
        ...

    def claim(self, worker_id: int, pickup: Pickup, limit: int) -> list[Claim]:
        """Take up to `limit` ready jobs, the most urgent first, then the longest ready. No job is given to two workers. Raises
        WorkerGone when the worker is not alive."""
        ...

    def exchange(
        self, worker_id: int, pickup: Pickup, finishes: Sequence[Finish], limit: int, *, again: bool = False
    ) -> Exchange:
        """End runs and take up to `limit` new jobs in one transaction. An end whose lease was lost writes nothing. `again`: an
        earlier try broke off with an unknown result."""
        ...

    def mark_started(self, lease: Lease, ago: float = 0.0) -> bool:
        """Write down that user code was reached. False when the lease is lost: then it must not be."""
        ...

    def promote(self, limit: int = 1000) -> Any:
        """Make due jobs ready; tells them and the seconds until the next is due."""
        ...

    def adopt(self, known: Mapping[str, int]) -> list[Ready]:
        """Free parked jobs whose task and signature are known here."""
        ...
