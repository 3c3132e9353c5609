"""Dray carries an application's heavy and risky work away from the request, and promises that it arrives.

Only the public names are here; everything else is imported from its module. Importing this loads no database library.
"""

from __future__ import annotations

from dray.app import Dray
from dray.context import Context, TimedOut, current_job
from dray.errors import DrayError, Permanent
from dray.handle import Job
from dray.job import RetryIn, Skip, Snooze, State, StopWorker
from dray.lifecycle import Retry
from dray.options import Limit, Unique
from dray.report import Report
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
