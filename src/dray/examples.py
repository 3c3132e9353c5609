"""The task that every app has, so that an installation can be tried before there is any other: `dray.example` (S1.53)."""

from __future__ import annotations

import time

from dray.context import current_job
from dray.errors import Permanent
from dray.task import Defaults, Definition

EXAMPLE = "dray.example"
GLANCE = 0.1  # seconds between looks for a request to end


def example(number: int = 1, wait: float = 0.0, fails: bool = False, message: str = "an example") -> str:
    """Wait for so many seconds, write a message to the job's log, and fail for good if that is asked for (S1.54)."""
    job = current_job()
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        if job is not None:
            job.check()
        time.sleep(min(left, GLANCE))
    if job is not None:
        job.log(f"{message} {number}")
    if fails:
        raise Permanent(f"{message} {number} was asked to fail")
    return f"{message} {number}"


BUILT_IN = (Definition(example, EXAMPLE, Defaults()),)
