"""Jobs that wait for other jobs: what a parent's end means for those that need it.

An edge is the unit of truth, not a count: it keeps how its parent ended, once that is known. Both sides act after their commit.
Whoever ends a parent looks for edges, whoever makes a child looks at its parents; the later of the two commits sees the other.
Only the children are locked, never the parents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, or_, select, update

from dray.errors import BadOption, LeaseLost
from dray.job import Flag, Lease, NewJob, Reason
from dray.store.codes import BLOCKED, CANCELLED, FAILED, REASON, RUNNING, SCHEDULED, SUCCEEDED, document
from dray.store.ends import end_waiting
from dray.store.owed import Owed
from dray.store.places import COLUMNS, Placed, Traveller, send_on
from dray.store.rows import by_ids, with_rows
from dray.store.tables import Tables

ALL_SUCCEEDED, ALL_DONE, OR_CANCEL, WAIVED, SPAWNED, LEFT = range(6)  # policies of an edge; LEFT: a child of an earlier life
CHUNK = 1000  # parents that are named in one statement
SLICE = 500  # edges whose jobs are let go on in one transaction, however many wait for the same
PARENTS, CHILDREN = REASON[Reason.PARENTS], REASON[Reason.CHILDREN]

_WAITS = f"c.state = {BLOCKED} AND c.reason IN ({PARENTS}, {CHILDREN})"
# By the ids, not by an index of those who wait: they may be a million. The sums say so.
_STANDS = (
    "(SELECT c.id FROM {jobs} c WHERE c.id = e.job_id AND c.state + 0 = "
    f"{BLOCKED} AND c.reason + 0 IN ({PARENTS}, {CHILDREN}))"
)
_NEEDED = f"{{needed}} EXISTS {_STANDS}"
# And whether there are edges at all, in the same statement: as long as there are none, nobody makes notes of ends.
_LOOK = (
    f"SELECT * FROM (SELECT e.job_id, e.needs_id FROM {_NEEDED} LIMIT :n) AS w"
    " UNION ALL SELECT -1, -1 FROM (SELECT job_id FROM {edges} LIMIT 1) AS x"
)
# So many edges, whether anybody waits there still or not: each page costs the same.
_PAGE = (
    f"SELECT e.job_id, e.needs_id, {_STANDS} AS stands FROM (SELECT x.job_id, x.needs_id FROM {{edges}} x{{index}}"
    " WHERE x.needs_id = :parent AND x.job_id > :after ORDER BY x.job_id LIMIT :n) AS e ORDER BY e.job_id"
)
_BY_NEEDS = {
    "sqlite": "{rows} JOIN {edges} e ON e.needs_id = d.i WHERE",
    "postgresql": "{edges} e WHERE e.needs_id = ANY(ARRAY(SELECT d.i FROM {rows})) AND",
    "mysql": "{rows} STRAIGHT_JOIN {edges} e FORCE INDEX ({index}) ON e.needs_id = d.i WHERE",
}
_STILL = f"SELECT c.id FROM {{rows}} JOIN {{jobs}} c ON c.id = d.i WHERE {_WAITS}"

# What has become of the parent, wherever it is now. One that is nowhere was deleted by a hand.
_ALL_OF_THEM, _THESE = "e.job_id = d.i", "e.job_id = d.i AND e.needs_id = d.n"
_TRUTH = (
    "SELECT e.job_id, e.needs_id, e.policy, e.outcome, h.state AS ended, p.id AS live FROM {rows} JOIN {edges} e ON {on}"
    " LEFT JOIN {history} h ON h.id = e.needs_id LEFT JOIN {jobs} p ON p.id = e.needs_id"
)
_UNMET = (
    f"(e.policy NOT IN ({WAIVED}, {LEFT})"
    f" AND (e.outcome IS NULL OR (e.policy NOT IN ({ALL_DONE}, {SPAWNED}) AND e.outcome <> {SUCCEEDED})))"
)
_DOOM = (
    f"((e.policy IN ({ALL_SUCCEEDED}, {OR_CANCEL}) AND e.outcome = {CANCELLED})"
    f" OR (e.policy = {OR_CANCEL} AND e.outcome = {FAILED}))"
)
# Who waits for his children has started, and waits for his parents no more; who starts over waits for them only.
_OPEN = (
    "SELECT c.id FROM {rows} JOIN {jobs} c ON c.id = d.i WHERE NOT EXISTS (SELECT 1 FROM {edges} e WHERE e.job_id = d.i"
    f" AND {_UNMET} AND (e.policy = {SPAWNED}) = (c.reason = {CHILDREN}))"
)
_DOOMED = (
    f"SELECT e.job_id, e.needs_id, e.outcome FROM {{rows}} JOIN {{edges}} e ON e.job_id = d.i WHERE {_DOOM}"
    " ORDER BY e.job_id, e.needs_id"
)
_WORST = (
    f"SELECT e.job_id, e.needs_id, e.outcome FROM {{rows}} JOIN {{edges}} e ON e.job_id = d.i"
    f" WHERE e.policy = {SPAWNED} AND e.outcome IN ({FAILED}, {CANCELLED}) ORDER BY e.outcome DESC, e.needs_id DESC"
)


class Waits(NamedTuple):
    """Of an edge: who waits, for whom."""

    job_id: int
    needs_id: int


NOBODY = Waits(-1, -1)


class Dependents:
    """Finds which of the jobs that ended others wait for; and remembers whether there are edges at all."""

    def __init__(self) -> None:
        self.seen = False

    def look(self, connection: Connection, tables: Tables, ended: Sequence[int]) -> list[Waits]:
        """Who waits for these jobs; one more than a slice, if there are more."""
        rows = connection.execute(_with(tables, _LOOK), {"doc": document(ended), "n": SLICE + 1})
        found = [Waits(*row) for row in rows]
        self.seen = NOBODY in found
        return sorted(waits for waits in found if waits != NOBODY)

    def still_waiting(self, connection: Connection, tables: Tables, ids: Sequence[int]) -> list[int]:
        """Those of these jobs that wait for others."""
        found = sorted(connection.execute(_with(tables, _STILL), {"doc": document(ids)}).scalars())
        self.seen = self.seen or bool(found)
        return found


def slices(
    look: Callable[[Callable[[Connection], Page]], Page], tables: Tables, ended: Sequence[int], first: list[Waits]
) -> Iterator[list[Waits]]:
    """Who waits for these jobs, so many that they can be settled in one transaction, and then more.

    first    what `Dependents.look` has found
    """
    if len(first) <= SLICE:
        yield first
        return
    for parent in ended:
        after: int | None = 0
        while after is not None:
            page = look(partial(_page, tables=tables, parent=parent, after=after))
            if page.waits:
                yield page.waits
            after = page.last


class Page(NamedTuple):
    """Some edges of one parent: those at which somebody waits, and the last of all (None: there are no more)."""

    waits: list[Waits]
    last: int | None


def _page(connection: Connection, tables: Tables, parent: int, after: int) -> Page:
    index = f" FORCE INDEX ({_index(tables)})" if tables.dialect.name == "mysql" else ""
    statement = tables.text(_PAGE.replace("{index}", index))
    rows = connection.execute(statement, {"parent": parent, "after": after, "n": SLICE}).all()
    waits = [Waits(row[0], row[1]) for row in rows if row[2] is not None]
    return Page(waits, rows[-1][0] if len(rows) == SLICE else None)


def release(connection: Connection, tables: Tables, waits: Sequence[Waits]) -> Placed:
    """Let go on those who waited for these jobs only (S0.31); those that can never start are cancelled."""
    return _settle(connection, tables, sorted({one.job_id for one in waits}), waits)


def look_again(connection: Connection, tables: Tables, ids: Sequence[int]) -> Placed:
    """Look at all that these jobs wait for, since they are new or have come back (C7, C29)."""
    return _settle(connection, tables, sorted(ids), None)


def missing_parents(connection: Connection, tables: Tables, wanted: Collection[int]) -> set[int]:
    """Those of these jobs that are neither live nor in the history, as far as this transaction can see."""
    if not wanted:
        return set()
    there = "SELECT d.i FROM {rows} WHERE EXISTS (SELECT 1 FROM {jobs} j WHERE j.id = d.i) OR EXISTS"
    there += " (SELECT 1 FROM {history} h WHERE h.id = d.i)"
    return set(wanted) - set(connection.execute(_with(tables, there), {"doc": document(sorted(wanted))}).scalars())


def check_spawned(connection: Connection, tables: Tables, jobs: Iterable[NewJob]) -> None:
    """Raises BadOption for a child that waits for the job that spawns it, which waits for its children."""
    for id in sorted({job.parent.id for job in jobs if job.parent is not None and job.parent.id in job.after}):
        flags = connection.execute(select(tables.jobs.c.flags).where(tables.jobs.c.id == id)).scalar()
        if flags is not None and not flags & Flag.MASTER:
            raise BadOption(
                f"job {id} ends after its children, so none of them can wait for it; leave it out of after=, leave out"
                " parent=, or let its task be a master"
            )


def mark_spawners(connection: Connection, tables: Tables, leases: Iterable[Lease]) -> None:
    """Note on running jobs that they have children; raises LeaseLost for one that is not run under this lease any more."""
    jobs = tables.jobs
    for lease in sorted(leases):
        mine = update(jobs).where(jobs.c.id == lease.id, jobs.c.fence == lease.fence, jobs.c.state == RUNNING)
        marked = tables.dialect.by_primary_key(mine).values(flags=jobs.c.flags.bitwise_or(int(Flag.SPAWNED)))
        if connection.execute(marked).rowcount != 1:
            raise LeaseLost(lease.id)


def waive(connection: Connection, tables: Tables, id: int, parent: int) -> tuple[bool, Owed]:
    """Let a job wait for this parent no longer; False: it does not wait for it."""
    edges = tables.edges
    mine = and_(edges.c.job_id == id, edges.c.needs_id == parent, edges.c.policy.not_in((SPAWNED, LEFT)))
    waived = connection.execute(update(edges).where(mine).values(policy=WAIVED)).rowcount == 1
    return waived, Owed(waiting={id})


def dependents(connection: Connection, tables: Tables, id: int, limit: int = 1000) -> list[int]:
    """Jobs that wait for this one to have succeeded."""
    edges, jobs = tables.edges, tables.jobs
    needs = and_(edges.c.needs_id == id, edges.c.policy.in_((ALL_SUCCEEDED, OR_CANCEL)))
    waits = and_(jobs.c.state == BLOCKED, jobs.c.reason == PARENTS)
    some = select(jobs.c.id).join_from(edges, jobs, jobs.c.id == edges.c.job_id).where(needs, waits)
    return list(connection.execute(some.order_by(jobs.c.id).limit(limit)).scalars())


def doomed_by(connection: Connection, tables: Tables, id: int, after: int = 0, limit: int = 1000) -> list[int]:
    """Jobs behind this id that were cancelled because that one failed or was cancelled, or was given up."""
    edges, history = tables.edges, tables.history
    # How that one ended need not be known yet: who gives it up may come before the consequences of its failure.
    failed = or_(edges.c.outcome.is_(None), edges.c.outcome.in_((FAILED, CANCELLED)))
    hopeless = and_(edges.c.policy.in_((ALL_SUCCEEDED, OR_CANCEL)), failed)
    some = select(history.c.id).join_from(edges, history, history.c.id == edges.c.job_id)
    some = some.where(edges.c.needs_id == id, edges.c.job_id > after, hopeless)
    some = some.where(history.c.state == CANCELLED, history.c.flags.op("&")(int(Flag.DOOMED)) != 0)
    return list(connection.execute(some.order_by(edges.c.job_id).limit(limit)).scalars())


def find_out_anew(connection: Connection, tables: Tables, ids: Collection[int]) -> None:
    """Forget how those ended that these jobs wait for, since they start over; what is known of those that were pruned stays."""
    edges = tables.edges
    mine = edges.c.job_id.in_(sorted(ids)), edges.c.policy != LEFT, edges.c.outcome.is_not(None)
    needed = set(connection.execute(select(edges.c.needs_id).where(*mine).distinct()).scalars())
    there = sorted(needed - missing_parents(connection, tables, needed))
    for start in range(0, len(there), CHUNK):
        some = edges.c.needs_id.in_(there[start : start + CHUNK])
        connection.execute(update(edges).where(*mine, some).values(outcome=None))


def leave_behind(connection: Connection, tables: Tables, ids: Collection[int]) -> None:
    """These start over: what became of the children they had before, and that do not run again, counts no more.

    A job that spawned a payment, which failed, spawns it again. Were the first still asked for, somebody would pay twice.
    """
    edges, jobs = tables.edges, tables.jobs
    over = select(edges.c.job_id, edges.c.needs_id).join_from(edges, jobs, jobs.c.id == edges.c.needs_id, isouter=True)
    over = over.where(edges.c.job_id.in_(sorted(ids)), edges.c.policy == SPAWNED, jobs.c.id.is_(None))
    left: defaultdict[int, list[int]] = defaultdict(list)
    for id, child in connection.execute(over.order_by(edges.c.job_id, edges.c.needs_id)):
        left[id].append(child)
    for id, some in left.items():
        for start in range(0, len(some), CHUNK):
            mine = and_(edges.c.job_id == id, edges.c.needs_id.in_(some[start : start + CHUNK]))
            connection.execute(update(edges).where(mine).values(policy=LEFT))


def children(connection: Connection, tables: Tables, id: int, limit: int = 1000) -> list[int]:
    """The jobs that this one spawned, the first ones first, also those that have ended."""
    edges = tables.edges
    mine = select(edges.c.needs_id).where(edges.c.job_id == id, edges.c.policy.in_((SPAWNED, LEFT)))
    return list(connection.execute(mine.order_by(edges.c.needs_id).limit(limit)).scalars())


# --- one for all ----------------------------------------------------------------------------------------------------------


class _Child(NamedTuple):
    """A job that waits for others, its row locked by this transaction."""

    traveller: Traveller
    reason: int
    wait: int | None  # microseconds until its time


def _settle(connection: Connection, tables: Tables, ids: Sequence[int], waits: Sequence[Waits] | None) -> Placed:
    """Lock these, then look what has become of their parents (None: of all), and draw the consequences."""
    children, missed = _lock(connection, tables, ids)
    if not children:
        return Placed(locked=Owed(waiting=missed))
    _write_outcomes(connection, tables, sorted(children), waits)
    placed = _cancel_doomed(connection, tables, children)
    opened = connection.execute(_with(tables, _OPEN), {"doc": document(sorted(children))}).scalars().all()
    free = [children[id] for id in opened if id in children]
    placed.add(_send_on(connection, tables, [one for one in free if one.reason == PARENTS]))
    placed.add(_end_families(connection, tables, [one.traveller.id for one in free if one.reason == CHILDREN]))
    placed.locked.waiting |= missed
    return placed


def _lock(connection: Connection, tables: Tables, ids: Sequence[int]) -> tuple[dict[int, _Child], set[int]]:
    """Those of these that wait for others; second: those that somebody has, a caller's long transaction perhaps."""
    columns = ", ".join(f"j.{name}" for name in (*COLUMNS, "state", "reason")) + ", j.run_at - {now}"
    statement = tables.text(tables.dialect.lock_ids("{jobs}", columns, skip=True))
    rows = connection.execute(statement, {"doc": document(ids)}).all()
    missed = set(ids) - {row[0] for row in rows}
    if missed:
        there = select(tables.jobs.c.id).where(tables.jobs.c.id.in_(sorted(missed)))
        missed = set(connection.execute(there).scalars())
    width = len(COLUMNS)
    waiting = [row for row in rows if row[width] == BLOCKED and row[width + 1] in (PARENTS, CHILDREN)]
    return {row[0]: _Child(Traveller(*row[:width]), row[width + 1], row[width + 2]) for row in waiting}, missed


