"""Whatever befalls a process between two statements, or during a COMMIT: nothing is lost, and no result accepted twice.

Each statement of each operation is a failpoint, also of what follows behind its commit: who may go on now in a group, at a
limit, behind a parent. There a process is killed, frozen past its lease, or cut off from its database: before the statement
has arrived, or instead of the answer. A slice of that is tried each time, the most telling cases always; DRAY_TEST_SEED repeats
a choice. With DRAY_TEST_MINUTES all of it is.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.crash.audit import report
from tests.crash.failpoints import Case, Fault, Place
from tests.crash.matrix import Matrix, Trial
from tests.crash.nursery import Nursery
from tests.crash.repertoire import ACTS, GATED, PLAIN
from tests.effort import MINUTES, seconds
from tests.servers import Database

pytestmark = pytest.mark.long

SEED = int(os.environ.get("DRAY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
SLICE = seconds(5.0)  # on one database
WORKERS = ("work", "finish")  # their commits are tried each time
CRITICAL = ("claim", "exchange", "finish")
AT_RANDOM = 4  # other cases, if there is no time for more
ALONE = {"enqueue", "mark", "recount", "declare dead", "claim"}  # single statements, which need no transaction, at least on one
IN_THE_END = 7200.0  # seconds that all of it may take
SETTLED = ("end one", "limits")  # let go on a dependent, the next of a group, those at a limit: they are tried each time


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
    others = [name for name in PLAIN if name not in WORKERS]
    rehearse(matrix, PLAIN if MINUTES else (*WORKERS, *chance.sample(others, 2)))
    tried = try_all(matrix, is_telling, chance, began)
    assert tried["refused"] > 0, "no zombie was ever refused: nothing has been proved"


@pytest.mark.rows("C5", "C7", "C29", "C45", "C59", "S2.23", "S2.55", "S3.18", "S4.16")
@pytest.mark.timeout(max(180.0, IN_THE_END if MINUTES else 0.0))
def test_nobody_in_line_is_forgotten_or_let_through_twice_whatever_befalls_a_process_where(matrix: Matrix) -> None:
    """The same with groups, limits, parents, children and unique keys."""
    began, chance = time.monotonic(), random.Random(SEED)
    rehearse(matrix, GATED if MINUTES else chance.sample(sorted(GATED), 3))
    try_all(matrix, lambda case: False, chance, began)


@pytest.mark.rows("C5", "S2.55", "S4.16")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("act", SETTLED)
def test_what_follows_is_done_once_whatever_befalls_a_process_behind_a_commit(matrix: Matrix, act: str) -> None:
    rehearse(matrix, [act])
    cases = [case for case in matrix.cases() if is_behind_a_commit(case, matrix.calls[act])]
    trials = [matrix.run(case) for case in cases]
    wrong = [said for trial in trials if (said := verdict(matrix, trial))]
    assert not wrong, "\n".join(wrong)
    assert any(trial.took_over for trial in trials), "nobody went on beside a frozen one: nothing has been proved"


def is_behind_a_commit(case: Case, calls: list[list[str]]) -> bool:
    """A death or a sleep between two transactions of a settle, or a sleep before what one of them has looked up is written."""
    operation, _, words = case.point.split(":")
    if operation not in CRITICAL or case.fault not in ("kill", "freeze") or case.place != "before":
        return False
    for call in calls:
        commits = [place for place, point in enumerate(call) if point.endswith(":COMMIT")]
        if case.point in call and commits and (at := call.index(case.point)) > commits[0]:
            return at - 1 in commits or (case.fault == "freeze" and words.startswith("UPDATE"))
    return False


def try_all(matrix: Matrix, tells: Callable[[Case], bool], chance: random.Random, began: float) -> Counter[str]:
    """Try those cases that tell most, and as many others as there is time for."""
    cases = list(matrix.cases())
    chance.shuffle(cases)
    cases.sort(key=tells, reverse=True)  # keeps the rest in random order
    least = len(cases) if MINUTES else sum(map(tells, cases)) + AT_RANDOM
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
    return tried


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
        ("no_transaction", "finish", "finish:2:DELETE FROM dray_jobs", "before", "kill", "live and ended at once"),
        ("no_transaction", "enqueue many", "enqueue many:2:INSERT INTO dray_labels", "before", "kill", "labels"),
        ("no_word_of_a_loss", "finish", "finish:1:BEGIN", "before", "freeze", "not counted as refused"),
        ("no_doubt", "finish", "finish:4:COMMIT", "after", "cut", "accepted, and counted as refused"),
        ("added_again", "enqueue", "enqueue:1:INSERT INTO dray_jobs", "after", "cut", "added it more than once"),
        ("nobody_looks_again", "work", "claim:6:COMMIT", "after", "cut", "jobs run in its name"),
        ("no_note", "end one", "finish:5:SELECT", "before", "kill", "do not end"),
        ("no_count", "limits", "exchange:11:BEGIN", "before", "freeze", "hold limit"),
        ("no_settle", "end one", "finish:6:DELETE FROM dray_unsettled", "after", "kill", "do not end"),
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
