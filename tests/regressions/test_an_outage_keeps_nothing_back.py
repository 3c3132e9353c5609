"""What a worker holds back until the database is busy with the next write runs also when there is no such write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.errors import StoreUnavailable
from dray.job import State
from dray.limits import Limits
from dray.worker import Worker


def test_while_the_database_is_away_what_is_held_back_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, ran = Dray(f"sqlite:///{tmp_path}/x.db"), list[int]()

    @app.task(name="note")
    def note(number: int) -> None:
        ran.append(number)

    jobs = app.enqueue_many(app.using().bind("note", number) for number in range(3000))
    exchange, due = app.store.exchange, list[int]()  # how many are to have run before the database is asked again
    worker = Worker(app, concurrency=4, limits=Limits(burst=True))

    def away(*arguments: Any, **options: Any) -> Any:
        """It is away as soon as something is held back."""
        if not due and (held := len(worker._stock._held_back)):
            due.append(len(ran) + held)
            raise StoreUnavailable("gone for a moment")
        if len(due) == 1:
            due.append(len(ran))
        return exchange(*arguments, **options)

    monkeypatch.setattr(app.store, "exchange", away)
    assert worker.run() == 0
    least, were = due
    assert were >= least
    assert sorted(ran) == list(range(3000))
    assert app.store.desk.counts()[State.SUCCEEDED] == len(jobs)
    app.close()
