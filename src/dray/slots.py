"""Where jobs run: threads for ordinary functions, one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue

from dray.context import Context
from dray.job import Cancelled, Claim, Done, Failed, Flag, HandedBack, Outcome, Skipped
from dray.report import Kind
from dray.runner import Prepared, Ran, Runner


class Item:
    """A claimed job in this process, from the claim to the write of its outcome."""

    __slots__ = (
        *("behind", "claim", "claimed", "context", "dropped", "ended", "marked", "outcome", "started", "stop"),
        *("_first", "taken_up"),
    )

    def __init__(self, claim: Claim, context: Context) -> None:
        self.claim = claim
        self.context = context
        self.claimed = time.monotonic()
        self.started: float | None = None
        self.ended = 0.0
        self.outcome: Outcome | None = None
        self.stop = False
        self.dropped: Outcome | None = None  # what becomes of it instead of a start
        self.marked = False  # the start mark is in the database
        self.taken_up = False  # a slot has it: from then on it may start at any moment, unless it has been dropped
        self._first = [True]
        self.behind: Item | None = None  # the next of its group, to be run when this one has succeeded

    def give_up(self) -> bool:
        """Whether the caller is the first to end this one without a start: a slot and the worker may both want to."""
        try:
            return self._first.pop()
        except IndexError:
            return False


class Slots:
    """`concurrency` threads, and as many async jobs at once on one event loop.

    may_start   asked just before a job is started, so that nothing runs on a lease that is running out
    mark        writes the start mark; False when the lease is lost
    on_done     called from a slot when somebody should look at `done`
    """

    def __init__(
        self,
        runner: Runner,
        concurrency: int,
        *,
        may_start: Callable[[], bool],
        mark: Callable[[Item], bool],
        on_done: Callable[[], None],
    ) -> None:
        self._runner, self.concurrency = runner, concurrency
        self._may_start, self._mark, self._on_done = may_start, mark, on_done
        self._todo: SimpleQueue[Item | None] = SimpleQueue()
        self._waiting: deque[Item] = deque()  # async ones that have no place on the loop yet
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_tasks: dict[Item, asyncio.Task[None]] = {}
        self.running: set[Item] = set()
        self.done: deque[Item] = deque()

    def start(self, items: list[Item]) -> None:
        """Give jobs to the slots, in this order."""
        coroutines = []
        for item in items:
            definition = self._runner.definition(item.claim.task)
            if definition is not None and definition.is_async:
                coroutines.append(item)
            else:
                self._todo.put(item)
        wanted = min(self.concurrency, len(items) - len(coroutines))
        while len(self._threads) < self.concurrency and wanted > 0:
            wanted -= 1
            self._start_thread()
        if coroutines:
            self._waiting.extend(coroutines)
            self._the_loop().call_soon_threadsafe(self._fill_loop)

    def buffered(self) -> int:
        """How many jobs wait here for a slot."""
        return self._todo.qsize() + len(self._waiting)

    def take_back(self) -> list[Item]:
        """Take all jobs that wait for a slot; nobody will start them any more."""
        first = []
        with contextlib.suppress(Empty):
            while (item := self._todo.get_nowait()) is not None:
                first.append(item)
        with contextlib.suppress(IndexError):
            while True:
                first.append(self._waiting.popleft())
        return [one for item in first for one in line_of(item)]

    def stop(self) -> None:
        """Let the threads end when they have nothing to do."""
        for _ in self._threads:
            self._todo.put(None)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def cancel(self, item: Item) -> None:
        """Ask a running job to end at its next checkpoint; for an async one, that is its next await."""
        item.context.request_cancel()
        task = self._async_tasks.get(item)
        if task is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(task.cancel)

    # --- threads --------------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"dray-slot-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (first := self._todo.get()) is not None:
            item: Item | None = first
            while item is not None:
                self._run(item)
                item = self._after(item)

    def _run(self, item: Item) -> None:
        prepared = self._begin(item)
        if isinstance(prepared, Prepared):
            self._end(item, self._runner.run(prepared, item.context))

    def _after(self, item: Item) -> Item | None:
        """What is run in this place now: the next of the same group, if there is one and this one has succeeded."""
        behind = item.behind
        if behind is None or has_succeeded(item):
            return behind
        for one in line_of(behind):
            self._end(one, Ran(HandedBack(why=f"job {item.claim.id} of its group comes first")))
        return None

    # --- the event loop -------------------------------------------------------------------------------------------------

    def _the_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, args=(self._loop,), name="dray-loop", daemon=True).start()
        return self._loop

    def _run_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def _fill_loop(self) -> None:
        while len(self._async_tasks) < self.concurrency:
            try:
                item = self._waiting.popleft()
            except IndexError:
                return
            assert self._loop is not None
            self._async_tasks[item] = self._loop.create_task(self._arun(item))

    async def _arun(self, item: Item) -> None:
        try:
            # The mark is a write to the database: it must not stop the loop.
            needs_thread = needs_mark(item.claim)
            prepared = await asyncio.to_thread(self._begin, item) if needs_thread else self._begin(item)
            if isinstance(prepared, Prepared):
                self._end(item, await self._runner.arun(prepared, item.context))
        except asyncio.CancelledError:
            if item.outcome is None:  # cancelled before user code was reached
                self._end(item, Ran(Cancelled()))
        finally:
            self._async_tasks.pop(item, None)
            if (behind := self._after(item)) is not None:
                self._waiting.appendleft(behind)
            self._fill_loop()

    # --- both -----------------------------------------------------------------------------------------------------------

    def _begin(self, item: Item) -> Prepared | None:
        """Everything before user code; None when there will be none."""
        item.taken_up = True  # before the look: who drops it looks the other way round
        if item.dropped is None and has_expired(item):
            item.dropped = Cancelled(why="expired: it had not been started in time")
        if item.dropped is not None:
            if item.give_up():
                self._end(item, Ran(item.dropped))
            return None
        if not self._may_start():
            self._end(item, Ran(HandedBack(why="the lease was running out")))
            return None
        self.running.add(item)
        try:
            if needs_mark(item.claim) and not self._mark(item):
                self._end(item, Ran(HandedBack(why="the lease was lost")))
                return None
            prepared = self._runner.prepare(item.context, item.claim.args)
        except Exception as error:  # the database, on the mark: nothing has been started
            self._end(item, Ran(HandedBack(why=f"could not be started: {error}")))
            return None
        if isinstance(prepared, Ran):
            self._end(item, prepared)
            return None
        item.started = time.monotonic()
        return prepared

    def _end(self, item: Item, ran: Ran) -> None:
        item.outcome, item.stop = ran.outcome, ran.stop
        item.ended = time.monotonic()
        self.running.discard(item)
        first = not self.done  # two may think so, which is better than none
        self.done.append(item)
        # Waking the worker costs a switch of threads: once it knows of the first outcome, it comes by itself for the others.
        if first or ran.stop or isinstance(ran.outcome, Failed) or not self.buffered():
            self._on_done()


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
