"""The job that is measured does nothing but say when: what is left is the cost of the queue."""

from __future__ import annotations

from benchmarks import stamps
from dray import Dray
from dray.sender import FunctionTask

_stamps = stamps.told()


def nothing(number: int, note: str) -> None:
    """Say when, where somebody wants to know."""
    if _stamps is not None:
        _stamps.mark(number)


def ahead(number: int, note: str) -> None:
    """The same, as a task of which a worker may take fifty of a group at once."""
    nothing(number, note)


def on(url: str) -> tuple[Dray, FunctionTask[[int, str], None]]:
    """An app on this database, its tables in place, and the task."""
    made = Dray(url, create_tables=True)
    made.store.ensure()
    return made, made.task(nothing)


app = Dray()  # a worker is told its database by the environment
app.task(nothing)
app.task(run_ahead=50)(ahead)
