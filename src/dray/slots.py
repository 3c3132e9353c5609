"""Where jobs run: threads for ordinary functions, one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from queue import Empty, SimpleQueue

from dray import events
from dray.context import enter
from dray.deadlines import Deadlines
from dray.executors import Executors, ended_hard
from dray.grip import LoopGrip
from dray.hooks import Hooks
from dray.item import Item, ended, has_expired, has_succeeded, line_of, needs_mark, teller
from dray.job import Cancelled, Claim, Died, Failed, HandedBack, Outcome
from dray.meter import Meter, Stopwatch
from dray.outside.children import Plan
from dray.pulse import Pulse
from dray.runner import Prepared, Ran, Runner
from dray.stacks import thread_stack
from dray.stragglers import Crowd, leave


class Slots:
    """`concurrency` threads, and as many async jobs at once on one event loop.

    may_start   asked just before a job is started, so that nothing runs on a lease that is running out
    mark        writes the start mark; False when the lease is lost
    record      puts on record that a run has failed, before a hook is called
    on_done     called from a slot when somebody should look at `done`
    on_stuck    told why, when something here goes on that cannot be ended but with the process
    plan        how isolated jobs find the app in a process of their own
    """

    def __init__(
        self,
        runner: Runner,
        concurrency: int,
        *,
        may_start: Callable[[], bool],
        mark: Callable[[Item], bool],
        record: Callable[[Item, Outcome], None],
        on_done: Callable[[], None],
        on_stuck: Callable[[str], None],
        plan: Plan | None = None,
    ) -> None:
        self._runner, self.concurrency, self._on_stuck, self._crowd = runner, concurrency, on_stuck, Crowd(on_stuck)
        self.pulse, self._meter = Pulse(), Meter()
        self._deadlines = Deadlines(lambda: list(self.running), self._end_late, self.pulse)
        self.executors = Executors(runner, plan, concurrency, self._deadlines, self.pulse)
        self._may_start, self._mark, self._record, self._on_done = may_start, mark, record, on_done
        self._leaving = threading.Lock()  # of hooks: either by their thread, or behind its back
        self._todo: SimpleQueue[Item | None] = SimpleQueue()
        self._waiting: deque[Item] = deque()  # async ones that have no place on the loop yet
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._async_tasks: dict[Item, asyncio.Task[None]] = {}
        self.running: set[Item] = set()
        self.hooking: set[Item] = set()  # with hooks that are called, or will be, after the task
        self.done: deque[Item] = deque()

    def start(self, items: list[Item]) -> None:
        """Give jobs to the slots, in this order."""
        coroutines = []
        for item in items:
            if self._is_async(item):
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

    def _is_async(self, item: Item) -> bool:
        definition = self._runner.definition(item.claim.task)
        return definition is not None and definition.on_loop

    def is_apart(self, claim: Claim) -> bool:
        """Whether a job runs in another process, so that its crash takes nobody with it."""
        definition = self._runner.definition(claim.task)
        return definition is not None and definition.is_apart

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
        self._deadlines.stop()
        self.executors.children.stop()

    def cancel(self, item: Item) -> None:
        """Ask a running job to end at its next checkpoint; for an async one, that is its next await. A program or a process of
        its own has a few seconds for it."""
        item.context.request_cancel()
        self.executors.cancel(item)

    def stack(self, item: Item) -> str:
        """Where a running job is at this moment."""
        if item.grip is not None:
            return item.grip.stack()
        return "" if item.thread is None else thread_stack(item.thread)

    def end_outside(self, items: Collection[Item], patience: float = 0.0) -> None:
        """End what these run in other processes, and wait a moment until that is so."""
        ended, deadline = self.executors.end_outside(items), time.monotonic() + patience
        while any(item in self.running for item in ended) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _end_late(self, item: Item) -> None:
        """Its last limit is over: end it, or at least its job."""
        grip, definition = item.grip, self._runner.definition(item.claim.task)
        if grip is None or definition is None:
            return  # it has just ended
        try:
            stack = grip.stack()
        except OSError as error:
            stack = f"its stack cannot be seen: {error}"
        ended = grip.end(lambda: setattr(item, "killed", stack))
        if ended is not None:
            events.emit("job.ended_late", job_id=item.claim.id, task=item.claim.task, seconds=item.seconds)
        if ended is not False:
            return
        with self._leaving:
            if item.outcome is not None or not item.give_up():
                return
            item.left_behind = True
            item.killed = stack
        self._end(item, ended_hard(item, definition))
        if self._is_async(item):
            self._async_tasks.pop(item, None)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._fill_loop)
        else:
            self._replace_thread(item)
        self._on_stuck(f"job {item.claim.id} goes on past its end, and can only be ended with this process")

    def leave_hooks_behind(self, now: float) -> None:
        """Go on without hooks that take too long: their thread stays with them, and another takes its place; a process of its
        own is ended. Too many of them are a reason to be replaced."""
        for item in list(self.hooking):
            if self._is_async(item):
                continue  # those have their limit where they are called
            with self._leaving:
                since = item.hook_since
                if since is None or item.left_behind or now - since < self._runner.hook_limit:
                    continue
                item.left_behind = True
            events.emit("hook.hangs", job_id=item.claim.id, task=item.claim.task, seconds=now - since)
            if item.outcome is None and item.give_up():
                assert item.fallback is not None
                self._end(item, item.fallback)
            if item.hook_grip is not None:
                item.hook_grip.end(lambda: None)
            leave(self._replace_thread(item))
        self._crowd.look()

    def _replace_thread(self, item: Item) -> threading.Thread:
        """Its thread, which is given, stays with it: another takes its place, and goes on with what comes behind it."""
        if (behind := self._after(item)) is not None:
            self._todo.put(behind)
        stays = next(thread for thread in self._threads if thread.ident == item.thread)
        self._start_thread()  # first: there shall never seem to be room for one more
        self._threads.remove(stays)
        return stays

    # --- threads --------------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"dray-slot-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (first := self._todo.get()) is not None:
            item: Item | None = first
            while item is not None:
                try:
                    self._run(item)
                except BaseException as error:  # not of the task, which cannot raise here
                    self._broke(item, error)
                if item.left_behind:
                    return  # another thread has taken this one's place
                item = self._after(item)

    def _broke(self, item: Item, error: BaseException) -> None:
        """Something here went wrong, and not in the task: no job may stay running because of that."""
        why = f"{type(error).__name__}: {error}"
        events.emit("slot.failed", job_id=item.claim.id, task=item.claim.task, error=why)
        if item.outcome is None and self._is_first(item):
            self._end(item, Ran(Died(started=item.started is not None, how=f"it could not be run: {why}")))

    def _run(self, item: Item) -> None:
        prepared = self._begin(item)
        if prepared is None:
            return
        hooks = prepared.hooks
        if hooks is None:  # as mostly
            began = time.thread_time()
            if prepared.definition.is_plain:
                self._end(item, self._runner.run(prepared, item.context), time.thread_time() - began)
                return
            ran = self.executors.run(item, prepared, lambda ran: None)
            if self._is_first(item):
                self._end(item, ran, time.thread_time() - began)
            return
        self.hooking.add(item)
        try:
            self._run_with_hooks(item, prepared, hooks)
        finally:
            self.hooking.discard(item)

    def _run_with_hooks(self, item: Item, prepared: Prepared, hooks: Hooks) -> None:
        written: SimpleQueue[bool] = SimpleQueue()
        if hooks.after_run:
            item.on_written = written.put
        began = time.thread_time()
        ran = self.executors.run(item, prepared, lambda ran: self._has_failed(item, ran))
        self._leave_hook(item)
        if self._is_first(item):
            self._end(item, ran, time.thread_time() - began)
        if hooks.after_run and not item.left_behind and written.get():
            with self._in_hook(item):
                hooks.ended(item.context, ended(item))

    def _is_first(self, item: Item) -> bool:
        """Whether its thread is the first to end it; if not, it knows by then whether another thread has taken its place."""
        with self._leaving:
            return item.give_up()

    def _has_failed(self, item: Item, ran: Ran) -> None:
        """Whatever its hook does now: this failure is known."""
        item.fallback, item.hook_grip = ran, item.grip
        self.executors.let_go(item)
        self._record(item, ran.outcome)
        item.hook_since = time.monotonic()

    def _leave_hook(self, item: Item) -> None:
        with self._leaving:
            item.hook_since = None

    @contextlib.contextmanager
    def _in_hook(self, item: Item) -> Iterator[None]:
        item.hook_since = time.monotonic()
        leave = enter(item.context)
        try:
            yield
        finally:
            leave()
            self._leave_hook(item)

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
            if prepared is not None:
                await self._arun_prepared(item, prepared)
        except asyncio.CancelledError:
            if item.outcome is None:  # cancelled before user code was reached
                self._end(item, Ran(Cancelled()))
        except Exception as error:
            self._broke(item, error)
        finally:
            self._async_tasks.pop(item, None)
            if (behind := self._after(item)) is not None:
                self._waiting.appendleft(behind)
            self._fill_loop()

    async def _arun_prepared(self, item: Item, prepared: Prepared) -> None:
        hooks, watch = prepared.hooks, Stopwatch()
        # On an event loop a hook has its limit where it is called; the record is all that has to be made for it here.
        steps = self._runner.arun(prepared, item.context, lambda ran: self._record(item, ran.outcome))
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self.executors.hold(item, prepared.definition, LoopGrip(loop, task, steps, item.context, threading.get_ident()))
        if hooks is None or not hooks.after_run:
            self._aend(item, await watch.timed(steps), watch.seconds)
            return
        written: asyncio.Future[bool] = loop.create_future()
        item.on_written = teller(loop, written)
        self.hooking.add(item)
        try:
            self._aend(item, await watch.timed(steps), watch.seconds)
            if await written:
                with self._in_hook(item):
                    await hooks.aended(item.context, ended(item), self._runner.hook_limit)
        finally:
            self.hooking.discard(item)

    def _aend(self, item: Item, ran: Ran, cpu: float) -> None:
        self.executors.let_go(item)
        if item.give_up():
            self._end(item, ran, cpu)

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
        item.memory = self._meter.begin(alone=len(self.running) == 1)
        item.thread = threading.get_ident()
        item.started = time.monotonic()
        return prepared

    def _end(self, item: Item, ran: Ran, cpu: float | None = None) -> None:
        item.ended = time.monotonic()
        if item.memory is not None:
            here = self._meter.end(item.memory, cpu)
            item.usage = item.usage or here  # of another process, where it ran in one
        item.outcome, item.stop = ran.outcome, ran.stop
        self.running.discard(item)
        first = not self.done  # two may think so, which is better than none
        self.done.append(item)
        # Waking the worker costs a switch of threads: once it knows of the first outcome, it comes by itself for the others.
        if first or ran.stop or isinstance(ran.outcome, Failed) or not self.buffered():
            self._on_done()
