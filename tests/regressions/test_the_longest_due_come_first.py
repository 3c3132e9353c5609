"""Where a pass of promote was smaller than what was due, MariaDB made all scheduled jobs ready before the first one that
waited for its next attempt, however long that had been due: it looks for each of the two states on its own, and the limit
was used up by the first.
"""

from __future__ import annotations

from dray.job import Failed, Finish, NewJob
from dray.lifecycle import decide
from dray.store import open_store
from dray.testing import Clock
from tests.servers import Database


def test_a_retry_that_is_due_for_longer_comes_before_a_job_that_was_enqueued_for_later(database: Database) -> None:
    clock = Clock()
    store = open_store(database.url, create_tables=True, clock=clock)
    store.ensure()
    store.add([NewJob(task="t", queue="q", args="{}")])
    worker = store.roster.register(host="here", pid=1, queues="*", concurrency=1)
    (run,) = store.claim(worker, store.pickup([]), 1)
    store.finish([Finish(run, decide(run, Failed(error="x", retry_in=10.0)))])
    (later,) = store.add([NewJob(task="t", queue="q", args="{}", delay=20.0)])
    clock.forward(30)
    passes = [store.promote(limit=1) for _ in range(3)]
    store.close()
    assert [[one.id for one in promoted.ready] for promoted in passes] == [[run.id], [later.id], []]
    assert [promoted.next_in for promoted in passes] == [0.0, 0.0, None]
