"""Many enqueues as few inserts; and enqueues of an event loop, which take the same way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from dray import Dray, Task
from dray.errors import BadOption
from dray.store.filters import Filter
from tests.contract.test_transactions import async_url
from tests.servers import Database

rows = pytest.mark.rows


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dray.db"


@rows("S2.31")
def test_a_bulk_inserts_some_at_a_time_and_the_rest_at_its_end(url: str) -> None:
    app = Dray(url)

    @app.task
    def note(number: int) -> None: ...

    with app.bulk(size=100) as bulk:
        jobs = [note.enqueue(number) for number in range(250)]
        assert bulk.inserted == 200
        assert [job.id for job in jobs[:3]] == [1, 2, 3]
        assert jobs[-1].id == 0
        with pytest.raises(BadOption, match="flush its bulk first"):
            jobs[-1].refresh()
        with pytest.raises(BadOption, match="flush its bulk first"):
            note.using(after=[jobs[-1]]).enqueue(0)
        bulk.flush()
        assert jobs[-1].id == 250
        last = note.using(after=[jobs[-1]]).enqueue(0)
    assert bulk.inserted == 251
    assert (last.id, str(last.state), str(jobs[0].state)) == (251, "blocked", "ready")
    assert note.enqueue(1).id == 252  # behind the block all is as before


@rows("S2.31")
def test_what_a_bulk_has_gathered_is_dropped_when_its_block_raises(url: str) -> None:
    app = Dray(url)

    @app.task
    def note(number: int) -> None: ...

    def breaks_off() -> None:
        with app.bulk(size=2):
            for number in range(3):
                note.enqueue(number)
            raise LookupError

    with pytest.raises(LookupError):
        breaks_off()
    assert [row.args for row in app.store.desk.jobs(Filter())] == ['{"a":[1]}', '{"a":[0]}']


def test_a_bulk_of_async_enqueues(url: str) -> None:
    app = Dray(url)

    @app.task
    def note(number: int) -> None: ...

    async def many() -> list[int]:
        async with app.bulk(size=10):
            jobs = [await note.aenqueue(number) for number in range(25)]
        return [job.id for job in jobs]

    assert asyncio.run(many()) == list(range(1, 26))


def test_a_bulk_in_a_bulk_and_a_wrong_size_are_refused(url: str) -> None:
    app = Dray(url)
    with pytest.raises(BadOption, match="a bulk already"), app.bulk(), app.bulk():
        pass
    with pytest.raises(BadOption, match="size of a bulk"):
        app.bulk(0)


@rows("S2.31")
@pytest.mark.parametrize("commits", [True, False])
def test_an_async_bulk_goes_into_an_async_transaction(database: Database, commits: bool) -> None:
    app = Dray(database.url, create_tables=True)
    app.store.ensure()

    @app.task
    def note(number: int) -> None: ...

    async def many() -> None:
        engine = create_async_engine(async_url(database), poolclass=NullPool)
        async with engine.connect() as connection, app.transaction(connection):
            async with app.bulk(size=2):
                jobs = [await note.aenqueue(number) for number in range(5)]
            assert all(job.id for job in jobs)
            await (connection.commit() if commits else connection.rollback())
        await engine.dispose()

    asyncio.run(many())
    assert sum(app.store.desk.counts().values()) == (5 if commits else 0)
    app.close()


@rows("S0.18")
def test_before_enqueue_is_called_once_also_on_an_event_loop(url: str) -> None:
    app, called = Dray(url), list[int]()

    @app.task
    class Note(Task):
        number: int

        def before_enqueue(self) -> None:
            called.append(self.number)

        def run(self) -> None: ...  # type: ignore[override]

    asyncio.run(app.aenqueue(Note(number=7)))  # type: ignore[arg-type]
    assert called == [7]
