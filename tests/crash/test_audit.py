"""The audit finds fault: forged stories, each with one thing wrong, and an honest one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.audit import Death, Story, audit, report, summary
from tests.crash.ledger import FAILED, SUCCEEDED, Row
from tests.crash.receipt import read

HONEST = """\
intend 1 1 plain
added 1 11
start 1 11 1 work-0 10.0 pid=5
start 1 11 2 work-1 12.0 pid=6
end 1 11 2 work-1 12.5 done
intend 2 1 careful
added 2 12
start 2 12 1 work-0 10.0 pid=5
intend 3 2 plain
added 3 13 14
start 3 13 1 work-1 20.0 pid=6
end 3 13 1 work-1 20.5 done
start 4 14 1 work-1 20.0 pid=6
end 4 14 1 work-1 20.5 done
intend 5 1 flaky
added 5 15
start 5 15 1 work-1 21.0 pid=6
end 5 15 1 work-1 21.1 failed
start 5 15 2 work-1 22.0 pid=6
end 5 15 2 work-1 22.5 done
intend 6 3 plain
intend 9 1 plain
refused 9 StoreUnavailable
"""
DIED = 'its worker died while this job ran, and its task says on_crash="fail"'


def row(n: int, id: int, fence: int = 1, holder: str = "work-1", **different: object) -> Row:
    plain = Row(id, n, "plain", SUCCEEDED, fence, 1, 0, 0, 1, f"{holder}:{fence}", None, False)
    return replace(plain, **different)


ROWS = {
    1: row(1, 11, 2, crashes=1),
    2: row(2, 12, task="careful", state=FAILED, crashes=1, result=None, error=DIED),
    3: row(3, 13),
    4: row(4, 14),
    5: row(5, 15, 2, task="flaky", attempt=2),
}


def story(folder: Path, text: str, rows: dict[int, Row], **different: object) -> Story:
    path = folder / "receipt"
    path.write_text(text)
    plain = Story(
        account=read(path),
        rows=list(rows.values()),
        deaths={"work-0": Death(11.0, "witness", 11.1)},
        lives={"work-0": (1.0, 11.0), "work-1": (1.0, 100.0)},
        ttl=1.0,
    )
    return replace(plain, **different)


def test_an_honest_story_passes(tmp_path: Path) -> None:
    honest = story(tmp_path, HONEST, ROWS)
    assert audit(honest) == []
    assert "recovery after witness kills: 1 runs, median 1.00 s" in summary(honest)


Forge = Callable[[str, dict[int, Row]], tuple[str, dict[int, Row]]]


def with_row(n: int, **different: object) -> Forge:
    return lambda text, rows: (text, {**rows, n: replace(rows[n], **different)})


def without_row(n: int) -> Forge:
    return lambda text, rows: (text, {key: one for key, one in rows.items() if key != n})


def with_another(one: Row) -> Forge:
    return lambda text, rows: (text, {**rows, 99: one})


def with_line(line: str) -> Forge:
    return lambda text, rows: (f"{text}{line}\n", rows)


def changed(old: str, new: str) -> Forge:
    return lambda text, rows: (text.replace(old, new), rows)


@pytest.mark.parametrize(
    ("forge", "n", "what"),
    [
        (without_row(1), 1, "there is no row"),
        (with_another(row(1, 11, 2, live=True)), 1, "live and ended at once"),
        (with_row(3, live=True, state=0, result=None), 3, "has not ended"),
        (with_row(3, state=FAILED, error="worker died 3 times", crashes=0), 3, "ended in state 11"),
        (with_another(row(3, 77)), 3, "added it more than once"),
        (with_another(row(6, 77)), 6, "added 1 of 3 jobs"),
        (with_another(row(9, 77)), 9, "raised StoreUnavailable"),
        (with_another(row(50, 77)), 50, "nobody ever meant"),
        (with_row(1, result="work-0:1"), 1, "the result of another run"),
        (with_row(3, fence=2, result="work-1:2"), 3, "no complete run"),
        (changed("end 3 13 1 work-1 20.5 done\n", ""), 3, "no complete run"),
        (with_line("start 3 13 2 work-1 30.0 pid=6"), 3, "started again after that"),
        (with_line("start 3 13 2 work-1 30.0 pid=6"), 3, "nothing had happened"),
        (changed("start 5 15 2", "start 5 15 1"), 5, "do not rise"),
        (changed("start 1 11 2 work-1 12.0", "start 1 11 2 work-1 10.5"), 1, "nothing had happened"),
        (with_line("start 2 12 2 work-1 13.0 pid=6"), 2, "started 2 times"),
        (changed("start 2 12 1 work-0", "start 2 12 1 work-1"), 2, "did not die while it ran"),
        (with_row(3, crashes=1), 3, "1 crashes, and 0 times"),
        (changed("start 1 11 1 work-0 10.0 pid=5\n", ""), 1, "1 crashes, and 0 times"),
        (with_row(1, attempt=2), 1, "2 attempts instead of 1"),
        (with_row(3, snoozes=1), 3, "1 snoozes"),
        (changed("start 1 11 2 work-1 12.0", "start 1 11 2 work-1 14.0"), 1, "the limit is 1.67 s"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, forge: Forge, n: int, what: str) -> None:
    forged = story(tmp_path, *forge(HONEST, ROWS))
    found = audit(forged)
    assert [wrong for wrong in found if wrong.n == n and what in wrong.what] != [], found
    assert f"job {n}: " in report(forged, found)


def test_a_job_that_stands_in_no_receipt_line_is_still_reported(tmp_path: Path) -> None:
    forged = story(tmp_path, *with_another(row(50, 77))(HONEST, ROWS))
    assert "nobody ever meant to add it" in report(forged, audit(forged))


def test_a_kill_that_comes_while_a_job_starts_explains_its_second_start(tmp_path: Path) -> None:
    text = HONEST.replace("start 1 11 1 work-0 10.0", "start 1 11 1 work-0 11.05")
    assert audit(story(tmp_path, text, ROWS)) == []


def test_only_the_time_of_those_who_lived_long_enough_is_a_limit(tmp_path: Path) -> None:
    late = HONEST.replace("start 1 11 2 work-1 12.0", "start 1 11 2 work-1 14.0")
    late = late.replace("end 1 11 2 work-1 12.5", "end 1 11 2 work-1 14.5")
    lives = {"work-0": (1.0, 11.0), "work-1": (13.0, 100.0)}
    assert audit(story(tmp_path, late, ROWS, lives=lives)) == []
