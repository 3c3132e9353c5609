"""The job that is measured does nothing: what is left is the cost of the queue."""

from __future__ import annotations

from dray import Dray
from dray.sender import FunctionTask


def nothing(number: int, note: str) -> None:
    """Do nothing."""


def on(url: str) -> tuple[Dray, FunctionTask[[int, str], None]]:
    """An app on this database, its tables in place, and the task."""
    made = Dray(url, create_tables=True)
    made.store.ensure()
    return made, made.task(nothing)


app = Dray()  # a worker is told its database by the environment
app.task(nothing)
