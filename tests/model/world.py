"""The database under test: its store, the clock it goes by, and all that is in it, read back with two statements."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import create_engine, literal_column, select, union_all

from dray.job import Flag, Lease, Reason, State, name_hash
from dray.stations import gate_hash
from dray.store import open_store
from dray.store.codes import REASON_OF, STATE_OF
from dray.testing import START, Clock
from tests.model.model import Job, Model
from tests.servers import Database

PATIENCE = 10.0  # seconds
SIDES = (
    "SELECT 'label' AS kind, job_id AS id, 0 AS fence, 0 AS attempt, 0 AS state, 0 AS worker, name AS text1, value AS text2"
    " FROM {labels} UNION ALL SELECT 'attempt', job_id, fence, attempt, state, worker_id, error, '' FROM {attempts}"
    " UNION ALL SELECT 'line', job_id, fence, 0, 0, 0, line, '' FROM {output}"
    " UNION ALL SELECT 'halt', job_id, 0, 0, 0, 0, '', '' FROM {halts}"
    " UNION ALL SELECT 'edge', job_id, needs_id, policy, COALESCE(outcome, 0), 0, '', '' FROM {edges}"
    " UNION ALL SELECT 'note', id, 0, 0, 0, 0, owed, '' FROM {unsettled}"
    " UNION ALL SELECT 'key', job_id, scope, 0, 0, COALESCE(hold_until, 0), unique_hash, '' FROM {unique_keys}"
    " UNION ALL SELECT 'worker', id, 0, 0, state, 0, queues, '' FROM {workers}"
)
TABLES = ("jobs", "history", "labels", "attempts", "output", "workers", "gates", "halts", "edges", "unsettled", "unique_keys")
FIELDS = tuple(Job.__dataclass_fields__)


class World:
    """One store, emptied before each story: tables take longer to make than a story to tell."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.steady = 0.0  # what claimers go by when they decide whether to look around again
        self.rings = 0
        self.store = open_store(database.url, create_tables=True, clock=self.clock)
        self.store.ensure()
        self.store.bell.listen(self._ring)
        self.caller = create_engine(database.url)
        tables = self.store.tables
        places = enumerate((tables.jobs, tables.history))
        parts = [select(*table.c, literal_column(str(ended)).label("ended")) for ended, table in places]
        self.everything, self.sides = union_all(*parts), tables.text(SIDES)

    def _ring(self) -> None:
        self.rings += 1

    def wait_until_settled(self) -> None:
        """What follows from a commit of the caller's own is done a moment later."""
        self.store.bell.flush(PATIENCE)

    def close(self) -> None:
        self.store.close()
        self.caller.dispose()

    def empty(self) -> None:
        """Forget everything but which ids were given out."""
        self.clock.now = START
        self.steady = 0.0
        delete = [self.store.tables.text(f"DELETE FROM {{{table}}}") for table in TABLES]
        self.store.database.transact(lambda connection: [connection.execute(statement) for statement in delete])

    def look(self) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
        """The rows of all jobs, in words, and the side rows."""
        rows, sides = self.store.database.once(
            lambda connection: (connection.execute(self.everything).mappings().all(), connection.execute(self.sides).all())
        )
        return [_in_words(dict(row)) for row in rows], [tuple(side) for side in sides]


def _in_words(row: dict[str, Any]) -> dict[str, Any]:
    reason = row["reason"]
    words = {"state": STATE_OF[row["state"]], "reason": REASON_OF[reason] if reason else None, "flags": Flag(row["flags"])}
    return {**row, **words}


# --- what has to be so whatever the model says ----------------------------------------------------------------------------


