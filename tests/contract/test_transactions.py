"""Enqueue in the caller's own transaction: the job exists if and only if the caller's data does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dray import Dray
from dray.errors import BadOption, SchemaError, StoreError, UnknownJob
from dray.job import Claim
from dray.sender import FunctionTask
from dray.store.caller import connection_of
from dray.store.lanes import Lanes
from dray.store.sql import SqlStore
from tests.servers import Database, wait_until

ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+asyncmy"}
LEVELS = {
    "sqlite": ["SERIALIZABLE", "READ UNCOMMITTED"],
    "postgresql": ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"],
    "mysql": ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"],
}
ORDER = text("INSERT INTO orders (id) VALUES (:id)")


def async_url(database: Database) -> URL:
    """The way of an application of coroutines into the same database; its driver knows no options of the other."""
    url = make_url(database.url).difference_update_query(["ssl_disabled"])
    return url.set(drivername=ASYNC_DRIVERS[database.name])


class Shop:
    """An application with a table of its own, and Dray in the same database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.app = Dray(database.url, create_tables=True)
        self.engine = self.connect()
        self.rings = 0
        self.app.store.ensure()
        self.app.store.bell.listen(self._ring)
        self.send: FunctionTask[[int], None] = self.app.task(name="send", queue="mail")(send)
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY)")

    def _ring(self) -> None:
        self.rings += 1

    def connect(self, **options: Any) -> Engine:
        return create_engine(self.database.url, poolclass=NullPool, **options)

    @asynccontextmanager
    async def aconnect(self) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(async_url(self.database), poolclass=NullPool)
        try:
            yield engine
        finally:
            await engine.dispose()

    def contents(self) -> tuple[list[int], list[str]]:
        """The orders, and the arguments of the jobs, as everybody else sees them."""
        with self.engine.connect() as connection:
            orders = connection.exec_driver_sql("SELECT id FROM orders ORDER BY id").scalars().all()
            jobs = connection.exec_driver_sql("SELECT args FROM dray_jobs ORDER BY id").scalars().all()
        return [*orders], [*jobs]

    def settled_rings(self) -> int:
        """How often it was told that something is ready, when nothing is left to tell."""
        self.app.store.bell.flush(10)
        return self.rings

    def close(self) -> None:
        self.app.close()
        self.engine.dispose()


def send(order_id: int) -> None: ...


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    shop = Shop(database)
    yield shop
    shop.close()


@pytest.fixture
def served(shop: Shop) -> Shop:
    if shop.database.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    return shop


