"""What upkeep and operators do with jobs that wait for others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dray import Limit, Unique
from dray.errors import StoreError
from dray.job import Failed, Finish
from dray.lifecycle import decide
from dray.store.base import Beat
from tests.crash.acts import DONE, FAR, GHOST, UNDONE, Act, Scene, states
from tests.crash.byhand import HandWorker
from tests.crash.failpoints import Failpoints
from tests.crash.ledger import BLOCKED, CANCELLED, FAILED, READY, RUNNING, SCHEDULED, Ledger, Row
from tests.crash.receipt import steady
from tests.crash.shop import Shop

ONE = Limit("l", 1)
RATE = Limit("r", rate=2, per=3600.0)  # an hour that will not pass by itself
KEY = Unique(scope="unfinished", by=["seconds"])

# --- upkeep ---------------------------------------------------------------------------------------------------------------


def due_in_line(shop: Shop) -> Scene:
    """Two come to a line at the same time, one to a limit beside it."""
    ids = shop.add(1, "plain", count=2, run_in=FAR, group="g", limit=ONE) + shop.add(3, "plain", run_in=FAR, limit=ONE)
    Ledger(shop.plan.url).make_due(ids)
    return {}


def promote(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.promote()


def no_longer_scheduled(ledger: Ledger, rows: list[Row]) -> str:
    """In line, or let out of it already."""
    waiting = sum(row.state == SCHEDULED for row in rows)
    return {3: UNDONE, 0: DONE}.get(waiting, f"{waiting} of 3 are scheduled")


def a_ghost_at_the_gates(shop: Shop) -> Scene:
    """A worker that is gone holds the head of a group and a share of a limit; the one goes on, the other fails for good."""
    store = shop.app.store
    head, *_ = shop.add(1, "plain", count=2, group="g")
    (careful,) = shop.add(3, "careful", limit=ONE)
    shop.add(4, "plain", limit=ONE)
    shop.add(5, "plain", after=[careful], when="all_done", group="g")
    worker = store.roster.register(host="gone", pid=0, queues="*", concurrency=4)
    for claim in store.claim(worker, store.pickup(()), 4):
        n = {head: 1, careful: 3}[claim.id]
        store.mark_started(claim.lease)
        shop.receipt.write("start", n, claim.id, claim.fence, GHOST, steady(), "pid=0")
    (beat,) = [beat for beat in store.roster.beats() if beat.worker_id == worker]
    return {"beat": list(beat)}


def rescue(shop: Shop, points: Failpoints, scene: Scene) -> None:
    store = shop.app.store
    store.go_round()  # it knows of the edges, as upkeep does that has gone round once
    with suppress(StoreError):
        store.roster.declare_dead(Beat(*scene["beat"]))
    with suppress(StoreError):
        store.rescue()


@contextmanager
def unsettled(shop: Shop) -> Iterator[None]:
    """As if all who act died behind their commit: what they owe stays behind as notes."""
    settler = shop.app.store.settler
    settle = settler.settle
    settler.settle = lambda owed, notes=(): []  # type: ignore[method-assign]
    try:
        yield
    finally:
        settler.settle = settle  # type: ignore[method-assign]


def notes_of_the_dead(shop: Shop) -> Scene:
    """Parents have ended, others have joined lines, and nobody has drawn any consequence."""
    shop.app.store.go_round()
    parents = shop.add(1, "plain", count=2)
    shop.add(3, "plain", after=parents, group="g", limit=ONE)
    shop.add(4, "plain", after=parents[:1])
    shop.app.store.go_round()  # there are edges now, so that ends are noted
    with unsettled(shop):
        shop.add(5, "plain", count=2, group="g", limit=ONE)
        shop.add(7, "plain", limit=ONE)
        HandWorker(shop.app).work()
    return {}


def sweep(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.settler.sweep(older_than=0)


def nothing_noted(shop: Shop) -> Scene:
    """The same, and the notes are gone, too."""
    notes_of_the_dead(shop)
    Ledger(shop.plan.url).forget_notes()
    return {}


def go_round(shop: Shop, points: Failpoints, scene: Scene) -> None:
    shop.app.store.round.clock = lambda: 0.0  # so it comes to its end, at the same statements each time, on a busy machine too
    with suppress(StoreError):
        shop.app.store.go_round()


def a_rate_whose_time_has_come(shop: Shop) -> Scene:
    """Two have started, and the time of two others has come."""
    shop.add(1, "plain", count=4, limit=RATE)
    HandWorker(shop.app).work()
    Ledger(shop.plan.url).open_rates()
    return {"openings": 1}


def open_rates(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.open_rates()


def idle_gates_and_keys(shop: Shop) -> Scene:
    """Of one group and one key all have ended; others are still there."""
    shop.add(1, "plain", group="idle", limit=ONE, unique=KEY)
    HandWorker(shop.app).work()
    shop.add(2, "plain", 0.001, group="g", limit=Limit("other", 1), unique=KEY)
    return {}


def prune(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.prune_gates(0.0)
    with suppress(StoreError):
        shop.app.store.desk.prune_keys(None)


# --- operators ------------------------------------------------------------------------------------------------------------


def heads_and_parents(shop: Shop) -> Scene:
    """The head of a line, who has a share of a limit and a key, and a parent; others wait for each of them."""
    ids = shop.add(1, "plain", group="g", limit=ONE, unique=KEY)
    shop.add(2, "plain", group="g")
    ids += shop.add(3, "plain")
    shop.add(4, "plain", after=ids[1:], on_parent_failure="cancel", group="g")
    shop.add(5, "plain", after=ids[1:], when="all_done")
    shop.add(6, "plain", limit=ONE)
    return {"ids": ids}


def cancel(shop: Shop, points: Failpoints, scene: Scene) -> None:
    shop.app.store.go_round()
    with suppress(StoreError):
        shop.app.store.desk.cancel(scene["ids"])


def hold(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.hold(scene["ids"])


def held_heads(shop: Shop) -> Scene:
    scene = heads_and_parents(shop)
    shop.app.store.desk.hold(scene["ids"])
    HandWorker(shop.app).work()
    return scene


def release(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.release(scene["ids"])


def a_failed_head(shop: Shop) -> Scene:
    """A group stands still for its head, which has failed; so does one that needs it. It had a share, and a key."""
    store = shop.app.store
    (failed,) = shop.add(1, "plain", group="g", limit=ONE, unique=KEY, on_failure="halt")
    shop.add(2, "plain", group="g")
    (child,) = shop.add(3, "plain", after=[failed])
    worker = store.roster.register(host="here", pid=0, queues="*", concurrency=1)
    claims = store.claim(worker, store.pickup(()), 1)
    store.finish([Finish(one, decide(one, Failed(error="boom", permanent=True)), ran=0.001) for one in claims])
    store.roster.leave(worker)
    return {"ids": [failed], "child": child}


def retry(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.retry(scene["ids"])


def unblock(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.unblock_group("g")
    with suppress(StoreError):
        shop.app.store.desk.waive(scene["child"], scene["ids"][0])


def of(numbers: tuple[int, ...], moved: Callable[[Ledger, list[Row]], str]) -> Callable[[Ledger, list[Row]], str]:
    """What shows in the states of some of the jobs: of those that are moved themselves, not of who goes on because of it."""
    return lambda ledger, rows: moved(ledger, [row for row in rows if row.n in numbers])


MOVES = {
    "promote into line": Act(("promote",), due_in_line, promote, no_longer_scheduled),
    "rescue in line": Act(
        ("declare dead", "rescue"),
        a_ghost_at_the_gates,
        rescue,
        of((1, 3), states((RUNNING, RUNNING), (READY, FAILED))),
    ),
    "sweep": Act(("sweep",), notes_of_the_dead, sweep),
    "round": Act(("round",), nothing_noted, go_round, unnoted=True),
    "open rates": Act(("open rates",), a_rate_whose_time_has_come, open_rates),
    "prune gates": Act(("prune gates", "prune keys"), idle_gates_and_keys, prune),
    "cancel in line": Act(
        ("cancel",),
        heads_and_parents,
        cancel,
        of((1, 3), states((READY, READY), (CANCELLED, CANCELLED))),
        (CANCELLED,),
    ),
    "hold in line": Act(
        ("hold",),
        heads_and_parents,
        hold,
        of((1, 3), states((READY, READY), (BLOCKED, BLOCKED))),
        late=frozenset({1}),
    ),
    "release in line": Act(("release",), held_heads, release, late=frozenset({1})),
    "retry in line": Act(("retry",), a_failed_head, retry, ends=(FAILED,)),
    "unblock": Act(("unblock", "waive"), a_failed_head, unblock, ends=(FAILED,)),
}
