"""A write of ends whose answer was lost is tried again: what it had done counts, and what others did meanwhile does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dray.job import Claim, Done, Failed, HandedBack, Outcome, Snoozed, State
from dray.store.control import retry
from dray.store.rescue import rescue
from tests.contract.bench import Bench
from tests.servers import Database

ENDS: list[Outcome] = [Done(result="1"), Failed(error="boom"), Snoozed(delay=60.0)]


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    bench = Bench(database.url)
    yield bench
    bench.close()


def claimed(bench: Bench) -> tuple[int, list[Claim]]:
    """A worker and the job that it runs."""
    worker = bench.worker()
    bench.add()
    return worker, bench.claim(worker=worker)


@pytest.mark.rows("C13")
@pytest.mark.parametrize("tries", [1, 2])
@pytest.mark.parametrize("outcome", [*ENDS, HandedBack()], ids=lambda outcome: type(outcome).__name__)
def test_what_was_written_the_first_time_counts_the_second_time(bench: Bench, outcome: Outcome, tries: int) -> None:
    _, claims = claimed(bench)
    bench.end(claims, outcome, retry=tries)
    before = bench.job(claims[0].id)
    assert bench.end(claims, outcome, retry=tries, again=True).accepted == {claims[0].lease}
    assert bench.job(claims[0].id) == before


@pytest.mark.rows("C12", "C13")
@pytest.mark.parametrize("tries", [1, 2])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("outcome", ENDS, ids=lambda outcome: type(outcome).__name__)
def test_what_was_rescued_meanwhile_is_lost(bench: Bench, outcome: Outcome, marked: bool, tries: int) -> None:
    worker, claims = claimed(bench)
    if marked:
        bench.query("UPDATE {jobs} SET started_at = {now}")
    bench.query("UPDATE {workers} SET state = 1 WHERE id = :w", w=worker)
    bench.call(rescue)
    assert bench.end(claims, outcome, retry=tries, again=True).accepted == set()
    assert bench.states(claims[0].id) == [State.READY]


@pytest.mark.rows("C12", "C13", "C18")
def test_a_job_that_failed_with_its_worker_has_not_ended_as_the_worker_says(bench: Bench) -> None:
    worker = bench.worker()
    bench.add(flags=4)
    claims = bench.claim(worker=worker)
    bench.query("UPDATE {jobs} SET started_at = {now}")
    bench.query("UPDATE {workers} SET state = 1 WHERE id = :w", w=worker)
    bench.call(rescue)
    for outcome in (Done(result="1"), Failed(error="boom")):
        assert bench.end(claims, outcome, again=True).accepted == set()
    assert bench.states(claims[0].id) == [State.FAILED]


@pytest.mark.rows("C25")
def test_a_failure_that_was_written_and_then_retried_by_an_operator_counts(bench: Bench) -> None:
    _, claims = claimed(bench)
    bench.end(claims, Failed(error="boom"))
    bench.call(retry, [claims[0].id])
    assert bench.end(claims, Failed(error="boom"), again=True).accepted == {claims[0].lease}
