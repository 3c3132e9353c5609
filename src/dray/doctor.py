"""Look for what is wrong with an installation, and say how to mend it. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from dray.app import Dray
from dray.durations import show_duration
from dray.errors import DrayError, SchemaError
from dray.job import Reason, State
from dray.settings import SETTINGS
from dray.store import schema, vitals
from dray.store.filters import Filter
from dray.store.promote import next_due
from dray.store.read import CAP, QueueCount
from dray.takers import serves

SAMPLE = 500  # jobs whose task is looked at: enough to see a rename, and the same cost with any backlog
SKEW = 2.0  # seconds a clock may be wrong: timestamps in logs no longer fit together beyond it
OVERDUE = 30.0  # seconds a due job may wait for upkeep
LONG_SNAPSHOT = 600.0  # seconds after which a transaction that holds back vacuum is worth a word


class Level(StrEnum):
    """How a check went; only `fail` makes an installation unhealthy."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `fix` is what to do, a command where there is one."""

    name: str
    level: Level
    text: str
    fix: str | None = None


def ok(name: str, text: str) -> Check:
    return Check(name=name, level=Level.OK, text=text)


def warn(name: str, text: str, fix: str) -> Check:
    return Check(name=name, level=Level.WARN, text=text, fix=fix)


def fail(name: str, text: str, fix: str) -> Check:
    return Check(name=name, level=Level.FAIL, text=text, fix=fix)


def examine(app: Dray, known_variables: Iterable[str] = ()) -> list[Check]:
    """Look at everything, in an order in which a failure explains those behind it; what cannot be asked is left out."""
    checks = list(_variables(app, known_variables))
    for look in (_database, _schema, _workers, _queues, _due, _tasks, _file, _vacuum):
        try:
            checks += look(app)
        except DrayError as error:
            name = look.__name__.removeprefix("_")
            fix = "dray init" if isinstance(error, SchemaError) else _WAY_OUT.get(name, "see the text")
            checks.append(fail(name, str(error), fix))
            if name in _WAY_OUT:
                break  # without it nothing else can be asked
    return checks


_WAY_OUT = {"database": "start the database, or correct --database-url", "schema": "dray init"}


def _variables(app: Dray, known: Iterable[str]) -> Iterator[Check]:
    known = [*known, *(setting.variable for setting in SETTINGS.values())]
    for name in app.settings.unknown_environment:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            fix = f"call it {close[0]}, or unset it" if close else f"unset {name}"
            yield warn("settings", f"the variable {name} is set, but nothing reads it", fix)


def _database(app: Dray) -> Iterator[Check]:
    store = app.store
    where = store.database.url.render_as_string(hide_password=True)
    file = vitals.file_of(store.database)
    if file is not None and not file.exists():
        raise SchemaError(f"there is no database file {file}")
    found = store.database.once(lambda connection: vitals.vitals(connection, store.tables))
    yield ok("database", f"{found.version}, answers in {show_duration(round(found.took, 3) or 0.001)}, {where}")
    if abs(found.skew) > SKEW:
        fix = "let both hosts keep time by NTP"
        yield warn("clock", f"the database's clock is {found.skew:+.1f} s off this host's", fix)


def _schema(app: Dray) -> Iterator[Check]:
    store = app.store
    store.database.once(lambda connection: schema.check(connection, store.tables))
    yield ok("schema", f"version {schema.HEAD}")


def _workers(app: Dray) -> Iterator[Check]:
    workers = app.store.roster.listing()
    ttl = app.settings.ttl
    for worker in workers:
        if worker.silent_for > app.settings.silent_after:
            who = f"worker {worker.id} (pid {worker.pid} on {worker.host})"
            text = f"{who} has been silent for {show_duration(round(worker.silent_for))}"
            judge = fail if worker.silent_for > 2 * ttl else warn
            yield judge("workers", text, "look at that host; any living worker takes its jobs over")
    if not workers:
        yield warn("workers", "no worker is alive", "dray worker")
    else:
        hosts = len({worker.host for worker in workers})
        slots = sum(worker.concurrency for worker in workers)
        yield ok("workers", f"{len(workers)} alive on {hosts} host{'s' * (hosts > 1)}, {slots} slots")


def _queues(app: Dray) -> Iterator[Check]:
    queues, workers = app.store.desk.queues(), app.store.roster.listing()
    alone = [one for one in queues if one.ready and not any(serves(worker, one.queue) for worker in workers)]
    for one in alone:
        text = f"queue {one.queue!r} has {_many(one)} and no worker"
        yield fail("queues", text, f"dray worker {one.queue}")
    if not alone:
        yield ok("queues", f"{len(queues)} in use, each with a worker" if queues else "nothing waits")


def _many(queue: QueueCount) -> str:
    if queue.ready > CAP:
        return f"{CAP:,}+ ready jobs"
    return "1 ready job" if queue.ready == 1 else f"{queue.ready:,} ready jobs"


def _due(app: Dray) -> Iterator[Check]:
    store = app.store
    due = store.database.once(lambda connection: next_due(connection, store.tables))
    if due is not None and due < -OVERDUE:
        text = f"a waiting job is overdue by {show_duration(round(-due))}: nobody does upkeep"
        yield fail("upkeep", text, "start a worker without --no-upkeep")


def _tasks(app: Dray) -> Iterator[Check]:
    if not len(app.registry):
        return  # without the application's code nobody knows which tasks there should be
    look = app.store.desk.jobs
    known = app.registry.known()
    sample = look(Filter(states=frozenset({State.READY})), limit=SAMPLE)
    parked = look(Filter(reason=Reason.UNKNOWN_TASK), limit=SAMPLE)
    unknown = Counter(job.task for job in sample if job.task not in known)
    for job in parked:
        unknown[job.task] += 1
    for task, count in unknown.most_common(10):
        if task in known:
            text = f"{count} jobs of {task!r} have arguments that its signature does not take"
        else:
            text = f"{task!r} is in {count} waiting jobs but not registered"
        yield warn("tasks", text, f"dray jobs task:{task}")
    if not unknown:
        yield ok("tasks", f"{len(app.registry)} registered; the newest waiting jobs need no others")


def _file(app: Dray) -> Iterator[Check]:
    database, tables = app.store.database, app.store.tables
    file = vitals.file_of(database)
    if file is None:
        return
    mode = database.once(lambda connection: vitals.journal_mode(connection, tables))
    if mode != "wal":
        fix = "put it on a local disk: network file systems have no shared memory for the log"
        yield warn("file", f"{file} is in journal mode {mode}: readers and writers block each other", fix)
    if not vitals.is_writable(file):
        yield fail("file", f"{file} cannot be written by this user", f"chown or chmod {file} and its folder")
    elif mode == "wal":
        yield ok("file", f"{file} is writable and has a write-ahead log")


def _vacuum(app: Dray) -> Iterator[Check]:
    store = app.store
    oldest = store.database.once(lambda connection: vitals.oldest_snapshot(connection, store.tables))
    if oldest is not None and oldest.age > LONG_SNAPSHOT:
        age = show_duration(round(oldest.age))
        text = f"{oldest.name} (pid {oldest.pid}, {oldest.state}) keeps a transaction open for {age}: vacuum cannot clean up"
        yield warn("vacuum", text, f"SELECT pg_terminate_backend({oldest.pid})")
