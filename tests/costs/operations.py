"""Everything that a store does again and again while jobs run: for each, what has to be there before, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dray.job import Claim, Failed, Flag, HandedBack, NewJob, Parked, Reason, State, name_hash
from dray.store.codes import REASON
from tests.costs.bed import Bed

MANY = 100  # jobs in one batch
# As many with any backlog: workers have room for so many, and what nobody knows how to run is a mistake.
RUNNING = PARKED = 200


class Operation(NamedTuple):
    name: str
    prepare: Callable[[Bed], Any]
    run: Callable[[Bed, Any], Any]


def fill(bed: Bed, rows: int) -> None:
    """As many live rows and as many ended ones, of all kinds; a few of them run."""
    bed.fill(State.READY, rows * 5 // 10)
    bed.fill(State.READY, rows // 10, queue="mail", priority=7)
    bed.fill(State.SCHEDULED, rows * 3 // 10, key_hash="s.n", job_key="'k'")
    bed.fill(State.RETRYING, rows // 20)
    bed.fill(State.BLOCKED, rows // 20, reason=REASON[Reason.HELD], flags=int(Flag.HELD))
    group = {"group_hash": "s.n % 1000", "group_held": 0, "group_rank": 100, "group_name": "'g'"}
    bed.fill(State.BLOCKED, rows // 20, reason=REASON[Reason.GROUP], **group)
    limit = {"limit_hash": "s.n % 10", "limit_held": 0, "limit_name": "'l'", "limit_rule": "'3'"}
    bed.fill(State.BLOCKED, rows // 20, reason=REASON[Reason.LIMIT], **limit)
    bed.fill(State.BLOCKED, PARKED, task_hash=name_hash("unknown"))
    bed.fill(State.RUNNING, RUNNING, worker_id=bed.new_worker())
    bed.fill(State.SUCCEEDED, rows * 8 // 10)
    bed.fill(State.FAILED, rows // 10, key_hash="s.n", job_key="'k'")
    bed.fill(State.CANCELLED, rows // 10)
    bed.fill_workers(500)
    bed.fill_beside(rows)
    bed.settle()


def _nothing(bed: Bed) -> None:
    return None


def _runs(bed: Bed) -> list[Claim]:
    return bed.claim(MANY)


def _finished(bed: Bed) -> list[Claim]:
    runs = bed.claim(MANY)
    bed.finish(runs)
    return runs


def _lost(bed: Bed) -> None:
    """Jobs of a worker that is dead, some of which had begun."""
    runs = bed.claim(MANY)
    for run in runs[:10]:
        assert bed.store.mark_started(run.lease)
    bed.lose(runs)


def _due(bed: Bed) -> None:
    bed.fill(State.SCHEDULED, MANY // 2, run_at="{now} - s.n")
    bed.fill(State.RETRYING, MANY // 2, run_at="{now} - s.n")


def _parked(bed: Bed) -> None:
    bed.add(MANY, queue="parked", task="unknown to some")
    bed.finish(bed.claim(MANY, "parked"), Parked(why="unknown task"))


def _old(bed: Bed) -> None:
    bed.fill(State.CANCELLED, MANY, finished_at="s.n")


def _leaves(bed: Bed, _: None) -> None:
    assert bed.store.roster.leave(bed.new_worker())


def _dies(bed: Bed, _: None) -> None:
    worker = bed.new_worker()
    (beat,) = [one for one in bed.store.roster.beats() if one.worker_id == worker]
    assert bed.store.roster.declare_dead(beat)


def _counted(wanted: int, found: Any) -> None:
    assert found == wanted, found


def _held(bed: Bed, runs: list[Claim]) -> None:
    assert len(bed.store.held(bed.worker, [run.lease for run in runs[1:]])) >= 1


def _moved(verb: str) -> Callable[[Bed, list[int]], None]:
    def run(bed: Bed, ids: list[int]) -> None:
        moved = getattr(bed.store.desk, verb)(ids)
        assert all(one.after is not None for one in moved)

    return run


def _some(bed: Bed) -> list[int]:
    return bed.add(MANY)


def _some_held(bed: Bed) -> list[int]:
    ids = bed.add(MANY)
    bed.store.desk.hold(ids)
    return ids


def _some_ended(bed: Bed) -> list[int]:
    ids = bed.add(MANY)
    bed.store.desk.cancel(ids)
    return ids


def _grouped(bed: Bed) -> list[Claim]:
    """Heads of as many groups, behind each of which another waits."""
    for _ in range(2):
        bed.store.add([NewJob(task="t", queue="groups", args="{}", group=f"g{number}") for number in range(MANY)])
    return bed.claim(MANY, "groups")


def _limited(bed: Bed) -> list[Claim]:
    """Jobs that have the shares of a few limits, for which others wait."""
    jobs = [NewJob(task="t", queue="limits", args="{}", limit=f"l{n % 10}", limit_rule="20") for n in range(3 * MANY)]
    bed.store.add(jobs)
    return bed.claim(MANY, "limits")


def _needed(bed: Bed) -> list[Claim]:
    """Jobs for each of which another waits."""
    parents = bed.store.add([NewJob(task="t", queue="parents", args="{}")] * MANY)
    bed.store.add([NewJob(task="t", queue="children", args="{}", after=(one.id,)) for one in parents])
    return bed.claim(MANY, "parents")


def _expired(bed: Bed) -> None:
    bed.fill(State.READY, MANY, queue="late", expires_at="s.n")


OPERATIONS = [
    Operation("enqueue", _nothing, lambda bed, _: bed.add(1)),
    Operation("enqueue many", _nothing, lambda bed, _: bed.add(MANY)),
    Operation("enqueue for a date", _nothing, lambda bed, _: bed.add(1, run_at=1)),
    Operation("enqueue with labels", _nothing, lambda bed, _: bed.add(1, labels={"shop": "north"})),
    Operation("look in vain", _nothing, lambda bed, _: _counted(0, len(bed.store.claim(bed.worker, bed.pickup("no"), 9)))),
    Operation("claim", _nothing, lambda bed, _: bed.claim(MANY)),
    Operation("finish", _runs, lambda bed, runs: bed.finish(runs)),
    Operation("finish again", _finished, lambda bed, runs: bed.finish(runs, again=True)),
    Operation("fail", _runs, lambda bed, runs: bed.finish(runs, Failed(error="boom", permanent=True))),
    Operation("fail for now", _runs, lambda bed, runs: bed.finish(runs, Failed(error="boom", retry_in=60.0))),
    Operation("hand back", _runs, lambda bed, runs: bed.finish(runs, HandedBack(why="it waited"))),
    Operation("exchange", _runs, lambda bed, runs: bed.exchange(runs, MANY, bed.pickup())),
    Operation("mark the start", _runs, lambda bed, runs: _counted(True, bed.store.mark_started(runs[0].lease))),
    Operation("recount", _runs, _held),
    Operation("attend", _runs, lambda bed, _: _counted(0, len(bed.store.desk.requested(bed.worker)))),
    Operation("nothing is due", _nothing, lambda bed, _: _counted(0, len(bed.store.promote().ready))),
    Operation("promote", _due, lambda bed, _: _counted(MANY, len(bed.store.promote().ready))),
    Operation("adopt", _parked, lambda bed, _: _counted(MANY, len(bed.store.adopt({"unknown to some": 5})))),
    Operation("nothing is lost", _nothing, lambda bed, _: _counted(0, bed.store.rescue().freed)),
    Operation("rescue", _lost, lambda bed, _: _counted(MANY, bed.store.rescue().freed)),
    Operation("a worker leaves", _nothing, _leaves),
    Operation("a worker dies", _nothing, _dies),
    Operation("nothing is old", _nothing, lambda bed, _: _counted(0, bed.store.desk.prune_batch(State.SUCCEEDED, 1e6))),
    Operation("prune", _old, lambda bed, _: _counted(MANY, bed.store.desk.prune_batch(State.CANCELLED, 1e6))),
    Operation("prune workers", _nothing, lambda bed, _: bed.store.desk.prune_workers(-60.0)),
    Operation("show a job", _some, lambda bed, ids: bed.store.desk.job(ids[0])),
    Operation("cancel", _some, _moved("cancel")),
    Operation("hold", _some, _moved("hold")),
    Operation("release", _some_held, _moved("release")),
    Operation("retry", _some_ended, _moved("retry")),
]

# What only jobs cost that wait for something else than their time. On beds of their own: where there are edges, each end leaves
# a note of itself until it has been settled.
WAITING = [
    Operation("end heads of groups", _grouped, lambda bed, runs: bed.finish(runs)),
    Operation("end shares of limits", _limited, lambda bed, runs: bed.finish(runs)),
    Operation("end parents", _needed, lambda bed, runs: bed.finish(runs)),
    Operation(
        "enqueue into a group", _nothing, lambda bed, _: bed.store.add([NewJob(task="t", queue="q", args="{}", group="x")])
    ),
    Operation("expire", _expired, lambda bed, _: _counted(MANY, bed.store.expire().cancelled)),
    Operation("nothing has expired", _nothing, lambda bed, _: bed.store.expire()),
    Operation("rates", _nothing, lambda bed, _: bed.store.open_rates()),
    Operation("no notes are left", _nothing, lambda bed, _: bed.store.settler.sweep()),
    Operation("controls", _nothing, lambda bed, _: bed.store.desk.controls()),
]
