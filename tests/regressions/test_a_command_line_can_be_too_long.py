"""A command line that was longer than the system takes was taken for a want of room, which passes: the job was tried every five
seconds, uncounted, for ever, and nobody was told.
"""

from __future__ import annotations

from pathlib import Path

from dray import Dray
from dray.job import State
from dray.limits import Limits
from dray.store.filters import Filter
from dray.worker import Worker


def test_a_command_line_that_is_too_long_fails_its_job(tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    say = app.command("say", ["/bin/echo", "{text}"], retry=1)
    say.enqueue(text="x" * 200_000)
    Worker(app, limits=Limits(burst=True)).run()
    (job,) = app.store.desk.jobs(Filter())
    app.close()
    assert job.state is State.FAILED
    assert "Argument list too long" in str(job.error)
