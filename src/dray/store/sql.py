"""The SQL store: opens the connection or the transaction, and calls the chapters beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dray.errors import BadOption, OutcomeUnknown, SchemaError, StoreError, StoreUnavailable
from dray.job import Added, Change, Claim, Finish, Lease, NewJob, Ready, State
from dray.selection import Choice, TaskFilter
from dray.store import schema as schemas
from dray.store.add import add, is_one_statement, spawners_of
from dray.store.agenda import Agenda, agenda
from dray.store.attempts import record
from dray.store.base import Exchange, Finished, Pickup, unheard
from dray.store.caller import Announcer, connection_of
from dray.store.claim import claim, claim_anywhere, held
from dray.store.connect import Database
from dray.store.cover import cover
from dray.store.desk import Desk
from dray.store.dialects import DIALECTS
from dray.store.edges import mark_spawners, missing_parents
from dray.store.expire import Expired, anything_expired, expire
from dray.store.finish import finish, mark_started
from dray.store.follow import follow
from dray.store.gates import stand_in_order
from dray.store.lanes import Lanes
from dray.store.owed import Owed
from dray.store.pick import pick
from dray.store.promote import Promoted, adopt, next_due, parked, promote
from dray.store.rescue import Rescued, anything_lost, rescue
from dray.store.roster import Roster
from dray.store.settle import Settler
from dray.store.sweep import Round, open_rates
from dray.store.tables import Tables
from dray.store.wakeup import Bell


class SqlStore:
    """Jobs in a relational database.

    url             an SQLAlchemy URL: sqlite, postgresql+psycopg, mysql+pymysql
    prefix, schema  where the tables are
    create_tables   True: create them at first use; False: never; None: only SQLite's
    clock           microseconds since 1970; only tests give one, else it is the database's
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "dray_",
        schema: str | None = None,
        create_tables: bool | None = None,
        clock: Callable[[], int] | None = None,
        pool_size: int = 5,
    ) -> None:
        self.database = Database(url, pool_size=pool_size)
        self.tables = Tables(self.database.dialect, prefix, schema, clock)
        self.bell = Bell(self.database, self.tables)
        self.settler = Settler(self.database, self.tables, self.bell)
        self.round = Round(self.database, self.tables, self.settler)
        self.desk = Desk(self.database, self.tables, self.bell, self.settler)
        self.roster = Roster(self.database, self.tables)
        self._announcer = Announcer(self.bell, self.settler)
        self._create = self.tables.dialect.name == "sqlite" if create_tables is None else create_tables
        self._checked = False
        self._checking = threading.Lock()

    def close(self) -> None:
        """Send the last hints and close the connections."""
        self.bell.flush()
        self.database.close()

    def ensure(self) -> None:
        """Make sure, once, that the tables fit this code; create them where that is allowed. Raises SchemaError."""
        if self._checked:
            return
        with self._checking:
            try:
                self.database.once(lambda connection: schemas.check(connection, self.tables))
            except SchemaError:
                if not self._create:
                    raise
                schemas.create_fresh(self.database, self.tables)
            self._checked = True

    # --- enqueue --------------------------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Insert jobs, all or none; ids in the order of the jobs. A single job is one round trip, or two with a hint.

        Raises OutcomeUnknown when the connection broke after the jobs were sent.
        """
        if not jobs:
            return []
        self.ensure()
        sent = False
        strict = {job.group for job in jobs if job.group is not None and job.rank is not None}

        def work(own: Connection) -> tuple[list[Added], Owed]:
            nonlocal sent
            sent = True
            if strict:
                stand_in_order(own, self.tables, strict)
            return add(own, self.tables, jobs)

        def at_once(own: Connection) -> list[Added]:
            added, _ = work(own)
            self.bell.ring_by(own, ready_of(added, jobs))
            return added

        try:
            if is_one_statement(jobs):
                return self.database.once(at_once)
            added = self.settler.transact(work)
        except StoreUnavailable as error:
            if sent and self._is_unsure(error):
                raise OutcomeUnknown([job.key for job in jobs if job.key is not None]) from error
            raise
        self.bell.ring(ready_of(added, jobs))
        return added

    def _is_unsure(self, error: StoreUnavailable) -> bool:
        """Whether what was sent may have happened."""
        cause = error.__cause__
        return isinstance(cause, DBAPIError) and self.tables.dialect.is_unsure(cause)

    def add_within(self, target: Any, jobs: Sequence[NewJob]) -> list[Added]:
        """Insert jobs in the transaction of a caller's Session or Connection; workers are told after its commit."""
        if not jobs:
            return []
        self.ensure()
        connection = connection_of(target)
        if DIALECTS.get(connection.dialect.name) is not self.tables.dialect:  # mysql and mariadb are two names for one
            raise BadOption(
                f"the transaction is on {connection.dialect.name}, the jobs are kept in {self.tables.dialect.name}; "
                "they have to be in the same database to be committed together"
            )
        marked = self._mark_spawners(jobs)
        try:
            with self._savepoint(connection, jobs):
                added, owed = add(connection, self.tables, jobs, marked=marked, missing=self._missing)
                number = self.settler.note(connection, owed)
        except DBAPIError as error:
            if self.tables.dialect.name == "sqlite" and self.tables.dialect.is_busy(error):
                raise StoreError(
                    "SQLite refused to write in this transaction because it read first, and another has written since; begin "
                    "transactions that will enqueue with BEGIN IMMEDIATE (docs: 'Enqueue in your own transaction')"
                ) from error
            raise self.database.translate(error) from error
        self._announcer.after_commit(connection, {one.queue for one in ready_of(added, jobs)}, owed, number)
        return added

    def _mark_spawners(self, jobs: Sequence[NewJob]) -> bool:
        """Mark the jobs that spawn these, in a transaction of our own: the caller's may be long, and the rows of running jobs
        are the worker's. If it is rolled back, the mark does no harm. False: SQLite, where ours would wait for the caller's."""
        spawners = spawners_of(jobs)
        if not spawners or not self.tables.dialect.skip_locked:
            return False
        self.database.transact(lambda own: mark_spawners(own, self.tables, spawners))
        return True

    def _missing(self, ids: set[int]) -> set[int]:
        return self.database.once(lambda own: missing_parents(own, self.tables, ids))

    @contextmanager
    def _savepoint(self, connection: Connection, jobs: Sequence[NewJob]) -> Iterator[None]:
        """All or none of what takes several statements, also if the caller goes on after an error of ours."""
        if is_one_statement(jobs) or not self._is_begun(connection):
            yield
            return
        with connection.begin_nested():
            yield

    def _is_begun(self, connection: Connection) -> bool:
        raw: Any = connection.connection.dbapi_connection
        if self.tables.dialect.name == "sqlite":
            raw = connection.connection.driver_connection
            # It begins at the first write only: a savepoint before that would be the transaction itself.
            if not raw.in_transaction and raw.isolation_level is not None and getattr(raw, "autocommit", None) is not True:
                connection.exec_driver_sql(f"BEGIN {raw.isolation_level}")
            return bool(raw.in_transaction)
        asked = getattr(raw, "get_autocommit", None)
        return not (asked() if callable(asked) else getattr(raw, "autocommit", False) is True)

    # --- the worker's side ----------------------------------------------------------------------------------------------

    def pickup(
        self,
        queues: Sequence[str],
        priorities: range | None = None,
        tasks: TaskFilter = TaskFilter(),  # noqa: B008  a value
        choice: Choice | None = None,
    ) -> Lanes:
        """Begin to claim from these queues, by exact name (C50; none: from all), of these priorities and tasks."""
        return Lanes(queues=tuple(queues), priorities=priorities, tasks=tasks, choice=choice)

    def claim(self, worker_id: int, pickup: Pickup, limit: int) -> list[Claim]:
        """Take up to `limit` ready jobs. Costs one read when there are none: an idle worker takes no lock."""
        lanes = _lanes(pickup)
        if self.tables.dialect.finds_and_takes and not lanes.choosy and not lanes.filled and lanes.may_sweep():
            return self.database.alone(lambda connection: claim_anywhere(connection, self.tables, worker_id, lanes, limit))
        force = not lanes.known and lanes.looks_are_cheap
        looked = self.database.once(lambda connection: lanes.refresh(connection, self.tables, force=force))
        if not lanes.known:
            if lanes.may_sweep():
                lanes.sweep()
            return []
        return self.database.transact(lambda connection: claim(connection, self.tables, worker_id, lanes, limit, looked=looked))

    def follow(self, worker_id: int, head: Claim, limit: int, priorities: range | None = None) -> list[Claim]:
        """Take those that stand behind a claimed job in its group, to be run one after the other by the same worker."""
        return self.database.transact(lambda connection: follow(connection, self.tables, worker_id, head, limit, priorities))

    def pick(self, worker_id: int, job_id: int) -> Claim | None:
        """Take a job by its id, whatever it waits for; None: it runs, or has ended."""
        return self.database.transact(lambda connection: pick(connection, self.tables, worker_id, job_id))

    def cover(self, claim: Claim) -> int:
        """Let a job that is about to start do the work of narrower ones of its task in its group; gives how many."""
        return self.database.transact(lambda connection: cover(connection, self.tables, claim))

    def held(self, worker_id: int, known: Collection[Lease]) -> list[Claim]:
        """What this worker holds beside what it knows of."""
        return self.database.once(lambda connection: held(connection, self.tables, worker_id, known))

    def exchange(
        self,
        worker_id: int,
        pickup: Pickup,
        finishes: Sequence[Finish],
        limit: int,
        *,
        again: bool = False,
        begun: Callable[[], None] = unheard,
    ) -> Exchange:
        """End runs and claim the next in one transaction. `begun` is called when that has begun, or cannot at once."""
        if not finishes:
            begun()
            return Exchange(Finished([], set(), []), self.claim(worker_id, pickup, limit))
        lanes = _lanes(pickup)

        def work(connection: Connection) -> tuple[Exchange, Owed]:
            begun()
            done = finish(connection, self.tables, finishes, again=again)
            claims = claim(connection, self.tables, worker_id, lanes, limit) if limit > 0 else []
            return Exchange(done.finished, claims), done.owed

        result = self.settler.transact(work, begun)
        self.bell.ring(result.finished.ready)
        return result

    def finish(self, finishes: Sequence[Finish], *, again: bool = False) -> Finished:
        """End runs in one transaction; those that are `refused` had lost their lease."""

        def work(connection: Connection) -> tuple[Finished, Owed]:
            done = finish(connection, self.tables, finishes, again=again)
            return done.finished, done.owed

        result = self.settler.transact(work)
        self.bell.ring(result.ready)
        return result

    def mark_started(self, lease: Lease, ago: float = 0.0) -> bool:
        """Write down that user code was reached `ago` seconds ago; False: the lease is lost, and it must not be."""
        return self.database.once(lambda connection: mark_started(connection, self.tables, lease, ago))

    def record(self, lease: Lease, change: Change) -> bool:
        """Put on record what a failed run is going to become; False: the lease is lost."""
        return self.database.once(lambda connection: record(connection, self.tables, lease, change))

    # Each of these first asks without a lock: mostly there is nothing to do, and then nobody is kept from writing.

    def promote(self, limit: int = 1000) -> Promoted:
        """Make due jobs ready."""
        wait = self.database.once(lambda connection: next_due(connection, self.tables))
        if wait is None or wait > 0:
            return Promoted([], wait)
        result = self.settler.transact(lambda connection: promote(connection, self.tables, limit))
        self.bell.ring(result.ready)
        return result

    def adopt(self, known: Mapping[str, int]) -> list[Ready]:
        """Free parked jobs whose task and signature are known here."""
        kinds = self.database.once(lambda connection: parked(connection, self.tables, known))
        if not kinds:
            return []
        ready = self.settler.transact(lambda connection: adopt(connection, self.tables, kinds))
        self.bell.ring(ready)
        return ready

    def rescue(self, limit: int = 500) -> Rescued:
        """Free running jobs whose worker is not alive."""
        if not self.database.once(lambda connection: anything_lost(connection, self.tables)):
            return Rescued(0, [], [])
        result = self.settler.transact(lambda connection: rescue(connection, self.tables, limit))
        self.bell.ring(result.ready)
        return result

    def agenda(self, gathered: float) -> Agenda:
        """What there is for upkeep to do. `gathered`: seconds in which notices alike are gathered."""
        return self.database.once(lambda connection: agenda(connection, self.tables, gathered))

    def sweep(self) -> int:
        """Settle what a crash left unsettled; gives how many jobs that made ready."""
        return self.settler.sweep()

    def go_round(self) -> int:
        """Look at a part of all that waits, if it is time; gives how many jobs that made ready."""
        return self.round.go_on() if self.round.is_due() else 0

    def expire(self) -> Expired:
        """Cancel what was not started in time, and ask to end what runs past its deadline."""
        if not self.database.once(lambda connection: anything_expired(connection, self.tables)):
            return Expired(0, 0)
        return self.settler.transact(lambda connection: expire(connection, self.tables))

    def open_rates(self) -> float | None:
        """Let start what rates allow by now; gives the seconds until they allow the next (None: nobody waits for that)."""
        return open_rates(self.database, self.tables, self.settler)


def ready_of(added: Sequence[Added], jobs: Sequence[NewJob]) -> list[Ready]:
    """Those of the added jobs that are ready now."""
    return [Ready(one.id, job.queue, job.priority) for one, job in zip(added, jobs, strict=True) if one.state is State.READY]


def _lanes(pickup: Pickup) -> Lanes:
    assert isinstance(pickup, Lanes)
    return pickup
