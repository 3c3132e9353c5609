"""The schema: is it there and of this version; create it, bring it up to date, print it as SQL."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import SchemaItem

from dray.errors import SchemaError
from dray.store import view
from dray.store.connect import Database
from dray.store.dialects import DIALECTS
from dray.store.migrations import run
from dray.store.migrations.alone import alone
from dray.store.migrations.steps import Steps
from dray.store.tables import Tables
from dray.urls import normalize_url

HEAD = "0001"  # the newest revision: the version of the schema that this code needs
VERSION_TABLE = "version"  # behind the prefix; Alembic's usual name may be in use by the application

# PostgreSQL's storage parameters. The jobs are a small table that never rests: it has to be vacuumed after a
# number of changes, not after a share of its size, and at full speed; free room in a page lets an updated row
# stay in it. The history only grows until it is pruned: vacuumed as it grows, a vacuum never has much to do.
STORAGE = {
    "jobs": (
        "fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,"
        " autovacuum_vacuum_cost_delay = 0,"
        " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000"
    ),
    "history": (
        "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,"
        " autovacuum_vacuum_scale_factor = 0.05,"
        " autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 200000"
    ),
}


def version_table(tables: Tables) -> Table:
    """The table that holds the version: as Alembic makes it, but described without Alembic."""
    name = tables.prefix + VERSION_TABLE
    column = Column("version_num", String(32), nullable=False)
    key = PrimaryKeyConstraint("version_num", name=f"{name}_pkc")
    return Table(name, MetaData(schema=tables.schema), column, key)


def check(connection: Connection, tables: Tables) -> None:
    """Raise SchemaError, which says what to do, unless the schema is there and of this code's version.

    One SELECT. Not for a transaction on PostgreSQL that has to go on: where the table is missing, it cannot.
    """
    try:
        found = _read(connection, tables)
    except DBAPIError as error:
        if not tables.dialect.is_no_table(error):
            raise
        found = None
    _judge(found, tables)


def is_empty(database: Database, tables: Tables) -> bool:
    """Whether there is no schema of any version, so that `create_fresh` may create one."""
    return database.once(lambda connection: _look(connection, tables)) is None


def _read(connection: Connection, tables: Tables) -> str | None:
    versions = connection.execute(select(version_table(tables).c.version_num)).scalars().all()
    return max(versions, default=None)


def _look(connection: Connection, tables: Tables) -> str | None:
    """The version, asked in a way that does no harm to the transaction when the table is missing."""
    there = inspect(connection).has_table(tables.prefix + VERSION_TABLE, schema=tables.schema)
    return _read(connection, tables) if there else None


def _judge(found: str | None, tables: Tables) -> None:
    if found is None:
        place = f" in the schema {tables.schema}" if tables.schema else ""
        raise SchemaError(f"the database has no tables {tables.prefix}*{place}: run 'dray init'")
    if _is_older(found):
        raise SchemaError(f"the schema is at {found}, this code needs {HEAD}: run 'dray init'")
    if found != HEAD:
        raise SchemaError(f"the schema ({found}) is newer than this code; upgrade dray")


def _is_older(version: str) -> bool:
    return version.isdecimal() and len(version) == len(HEAD) and version < HEAD


# --- first use ----------------------------------------------------------------------------------------------


def create_fresh(database: Database, tables: Tables) -> None:
    """Create the schema where there is none, without Alembic; any number of processes may do so at once.

    Does nothing when it is there. Raises SchemaError when it is there in another version: see `upgrade`.
    """
    if is_empty(database, tables):
        database.transact(lambda connection: _create(connection, tables))
    else:
        database.once(lambda connection: check(connection, tables))


def _create(connection: Connection, tables: Tables) -> None:
    with alone(connection, tables):
        found = _look(connection, tables)
        if found is not None:  # somebody else has been faster
            _judge(found, tables)
            return
        steps = Steps(tables, connection.execute, connection)
        steps.ensure_schema()
        _refuse_leftovers(connection, tables)
        version = version_table(tables)
        for table in (version, *tables.metadata.sorted_tables):
            steps.ensure_table(table)
        for name, parameters in STORAGE.items():
            steps.ensure_storage(name, parameters)
        steps.ensure_view(view.NAME, view.select(tables))
        # Last: MySQL commits each statement by itself, and whoever finds a version counts on all the rest.
        connection.execute(insert(version).values(version_num=HEAD))


def _refuse_leftovers(connection: Connection, tables: Tables) -> None:
    """Where DDL has no transactions, an interrupted setup of another version leaves tables but no version."""
    inspector = inspect(connection)
    present = set(inspector.get_table_names(tables.schema))
    for table in tables.metadata.sorted_tables:
        if table.name in present:
            columns = inspector.get_columns(table.name, schema=tables.schema)
            if {column["name"] for column in columns} != set(table.c.keys()):
                raise SchemaError(f"there is a table {table.name} of another version: run 'dray init'")


# --- revisions ----------------------------------------------------------------------------------------------


def _say_nothing(line: str) -> None: ...


def upgrade(database: Database, tables: Tables, report: Callable[[str], None] = _say_nothing) -> list[str]:
    """Bring a schema in any state up to date, and give the revisions that were applied; none: it was already.

    `report` is told of each revision before it runs. Where DDL has transactions, all revisions are committed
    together or none is; on MySQL the next upgrade finishes an interrupted one. Raises SchemaError when the
    schema is newer than this code.
    """
    return database.transact(lambda connection: _upgrade(connection, tables, report))


def _upgrade(connection: Connection, tables: Tables, report: Callable[[str], None]) -> list[str]:
    applied: list[str] = []

    def begin(revision: str, title: str) -> None:
        report(f"{revision}: {title}")
        applied.append(revision)

    with alone(connection, tables):
        found = _look(connection, tables)
        if found is None or _is_older(found):
            run.apply(connection, tables, tables.prefix + VERSION_TABLE, begin)
        else:
            _judge(found, tables)
    return applied


def sql(tables: Tables, url_or_dialect: str) -> str:
    """The whole schema as SQL, for those who let nobody else change it; no database is asked."""
    url = url_or_dialect if ":" in url_or_dialect else f"{url_or_dialect}://"
    family = make_url(normalize_url(url)).get_backend_name()
    described = Tables(DIALECTS[family], tables.prefix, tables.schema)
    return run.write(described, tables.prefix + VERSION_TABLE)


# --- the application's own Alembic --------------------------------------------------------------------------

IncludeObject = Callable[[SchemaItem, str | None, str, bool, SchemaItem | None], bool]


def include_object(prefix: str = "dray_", schema: str | None = None) -> IncludeObject:
    """Make the autogenerate of an application's own Alembic leave Dray's tables alone.

    For its env.py: `context.configure(..., include_object=include_object())`. Dray's are the tables in the
    database that begin with the prefix and are not among the models of the application.
    """

    def include(item: SchemaItem, name: str | None, kind: str, reflected: bool, compare_to: SchemaItem | None) -> bool:
        unknown = kind == "table" and reflected and compare_to is None
        return not (unknown and (name or "").startswith(prefix) and getattr(item, "schema", None) == schema)

    return include