def _write_outcomes(connection: Connection, tables: Tables, ids: Sequence[int], waits: Sequence[Waits] | None) -> None:
    mine = set(ids)
    if waits is None:
        statement, doc = _with(tables, _TRUTH.replace("{on}", _ALL_OF_THEM)), document(ids)
    else:
        statement = with_rows(tables, _TRUTH.replace("{on}", _THESE), _PAIRS)
        doc = _pairs(one for one in waits if one.job_id in mine)
    changed: defaultdict[int | None, list[Waits]] = defaultdict(list)
    for row in connection.execute(statement, {"doc": doc}):
        # A child that nobody knew to have ended was one of an earlier run, and was pruned when that was over.
        unknown = SUCCEEDED if row.policy == SPAWNED else CANCELLED
        gone = unknown if row.outcome is None else row.outcome
        outcome = row.ended if row.ended is not None else None if row.live is not None else gone
        if outcome != row.outcome:
            changed[outcome].append(Waits(row.job_id, row.needs_id))
    for outcome, some in changed.items():
        write = with_rows(tables, _WRITE[tables.dialect.name], _PAIRS)
        connection.execute(write, {"doc": _pairs(some), "outcome": outcome})


def _pairs(some: Iterable[Waits]) -> str:
    return msgspec.json.encode([{"i": one.job_id, "n": one.needs_id} for one in sorted(some)]).decode()


