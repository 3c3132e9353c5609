"""Ends of a batch that have much to say, or different things to say. On every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray.job import Done, Failed, Finish, HandedBack, Outcome, Parked, Reason, Snoozed, State
from dray.lifecycle import Retry, decide
from dray.report import Report
from dray.store import read
from dray.store.finish import finish
from tests.contract.bench import Bench
from tests.servers import Database

LONG = "é \U0001f40e \\ \" ' \n" * 150_000  # MariaDB takes packets of 16 MB


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database.url)
    yield bench
    bench.close()


def test_long_tracebacks_of_many_jobs_are_kept(bench: Bench) -> None:
    ids = bench.add(8)
    failed = Failed(error="boom", traceback=LONG, retry_in=60.0, report=Report.error(LONG))
    assert len(bench.end(bench.claim(), failed, retry=9).accepted) == len(ids)
    assert bench.states(*ids) == [State.RETRYING] * len(ids)
    for id in ids:
        (attempt,) = bench.call(read.attempts, id)
        assert (attempt.error, attempt.traceback, attempt.state) == ("boom", LONG, State.RETRYING)
        assert bench.job(id).report == Report.error(LONG)


def test_long_results_of_many_jobs_are_kept(bench: Bench) -> None:
    """In a batch they are more than a server takes in one statement."""
    ids = bench.add(24)
    result = f'"{"x" * 1_000_000}"'
    assert len(bench.end(bench.claim(), Done(result=result)).accepted) == len(ids)
    assert [bench.job(id).result for id in ids] == [result] * len(ids)


def test_a_batch_may_go_different_ways(bench: Bench) -> None:
    """Each row of one statement becomes what was decided for it."""
    ids = bench.add(5)
    runs = bench.claim()
    outcomes: list[Outcome] = [
        HandedBack(why="it waited"),
        Parked(why="unknown"),
        Snoozed(delay=60.0),
        Failed(error="x"),
        Failed(error="y", permanent=True),
    ]
    changes = [decide(run, outcome, Retry.after(60.0)) for run, outcome in zip(runs, outcomes, strict=True)]
    finishes = [Finish(run, change, ran=1.0) for run, change in zip(runs, changes, strict=True)]
    assert len(bench.call(finish, finishes).finished.accepted) == len(ids)
    jobs = [bench.job(id) for id in ids]
    assert [job.state for job in jobs] == [State.READY, State.BLOCKED, State.SCHEDULED, State.RETRYING, State.FAILED]
    assert [job.attempt for job in jobs] == [0, 0, 0, 1, 1]
    assert [job.snoozes for job in jobs] == [0, 0, 1, 0, 0]
    assert [job.reason for job in jobs] == [None, Reason.UNKNOWN_TASK, None, None, None]
    assert [job.error for job in jobs] == [None, None, None, "x", "y"]
