"""The thread that sees to time limits: it asks a run to end when its time is over, and ends it when that did not help."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from dray import events
from dray.item import Item
from dray.pulse import Pulse

LOOK_EVERY = 0.25  # seconds between two looks at most, since another run may have begun
SOONEST = 0.005


class Deadlines:
    """Watches runs with a limit. The thread is there only once there has been one.

    running     gives what runs now
    end         called for a run that goes on past its last limit
    pulse       tells the heart by when runs have to end: it sees to that where nothing here runs any more
    """

    def __init__(self, running: Callable[[], Iterable[Item]], end: Callable[[Item], None], pulse: Pulse) -> None:
        self._running, self._end, self._pulse = running, end, pulse
        self._some = threading.Event()  # there is something to watch
        self._over = False
        self._thread: threading.Thread | None = None

    def watch(self, item: Item) -> None:
        """A run with a limit has begun, or has one from now on."""
        if item.ends_at is not None:
            self._pulse.expect(item.ends_at)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="dray-deadlines", daemon=True)
            self._thread.start()
        self._some.set()

    def stop(self) -> None:
        self._over = True
        self._some.set()

    def _work(self) -> None:
        while self._some.wait() and not self._over:
            self._some.clear()
            while (pause := self._look()) is not None and not self._over:
                time.sleep(pause)

    def _see_to(self, item: Item, now: float) -> None:
        grip, asked_at, ends_at = item.grip, item.asked_at, item.ends_at
        if ends_at is not None and now >= ends_at:
            item.ends_at = item.asked_at = None
            self._end(item)
        elif grip is not None and asked_at is not None and now >= asked_at:
            item.asked_at = None
            grip.time_out()

    def _ends(self) -> list[float]:
        return [at for item in self._running() if item.outcome is None and (at := item.ends_at) is not None]

    def _look(self) -> float | None:
        """Look at all of them once; gives the seconds until the next look, None when there is nothing to watch."""
        now, pause = time.monotonic(), None
        self._pulse.expect_of(self._ends)
        for item in self._running():
            if item.outcome is not None:
                continue
            try:
                self._see_to(item, now)
            except Exception as error:  # all the others still have theirs
                events.emit("slot.failed", job_id=item.claim.id, task=item.claim.task, error=f"{type(error).__name__}: {error}")
            for at in (item.asked_at, item.ends_at):
                if at is not None:
                    pause = min(LOOK_EVERY, max(SOONEST, at - now), LOOK_EVERY if pause is None else pause)
        return pause
