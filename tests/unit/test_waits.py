"""From options to what a job waits for: names with arguments in them, keys, limits, ranges; and what does not go together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dray import Dray, Limit, Unique
from dray.errors import BadOption
from dray.job import Flag, NewJob
from dray.options import Options, parse_priorities, show_priorities

app = Dray("sqlite:///never.db")


@app.task(group="customer-{customer}", limit=Limit("tenant-{tenant}", 3))
def book(customer: int, tenant: str = "north") -> None: ...


@app.task
def plain(number: int, note: str = "") -> None: ...


@app.task
def other(number: int, note: str = "") -> None: ...


def job(task: Any, *args: Any, **options: Any) -> NewJob:
    made: NewJob = task.using(**options).bind(*args).job
    return made


@pytest.mark.rows("S2.23", "S4.16")
def test_names_take_the_values_of_arguments_also_of_those_that_were_not_given() -> None:
    made = job(book, 42)
    assert (made.group, made.limit, made.limit_rule) == ("customer-42", "tenant-north", "3")
    assert job(book, 42, group="mine").group == "mine"
    with pytest.raises(BadOption, match="'nobody', which is no argument"):
        job(plain, 1, limit=Limit("x-{nobody}", 1))


@pytest.mark.rows("C61", "S2.26", "S4.10")
def test_a_key_is_of_the_task_and_the_arguments_that_count_however_they_are_given() -> None:
    def key(task: Any, *args: Any, by: Any = None, **scope: Any) -> str:
        unique = task.using(unique=Unique(by=by, **scope)).bind(*args).job.unique
        return str(unique.hash)

    assert key(plain, 1) == key(plain, 1, "")
    assert len(bytes.fromhex(key(plain, 1))) == 16, "long enough that two keys are never taken for one"
    assert plain.using(unique=True).bind(number=1).job.unique == plain.using(unique=True).bind(1).job.unique
    assert key(plain, 1) != key(other, 1), "another task is another key"
    assert key(plain, 1, "a") != key(plain, 1, "b")
    assert key(plain, 1, "a", by=["number"]) == key(plain, 1, "b", by=["number"])
    assert key(plain, 1) != key(plain, 1, scope="ever"), "scopes do not get into each other's way"
    with pytest.raises(BadOption, match="'nobody', which is no argument"):
        key(plain, 1, by=["nobody"])


def test_a_debounced_job_waits_and_replaces() -> None:
    made = job(plain, 1, unique=Unique(debounce=5, max_wait=60))
    assert made.unique is not None
    assert (made.delay, made.unique.conflict, made.unique.max_wait) == (5, "replace", 60)


def test_a_deadline_is_an_expiry_that_also_ends_what_runs() -> None:
    assert (job(plain, 1, expires_in=60).expires_in, job(plain, 1, expires_in=60).flags) == (60, 0)
    assert Flag(job(plain, 1, deadline_in=60).flags) is Flag.DEADLINE
    assert job(plain, 1, deadline_at=datetime(1970, 1, 1, 0, 1, tzinfo=UTC)).expires_at == 60_000_000


@pytest.mark.parametrize(
    "options",
    [
        {"coalesce": 1},
        {"run_in": 1, "unique": Unique(debounce=5)},
        {"expires_in": 1, "deadline_in": 1},
        {"expires_in": 1, "expires_at": datetime.now(UTC)},
        {"expires_at": datetime(2030, 1, 1)},
        {"expires_in": -1},
        {"after": "7"},
        {"after": [0]},
        {"when": "sometimes"},
        {"on_failure": "panic"},
        {"on_parent_failure": "panic"},
        {"limit": "stripe"},
        {"unique": "yes"},
        {"coalesce": True},
        {"parent": 7},
    ],
    ids=lambda options: ",".join(options),
)
def test_what_does_not_go_together_or_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        job(plain, 1, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limit("x"),
        lambda: Limit("x", 0),
        lambda: Limit("", 1),
        lambda: Limit("x", rate=1, per=0),
        lambda: Limit.parse("x", "many"),
        lambda: Unique(scope="sometimes"),
        lambda: Unique(conflict="fight"),
        lambda: Unique(by="number"),
        lambda: Unique(max_wait=5),
        lambda: Unique(debounce=10, max_wait=5),
        lambda: Unique(debounce=10, scope="ever"),
        lambda: Unique(window=0),
    ],
)
def test_a_limit_or_key_that_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(BadOption):
        make()


@pytest.mark.parametrize("limit", [Limit("x", 10), Limit("x", rate=100, per=60), Limit("x", 10, 100, 0.5)])
def test_a_limit_is_read_back_from_its_rule(limit: Limit) -> None:
    assert Limit.parse("x", limit.rule) == limit


@pytest.mark.rows("S2.71", "C51")
def test_ranges_of_priorities_are_numbers_and_both_ends_belong_to_them() -> None:
    for text, first, last in (
        ("10", 10, 10),
        ("20-40", 20, 40),
        ("25-", 25, 999),
        ("-20", 0, 20),
        ("9-10", 9, 10),
        ("0", 0, 0),
    ):
        found = parse_priorities(text)
        assert (found[0], found[-1]) == (first, last)
        assert parse_priorities(show_priorities(found)) == found
    for wrong in ("", "-", "40-20", "a", "1000", "10-1000", "1 2", "--5", "1-2-3"):
        with pytest.raises(BadOption):
            parse_priorities(wrong)


def test_parents_are_named_once_in_ascending_order() -> None:
    assert Options(after=[9, 3, 9]).parents == (3, 9)
    assert Options(after=4).parents == (4,)
    assert Options().parents == ()
