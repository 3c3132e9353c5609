"""What happens, said once: `emit` tells, `listen` hears. Log lines and metrics are listeners; nobody else knows them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

logger = logging.getLogger("dray")
logger.addHandler(logging.NullHandler())  # who sets up no log is not told on stderr either (S2.10)

Listener = Callable[[str, dict[str, Any]], None]
_listeners: list[tuple[Listener, Collection[str] | None]] = []

# How loud an event is in the log; what is not named here is told at debug level.
LEVELS = {
    "worker.started": logging.INFO,
    "worker.stopping": logging.INFO,
    "worker.stopped": logging.INFO,
    "worker.paused": logging.INFO,
    "worker.resumed": logging.INFO,
    "worker.lost": logging.CRITICAL,
    "tend.begins": logging.INFO,
    "tend.started": logging.INFO,
    "tend.retires": logging.INFO,
    "tend.ended": logging.INFO,
    "tend.died": logging.ERROR,
    "tend.reloads": logging.INFO,
    "tend.pool": logging.INFO,
    "tend.worker": logging.INFO,
    "tend.not_rescued": logging.ERROR,
    "tend.stopped": logging.INFO,
    "folder.gone": logging.ERROR,
    "heart.died": logging.ERROR,
    "store.away": logging.CRITICAL,
    "store.back": logging.WARNING,
    "store.locked": logging.WARNING,
    "store.refused": logging.DEBUG,
    "job.failed": logging.CRITICAL,
    "job.retrying": logging.WARNING,
    "job.ended_late": logging.ERROR,
    "slot.failed": logging.ERROR,
    "child.failed": logging.ERROR,
    "job.parked": logging.WARNING,
    "job.lease_lost": logging.ERROR,
    "hook.failed": logging.ERROR,
    "hook.hangs": logging.ERROR,
    "hook.too_many": logging.CRITICAL,
    "notice": logging.CRITICAL,
    "notice.undelivered": logging.ERROR,
    "result.dropped": logging.WARNING,
    "result.refused": logging.ERROR,
    "rescue.dead_worker": logging.ERROR,
    "rescue.jobs": logging.WARNING,
    "upkeep.failed": logging.ERROR,
    "output.dropped": logging.WARNING,
    "prune.done": logging.INFO,
}


def heard(event: str) -> bool:
    """Whether anybody would hear it: for what is told of each job."""
    return any(_is_wanted(event, names) for _, names in _listeners) or logger.isEnabledFor(LEVELS.get(event, logging.DEBUG))


def emit(event: str, **facts: Any) -> None:
    """Tell everybody who listens. A listener that raises is logged and never disturbs who emits."""
    level = LEVELS.get(event, logging.DEBUG)
    if logger.isEnabledFor(level):
        logger.log(level, "%s %s", event, " ".join(f"{name}={value}" for name, value in facts.items()), extra={"dray": facts})
    for listener, names in list(_listeners):
        if not _is_wanted(event, names):
            continue
        try:
            listener(event, facts)
        except Exception:
            logger.exception("a listener failed on %s", event)


def _is_wanted(event: str, names: Collection[str] | None) -> bool:
    return names is None or event in names


def listen(listener: Listener, names: Collection[str] | None = None) -> Callable[[], None]:
    """Hear events of this process, these or all; returns how to stop. What nobody hears costs nothing: there are events of each
    job."""
    _listeners.append((listener, names))
    return lambda: _listeners.remove((listener, names))
