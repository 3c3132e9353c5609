"""What the process under test does: for each operation a scene, the deed, and what has to be true of it afterwards.

A scene is set by the boss, who also clears up: the process of the test, which nothing befalls. The deed is done in a child.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dray.errors import DrayError, OutcomeUnknown, StoreError
from dray.job import Failed, Finish, State
from dray.lifecycle import decide
from dray.store.base import Beat
from tests.crash.byhand import HandWorker
from tests.crash.failpoints import Failpoints, is_bare
from tests.crash.ledger import BLOCKED, CANCELLED, FAILED, READY, RUNNING, SCHEDULED, Ledger, Row
from tests.crash.receipt import steady
from tests.crash.shop import Shop

Scene = dict[str, Any]  # what the child has to know of the scene, as JSON can carry it
DONE, UNDONE = "done", "undone"
ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("n", sa.Integer, primary_key=True, autoincrement=False))
FAR = 3600.0  # seconds
GHOST = "ghost"  # a worker that exists only as a row


@dataclass(frozen=True)
class Act:
    """One operation, or several that only come together.

    operations  those whose failpoints are struck at here
    moved       whether the rows say that it was done, or not; anything else says what is half done. None: nothing to say
    bare        whether results are dropped, so that none will be found
    ends        states in which its jobs may end, beside success
    gated       whether its jobs wait for others, so that there are lines
    unnoted     whether only the round can find what it leaves: there was no note
    repeats     groups that are run ahead: a crash may repeat what had not been written
    late        the numbers of jobs that leave their line, and join it again
    """

    operations: tuple[str, ...]
    prepare: Callable[[Shop], Scene]
    perform: Callable[[Shop, Failpoints, Scene], None]
    moved: Callable[[Ledger, list[Row]], str] | None = None
    ends: tuple[int, ...] = ()
    bare: bool = False
    gated: bool = False
    unnoted: bool = False
    repeats: frozenset[str] = frozenset()
    late: frozenset[int] = frozenset()


def nothing(shop: Shop) -> Scene:
    return {}


# --- enqueue --------------------------------------------------------------------------------------------------------------


def adding(shop: Shop, n: int, add: Callable[[], object]) -> None:
    """Add, and write on the receipt what one was told."""
    try:
        add()
    except OutcomeUnknown:
        shop.receipt.event(shop.name, "enqueue.unknown", {"n": n})
    except DrayError as error:
        shop.receipt.write("refused", n, type(error).__name__)


def enqueue(shop: Shop, points: Failpoints, scene: Scene) -> None:
    adding(shop, 1, lambda: shop.add(1, "plain"))


def enqueue_many(shop: Shop, points: Failpoints, scene: Scene) -> None:
    adding(shop, 1, lambda: shop.add(1, "plain", count=3, labels={"trial": "failpoints"}))


def enqueue_within(shop: Shop, points: Failpoints, scene: Scene, **options: Any) -> None:
    """An order and its jobs in one transaction of the caller's; behind its commit the lines they stand in are settled."""
    engine = sa.create_engine(shop.plan.url)
    with engine.connect():
        pass  # whatever SQLAlchemy asks of a new server is asked here
    points.watch(engine)
    task = shop.tasks["plain"].using(**options or {"labels": {"trial": "failpoints"}})
    with points.operation("enqueue within"), suppress(DBAPIError), engine.connect() as connection:
        shop.receipt.write("intend", 1, 2, "plain")
        connection.execute(ORDERS.insert().values(n=1))
        try:
            with shop.app.transaction(connection):
                jobs = shop.app.enqueue_many([task.bind(1, 0.0), task.bind(2, 0.0)])
        except StoreError as error:
            shop.receipt.write("refused", 1, type(error).__name__)
            return
        connection.commit()
        shop.receipt.write("added", 1, *[job.id for job in jobs])


def added(count: int) -> Callable[[Ledger, list[Row]], str]:
    def moved(ledger: Ledger, rows: list[Row]) -> str:
        labels = ledger.count("dray_labels")
        wanted = 0 if count == 1 else len(rows)
        return {0: UNDONE, count: DONE}.get(len(rows), f"{len(rows)} of {count} jobs") if labels == wanted else "labels"

    return moved


def ordered(ledger: Ledger, rows: list[Row]) -> str:
    orders = ledger.count("orders")
    return {(0, 0): UNDONE, (1, 2): DONE}.get((orders, len(rows)), f"{orders} orders and {len(rows)} jobs")


# --- workers --------------------------------------------------------------------------------------------------------------


def jobs_of_all_tempers(shop: Shop) -> Scene:
    for n, kind in enumerate(("plain", "careful", "flaky", "snoozing", "plain", "careful", "plain"), start=1):
        shop.add(n, kind)
    return {}


def three_plain_jobs(shop: Shop) -> Scene:
    shop.add(1, "plain", count=3)
    return {}


def work(shop: Shop, points: Failpoints, scene: Scene) -> None:
    HandWorker(shop.app, ahead=4).work()


