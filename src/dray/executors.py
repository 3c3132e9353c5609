"""How a run is run: in its thread, as a program, or in a process of its own; and how others have a grip on it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from dray.command import Command
from dray.context import Context
from dray.deadlines import Deadlines
from dray.durations import show_duration
from dray.grip import Grip, ThreadGrip
from dray.item import Item
from dray.job import Cancelled, Died, Failed, Usage
from dray.options import Isolate
from dray.outside.children import ChildGrip, Children, Plan
from dray.outside.children import run as run_in_child
from dray.outside.programs import ProgramGrip
from dray.outside.programs import run as run_program
from dray.pulse import Pulse
from dray.runner import Failing, Prepared, Ran, Runner
from dray.task import Definition

CANCEL_PATIENCE = 10.0  # seconds that a program or process has to end once it was cancelled


class Executors:
    """Runs jobs in the thread that calls, each as its task says.

    plan        how a process of its own finds the app; None: it cannot
    most        processes that may be needed at once
    deadlines   sees to their limits
    pulse       by which other processes see when they have to end
    """

    def __init__(self, runner: Runner, plan: Plan | None, most: int, deadlines: Deadlines, pulse: Pulse) -> None:
        self._runner, self._deadlines, self._pulse = runner, deadlines, pulse
        self.children = Children(plan, most, pulse)

    def run(self, item: Item, prepared: Prepared, failing: Failing) -> Ran:
        """Run a job to its end."""
        definition = prepared.definition
        if definition.command is not None:
            ran = self._as_program(item, prepared, definition.command, failing)
        elif (isolate := definition.defaults.isolate) is not None:
            ran = self._in_child(item, definition, isolate, failing)
        elif definition.is_limited:
            grip = ThreadGrip()
            self.hold(item, definition, grip)
            ran = self._runner.run(prepared, item.context, failing, grip.call)
        else:
            return self._runner.run(prepared, item.context, failing)
        self.let_go(item)
        return ran if item.killed is None else ended_hard(item, definition)

    def hold(self, item: Item, definition: Definition, grip: Grip) -> None:
        """From now on others may reach the run, and its time counts."""
        item.grip = grip
        defaults = definition.defaults
        if definition.is_limited:
            now = time.monotonic()
            item.asked_at = None if defaults.timeout is None else now + defaults.timeout
            item.ends_at = None if defaults.hard_timeout is None else now + defaults.hard_timeout
            self._deadlines.watch(item)

    def let_go(self, item: Item) -> None:
        """It has ended, or only a hook is left of it: what is said to it from now on is said to nobody."""
        item.asked_at = item.ends_at = item.grip = None

    def cancel(self, item: Item) -> None:
        """Ask a run to end; one that can be ended from outside has a moment for it."""
        grip = item.grip
        if grip is None:
            return
        grip.cancel()
        if isinstance(grip, OUTSIDE):
            ends_at = time.monotonic() + CANCEL_PATIENCE
            item.ends_at = ends_at if item.ends_at is None else min(item.ends_at, ends_at)
            self._deadlines.watch(item)

    def _as_program(self, item: Item, prepared: Prepared, command: Command, failing: Failing) -> Ran:
        grip = ProgramGrip()
        self.hold(item, prepared.definition, grip)

        def call(function: Callable[..., Any], args: Any, kwargs: Any, context: Context) -> None:
            run_program(command, prepared.definition.arguments(args, kwargs), context, grip, self._pulse.page)

        ran = self._runner.run(prepared, item.context, failing, call)
        if grip.late:
            return Ran(Died(started=True, how="its worker was frozen, or cut off, until others could soon take it over"))
        if grip.pid:
            item.usage = Usage(grip.pid, grip.cpu, 0, 0, 0, grip.memory)
        return ran

    def _in_child(self, item: Item, definition: Definition, isolate: Isolate, failing: Failing) -> Ran:
        child = self.children.take()
        if isinstance(child, Ran):
            return child
        self.children.prepare()  # the next need not wait
        grip = ChildGrip(child)
        self.hold(item, definition, grip)
        try:
            if item.context.cancel_requested:
                self.cancel(item)
            ran, item.usage, item.metadata = run_in_child(child, item.claim, item.context, isolate, failing)
        except BaseException:
            self.children.drop(child)
            raise
        finally:
            grip.release()
        if isinstance(ran.outcome, Died):
            self.children.drop(child)
        else:
            self.children.give_back(child, isolate)
        return ran

    def end_outside(self, items: Iterable[Item]) -> list[Item]:
        """End what runs in other processes; gives the jobs that did."""
        ended = []
        for item in items:
            grip = item.grip
            if isinstance(grip, OUTSIDE):
                grip.end(lambda: None)
                ended.append(item)
        return ended


OUTSIDE = (ProgramGrip, ChildGrip)  # these are in processes of their own


def ended_hard(item: Item, definition: Definition) -> Ran:
    """What became of a run that had to be ended."""
    if item.context.cancel_requested:
        return Ran(Cancelled(why="cancelled while running; it did not end by itself, and was ended"))
    limit = definition.defaults.hard_timeout
    after = "" if limit is None else f" after {show_duration(limit)}"
    return Ran(Failed(error=f"TimedOut: it did not end in time, and was ended{after}", traceback=item.killed or None))
