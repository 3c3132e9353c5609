"""Dray carries an application's heavy and risky work away from the request, and promises that it arrives.

Only the public names are here; everything else is imported from its module. Importing this loads nothing else, until a name
is asked for: the tender has a use for none of them, and stays small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dray.app import Dray
    from dray.context import Context, current_job
    from dray.errors import DrayError, Permanent
    from dray.handle import Job
    from dray.job import State
    from dray.lifecycle import Retry
    from dray.options import Limit, Unique
    from dray.report import Report
    from dray.signals import RetryIn, Skip, Snooze, StopWorker, TimedOut
    from dray.task import Task

__all__ = [
    "Context",
    "Dray",
    "DrayError",
    "Job",
    "Limit",
    "Permanent",
    "Report",
    "Retry",
    "RetryIn",
    "Skip",
    "Snooze",
    "State",
    "StopWorker",
    "Task",
    "TimedOut",
    "Unique",
    "current_job",
]

__version__ = "0.1.0"

_HOMES = {
    "Context": "context",
    "Dray": "app",
    "DrayError": "errors",
    "Job": "handle",
    "Limit": "options",
    "Permanent": "errors",
    "Report": "report",
    "Retry": "lifecycle",
    "RetryIn": "signals",
    "Skip": "signals",
    "Snooze": "signals",
    "State": "job",
    "StopWorker": "signals",
    "Task": "task",
    "TimedOut": "signals",
    "Unique": "options",
    "current_job": "context",
}

if not TYPE_CHECKING:  # a type checker shall go on to notice a name that is not there

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