def work_a_little(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """What has ended is written, and nothing is wanted."""
    HandWorker(shop.app, max_jobs=3).work()


def hand_back(shop: Shop, points: Failpoints, scene: Scene) -> None:
    worker = HandWorker(shop.app)
    worker.slots.room = 0
    worker.begin()
    while not worker.items and not worker.over:
        worker.turn()
    worker.stop()
    worker.end()


def refusing(method: Callable[..., Any], is_refused: Callable[..., bool], times: int) -> Callable[..., Any]:
    """A method of the store that refuses a write a few times, for what is in it."""
    left = [None] * times

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        if left and is_refused(*arguments):
            left.pop()
            raise StoreError("one of them cannot be stored")
        return method(*arguments, **keywords)

    return refuse


def write_singly(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """The first write is refused, so that its members are written one by one."""
    store: Any = shop.app.store
    store.exchange = refusing(store.exchange, lambda worker, pickup, finishes, limit: bool(finishes), 1)
    HandWorker(shop.app).work()


def write_plainly(shop: Shop, points: Failpoints, scene: Scene) -> None:
    """Each member is refused, too, so that nothing is left to be written of it but that it succeeded."""
    store: Any = shop.app.store
    store.finish = refusing(store.finish, lambda finishes: not is_bare(finishes[0].change.note), 1000)
    write_singly(shop, points, scene)


# --- upkeep ---------------------------------------------------------------------------------------------------------------


def due_jobs(shop: Shop) -> Scene:
    ids = [shop.add(n, "plain", run_in=FAR)[0] for n in (1, 2, 3)]
    shop.app.store.desk.hold(ids[2:])
    Ledger(shop.plan.url).make_due(ids)
    return {}


def promote(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.promote()


def jobs_of_a_ghost(shop: Shop) -> Scene:
    """A worker that is not there any more holds a job that it had not started, and two that it had."""
    store = shop.app.store
    ids = [shop.add(1, "plain")[0], shop.add(2, "plain")[0], shop.add(3, "careful")[0]]
    worker = store.roster.register(host="gone", pid=0, queues="*", concurrency=4)
    for claim in store.claim(worker, store.pickup(()), 3):
        if claim.id in ids[1:]:
            store.mark_started(claim.lease)
            shop.receipt.write("start", 1 + ids.index(claim.id), claim.id, claim.fence, GHOST, steady(), "pid=0")
    (beat,) = [beat for beat in store.roster.beats() if beat.worker_id == worker]
    return {"beat": list(beat)}


def rescue(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.roster.declare_dead(Beat(*scene["beat"]))
    with suppress(StoreError):
        shop.app.store.rescue()


# --- operators ------------------------------------------------------------------------------------------------------------


def ended_jobs(shop: Shop) -> Scene:
    """Two have failed, one was cancelled; they have labels, a log and attempts."""
    store = shop.app.store
    ids = [shop.add(n, "plain", labels={"trial": "failpoints"})[0] for n in (1, 2, 3)]
    store.desk.cancel(ids[2:])
    worker = store.roster.register(host="here", pid=0, queues="*", concurrency=2)
    claims = store.claim(worker, store.pickup(()), 2)
    store.finish([Finish(one, decide(one, Failed(error="boom", permanent=True)), ran=0.001) for one in claims])
    store.roster.leave(worker)
    return {"ids": ids}


def retry(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.retry(scene["ids"])


def waiting_and_running_jobs(shop: Shop) -> Scene:
    """One runs, at a worker that will be gone; the others wait in each of the ways there are."""
    store = shop.app.store
    ids = shop.add(1, "plain")
    worker = store.roster.register(host="gone", pid=0, queues="*", concurrency=1)
    store.claim(worker, store.pickup(()), 1)
    ids += [shop.add(2, "plain")[0], shop.add(3, "plain", run_in=FAR)[0], shop.add(4, "plain")[0]]
    store.desk.hold(ids[3:])
    return {"ids": ids, "leaver": worker}


def cancel(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.cancel(scene["ids"])


def states(undone: tuple[int, ...], done: tuple[int, ...]) -> Callable[[Ledger, list[Row]], str]:
    """For what shows in the states of the jobs, in the order of their numbers."""

    def moved(ledger: Ledger, rows: list[Row]) -> str:
        found = tuple(row.state for row in sorted(rows, key=lambda row: row.n))
        return {undone: UNDONE, done: DONE}.get(found, f"states {found}")

    return moved


def prune(shop: Shop, points: Failpoints, scene: Scene) -> None:
    with suppress(StoreError):
        shop.app.store.desk.prune_batch(State.FAILED, 0.0)


def pruned(ledger: Ledger, rows: list[Row]) -> str:
    found = Counter(row.state for row in rows)[FAILED], ledger.count("dray_attempts"), ledger.count("dray_labels")
    return {(2, 2, 3): UNDONE, (0, 0, 1): DONE}.get(found, f"jobs, attempts, labels: {found}")


ACTS = {
    "enqueue": Act(("enqueue",), nothing, enqueue, added(1)),
    "enqueue many": Act(("enqueue many",), nothing, enqueue_many, added(3)),
    "enqueue within": Act(("enqueue within",), nothing, enqueue_within, ordered),
    "work": Act(("claim", "exchange", "mark", "recount"), jobs_of_all_tempers, work),
    "finish": Act(("finish",), three_plain_jobs, work_a_little),
    "write singly": Act(("finish singly",), three_plain_jobs, write_singly),
    "write plainly": Act(("finish plainly",), three_plain_jobs, write_plainly, bare=True),
    "hand back": Act(("hand back",), three_plain_jobs, hand_back),
    "promote": Act(("promote",), due_jobs, promote, states((SCHEDULED,) * 3, (READY, READY, BLOCKED))),
    "rescue": Act(("declare dead", "rescue"), jobs_of_a_ghost, rescue, states((RUNNING,) * 3, (READY, READY, FAILED))),
    "retry": Act(("retry",), ended_jobs, retry, states((FAILED, FAILED, CANCELLED), (READY,) * 3), (FAILED, CANCELLED)),
    "cancel": Act(
        ("cancel",),
        waiting_and_running_jobs,
        cancel,
        states((RUNNING, READY, SCHEDULED, BLOCKED), (RUNNING, *[CANCELLED] * 3)),
        (CANCELLED,),
    ),
    "prune": Act(("prune",), ended_jobs, prune, pruned, (FAILED, CANCELLED)),
}
