"""Running the revisions, or printing them, through Alembic, which is loaded only then.

There is no alembic.ini and no env.py, and revisions do not use Alembic's global `op`: the application may be
in the middle of a migration of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from dray.store.migrations.steps import Steps
from dray.store.tables import Tables

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

Begin = Callable[[str, str], None]  # is told the number and the title of a revision before it runs


def scripts() -> ScriptDirectory:
    """The revisions that are shipped with this code."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(__file__).parent))


def apply(connection: Connection, tables: Tables, version_table: str, begin: Begin) -> None:
    """Run the revisions that the schema lacks, inside the transaction that is open."""
    context = _context(tables, version_table, begin, connection=connection)
    steps = Steps(tables, context.execute, connection)
    steps.ensure_schema()
    context.run_migrations(steps=steps)


def write(tables: Tables, version_table: str) -> str:
    """Give the statements of all revisions as text."""
    out = StringIO()
    context = _context(tables, version_table, lambda revision, title: None, out=out)
    steps = Steps(tables, context.execute, None)
    steps.ensure_schema()
    with context.begin_transaction():
        context.run_migrations(steps=steps)
    return out.getvalue()


def _context(
    tables: Tables,
    version_table: str,
    begin: Begin,
    *,
    connection: Connection | None = None,
    out: StringIO | None = None,
) -> MigrationContext:
    from alembic.runtime.migration import MigrationContext

    def revisions(heads: Any, context: MigrationContext) -> Iterator[Any]:
        for step in scripts()._upgrade_revs("head", heads):
            (revision,) = step.to_revisions_no_deps
            begin(revision, step.doc or "")
            yield step

    options = {
        "fn": revisions,
        "version_table": version_table,
        "version_table_schema": tables.schema,
        "as_sql": out is not None,
        "output_buffer": out,
    }
    return MigrationContext.configure(connection, dialect_name=tables.dialect.name, opts=options)
