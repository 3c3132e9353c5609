"""The audit of lines finds fault: forged rows, each with one thing wrong, and honest ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash.gateaudit import Lines, audit_lines, standing
from tests.crash.ledger import BLOCKED, READY, RUNNING, SUCCEEDED, Stand
from tests.crash.receipt import read

HEAD = Stand(1, 1, True, RUNNING, 1, 5, "g", 100, 1, "l", "1", 1, "key", 1, claimed_at=10)
NEXT = Stand(2, 2, True, BLOCKED, 0, None, "g", 100, 0, "l", "1", None, "other", 1)
OTHER = Stand(3, 3, True, READY, 0, None, limit="r", rule="1/60", limit_held=1)
LATER = Stand(4, 4, True, BLOCKED, 0, None, limit="r", rule="1/60", limit_held=0)
NOW = (HEAD, NEXT, OTHER, LATER)


def test_honest_rows_may_be_seen() -> None:
    assert list(standing(NOW)) == []


@pytest.mark.parametrize(
    ("place", "different", "what"),
    [
        (1, {"state": READY, "group_held": 1, "limit": None}, "has 2 heads"),
        (1, {"state": READY}, "not at the head of its group g"),
        (1, {"state": RUNNING, "group_held": 2, "worker_id": 6, "limit": None}, "run by two workers"),
        (1, {"group_held": 2}, "does not run"),
        (1, {"limit_held": 1}, "2 hold limit l of 1"),
        (2, {"limit_held": 0}, "no share of its limit r"),
        (3, {"limit_held": 1}, "2 were let through limit r at a rate of 1"),
        (1, {"key": "key"}, "held by 2 jobs"),
    ],
)
def test_what_may_never_be_seen_is_found(place: int, different: dict[str, Any], what: str) -> None:
    forged = [replace(one, **different) if at == place else one for at, one in enumerate(NOW)]
    assert [wrong for wrong in standing(forged) if what in wrong.what] != [], list(standing(forged))


def test_a_rate_whose_time_has_passed_lets_others_through() -> None:
    assert list(standing([*NOW[:3], replace(LATER, limit_held=1)], openings=1)) == []


RECEIPT = """\
added 1 1
start 1 1 1 w 1.0 pid=5
end 1 1 1 w 1.5 done
added 2 2
start 2 2 1 w 2.0 pid=5
end 2 2 1 w 2.5 done
needs 3 1
added 3 3
start 3 3 1 w 3.0 pid=5
end 3 3 1 w 3.5 done
"""
OVER = Stand(1, 1, False, SUCCEEDED, 1, 5, "g", 100, None, "l", "1", None, None, None, 10, 15)
THEN = replace(OVER, id=2, n=2, claimed_at=20, finished_at=25)
CHILD = replace(OVER, id=3, n=3, group=None, claimed_at=30, finished_at=35)

Forge = Callable[[str, list[Stand]], tuple[str, list[Stand]]]


def with_stand(place: int, **different: Any) -> Forge:
    return lambda text, rows: (text, [replace(one, **different) if at == place else one for at, one in enumerate(rows)])


def changed(old: str, new: str) -> Forge:
    return lambda text, rows: (text.replace(old, new), rows)


def lines(folder: Path, text: str, rows: list[Stand], family: dict[int, list[int]]) -> Lines:
    path = folder / "receipt"
    path.write_text(text)
    return Lines(read(path), rows, family)


def test_an_honest_end_passes(tmp_path: Path) -> None:
    assert audit_lines(lines(tmp_path, RECEIPT, [OVER, THEN, CHILD], {3: [1]})) == []


@pytest.mark.parametrize(
    ("forge", "n", "what"),
    [
        (with_stand(1, claimed_at=12, limit=None), 2, "before job 1, which stood before it in group g, had ended"),
        (changed("start 2 2 1 w 2.0", "start 2 2 1 w 1.2"), 2, "before job 1, which stood before it in group g, was done"),
        (with_stand(0, rank=101), 2, "it was passed in group g by job 1"),
        (with_stand(1, claimed_at=12, group=None), 2, "2 runs of limit l, of 1 at once"),
        (with_stand(2, claimed_at=12, limit=None), 3, "before job 1, which it needs, had ended"),
        (changed("start 3 3 1 w 3.0", "start 3 3 1 w 1.2"), 3, "before job 1, which it needs, was done"),
        (with_stand(2, finished_at=12, claimed_at=11), 3, "before its child 1"),
        (with_stand(2, limit_held=1), 3, "holds a gate"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, forge: Forge, n: int, what: str) -> None:
    found = audit_lines(lines(tmp_path, *forge(RECEIPT, [OVER, THEN, CHILD]), {3: [1]}))
    assert [wrong for wrong in found if wrong.n == n and what in wrong.what] != [], found
