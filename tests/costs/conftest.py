"""Stores to be measured, one for each module of tests and each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.conftest import DATABASES, started
from tests.costs.bed import Bed
from tests.servers import Postgres, Server

# Nothing happens in it but what is measured: no checkpoint, after which a page is logged whole; nobody who tidies up.
QUIET = {
    "autovacuum": "off",
    "checkpoint_timeout": "1d",
    "max_wal_size": "8GB",
    "full_page_writes": "off",
}


class QuietPostgres(Postgres):
    def __init__(self, *, fast: bool = False) -> None:
        super().__init__(fast=fast, settings=QUIET)


@pytest.fixture(scope="session")
def quiet_postgres() -> Iterator[Server]:
    yield from started(QuietPostgres, "postgresql")


@pytest.fixture(scope="module", params=DATABASES)
def new_bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bed]]:
    """Makes stores in empty databases, on each of the chosen servers in turn."""
    which = {"postgresql": "quiet_postgres", "mysql": "mariadb_server"}.get(request.param)
    server: Server | None = which and request.getfixturevalue(which)
    made: dict[str, Bed] = {}

    def make() -> Bed:
        name = f"dray_{uuid4().hex[:12]}"
        url = server.create_database(name) if server else f"sqlite:///{tmp_path_factory.mktemp('costs')}/dray.db"
        made[name] = bed = Bed(url)
        return bed

    yield make
    for name, bed in made.items():
        bed.close()
        if server is not None:
            server.drop_database(name)
