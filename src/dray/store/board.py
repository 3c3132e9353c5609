"""What a store keeps for people: notices of failures, numbers of what was done, and what somebody should look after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from dray.job import State
from dray.notice import Notice
from dray.rollup import Numbers


class Rollup(NamedTuple):
    """What one worker did of one task and queue in a minute that began at `at`, seconds since 1970."""

    at: int
    worker_id: int
    task: str
    queue: str
    numbers: str  # JSON of `rollup.Numbers`


class TakenNotice(Protocol):
    """A notice that this process is to tell: to all but the channels it has gone to, and how often that went wrong before."""

    @property
    def notice(self) -> Notice: ...
    @property
    def told(self) -> frozenset[str]: ...
    @property
    def tries(self) -> int: ...
    @property
    def deaths(self) -> int: ...


class NoticeBoard(Protocol):
    """What waits to be told. Every failure for good leaves one, in the transaction that makes it true."""

    def notices_waiting(self, gathered: float) -> bool:
        """Whether anything waits to be told for `gathered` seconds already."""
        ...

    def take_notices(self, gathered: float, seconds: float) -> Sequence[TakenNotice]:
        """Take what waits, failures alike as one notice. Nobody else gets them for so many seconds; then, if they have not
        been told, somebody else does, under the same number."""
        ...

    def notice_told(self, taken: Any, channels: Sequence[str], seconds: float) -> bool:
        """Write down to which channels it has gone by now. False: it is not ours any more."""
        ...

    def notice_later(self, taken: Any, seconds: float) -> None:
        """Give it back, to be told to the other channels after so many seconds."""
        ...

    def notice_done(self, taken: Any) -> None:
        """Every channel has it: it is gone."""
        ...

    def digest_if_due(self, following: Callable[[int], int]) -> bool:
        """Leave a notice of all that failed since the last time, if its time has come: once, however many ask. `following`
        gives the next time after an instant."""
        ...


class RollupBoard(Protocol):
    """Numbers of what was done, as the workers counted it."""

    def write_rollups(self, rows: Sequence[Rollup]) -> None:
        """Write what a worker counted of some minutes, in place of what it wrote of them before."""
        ...

    def totals(self, seconds: float) -> Mapping[tuple[str, str], Numbers]:
        """What was done in the last so many seconds, by task and queue."""
        ...

    def errors(self, seconds: float | None = None) -> Sequence[Any]:
        """What failed in the last so many seconds, alike with alike; of the newest 10,000 failed attempts."""
        ...

    def merge_rollups(self, older_than: float) -> int:
        """Make one hour of the oldest minutes that are so many seconds old, whoever else does it too; gives how many rows
        went. Nothing is counted twice, and nothing is lost."""
        ...

    def forget_rollups(self, older_than: float) -> int:
        """Delete the hours that are so many seconds old; gives how many rows went."""
        ...


class OrderBoard(Protocol):
    """What single workers are told, and how they say that they are."""

    def give(self, ids: Sequence[int], order: Any) -> Sequence[int]:
        """Tell these workers what to do; gives those that are alive to hear it. One that is started later never hears it."""
        ...

    def ask_stack(self, worker_id: int) -> int | None:
        """Ask a worker where its jobs are; gives the instant from which on its answer counts. None: it is not alive."""
        ...

    def answer(self, worker_id: int, stack: str) -> None:
        """Say where this worker's jobs are."""
        ...

    def stack(self, worker_id: int, since: int) -> str | None:
        """What a worker has answered since then; None: nothing yet."""
        ...

    def report(self, worker_id: int, *, paused: bool, memory: int, done: int) -> None:
        """Write down how a worker is: its memory in KiB, and how many jobs it has done."""
        ...


class Bell(Protocol):
    """A hint, and nothing more: who misses it finds the job by looking."""

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener whenever this process has made a job ready, after the commit; returns how to stop that."""
        ...


class FleetBoard(Protocol):
    """Whether workers may work at all."""

    def stop_all(self, note: str | None) -> None:
        """Let no worker work, whenever it was or will be started, until `start_all`."""
        ...

    def start_all(self) -> bool:
        """Let workers work again; False: they were not stopped."""
        ...


class CareBoard(Protocol):
    """What may be stuck, and what may go. What a look costs has a limit, whatever the backlog and the history."""

    def runs(self, limit: int) -> Sequence[Any]:
        """The jobs that run, each with its age and the silence of its worker (None: that is not alive), in seconds."""
        ...

    def heads(self) -> Sequence[Any]:
        """Every queue and priority with ready jobs, and for how long the first of them has been ready."""
        ...

    def lane(self, head: Any, older_than: float, limit: int) -> Sequence[Any]:
        """The jobs of one of them that have been ready for longer than so many seconds, the longest first."""
        ...

    def parked(self, limit: int) -> Sequence[Sequence[Any]]:
        """The jobs that no worker knew how to run, task by task, up to `limit` of each; their age counts from the enqueue."""
        ...

    def overdue(self, older_than: float, limit: int) -> Sequence[Any]:
        """The jobs whose time came more than so many seconds ago, and which nobody has made ready."""
        ...

    def count_kept(self, state: State, older_than: float, cap: int = 10_000) -> Any:
        """How many of the oldest that are old enough `prune_batch` leaves, because something still refers to them."""
        ...

    def prune_gates(self, older_than: float) -> int:
        """Delete the rows of groups and limits made more than so many seconds ago that no job uses; gives how many."""
        ...

    def prune_keys(self, after: str | None) -> str | None:
        """Delete unique keys behind this one that nobody holds any more; gives where to go on (None: at the beginning)."""
        ...

    def prune_workers(self, older_than: float) -> int:
        """Delete the rows of workers that ended more than so many seconds ago."""
        ...


class ChoreBoard(Protocol):
    """What somebody has to do now and then, and anybody may."""

    def agenda(self, gathered: float) -> Any:
        """What there is for upkeep to do, in one look; `gathered`: seconds in which notices alike are gathered."""
        ...

    def sweep(self) -> int:
        """Let go on what a crash between a commit and its consequences has left waiting; gives how many jobs became ready."""
        ...

    def go_round(self) -> int:
        """Look at a part of all that waits, whatever is known of it; gives how many jobs that made ready."""
        ...

    def expire(self) -> Any:
        """Cancel what was not started in time, a thousand at most, and ask to end what runs past its deadline."""
        ...

    def open_rates(self) -> float | None:
        """Let start what rates allow by now; gives the seconds until they allow the next (None: nobody waits for that)."""
        ...
