"""A line of a job's log was on its way into the database by one thread, when another wrote the end of the job, since it found
no line that was left: who saw the end did not see the line.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.store.output import Line
from dray.worker import Worker


def test_who_flushes_waits_for_what_is_just_being_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db", create_tables=True)

    @app.task
    def work() -> None: ...

    job = work.enqueue()
    worker = Worker(app)
    worker_id = app.store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    (claim,) = app.store.claim(worker_id, app.store.pickup(()), 1)
    attendance = worker._attendance
    attendance.write(claim, "message", "the last line")
    is_storing, may_go_on = threading.Event(), threading.Event()
    write: Any = app.store.desk.write_output

    def slowly(lines: Sequence[Line]) -> None:
        is_storing.set()
        assert may_go_on.wait(10)
        write(lines)

    monkeypatch.setattr(app.store.desk, "write_output", slowly)
    one = threading.Thread(target=attendance.flush)
    one.start()
    assert is_storing.wait(10)
    other = threading.Thread(target=attendance.flush)
    other.start()
    other.join(0.2)
    assert other.is_alive()  # it has nothing to store, and yet it is not done
    may_go_on.set()
    other.join(10)
    assert [line.text for line in app.store.desk.read_output(job.id)] == ["the last line"]
    one.join(10)
    app.close()