def check_law(row: dict[str, Any]) -> None:
    """What holds for any row, told without a history."""
    state, id = row["state"], row["id"]
    assert state.ended == bool(row["ended"]), f"job {id} is {state} in the wrong table"
    assert state.ended == (row["finished_at"] is not None), f"job {id} is {state}, finished_at {row['finished_at']}"
    assert (state == "blocked") == (row["reason"] is not None), f"job {id} is {state}, reason {row['reason']}"
    assert state != "ready" or row["ready_at"] is not None, f"job {id} is ready since never"
    assert state != "ready" or Flag.HELD not in row["flags"], f"job {id} is ready while held"
    assert state not in ("scheduled", "retrying") or row["run_at"] is not None, f"job {id} waits for no time"
    assert (state == "running") <= (row["worker_id"] is not None), f"job {id} is run by nobody"
    assert (row["reason"] == "group") == (row["group_held"] == 0), f"job {id}: {row['reason']}, group_held {row['group_held']}"
    assert (row["reason"] == "limit") == (row["limit_held"] == 0), f"job {id}: {row['reason']}, limit_held {row['limit_held']}"
    if state in ("ready", "running"):
        for gate in ("group", "limit"):
            assert (row[f"{gate}_name"] is None) or row[f"{gate}_held"], f"job {id} is {state} and past no {gate}"
    assert 0 <= row["attempt"] <= row["fence"], f"job {id}: attempt {row['attempt']}, fence {row['fence']}"
    for text, code in (("queue", "queue_hash"), ("task", "task_hash"), ("job_key", "key_hash")):
        assert row[code] == (None if row[text] is None else name_hash(row[text])), f"job {id}: {code} is not that of {text}"
    for kind in ("group", "limit"):
        assert row[f"{kind}_hash"] == gate_hash(kind, row[f"{kind}_name"]), f"job {id}: the number of its {kind} is wrong"


# --- what the model says --------------------------------------------------------------------------------------------------


def check_jobs(model: Model, rows: list[dict[str, Any]]) -> None:
    """Every job in exactly one place, and each field as the model has it."""
    ids = sorted(row["id"] for row in rows)
    assert ids == sorted(model.jobs), f"there are {ids}, and should be {sorted(model.jobs)}"
    for row in rows:
        check_law(row)
        ought = vars(model.jobs[row["id"]])
        if is_as_good(model, row["id"], row["note"]):
            ought["note"] = row["note"]
        wrong = [f"{name} is {row[name]!r}, should be {ought[name]!r}" for name in FIELDS if row[name] != ought[name]]
        assert not wrong, f"job {row['id']}: {'; '.join(wrong)}"


def is_as_good(model: Model, id: int, note: str | None) -> bool:
    """Whether a job could as well say this: of several parents that doom it, the first that was known of."""
    words = (", which it needs, failed", ", which it needs, was cancelled")
    if model.jobs[id].state is not State.CANCELLED or not (model.jobs[id].note or "").endswith(words):
        return False
    hopeless = {needed: edge.outcome for (waits, needed), edge in model.edges.items() if waits == id and edge.hopeless}
    return note in {f"job {one}{words[end is State.CANCELLED]}" for one, end in hopeless.items()}


def check_sides(model: Model, sides: list[tuple[Any, ...]]) -> None:
    """Labels, failed attempts and log lines of the jobs that are there; the workers; what groups stand still for."""
    kinds: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for kind, *values in sides:
        kinds[kind].append(tuple(values))
    assert not kinds["note"], f"{kinds['note']} was left unsettled"
    halting, ought = {row[0] for row in kinds["halt"]}, {id for ids in model.halts.values() for id in ids}
    assert halting == ought, f"groups stand still because of {halting}, should do so because of {ought}"
    # For those who do not wait now it is found out anew when they do.
    waiting = {job.id for job in model.jobs.values() if job.reason in (Reason.PARENTS, Reason.CHILDREN)}
    edges = {(id, other): (one.policy, one.outcome if id in waiting else None) for (id, other), one in model.edges.items()}
    there = {(row[0], row[1]): (row[2], STATE_OF[row[3]] if row[3] and row[0] in waiting else None) for row in kinds["edge"]}
    wrong = [
        f"edge {edge} is {there.get(edge)}, should be {edges.get(edge)}"
        for edge in there.keys() | edges
        if there.get(edge) != edges.get(edge)
    ]
    assert not wrong, "; ".join(wrong)
    keys = {row[5]: (row[0], row[1], row[4] or None) for row in kinds["key"]}
    taken = {hash: (key.job_id, key.scope, key.until) for hash, key in model.keys.items()}
    assert keys == taken, f"the unique keys are {keys}, should be {taken}"
    labels = [(id, name, value) for id, named in model.labels.items() for name, value in named.items()]
    assert sorted((row[0], row[5], row[6]) for row in kinds["label"]) == sorted(labels)
    attempts = {Lease(row[0], row[1]): (row[2], STATE_OF[row[3]], row[4], row[5]) for row in kinds["attempt"]}
    assert attempts == model.attempts
    assert sorted((row[0], row[1], row[5]) for row in kinds["line"]) == sorted(model.lines)
    assert {row[0]: row[3] == 0 for row in kinds["worker"]} == {id: one.alive for id, one in model.workers.items()}
