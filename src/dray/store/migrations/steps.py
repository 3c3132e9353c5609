"""Steps to a schema that can be taken again: each one looks whether it was taken before.

MySQL commits every DDL statement by itself, so whoever goes on after an interruption may find any part done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Executable, MetaData, Table, inspect, text
from sqlalchemy.schema import CreateIndex, CreateSchema, CreateTable, SchemaItem

from dray.store.tables import Tables


class Steps:
    """What a revision can do, under one prefix and schema.

    Without a connection nothing can be looked up, and every step is taken: the schema is printed as SQL.
    """

    def __init__(self, tables: Tables, run: Callable[[Executable], object], connection: Connection | None) -> None:
        self.prefix = tables.prefix
        self.schema = tables.schema
        self.family = tables.dialect.name
        self.quote = tables.dialect.quote
        # Not that of `tables`, which describes the schema of today: a revision knows the one of its own day.
        self.metadata = MetaData(schema=tables.schema)
        self._run = run
        self._connection = connection

    def name(self, short: str) -> str:
        """The full name of a table or view as it stands in a statement."""
        place = f"{self.quote(self.schema)}." if self.schema else ""
        return place + self.quote(self.prefix + short)

    def table(self, short: str, *items: SchemaItem, **options: Any) -> Table:
        """Describe a table."""
        return Table(self.prefix + short, self.metadata, *items, **options)

    def ensure_schema(self) -> None:
        """Create the schema if it is missing; SQLite has none that could be created."""
        if self.schema is None or self.family == "sqlite":
            return
        # Looked up and not left to IF NOT EXISTS, for which PostgreSQL wants the right to create schemas even
        # where there is nothing to create.
        if self._connection is None or not inspect(self._connection).has_schema(self.schema):
            self._run(CreateSchema(self.schema, if_not_exists=True))

    def ensure_table(self, table: Table) -> None:
        """Create a table, or those of its indexes that are missing."""
        present: set[str | None] = set()
        inspector = None if self._connection is None else inspect(self._connection)
        if inspector is not None and inspector.has_table(table.name, schema=table.schema):
            present = {index["name"] for index in inspector.get_indexes(table.name, schema=table.schema)}
        else:
            self._run(CreateTable(table))
        for index in sorted(table.indexes, key=lambda index: index.name or ""):
            if index.name not in present:
                self._run(CreateIndex(index))

    def ensure_storage(self, short: str, parameters: str) -> None:
        """Set PostgreSQL's storage parameters of a table; other databases have none."""
        if self.family == "postgresql":
            self._run(text(f"ALTER TABLE {self.name(short)} SET ({parameters})"))

    def ensure_view(self, short: str, select: str) -> None:
        """Create a view, in the place of an older one of this name."""
        if self.family == "mysql":
            # One statement, since no transaction holds two together. With the rights of whoever reads it: the
            # account that created it may be gone one day, and then MySQL would refuse the view to everybody.
            self._run(text(f"CREATE OR REPLACE SQL SECURITY INVOKER VIEW {self.name(short)} AS {select}"))
        else:
            # PostgreSQL replaces a view only by one of the same columns, SQLite never does.
            self._run(text(f"DROP VIEW IF EXISTS {self.name(short)}"))
            self._run(text(f"CREATE VIEW {self.name(short)} AS {select}"))
