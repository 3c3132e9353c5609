"""A claimed job in a worker's hands, and what can be said of one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from dray.context import Context
from dray.durations import show_duration
from dray.grip import Grip
from dray.hooks import Ended
from dray.job import Change, Claim, Done, Flag, Outcome, Skipped, Usage
from dray.meter import Memory
from dray.report import Kind
from dray.runner import Ran


class Item:
    """A claimed job in this process, from the claim to the write of its outcome."""

    # Most of these most jobs never set: as defaults of the class they cost nothing.
    started: float | None = None
    thread: int | None = None  # that runs it; of async ones that of the event loop
    ended = 0.0
    outcome: Outcome | None = None
    stop = False
    dropped: Outcome | None = None  # what becomes of it instead of a start
    marked = False  # the start mark is in the database
    taken_up = False  # a slot has it: from then on it may start at any moment, unless it has been dropped
    behind: Item | None = None  # the next of its group, to be run when this one has succeeded
    memory: Memory | None = None  # before its run
    usage: Usage | None = None
    change: Change | None = None  # what was decided, once it has been
    recorded = False  # that it has failed is on record, though not yet written as its end
    fallback: Ran | None = None  # what it came to, should a hook never return
    hook_since: float | None = None  # since when a hook runs that nobody has to wait for
    grip: Grip | None = None  # by which others can end its run, if it has a limit or is in a process of its own
    hook_grip: Grip | None = None  # the same while a hook runs behind the task: where it is, the hook is as well
    asked_at: float | None = None  # when it is asked to end
    ends_at: float | None = None  # when it is ended
    killed: str | None = None  # where it was when it had to be ended
    metadata: str | None = None  # as it is stored, where the run was in another process
    left_behind = False  # its run or hook took too long: the slot is another thread's now
    on_written: Callable[[bool], None] | None = None  # told when its end is committed, or was refused

    def __init__(self, claim: Claim, context: Context) -> None:
        self.claim = claim
        self.context = context
        self.claimed = time.monotonic()
        self._first = [True]

    @property
    def seconds(self) -> float:
        """How long it has run by now."""
        return 0.0 if self.started is None else round(time.monotonic() - self.started, 3)

    @property
    def title(self) -> str:
        """The job as a line above its stack names it."""
        return f"job {self.claim.id} {self.claim.task}, running for {show_duration(round(self.seconds, 1))}"

    def give_up(self) -> bool:
        """Whether the caller is the first to end this one: without a start, or while a hook hangs, others may want to as
        well."""
        try:
            return self._first.pop()
        except IndexError:
            return False


def ended(item: Item) -> Ended:
    """What hooks are told of an end that is committed."""
    assert item.change is not None
    assert item.started is not None
    return Ended(item.change.state, item.ended - item.started, item.change.error, item.usage)


_SAYS_SO = int(Flag.SUSPECT | Flag.FAIL_ON_CRASH)  # a plain number: asked of each job


def needs_mark(claim: Claim) -> bool:
    """Whether a job writes down that it starts before user code is reached: where a death would otherwise be a riddle."""
    return claim.crashes > 0 or claim.flags & _SAYS_SO != 0


def line_of(item: Item) -> Iterator[Item]:
    """A job and those behind it in its group, in their order."""
    one: Item | None = item
    while one is not None:
        yield one
        one = one.behind


def has_succeeded(item: Item) -> bool:
    """Whether a run leads to success, whatever else there is to say about it."""
    match item.outcome:
        case Done(report=report):
            return report is None or not report.contains(Kind.ERROR)
        case Skipped():
            return True
        case _:
            return False


def lined_up(items: Iterable[Item]) -> int:
    """How many of these wait for the job before them in their group: they take up nobody's slot."""
    return sum(item.claim.follows and item.started is None for item in items)


def has_expired(item: Item) -> bool:
    """Whether its time is over: by the database's clock at the claim, and a steady one since then."""
    expires_at = item.claim.expires_at
    if expires_at is None:
        return False
    return item.claim.claimed_at + (time.monotonic() - item.claimed) * 1_000_000 >= expires_at


def teller(loop: asyncio.AbstractEventLoop, written: asyncio.Future[bool]) -> Callable[[bool], None]:
    """Lets a run on an event loop be told that its end is committed, or was refused."""

    def hear(accepted: bool) -> None:
        if not written.done():
            written.set_result(accepted)

    def tell(accepted: bool) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever wanted to know
            loop.call_soon_threadsafe(hear, accepted)

    return tell