@contextmanager
def by_session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def by_connection(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        yield connection


@asynccontextmanager
async def by_async_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as session, session.begin():
        yield session


@asynccontextmanager
async def by_async_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.begin() as connection:
        yield connection


class Change(Exception):
    """Of mind."""


@contextmanager
def taken_back() -> Iterator[None]:
    """What is done in here ends with a change of mind."""
    try:
        yield
    except Change:
        return
    raise AssertionError("nobody changed their mind")


def elsewhere(work: Callable[..., Any], *arguments: Any) -> None:
    """Do it in a thread that is in no transaction."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    thread.join(30)


SYNC = pytest.mark.parametrize("begin", [by_session, by_connection])
ASYNC = pytest.mark.parametrize("begin", [by_async_session, by_async_connection])


# --- sync -----------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C1", "C4")
@SYNC
def test_the_job_comes_with_the_commit(shop: Shop, begin: Callable[..., Any]) -> None:
    with begin(shop.engine) as target, shop.app.transaction(target):
        target.execute(ORDER, {"id": 7})
        job = shop.send.enqueue(7)
        assert shop.contents() == ([], [])
        assert shop.settled_rings() == 0
        with pytest.raises(UnknownJob):
            job.refresh()
    assert shop.contents() == ([7], ['{"a":[7]}'])
    assert job.refresh().row.args == '{"a":[7]}'
    assert shop.settled_rings() == 1


@SYNC
def test_who_is_told_finds_the_job(shop: Shop, begin: Callable[..., Any]) -> None:
    found: list[int] = []
    shop.app.store.bell.listen(lambda: found.append(len(shop.contents()[1])))
    for number in range(1, 21):
        with begin(shop.engine) as target, shop.app.transaction(target):
            shop.send.enqueue(number)
        shop.settled_rings()
    assert found == [*range(1, 21)]


@pytest.mark.rows("C3")
@SYNC
def test_the_job_goes_with_the_rollback(shop: Shop, begin: Callable[..., Any]) -> None:
    with taken_back(), begin(shop.engine) as target, shop.app.transaction(target):
        target.execute(ORDER, {"id": 7})
        shop.send.enqueue(7)
        raise Change
    assert shop.contents() == ([], [])
    assert shop.settled_rings() == 0
    # Nothing of it was kept, to be told with the next commit.
    with begin(shop.engine) as target:
        target.execute(ORDER, {"id": 8})
    assert shop.settled_rings() == 0


@pytest.mark.rows("C3")
@SYNC
def test_a_savepoint_takes_its_jobs_back_and_no_others(shop: Shop, begin: Callable[..., Any]) -> None:
    with begin(shop.engine) as target, shop.app.transaction(target):
        shop.send.enqueue(1)
        with taken_back(), target.begin_nested():
            target.execute(ORDER, {"id": 2})
            shop.send.enqueue(2)
            raise Change
        with target.begin_nested():
            shop.send.enqueue(3)
        assert shop.settled_rings() == 0
    assert shop.contents() == ([], ['{"a":[1]}', '{"a":[3]}'])
    assert shop.settled_rings() >= 1


@pytest.mark.rows("C5")
@SYNC
def test_many_jobs_come_together(shop: Shop, begin: Callable[..., Any]) -> None:
    with begin(shop.engine) as target, shop.app.transaction(target):
        jobs = shop.app.enqueue_many(shop.send.bind(number) for number in range(1500))
        assert shop.contents() == ([], [])
    assert shop.contents()[1] == [f'{{"a":[{number}]}}' for number in range(1500)]
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert shop.settled_rings() == 1


def test_two_transactions_one_after_the_other_on_one_connection(shop: Shop) -> None:
    with shop.engine.connect() as connection:
        for number in (1, 2, 3):
            with shop.app.transaction(connection):
                shop.send.enqueue(number)
            if number == 2:
                connection.rollback()
                assert shop.settled_rings() == 1
            else:
                connection.commit()
                assert shop.settled_rings() == (1 if number == 1 else 2)
    assert shop.contents()[1] == ['{"a":[1]}', '{"a":[3]}']


def test_a_job_for_later_rings_nobody(shop: Shop) -> None:
    with by_session(shop.engine) as session, shop.app.transaction(session):
        shop.send.using(run_in=60).enqueue(7)
    assert len(shop.contents()[1]) == 1
    assert shop.settled_rings() == 0


def test_only_this_thread_and_only_this_block_is_in_the_transaction(served: Shop) -> None:
    with taken_back(), by_session(served.engine) as session:
        with served.app.transaction(session):
            served.send.enqueue(1)
            elsewhere(served.send.enqueue, 2)
        served.send.enqueue(3)
        raise Change
    assert served.contents()[1] == ['{"a":[2]}', '{"a":[3]}']


# --- async ----------------------------------------------------------------------------------------------------------------


@pytest.mark.rows("C1", "C3", "C5")
@ASYNC
def test_an_async_transaction_keeps_the_same_promises(shop: Shop, begin: Callable[..., Any]) -> None:
    async def story() -> None:
        async with shop.aconnect() as engine:
            async with begin(engine) as target, shop.app.transaction(target):
                await target.execute(ORDER, {"id": 7})
                job = await shop.send.aenqueue(7)
                with taken_back():
                    async with target.begin_nested():
                        await shop.send.aenqueue(8)
                        raise Change
                await shop.app.aenqueue_many(shop.send.bind(number) for number in (9, 10))
                assert shop.contents() == ([], [])
                assert shop.settled_rings() == 0
            assert (await job.arefresh()).row.args == '{"a":[7]}'
            assert shop.settled_rings() >= 1
            rings = shop.rings
            with taken_back():
                async with begin(engine) as target, shop.app.transaction(target):
                    await target.execute(ORDER, {"id": 11})
                    await shop.send.aenqueue(11)
                    raise Change
            assert shop.settled_rings() == rings

    asyncio.run(story())
    assert shop.contents() == ([7], ['{"a":[7]}', '{"a":[9]}', '{"a":[10]}'])


def test_a_sync_call_in_an_async_transaction_is_told_what_to_do(shop: Shop) -> None:
    async def story() -> None:
        async with shop.aconnect() as engine, by_async_session(engine) as session:
            async with shop.app.transaction(session):
                with pytest.raises(BadOption, match="aenqueue"):
                    shop.send.enqueue(7)
            with pytest.raises(BadOption, match="async with"), shop.app.transaction(session):
                pass
            await shop.send.aenqueue(8)  # no longer in it

    asyncio.run(story())
    assert shop.contents()[1] == ['{"a":[8]}']


def test_async_tasks_at_the_same_time_are_each_in_their_own_transaction(served: Shop) -> None:
    async def one(engine: AsyncEngine, number: int, here: asyncio.Barrier) -> None:
        async with by_async_session(engine) as session, served.app.transaction(session):
            await served.send.aenqueue(number)
            await here.wait()  # all have sent theirs, and none has committed
            if number % 2:
                raise Change

    async def story() -> list[Any]:
        here = asyncio.Barrier(4)
        async with served.aconnect() as engine:
            return await asyncio.gather(*[one(engine, number, here) for number in range(4)], return_exceptions=True)

    assert [type(one) for one in asyncio.run(story())] == [type(None), Change] * 2
    assert sorted(served.contents()[1]) == ['{"a":[0]}', '{"a":[2]}']


# --- isolation ------------------------------------------------------------------------------------------------------------


def test_every_isolation_level_the_caller_may_use(shop: Shop) -> None:
    for number, level in enumerate(LEVELS[shop.database.name]):
        engine = shop.connect(isolation_level=level)
        with by_session(engine) as session, shop.app.transaction(session):
            assert isinstance(session.execute(text("SELECT count(*) FROM orders")).scalar_one(), int)
            session.execute(ORDER, {"id": number})
            shop.send.enqueue(number)
        with taken_back(), by_session(engine) as session, shop.app.transaction(session):
            shop.send.enqueue(99)
            raise Change
    count = len(LEVELS[shop.database.name])
    assert shop.contents() == ([*range(count)], [f'{{"a":[{number}]}}' for number in range(count)])


def claim_all(store: SqlStore, worker: int, pickup: Lanes, count: int) -> None:
    """Jobs that lie below a floor by now: where a look below it was slow, the next is made a moment later."""
    found: list[Claim] = []

    def claimed() -> bool:
        found.extend(store.claim(worker, pickup, 100))
        return len(found) == count

    wait_until(claimed, f"{count} jobs to be found", 10)


def test_a_long_transaction_keeps_neither_producers_nor_workers_waiting(served: Shop) -> None:
    store = served.app.store
    for level in LEVELS[served.database.name]:
        worker, pickup = store.roster.register(host="h", pid=1, queues="*", concurrency=1), store.pickup([])
        engine = served.connect(isolation_level=level)
        with engine.connect() as long, long.begin(), served.app.transaction(long):
            long.execute(text("SELECT count(*) FROM orders")).all()
            served.send.enqueue(1)
            with engine.connect() as other, other.begin(), served.app.transaction(other):
                served.send.enqueue(2)  # while the first is open
            elsewhere(served.app.enqueue_many, [served.send.bind(3)] * 5)
            assert len(store.claim(worker, pickup, 100)) == 6
            served.send.enqueue(1)  # and the long one goes on
        claim_all(store, worker, pickup, 2)


def test_in_autocommit_the_job_is_there_at_once(shop: Shop) -> None:
    with shop.connect(isolation_level="AUTOCOMMIT").connect() as connection, shop.app.transaction(connection):
        shop.send.enqueue(7)
        assert shop.contents()[1] == ['{"a":[7]}']


# --- what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["a text", object(), None])
def test_what_is_no_transaction_is_refused(target: Any) -> None:
    with pytest.raises(BadOption, match=r"app\.transaction\(\) takes"):
        connection_of(target)


def test_another_kind_of_database_is_refused(served: Shop, tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=NullPool)
    with by_session(engine) as session, served.app.transaction(session), pytest.raises(BadOption, match="same database"):
        served.send.enqueue(7)
    assert served.contents()[1] == []


def test_another_name_for_the_same_kind_is_the_same(served: Shop) -> None:
    if served.database.name != "mysql":
        pytest.skip("only MySQL has two names")
    engine = create_engine(make_url(served.database.url).set(drivername="mariadb+pymysql"), poolclass=NullPool)
    with by_session(engine) as session, served.app.transaction(session):
        served.send.enqueue(7)
    assert served.contents()[1] == ['{"a":[7]}']


def test_another_database_of_the_server_has_no_tables_and_says_so(served: Shop) -> None:
    server = served.database.server
    assert server is not None
    other = create_engine(server.create_database("dray_elsewhere"), poolclass=NullPool)
    try:
        with pytest.raises(SchemaError, match="dray init"), by_session(other) as session, served.app.transaction(session):
            served.send.enqueue(7)
    finally:
        server.drop_database("dray_elsewhere")


@pytest.fixture
def reads_first(shop: Shop) -> Engine:
    """The recipe of SQLAlchemy's documentation for transactions that begin with the first statement, also a read."""
    if shop.database.name != "sqlite":
        pytest.skip("only SQLite refuses to write in a transaction that has read")
    engine = shop.connect()

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def test_on_sqlite_who_has_read_before_others_wrote_is_told_the_way_out(shop: Shop, reads_first: Engine) -> None:
    with taken_back(), by_session(reads_first) as session, shop.app.transaction(session):
        session.execute(text("SELECT id FROM orders")).all()
        elsewhere(shop.send.enqueue, 1)
        with pytest.raises(StoreError, match="BEGIN IMMEDIATE"):
            shop.send.enqueue(7)
        raise Change
    assert shop.contents()[1] == ['{"a":[1]}']
    with by_session(reads_first) as session, shop.app.transaction(session):
        session.execute(text("SELECT id FROM orders")).all()
        shop.send.enqueue(8)  # nobody wrote in between
    assert shop.contents()[1] == ['{"a":[1]}', '{"a":[8]}']


def test_an_error_of_the_caller_stays_the_callers(shop: Shop) -> None:
    with taken_back(), by_session(shop.engine) as session, shop.app.transaction(session):
        shop.send.enqueue(7)
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT * FROM no_such_table"))
        raise Change
    assert shop.contents()[1] == []
    assert shop.settled_rings() == 0
