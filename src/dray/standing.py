"""What a long process has been told: to go on, to pause, or to end, how soon, and whether to begin anew."""

from __future__ import annotations

import time
from collections.abc import Callable


class Standing:
    """Flags that a signal handler or another thread may set, and what follows from them.

    grace   seconds that what runs is given when somebody asks for the end
    nudge   called whenever something was said
    """

    def __init__(self, grace: float, nudge: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._nudge, self._clock = grace, nudge, clock
        self._until = float("inf")  # when what still runs is given up
        self.why: str | None = None  # it ends; None: it goes on
        self.paused = False
        self.again = False  # once it has ended, it begins anew

    @property
    def ends(self) -> bool:
        return self.why is not None

    @property
    def is_late(self) -> bool:
        """Whether what still runs is to be given up."""
        return self._clock() >= self._until

    def stop(self, why: str) -> None:
        """Start nothing more, and give what runs the time of grace."""
        self._until = min(self._until, self._clock() + self._grace)
        self.again = False
        self._say(why)

    def stop_now(self, why: str) -> None:
        """Also give up what runs."""
        self._until = float("-inf")
        self.again = False
        self._say(why)

    def retire(self, why: str) -> None:
        """Start nothing more, and let what runs end, however long that takes."""
        self._say(why)

    def reload(self, why: str) -> None:
        """Retire, and then begin anew. Who has been told to end, ends."""
        if not self.ends:
            self.again = True
            self._say(why)

    def replace(self, why: str) -> None:
        """Something here cannot be ended but with the process: give all else the time of grace, and begin anew."""
        if not self.ends:
            self._until = self._clock() + self._grace
            self.again = True
            self._say(why)

    def pause(self) -> None:
        """Start nothing until told to go on; what runs, runs."""
        self.paused = True
        self._nudge()

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self._nudge()

    def _say(self, why: str) -> None:
        self.why = self.why or why
        self._nudge()
