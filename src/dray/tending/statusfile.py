"""The status file of a tender: how its pools stand, for whoever wants to look without asking."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dray import events, wholefile

EVERY = 10.0  # seconds between two writes, at most
SOON = 1.0  # seconds between two writes that tell only what workers do


class StatusFile:
    """A file of JSON that is always whole: it is replaced, never written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = float("-inf")
        self._news = False  # that is not written yet
        self._failed = False

    def is_due(self, now: float, *, changed: bool, news: bool) -> bool:
        """Whether to write: at once after a change, soon after news of what workers do, and now and then."""
        self._news |= news
        age = now - self._written
        return changed or age >= EVERY or (self._news and age >= SOON)

    def write(self, facts: dict[str, Any], now: float) -> None:
        """Replace the file; that this fails is logged once."""
        self._written, self._news = now, False
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            wholefile.replace(self._path, json.dumps({"v": 1, "pid": os.getpid(), "at": at, **facts}) + "\n")
        except OSError as error:
            if not self._failed:
                events.logger.error("the status file cannot be written: %s", error)
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """Nobody is tended any more."""
        with contextlib.suppress(OSError):
            self._path.unlink()
