"""What the process under test does with jobs that wait for others: in groups, at limits, for parents and children, by keys.

Behind each commit follows what it leaves to others, in transactions of its own; these statements are failpoints, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dray import Limit, Unique
from tests.crash.acts import DONE, UNDONE, Act, Scene, adding, enqueue_within, hand_back, ordered, work
from tests.crash.byhand import HandWorker
from tests.crash.failpoints import Failpoints
from tests.crash.gatedmoves import MOVES
from tests.crash.ledger import Ledger, Row
from tests.crash.shop import Shop

NEW = 11  # the number of the first job that an enqueue under test adds
ONE, TWO = Limit("l", 1), Limit("l", 2)
RATE = Limit("r", rate=2, per=3600.0)  # an hour that will not pass by itself
KEY = Unique(scope="unfinished", by=["seconds"])


# --- enqueue --------------------------------------------------------------------------------------------------------------


def nobody(shop: Shop) -> Scene:
    return {}


def somebody_in_line(shop: Shop) -> Scene:
    shop.add(1, "plain", group="g", strict_order=True, limit=ONE)
    return {}


def enqueue_in_line(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """Behind others, and with another number for their limit."""
    adding(shop, NEW, lambda: shop.add(NEW, "plain", count=3, group="g", strict_order=True, limit=TWO))


def enqueue_first(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """The first of its group, and of its limit."""
    adding(shop, NEW, lambda: shop.add(NEW, "plain", group="g", limit=ONE))


def parents_and_a_free_key(shop: Shop) -> Scene:
    """One parent has ended, another has not; the key was another's once."""
    (ended,) = shop.add(1, "plain", unique=KEY)
    HandWorker(shop.app).work()
    return {"after": [ended, *shop.add(2, "plain")]}


def enqueue_after(shop: Shop, points: Failpoints, scene: Scene) -> None:
    adding(shop, NEW, lambda: shop.add(NEW, "plain", after=scene["after"], unique=KEY, group="g"))


def ended_parents(shop: Shop) -> Scene:
    ids = shop.add(1, "plain", count=2)
    HandWorker(shop.app).work()
    return {"after": ids}


def joined(count: int, edges: int = 0) -> Callable[[Ledger, list[Row]], str]:
    """All of the new jobs with all that belongs to them, or none of it."""

    def moved(ledger: Ledger, rows: list[Row]) -> str:
        new = [row for row in rows if row.n >= NEW]
        found = len(new), ledger.count("dray_edges")
        return {(0, 0): UNDONE, (count, edges): DONE}.get(found, f"{found[0]} of {count} jobs, {found[1]} of {edges} edges")

    return moved


# --- workers --------------------------------------------------------------------------------------------------------------


def two_groups(shop: Shop) -> Scene:
    """One whose head fails and snoozes, and one at a limit, whose head may not be run again."""
    for n, kind in enumerate(("plain", "flaky", "snoozing", "plain"), start=1):
        shop.add(n, kind, group="g")
    for n, kind in enumerate(("careful", "plain", "plain"), start=11):
        shop.add(n, kind, group="h", limit=ONE)
    return {}


def two_limits(shop: Shop) -> Scene:
    for n, kind in enumerate(("plain", "careful", "plain", "plain", "flaky", "plain"), start=1):
        shop.add(n, kind, limit=TWO)
    for n in (11, 12, 13):
        shop.add(n, "plain", limit=RATE)
    return {}


def a_workflow(shop: Shop) -> Scene:
    """A diamond whose last is in line and at a limit, as some others are; one goes on whatever became of its parent."""
    first = shop.add(1, "plain")
    sides = [*shop.add(2, "plain", after=first), *shop.add(3, "flaky", after=first)]
    shop.add(4, "plain", after=sides, group="g", limit=ONE)
    shop.add(5, "plain", group="g", limit=ONE)
    careful = shop.add(6, "careful")
    shop.add(7, "plain", after=careful, when="all_done", limit=ONE)
    return {}


def work_with_edges_in_sight(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """As upkeep does, it has gone round once: so it knows that others wait for ends, and leaves notes of them."""
    shop.app.store.go_round()
    HandWorker(shop.app, ahead=4).work()


def a_family(shop: Shop) -> Scene:
    """The children are in a line of their own; another waits for the parent."""
    parent = shop.add(1, "spawning", group="g")
    shop.add(2, "plain", after=parent)
    shop.add(3, "plain", group="g")
    return {}


def a_long_line(shop: Shop) -> Scene:
    for n in range(1, 6):
        shop.add(n, "ahead", group="g")
    return {}


def a_line_of_three(shop: Shop) -> Scene:
    """Others wait for the first and for the last; nobody else comes to the limit, and would find who was forgotten there."""
    ids = shop.add(1, "plain", count=3, group="g")
    shop.add(11, "plain", after=ids[:1], limit=ONE)
    shop.add(12, "plain", after=ids[2:])
    return {}


def end_one(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """What has ended is written, nothing is wanted, and others go on because of it."""
    shop.app.store.go_round()
    HandWorker(shop.app, max_jobs=1).work()


ENQUEUES = {
    "enqueue in line": Act(("enqueue many",), somebody_in_line, enqueue_in_line, joined(3)),
    "enqueue first": Act(("enqueue",), nobody, enqueue_first, joined(1)),
    "enqueue after": Act(("enqueue",), parents_and_a_free_key, enqueue_after, joined(1, edges=2)),
    "enqueue after ended": Act(("enqueue",), ended_parents, enqueue_after, joined(1, edges=2)),
    "enqueue within line": Act(("settle", "enqueue within"), nobody, partial(enqueue_within, group="g", limit=TWO), ordered),
}
WORKERS = {
    "groups": Act(("claim", "finish", "mark"), two_groups, work),
    "limits": Act(("claim", "exchange", "mark"), two_limits, work),
    "workflow": Act(("claim", "finish", "mark"), a_workflow, work_with_edges_in_sight),
    "family": Act(("claim", "finish", "enqueue many"), a_family, work_with_edges_in_sight),
    "ahead": Act(("claim", "finish", "follow"), a_long_line, work, repeats=frozenset({"g"})),
    "end one": Act(("finish",), a_line_of_three, end_one),
    "hand back in line": Act(("hand back",), two_limits, hand_back),
}
GATED = {**ENQUEUES, **WORKERS, **MOVES}