_PAIRS = {"i": "int", "n": "int"}
_WRITE = {
    "sqlite": "UPDATE {edges} SET outcome = :outcome WHERE (job_id, needs_id) IN (SELECT d.i, d.n FROM {rows})",
    "postgresql": (
        "UPDATE {edges} AS e SET outcome = CAST(:outcome AS smallint) FROM {rows} WHERE e.job_id = d.i AND e.needs_id = d.n"
    ),
    "mysql": (
        "UPDATE {rows} STRAIGHT_JOIN {edges} e FORCE INDEX (PRIMARY) ON e.job_id = d.i AND e.needs_id = d.n"
        " SET e.outcome = :outcome"
    ),
}


def _cancel_doomed(connection: Connection, tables: Tables, children: dict[int, _Child]) -> Placed:
    """Cancel those that can never start; taken out of `children`."""
    doomed: dict[int, str] = {}
    for id, parent, outcome in connection.execute(_with(tables, _DOOMED), {"doc": document(sorted(children))}):
        if children[id].reason == PARENTS:
            doomed.setdefault(id, f"job {parent}, which it needs, {'failed' if outcome == FAILED else 'was cancelled'}")
    for id in doomed:
        del children[id]
    ends: dict[int, tuple[int, str | None]] = {id: (CANCELLED, note) for id, note in doomed.items()}
    return end_waiting(connection, tables, ends, PARENTS, flags=Flag.DOOMED)


