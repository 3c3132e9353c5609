"""The audit of jobs that wait for others: groups, limits, parents, keys. Pure, so that forged rows can prove that it works.

`standing` is true of the rows at every moment; the rest of the end, when everything has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.crash.audit import Wrong
from tests.crash.ledger import BLOCKED, FAILED, READY, RETRYING, RUNNING, SCHEDULED, SUCCEEDED, Stand
from tests.crash.receipt import Account, End, Start

HOLDS, FOLLOWS = 1, 2
QUEUED, UNFINISHED = 0, 1  # scopes of a key
MAY_START = (READY, RUNNING)
ONE_OF = {QUEUED: (READY, SCHEDULED, RETRYING, BLOCKED), UNFINISHED: (READY, SCHEDULED, RETRYING, BLOCKED, RUNNING)}

# --- at every moment ------------------------------------------------------------------------------------------------------


def standing(stands: Sequence[Stand], openings: int = 0) -> Iterator[Wrong]:
    """What may never be seen in the rows. `openings`: how often the time of a rate was let pass."""
    live = [one for one in stands if one.live]
    for one in live:
        yield from _station(one)
    for group, some in _by(live, "group").items():
        yield from _heads(group, some)
    for limit, some in _by(stands, "limit").items():
        yield from _shares(limit, some, openings)
    for some in _by(live, "key").values():
        if len(holders := [one for one in some if one.state in ONE_OF.get(one.scope or 0, ())]) > 1:
            yield Wrong(f"its unique key is held by {len(holders)} jobs", holders[1].n)


def _station(one: Stand) -> Iterator[Wrong]:
    if one.state in MAY_START and one.group is not None and one.group_held not in (HOLDS, FOLLOWS):
        yield Wrong(f"it may start, and is not at the head of its group {one.group}", one.n)
    if one.state in MAY_START and one.limit is not None and one.limit_held != HOLDS:
        yield Wrong(f"it may start, and has no share of its limit {one.limit}", one.n)
    if one.group_held == FOLLOWS and one.state != RUNNING:
        yield Wrong(f"it follows the head of its group {one.group}, and does not run", one.n)


def _heads(group: str, some: Sequence[Stand]) -> Iterator[Wrong]:
    heads = [one for one in some if one.group_held == HOLDS]
    if len(heads) > 1:
        yield Wrong(f"group {group} has {len(heads)} heads", heads[1].n)
    if len({one.worker_id for one in some if one.state == RUNNING}) > 1:
        yield Wrong(f"group {group} is run by two workers", some[0].n)


def _shares(limit: str, some: Sequence[Stand], openings: int) -> Iterator[Wrong]:
    most, rate = allowed(some)
    holders = [one for one in some if one.live and one.limit_held == HOLDS]
    if most is not None and len(holders) > most:
        yield Wrong(f"{len(holders)} hold limit {limit} of {most}", holders[-1].n)
    started = [one for one in some if one.fence > 0 or one.limit_held == HOLDS]
    if rate is not None and len(started) > rate * (1 + openings):
        yield Wrong(f"{len(started)} were let through limit {limit} at a rate of {rate}", started[-1].n)


def allowed(some: Iterable[Stand]) -> tuple[int | None, int | None]:
    """How many may run at once under a limit, and how many may start, by the most generous of its rules."""
    rules = {one.rule or "1" for one in some}
    rates = [int(rule.split("/")[0]) for rule in rules if "/" in rule]
    return max((int(rule) for rule in rules if "/" not in rule), default=None), max(rates, default=None)


def _by(stands: Iterable[Stand], column: str) -> dict[str, list[Stand]]:
    found = defaultdict(list)
    for one in stands:
        if (value := getattr(one, column)) is not None:
            found[value].append(one)
    return found


# --- in the end -----------------------------------------------------------------------------------------------------------


@dataclass
class Lines:
    """What is known of gated jobs when all is over.

    family   the ids of the children of each job that has any
    repeats  groups of which a crash may repeat what had run ahead
    late     the numbers of those that left their line and joined it again
    """

    account: Account
    stands: Sequence[Stand]
    family: dict[int, list[int]]
    repeats: frozenset[str] = frozenset()
    late: frozenset[int] = frozenset()

    def accepted(self, one: Stand) -> tuple[Start, End] | None:
        """The run whose result was taken."""
        end = self.account.ends.get((one.id, one.fence))
        starts = [start for start in self.account.starts.get(one.id, ()) if start.fence == one.fence]
        return (starts[0], end) if starts and end is not None and one.state == SUCCEEDED else None


def audit_lines(lines: Lines) -> list[Wrong]:
    """Everything that is wrong with the order of things."""
    return [wrong for check in CHECKS for wrong in check(lines)]


def groups_go_one_by_one(lines: Lines) -> Iterator[Wrong]:
    """Nobody is claimed before the end of the one before him is committed."""
    for group, some in _by(lines.stands, "group").items():
        ran = sorted(filter(_ran, some), key=lambda one: (_since(one), one.rank, one.id))
        yield from _in_order(lines, group, ran)
        for first, second in pairwise(ran):
            together = group in lines.repeats and first.worker_id == second.worker_id
            if not together and _since(second) < _until(first):
                yield Wrong(f"it was claimed before job {first.n}, which stood before it in group {group}, had ended", second.n)
            if (done := lines.accepted(first)) is None:
                continue
            starts = lines.account.starts.get(second.id, [])
            if group in lines.repeats:
                starts = [start for start in starts if start.fence == second.fence]
            if any(start.time < done[1].time for start in starts):
                yield Wrong(f"it was started before job {first.n}, which stood before it in group {group}, was done", second.n)


def _in_order(lines: Lines, group: str, ran: Sequence[Stand]) -> Iterator[Wrong]:
    """Those who stood in line from the beginning; who waited for others first came late."""
    began = [one for one in ran if one.n not in lines.account.needs and one.n not in lines.late]
    for first, second in pairwise(began):
        if (first.rank, first.id) > (second.rank, second.id):
            yield Wrong(f"it was passed in group {group} by job {first.n}", second.n)


def limits_are_kept(lines: Lines) -> Iterator[Wrong]:
    for limit, some in _by(lines.stands, "limit").items():
        most, _ = allowed(some)
        for one in filter(_ran, some):
            beside = [other for other in some if _ran(other) and _since(other) <= _since(one) < _until(other)]
            if most is not None and len(beside) > most:
                yield Wrong(f"{len(beside)} runs of limit {limit}, of {most} at once, were accepted", one.n)


def dependents_come_after(lines: Lines) -> Iterator[Wrong]:
    there = {one.id: one for one in lines.stands}
    for n, needed in lines.account.needs.items():
        id = lines.account.added.get(n)
        if id is None or id not in there:
            continue
        for parent in (there[one] for one in needed if one in there):
            if _ran(there[id]) and _since(there[id]) < _until(parent):
                yield Wrong(f"it was claimed before job {parent.n}, which it needs, had ended", n)
            done = lines.accepted(parent)
            if done is not None and any(start.time < done[1].time for start in lines.account.starts.get(id, ())):
                yield Wrong(f"it was started before job {parent.n}, which it needs, was done", n)


def families_end_together(lines: Lines) -> Iterator[Wrong]:
    there = {one.id: one for one in lines.stands}
    for id, children in lines.family.items():
        for child in (there[one] for one in children if id in there and one in there):
            if _until(there[id]) < _until(child):
                yield Wrong(f"it had ended before its child {child.n}", there[id].n)


def ends_hold_nothing(lines: Lines) -> Iterator[Wrong]:
    for one in lines.stands:
        if not one.live and (one.group_held is not None or one.limit_held is not None):
            yield Wrong("it has ended, and holds a gate", one.n)


CHECKS: tuple[Callable[[Lines], Iterator[Wrong]], ...] = (
    groups_go_one_by_one,
    limits_are_kept,
    dependents_come_after,
    families_end_together,
    ends_hold_nothing,
)


def _ran(one: Stand) -> bool:
    return one.state in (SUCCEEDED, FAILED) and one.claimed_at is not None and one.finished_at is not None


def _since(one: Stand) -> int:
    return one.claimed_at or 0


def _until(one: Stand) -> int:
    return one.finished_at or 0
