"""What somebody is to be told: written in the transaction that makes it true, and told by whoever takes it.

A notice is taken for a time. If the time is over and it is still there, whoever took it has died, and another may take it. What
has been taken together stays together, so that it has the same number when it is told again.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, literal, or_, select, update

from dray.job import Finish, Lease, State, name_hash
from dray.notice import Event, Failure, Group, Notice
from dray.store.codes import FAILED, document, instant
from dray.store.controls import TICK, make_row
from dray.store.rows import by_ids, documents, storable, with_rows
from dray.store.tables import Tables

EVENT = {Event.ATTEMPTS: 1, Event.FAILED: 2, Event.DIGEST: 3}
EVENT_OF = {code: event for event, code in EVENT.items()}
AT_ONCE = 1000  # notices that are taken together
NAMED = 20  # failures that a notice names
GROUPS = 50  # groups that a digest names
NEWEST = 100_000  # failed jobs that a digest looks at
DIGESTS = "digest"  # the name of their tick

_FIELDS = {"i": "int", "ev": "int", "ea": "int", "a": "int", "t": "text", "q": "text", "e": "text", "fp": "int"}
_GIVE = (
    "INSERT INTO {notices} (event, at, job_id, task, queue, attempt, error, fingerprint, tries, deaths)"
    " SELECT d.ev, n.now - d.ea, d.i, d.t, d.q, d.a, d.e, d.fp, 0, 0 FROM (SELECT {now} AS now) AS n, {rows}"
)
_GIVE_ENDED = (
    "INSERT INTO {notices} (event, at, job_id, task, queue, attempt, error, tries, deaths)"
    f" SELECT {EVENT[Event.FAILED]}, h.finished_at, h.id, h.task, h.queue, h.attempt, COALESCE(h.error, h.note), 0, 0"
    " FROM {rows} JOIN {history} h ON h.id = d.i"
)


class Taken(NamedTuple):
    """A notice that this process is to tell, to all but the channels that it has already gone to."""

    notice: Notice
    token: int
    told: frozenset[str]
    tries: int  # how often that did not work before
    deaths: int  # how often somebody died while telling it


def give(connection: Connection, tables: Tables, finishes: Sequence[Finish], refused: set[Lease]) -> None:
    """Note what these ends give to tell."""
    rows = [
        row
        for one in finishes
        if (one.change.told or one.change.state is State.FAILED) and one.claim.lease not in refused
        for row in _rows(one)
    ]
    for part in documents(rows):
        connection.execute(with_rows(tables, _GIVE, _FIELDS), {"doc": part})


def _rows(one: Finish) -> list[dict[str, Any]]:
    claim, change = one.claim, one.change
    row = {
        "i": claim.id,
        "ea": round(one.ended_ago * 1_000_000),
        "a": claim.attempt,
        "t": claim.task,
        "q": claim.queue,
        "e": storable(change.error or change.note),
        "fp": change.fingerprint,
    }
    events = [Event.ATTEMPTS] if change.told else []
    events += [Event.FAILED] if change.state is State.FAILED else []
    return [{**row, "ev": EVENT[event]} for event in events]


def give_ended(connection: Connection, tables: Tables, ids: Sequence[int]) -> None:
    """Note that these jobs, which nobody ran, have failed."""
    if ids:
        connection.execute(by_ids(tables, _GIVE_ENDED), {"doc": document(ids)})


# --- taking ---------------------------------------------------------------------------------------------------------------


def free(tables: Tables, gathered: float) -> ColumnElement[bool]:
    """What nobody tells at the moment, and is old enough that more of its kind would have come."""
    notices, now = tables.notices, tables.fixed_now()
    old = notices.c.at <= now - round(gathered * 1_000_000)
    return and_(old, or_(notices.c.taken_until.is_(None), notices.c.taken_until < now))


def waiting(connection: Connection, tables: Tables, gathered: float) -> bool:
    """Whether there is anything to tell: asked without a lock, since mostly there is not."""
    return connection.execute(select(tables.notices.c.id).where(free(tables, gathered)).limit(1)).first() is not None


def take(connection: Connection, tables: Tables, gathered: float, seconds: float) -> list[Taken]:
    """Take what waits to be told, for so many seconds; failures alike are one notice."""
    notices = tables.notices
    waits = select(notices).where(free(tables, gathered)).order_by(notices.c.id).limit(AT_ONCE)
    rows = connection.execute(tables.dialect.lock(waits)).all()
    token = secrets.randbits(62)
    bundles: defaultdict[object, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        alike = (row.event, row.task, row.fingerprint if row.fingerprint is not None else row.error)
        bundles[row.bundle if row.bundle is not None else alike].append(row)
    taken = []
    for some in bundles.values():
        first = some[0]
        bundle = first.id if first.bundle is None else first.bundle
        died = 0 if first.token is None else 1
        mine = update(notices).where(notices.c.id.in_([row.id for row in some]))
        until = tables.now() + round(seconds * 1_000_000)
        connection.execute(mine.values(bundle=bundle, token=token, taken_until=until, deaths=first.deaths + died))
        told = frozenset(msgspec.json.decode(first.told, type=list[str])) if first.told else frozenset()
        taken.append(Taken(_notice(connection, tables, bundle, some), token, told, first.tries, first.deaths + died))
    return taken


def _notice(connection: Connection, tables: Tables, bundle: int, rows: Sequence[Row[Any]]) -> Notice:
    first = rows[0]
    event = EVENT_OF.get(first.event, Event.FAILED)
    if event is Event.DIGEST:
        since = first.job_id  # of a digest: the instant of the one before
        groups = _groups(connection, tables, since, first.at)
        return Notice(
            id=bundle,
            event=event,
            task="",
            fingerprint=None,
            count=sum(group.failed for group in groups),
            groups=tuple(groups[:GROUPS]),
            since=instant(since),
        )
    failures = [Failure(row.job_id, row.queue, row.attempt, row.error, instant(row.at)) for row in rows[:NAMED]]
    return Notice(
        id=bundle,
        event=event,
        task=first.task,
        fingerprint=first.fingerprint,
        count=len(rows),
        failures=tuple(failures),
    )


def told(connection: Connection, tables: Tables, taken: Taken, channels: Sequence[str], seconds: float) -> bool:
    """Write down that it has gone to these channels, and keep it for so many seconds more. False: it is not ours any more."""
    notices = tables.notices
    mine = and_(notices.c.bundle == taken.notice.id, notices.c.token == taken.token)
    until = tables.now() + round(seconds * 1_000_000)
    values = {"told": msgspec.json.encode(sorted(channels)).decode(), "taken_until": until}
    return connection.execute(update(notices).where(mine).values(**values)).rowcount > 0


def done(connection: Connection, tables: Tables, taken: Taken) -> None:
    """It has been told to everybody."""
    notices = tables.notices
    connection.execute(delete(notices).where(notices.c.bundle == taken.notice.id, notices.c.token == taken.token))


def later(connection: Connection, tables: Tables, taken: Taken, seconds: float) -> None:
    """A channel did not work: anybody may try it again after so many seconds."""
    notices = tables.notices
    mine = update(notices).where(notices.c.bundle == taken.notice.id, notices.c.token == taken.token)
    until = tables.now() + round(seconds * 1_000_000)
    connection.execute(mine.values(token=None, taken_until=until, tries=taken.tries + 1))


# --- digests --------------------------------------------------------------------------------------------------------------


def digest_if_due(connection: Connection, tables: Tables, following: Callable[[int], int]) -> bool:
    """Note that it is time for a digest of what has failed since the last one, if it is; once, whoever else asks.

    The first call only says when the first one will be.
    """
    table = tables.controls
    now = connection.execute(select(tables.now())).scalar_one()
    mine = and_(table.c.kind == TICK, table.c.name_hash == name_hash(DIGESTS))
    row = connection.execute(select(table.c.until_at, table.c.changed_at).where(mine)).first()
    if row is None:
        make_row(connection, tables, TICK, DIGESTS, following(now))
        return False
    if row.until_at is not None and row.until_at > now:
        return False
    moved = update(table).where(mine, table.c.until_at == row.until_at)
    if connection.execute(moved.values(until_at=following(now), changed_at=now)).rowcount == 0:
        return False  # another was first
    values = {"event": EVENT[Event.DIGEST], "at": now, "job_id": row.changed_at, "task": "", "queue": "", "attempt": 0}
    connection.execute(insert(tables.notices).values(**values, tries=0, deaths=0))
    return True


def _groups(connection: Connection, tables: Tables, since: int, until: int) -> list[Group]:
    """What has failed for good between two instants, alike with alike, most of them first."""
    history = tables.history
    between = and_(history.c.state == FAILED, history.c.finished_at > since, history.c.finished_at <= until)
    newest = select(history.c.id, history.c.task, history.c.error, history.c.note).where(between)
    some = newest.order_by(history.c.finished_at.desc(), history.c.id.desc()).limit(NEWEST).subquery()
    said = func.substr(func.coalesce(some.c.error, some.c.note, literal("")), 1, 200)
    query = select(some.c.task, said, func.count(), func.max(some.c.id)).group_by(some.c.task, said)
    rows = connection.execute(query).all()
    return sorted((Group(*row) for row in rows), key=lambda group: (-group.failed, group.task))
