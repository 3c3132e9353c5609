"""One process at a time changes a schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from dray.errors import StoreError
from dray.job import name_hash
from dray.store.tables import Tables

PATIENCE = 60  # seconds to wait for another process that changes the schema


@contextmanager
def alone(connection: Connection, tables: Tables) -> Iterator[None]:
    """Keep other processes from changing this schema, inside the transaction that is open.

    Where a table is in use, the lock on it is given up after seconds: whoever waits for such a lock makes all
    who come later wait too. The error is one after which the transaction is tried again.
    """
    match tables.dialect.name:
        case "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            key = name_hash(f"dray schema {tables.schema or ''}.{tables.prefix}")
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield
        case "mysql":
            # Such locks belong to the server, not to a database.
            place = tables.schema or connection.execute(text("SELECT DATABASE()")).scalar_one()
            with _named_lock(connection, f"dray schema {name_hash(f'{place}.{tables.prefix}')}"):
                yield
        case _:
            yield  # BEGIN IMMEDIATE has locked the file


@contextmanager
def _named_lock(connection: Connection, name: str) -> Iterator[None]:
    taken = connection.execute(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": PATIENCE})
    if taken.scalar() != 1:
        raise StoreError(f"another process has been changing the schema for {PATIENCE} seconds")
    try:
        connection.execute(text("SET SESSION lock_wait_timeout = 5"))
        yield
    finally:
        if not connection.invalidated:  # a broken connection has lost its locks already
            connection.execute(text("SET SESSION lock_wait_timeout = DEFAULT"))
            connection.execute(text("DO RELEASE_LOCK(:name)"), {"name": name})
