"""Whatever befalls a process between two statements, or during a COMMIT: nothing is lost, and no result accepted twice.

Each statement of each operation is a failpoint. There a process is killed, frozen past its lease, or cut off from its
database: before the statement has arrived, or instead of the answer. A slice of that is tried each time, the most telling
cases always; DRAY_TEST_SEED repeats a choice. With DRAY_TEST_MINUTES all of it is.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.crash.acts import ACTS
from tests.crash.audit import report
from tests.crash.failpoints import Case, Fault, Place
from tests.crash.matrix import Matrix, Trial
from tests.crash.nursery import Nursery
from tests.effort import MINUTES, seconds
from tests.servers import Database

pytestmark = pytest.mark.long

SEED = int(os.environ.get("DRAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
SLICE = seconds(5.0)  # on one database
WORKERS = ("work", "finish")  # their commits are tried each time
CRITICAL = ("claim", "exchange", "finish")
AT_RANDOM = 4  # other cases, if there is no time for more
ALONE = {"enqueue", "mark", "recount", "declare dead", "claim"}  # single statements, which need no transaction, at least on one
IN_THE_END = 3600.0  # seconds that all of it may take


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def matrix(database: Database, tmp_path: Path, nursery: Nursery) -> Iterator[Matrix]:
    matrix = Matrix(database.url, tmp_path, nursery)
    yield matrix
    matrix.close()


def is_telling(case: Case) -> bool:
    """Around the commit of what workers do, and the zombie that wakes up and writes."""
    operation, number, words = case.point.split(":")
    if operation not in CRITICAL:
        return False
    if case.fault == "freeze":
        return case.place == "before" and number == "1" and operation != "claim"
    # Where it is a single statement a claim commits itself.
    commits = words == "COMMIT" or (operation == "claim" and number == "1")
    return commits and (case.fault, case.place) != ("cut", "before")


def verdict(matrix: Matrix, trial: Trial) -> str | None:
    """What is wrong, with all that is known of it."""
    if not trial.reached:
        return f"{trial.case}: never came there"
    if not trial.wrongs:
        return None
    assert trial.story is not None
    said = (matrix.folder / "child.log").read_text()
    return f"--- {trial.case}\n{report(trial.story, trial.wrongs)}\n{said}"


@pytest.mark.rows("C1", "C2", "C5", "C12", "C13", "C14", "C16", "C17", "C18", "C19", "C25")
@pytest.mark.timeout(max(180.0, IN_THE_END if MINUTES else 0.0))
def test_nothing_is_lost_or_accepted_twice_whatever_befalls_a_process_where(matrix: Matrix) -> None:
    began, chance = time.monotonic(), random.Random(SEED)
    others = [name for name in ACTS if name not in WORKERS]
    rehearse(matrix, ACTS if MINUTES else (*WORKERS, *chance.sample(others, 2)))
    cases = list(matrix.cases())
    chance.shuffle(cases)
    cases.sort(key=is_telling, reverse=True)  # keeps the rest in random order
    least = len(cases) if MINUTES else sum(map(is_telling, cases)) + AT_RANDOM
    tried: Counter[str] = Counter()
    wrong: list[str] = []
    for number, case in enumerate(cases):
        if len(wrong) == 5 or (number >= least and time.monotonic() - began > SLICE):
            break
        trial = matrix.run(case)
        tried.update({f"{case.fault} {case.place}": 1, "taken over": trial.took_over, "refused": trial.refused})
        wrong += filter(None, [verdict(matrix, trial)])
    points = len({case.point for case in cases})
    took = time.monotonic() - began
    print(f"\n{number + 1} of {len(cases)} cases at {points} points in {took:.1f} s, DRAY_TEST_SEED={SEED}: {dict(tried)}")
    assert not wrong, f"DRAY_TEST_SEED={SEED}\n" + "\n".join(wrong)
    assert tried["refused"] > 0, "no zombie was ever refused: nothing has been proved"


def rehearse(matrix: Matrix, acts: Iterable[str]) -> None:
    """A failpoint that is not enumerated would be one that nothing ever happens at."""
    matrix.rehearse(acts)
    for name in acts:
        heard = {point.split(":")[0] for call in matrix.calls[name] for point in call}
        assert heard == set(ACTS[name].operations)
        # Behind its commit an operation settles what follows from it.
        committed = {point.split(":")[0] for call in matrix.calls[name] for point in call if point.endswith(":COMMIT")}
        assert heard - ALONE <= committed <= heard, f"{name}: no commit is heard of"


# --- the audit finds fault ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("breakage", "act", "point", "place", "fault", "found"),
    [
        ("no_fence", "finish", "finish:1:BEGIN", "before", "freeze", "was accepted"),
        ("no_transaction", "finish", "finish:3:DELETE FROM dray_jobs", "before", "kill", "live and ended at once"),
        ("no_transaction", "enqueue many", "enqueue many:2:INSERT INTO dray_labels", "before", "kill", "labels"),
        ("no_word_of_a_loss", "finish", "finish:1:BEGIN", "before", "freeze", "not counted as refused"),
        ("no_doubt", "finish", "finish:5:COMMIT", "after", "cut", "accepted, and counted as refused"),
        ("added_again", "enqueue", "enqueue:1:INSERT INTO dray_jobs", "after", "cut", "added it more than once"),
        ("nobody_looks_again", "work", "claim:6:COMMIT", "after", "cut", "jobs run in its name"),
    ],
)
def test_an_operation_that_is_broken_on_purpose_is_found(
    tmp_path: Path, nursery: Nursery, breakage: str, act: str, point: str, place: Place, fault: Fault, found: str
) -> None:
    matrix = Matrix(f"sqlite:///{tmp_path}/dray.db", tmp_path, nursery)
    trial = matrix.run(Case(act, point, place, fault, breakage))
    matrix.close()
    assert trial.reached
    assert [wrong for wrong in trial.wrongs if found in wrong.what] != [], trial.wrongs


@pytest.mark.rows("C12", "C13")
def test_a_finish_without_a_fence_is_found_on_every_database(matrix: Matrix) -> None:
    matrix.rehearse(["finish"])
    first = matrix.calls["finish"][0][0]
    trial = matrix.run(Case("finish", first, "before", "freeze", "no_fence"))
    assert [wrong for wrong in trial.wrongs if "was accepted" in wrong.what] != [], trial.wrongs