def _send_on(connection: Connection, tables: Tables, free: Sequence[_Child]) -> Placed:
    jobs = tables.jobs
    expected = and_(jobs.c.state == BLOCKED, jobs.c.reason == PARENTS)
    later = sorted(one.traveller.id for one in free if one.wait is not None and one.wait > 0)
    if later:
        mine = update(jobs).where(jobs.c.id.in_(later), expected)
        connection.execute(tables.dialect.by_primary_key(mine).values(state=SCHEDULED, reason=None))
    due = [one.traveller for one in free if one.wait is None or one.wait <= 0]
    return send_on(connection, tables, due, expected)


def _end_families(connection: Connection, tables: Tables, ids: Sequence[int]) -> Placed:
    """End jobs whose children have all ended: failed if one of these failed, else cancelled if one was (S3.59, C67)."""
    if not ids:
        return Placed()
    ends: dict[int, tuple[int, str | None]] = dict.fromkeys(ids, (SUCCEEDED, None))
    for id, child, outcome in connection.execute(_with(tables, _WORST), {"doc": document(sorted(ids))}):
        # The cancelled come first and the failed last, so that the worst is what stays.
        ends[id] = (outcome, f"job {child}, its child, {'failed' if outcome == FAILED else 'was cancelled'}")
    return end_waiting(connection, tables, ends, CHILDREN)


def _with(tables: Tables, template: str) -> Any:
    if "{needed}" in template:
        template = template.replace("{needed}", _BY_NEEDS[tables.dialect.name].replace("{index}", _index(tables)))
    return by_ids(tables, template)


def _index(tables: Tables) -> str:
    return tables.dialect.quote(f"{tables.prefix}edges_needs")
