"""The schema: created at first use or by revisions it is the same, whoever is killed on the way."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

import alembic
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from dray.errors import ConfigurationError, SchemaError, StoreError, StoreUnavailable
from dray.job import Flag, Reason, State
from dray.store import schema
from dray.store.codes import REASON, STATE
from dray.store.connect import Database
from dray.store.migrations import alone, run
from dray.store.tables import Tables
from tests.servers import Database as Place

Way = Callable[[Database, Tables], object]
WAYS: dict[str, Way] = {"fresh": schema.create_fresh, "upgraded": schema.upgrade}


@pytest.fixture
def own(empty_database: Place) -> Iterator[Database]:
    opened = Database(empty_database.url)
    yield opened
    opened.close()


@pytest.fixture
def tables(own: Database) -> Tables:
    return Tables(own.dialect)


@pytest.fixture
def place(empty_database: Place, own: Database) -> Iterator[Tables]:
    """Tables under another prefix, and in a schema of their own where there is such a thing."""
    if empty_database.name == "mysql":  # another database of the server
        assert empty_database.server is not None
        other = f"{own.url.database}_jobs"
        yield Tables(own.dialect, "q_", other)
        empty_database.server.drop_database(other)
    else:
        yield Tables(own.dialect, "q_", "jobs" if empty_database.name == "postgresql" else None)


def look(own: Database, tables: Tables) -> None:
    own.once(lambda connection: schema.check(connection, tables))


# --- what a schema looks like --------------------------------------------------------------------------------


def picture(own: Database, tables: Tables) -> dict[str, Any]:
    """Everything the database says about the tables, without their prefix and place."""
    with own.engine.connect() as connection:
        seen = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}[own.dialect.name](connection, tables)
    assert len(seen) > 8
    return dict(json.loads(json.dumps(seen).replace(tables.prefix, "PREFIX_")))


def _sqlite(connection: sa.Connection, tables: Tables) -> dict[str, Any]:
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master").all()
    found = {name: definition for name, definition in rows if name.startswith(tables.prefix)}
    # It keeps every statement as it was given; the printed ones have spaces for tabs.
    return {name: " ".join(definition.split()) for name, definition in found.items() if definition}


def _postgresql(connection: sa.Connection, tables: Tables) -> dict[str, Any]:
    def ask(question: str) -> dict[str, list[Any]]:
        values = {"place": tables.schema or "public", "prefix": tables.prefix}
        rows = connection.execute(sa.text(question), values).all()
        return {name: [tuple(row[1:]) for row in rows if row[0] == name] for name in {row[0] for row in rows}}

    columns = ask(
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = :place AND starts_with(table_name, :prefix)"
        " ORDER BY ordinal_position"
    )
    indexes = ask("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = :place AND starts_with(indexname, :prefix)")
    others = ask(
        "SELECT relname, relkind, reloptions, CASE relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = :place AND starts_with(relname, :prefix)"
    )
    kinds = {"columns of ": columns, "index ": indexes, "options of ": others}
    return {kind + name: seen for kind, found in kinds.items() for name, seen in found.items()}


def _mysql(connection: sa.Connection, tables: Tables) -> dict[str, Any]:
    seen = {}
    for (name,) in connection.exec_driver_sql(f"SHOW TABLES LIKE '{tables.prefix}%%'", ()).all():
        row = connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()
        seen[name] = re.sub(r" AUTO_INCREMENT=\d+", "", row[1])
    return seen


@pytest.mark.rows("S2.75")
@pytest.mark.parametrize("way", ["upgraded", "printed"])
def test_every_way_leads_to_the_same_schema(own: Database, way: str) -> None:
    fresh, other = Tables(own.dialect, "fresh_"), Tables(own.dialect, "other_")
    schema.create_fresh(own, fresh)
    if way == "upgraded":
        schema.upgrade(own, other)
    else:
        execute_script(own, schema.sql(other, own.dialect.name))
    look(own, other)
    assert picture(own, fresh) == picture(own, other)


def execute_script(own: Database, script: str) -> None:
    """Give a script to the driver as a DBA would give it to the database's own shell."""
    if own.dialect.name == "sqlite":
        with closing(sqlite3.connect(str(own.url.database))) as file:
            file.executescript(script)
        return
    with closing(own.engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
        if own.dialect.name == "postgresql":
            cursor.execute(script)  # without parameters it may be any number of statements
        else:
            statements = re.sub(r"^--.*$", "", script, flags=re.MULTILINE).split(";\n")
            for statement in filter(str.strip, statements):
                cursor.execute(statement)


def test_the_tables_are_made_for_a_queue(own: Database, tables: Tables) -> None:
    schema.upgrade(own, tables)
    seen = picture(own, tables)
    match own.dialect.name:
        case "sqlite":
            for name in ("jobs", "workers", "output"):
                assert "AUTOINCREMENT" in seen[f"PREFIX_{name}"]
        case "postgresql":
            ((_, options, _),) = seen["options of PREFIX_jobs"]
            assert {"fillfactor=90", "autovacuum_vacuum_threshold=20000"} <= set(options)
        case _:
            for name in tables.metadata.tables:
                definition = seen[name.replace(tables.prefix, "PREFIX_")]
                assert "ENGINE=InnoDB" in definition
                assert "utf8mb4_bin" in definition
                assert "ROW_FORMAT=DYNAMIC" in definition


@pytest.mark.parametrize("way", WAYS)
def test_prefix_and_schema_are_honoured(own: Database, place: Tables, way: str) -> None:
    WAYS[way](own, place)
    WAYS[way](own, place)  # the schema may be there before the tables
    look(own, place)
    inspector = sa.inspect(own.engine)
    made = {f"q_{name}" for name in (*place.names(), "version")}
    assert set(inspector.get_table_names(place.schema)) == made
    assert inspector.get_view_names(place.schema) == ["q_all_jobs"]
    if place.schema:
        assert inspector.get_table_names() == []
        assert inspector.get_view_names() == []


def test_the_printed_schema_goes_where_it_is_told(own: Database, place: Tables) -> None:
    execute_script(own, schema.sql(place, own.dialect.name))
    look(own, place)


def test_two_schemas_live_side_by_side(own: Database, tables: Tables) -> None:
    others = Tables(own.dialect, "other_")
    schema.create_fresh(own, tables)
    assert not schema.is_empty(own, tables)
    assert schema.is_empty(own, others)
    assert schema.upgrade(own, others) == [schema.HEAD]
    look(own, tables)
    look(own, others)


# --- again, at once, and interrupted -------------------------------------------------------------------------


def test_a_second_upgrade_does_nothing(own: Database, tables: Tables) -> None:
    lines: list[str] = []
    assert schema.upgrade(own, tables, lines.append) == [schema.HEAD]
    assert [line.partition(":")[0] for line in lines] == [schema.HEAD]
    with changes(own) as statements:
        assert schema.upgrade(own, tables, lines.append) == []
        schema.create_fresh(own, tables)
    assert not statements
    assert len(lines) == 1


@pytest.mark.rows("S2.18")
def test_an_upgrade_finds_nothing_to_do_after_first_use(own: Database, tables: Tables) -> None:
    schema.create_fresh(own, tables)
    assert schema.upgrade(own, tables) == []


START = """
import multiprocessing, os, signal, sys
import sqlalchemy
from dray.store import schema
from dray.store.connect import Database
from dray.store.tables import Tables

WAYS = {"fresh": schema.create_fresh, "upgraded": schema.upgrade}
url, *ways = sys.argv[1:]
"""
CROWD = (
    START
    + """
fork = multiprocessing.get_context("fork")
gate = fork.Barrier(len(ways))

def create(way):
    database = Database(url)
    tables = Tables(database.dialect)
    gate.wait()
    WAYS[way](database, tables)
    database.once(lambda connection: schema.check(connection, tables))
    # A worker creates the tables at first use, and Alembic would be a burden to it for as long as it lives.
    assert way == "upgraded" or "alembic" not in sys.modules

children = [fork.Process(target=create, args=(way,)) for way in ways]
for child in children:
    child.start()
for child in children:
    child.join()
print([child.exitcode for child in children])
"""
)
KILLED = (
    START
    + """
def kill(connection, cursor, statement, values, context, many):
    if statement.startswith("CREATE INDEX dray_history_key"):
        os.kill(os.getpid(), signal.SIGKILL)

sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", kill)
database = Database(url)
WAYS[ways[0]](database, Tables(database.dialect))
"""
)


def program(own: Database, text: str, *ways: str) -> subprocess.CompletedProcess[str]:
    url = own.url.render_as_string(hide_password=False)
    return subprocess.run([sys.executable, "-c", text, url, *ways], capture_output=True, text=True, timeout=100)


def test_many_processes_may_create_it_at_once(own: Database, tables: Tables) -> None:
    ways = ["fresh", "fresh", "fresh", "upgraded"] * 2
    done = program(own, CROWD, *ways)
    assert done.stdout == f"{[0] * len(ways)}\n", done.stderr
    one = Tables(own.dialect, "alone_")
    schema.create_fresh(own, one)
    assert picture(own, tables) == picture(own, one)


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_one_holds_up_nobody(own: Database, tables: Tables, way: str) -> None:
    assert program(own, KILLED, way).returncode == -signal.SIGKILL
    assert schema.upgrade(own, tables) == [schema.HEAD]


class Interrupted(Exception):
    pass


@contextmanager
def changes(own: Database, known: Collection[str] = (), new: float = float("inf")) -> Iterator[list[str]]:
    """Collect the statements that change something; let only so many through that are not known."""
    statements: list[str] = []

    def count(connection: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        if re.match(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)\b", statement):
            if statement not in known and len(set(statements) - set(known)) >= new:
                raise Interrupted(statement)
            statements.append(statement)

    sa.event.listen(own.engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        sa.event.remove(own.engine, "before_cursor_execute", count)


@pytest.mark.parametrize("ways", [["upgraded"], ["fresh"], ["fresh", "upgraded"]], ids=["upgraded", "fresh", "in turn"])
def test_an_interrupted_one_is_finished_by_the_next(own: Database, tables: Tables, ways: list[str]) -> None:
    """Each try gets one statement further than the one before: what MySQL has kept of that, the others have not."""
    done: set[str] = set()
    for way in cycle(ways):
        assert schema.is_empty(own, tables)
        assert "run 'dray init'" in complaint(own, tables)
        try:
            with changes(own, known=done, new=1) as statements:
                WAYS[way](own, tables)
            break
        except Interrupted:
            assert not done.issuperset(statements), "it would go on for ever"
            done.update(statements)
    assert len(done) > sum(1 + len(table.indexes) for table in tables.metadata.tables.values())
    look(own, tables)
    straight = Tables(own.dialect, "other_")
    schema.create_fresh(own, straight)
    assert picture(own, tables) == picture(own, straight)


@pytest.mark.parametrize("empty_database", ["postgresql", "mysql"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_a_broken_connection_is_reported_as_such(own: Database, tables: Tables, way: str) -> None:
    question, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
        "mysql": ("SELECT CONNECTION_ID()", "KILL %s"),
    }[own.dialect.name]

    def cut(connection: sa.Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("CREATE INDEX dray_history_key"):
            cursor.execute(question)
            (number,) = cursor.fetchone()
            with own.engine.connect() as other:
                other.exec_driver_sql(kill, (number,))

    sa.event.listen(own.engine, "before_cursor_execute", cut)
    with pytest.raises(StoreUnavailable):
        WAYS[way](own, tables)
    sa.event.remove(own.engine, "before_cursor_execute", cut)
    assert schema.upgrade(own, tables) == [schema.HEAD]


@pytest.mark.parametrize("empty_database", ["mysql"], indirect=True)  # the others wait as for any lock
def test_whoever_finds_the_schema_locked_says_so(own: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "PATIENCE", 1)
    with own.engine.connect() as connection, alone.alone(connection, tables), pytest.raises(StoreError) as caught:
        schema.upgrade(own, tables)
    assert "another process has been changing the schema for 1 seconds" in str(caught.value)
    assert schema.upgrade(own, tables) == [schema.HEAD]


# --- versions ------------------------------------------------------------------------------------------------


def complaint(own: Database, tables: Tables, way: Way = look) -> str:
    with pytest.raises(SchemaError) as caught:
        way(own, tables)
    return str(caught.value)


def stamp(own: Database, tables: Tables, version: str) -> None:
    change = sa.update(schema.version_table(tables)).values(version_num=version)
    own.transact(lambda connection: connection.execute(change))


def test_missing_tables_are_reported(own: Database, tables: Tables, place: Tables) -> None:
    assert complaint(own, tables) == "the database has no tables dray_*: run 'dray init'"
    where = f" in the schema {place.schema}" if place.schema else ""
    assert complaint(own, place) == f"the database has no tables q_*{where}: run 'dray init'"


def test_an_older_schema_is_refused(own: Database, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.create_fresh(own, tables)
    monkeypatch.setattr(schema, "HEAD", "0003")
    old = "the schema is at 0001, this code needs 0003: run 'dray init'"
    assert complaint(own, tables) == complaint(own, tables, schema.create_fresh) == old


@pytest.mark.parametrize("version", ["0009", "9b2c5f"])
def test_a_newer_schema_is_refused(own: Database, tables: Tables, version: str) -> None:
    schema.create_fresh(own, tables)
    stamp(own, tables, version)
    new = f"the schema ({version}) is newer than this code; upgrade dray"
    assert complaint(own, tables) == new
    assert [complaint(own, tables, way) for way in WAYS.values()] == [new, new]


def test_a_broken_connection_is_not_taken_for_missing_tables(own: Database, tables: Tables) -> None:
    with own.engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.close()
        with pytest.raises(sa.exc.DBAPIError):
            schema.check(connection, tables)
        connection.invalidate()


def test_a_leftover_of_another_version_is_not_built_upon(own: Database, tables: Tables) -> None:
    with own.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE dray_labels (id integer)")
    found = complaint(own, tables, schema.create_fresh)
    assert found == "there is a table dray_labels of another version: run 'dray init'"


def test_the_head_is_the_newest_revision() -> None:
    scripts = run.scripts()
    assert scripts.get_heads() == [schema.HEAD]
    # They are compared as text.
    assert all(re.fullmatch(r"\d{4}", script.revision) for script in scripts.walk_revisions())


# --- SQL on paper --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        ("postgresql", "BIGSERIAL"),
        ("postgres://ann@db/shop", "BIGSERIAL"),
        ("mariadb", "ENGINE=InnoDB"),
        ("mysql://ann@db/shop", "ENGINE=InnoDB"),
        ("sqlite", "AUTOINCREMENT"),
        ("sqlite:///shop.db", "AUTOINCREMENT"),
    ],
)
def test_the_schema_is_printed_for_any_database(tables: Tables, given: str, sign: str) -> None:
    printed = schema.sql(tables, given)
    assert sign in printed
    assert f"VALUES ('{schema.HEAD}')" in printed


def test_printing_for_an_unknown_database_is_refused(tables: Tables) -> None:
    with pytest.raises(ConfigurationError, match="oracle"):
        schema.sql(tables, "oracle")


# --- the view ------------------------------------------------------------------------------------------------

MOMENT = datetime(2026, 3, 29, 1, 30, 59, 999_999, tzinfo=UTC)  # an hour that Berlin's clocks leave out, in part


def stored(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def row(tables: Tables, state: State, **values: Any) -> dict[str, Any]:
    zero = dict.fromkeys(("fence", "attempt", "crashes", "snoozes", "flags", "signature"), 0)
    names = {"queue": "mail", "queue_hash": 1, "task": "shop.send", "task_hash": 2, "args": "{}", "priority": 100}
    empty = dict.fromkeys(tables.jobs.c.keys())
    return {**empty, **zero, **names, "created_at": stored(MOMENT), "state": STATE[state], **values}


def in_words(own: Database, tables: Tables) -> list[dict[str, Any]]:
    """Read the view as somebody would whose session is far away."""
    zone = {"postgresql": "SET TIME ZONE 'Asia/Kolkata'", "mysql": "SET time_zone = '+05:30'"}.get(own.dialect.name)
    with own.engine.connect() as connection:
        if zone:
            connection.exec_driver_sql(zone)
        place = f"{own.dialect.quote(tables.schema)}." if tables.schema else ""
        rows = connection.exec_driver_sql(f"SELECT * FROM {place}{tables.prefix}all_jobs ORDER BY id").mappings()
        found = [dict(row) for row in rows]
        connection.invalidate()  # the zone would stay
    return found


def utc(own: Database, value: Any) -> datetime:
    """Take a timestamp as the database gives it: only PostgreSQL's knows its zone, SQLite's is a text."""
    if own.dialect.name == "postgresql":
        assert value.tzinfo is not None
        return value.astimezone(UTC)
    moment = datetime.fromisoformat(value) if own.dialect.name == "sqlite" else value
    assert moment.tzinfo is None
    return moment.replace(tzinfo=UTC)


@pytest.mark.parametrize("way", WAYS)
def test_the_view_shows_live_and_ended_jobs_in_words(own: Database, place: Tables, way: str) -> None:
    WAYS[way](own, place)
    live = {
        "id": 7,
        "job_key": "invoice-7",
        "owner": "ann",
        "flags": Flag.HELD | Flag.FAIL_ON_CRASH,
        "attempt": 2,
        "max_attempts": 5,
        "worker_id": 3,
        "started_at": stored(MOMENT) + 1,
    }
    ended = {"id": 6, "flags": Flag.CANCEL, "finished_at": 1, "result": "null", "error": "E", "note": "n"}
    with own.engine.connect() as connection:
        connection.execute(place.jobs.insert().values(row(place, State.RUNNING, **live)))
        connection.execute(place.history.insert().values(row(place, State.CANCELLED, **ended)))
    old, new = in_words(own, place)
    assert (new["id"], new["state"], new["reason"], new["live"]) == (7, "running", None, True)
    assert (old["id"], old["state"], old["reason"], old["live"]) == (6, "cancelled", None, False)
    assert (new["key"], new["owner"], new["queue"], new["task"]) == ("invoice-7", "ann", "mail", "shop.send")
    assert (new["attempt"], new["max_attempts"], new["priority"], new["worker_id"]) == (2, 5, 100, 3)
    assert (old["args"], old["result"], old["error"], old["note"]) == ("{}", "null", "E", "n")
    assert (bool(new["held"]), bool(new["cancel_requested"])) == (True, False)
    assert (bool(old["held"]), bool(old["cancel_requested"])) == (False, True)
    assert utc(own, new["created_at"]) == MOMENT
    assert utc(own, new["started_at"]) == MOMENT + timedelta(microseconds=1)
    assert utc(own, old["finished_at"]) == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert new["finished_at"] is old["run_at"] is None


@pytest.mark.rows("S0.14")
def test_the_view_has_a_word_for_every_code(own: Database, tables: Tables) -> None:
    schema.create_fresh(own, tables)
    states = [row(tables, state, id=number) for number, state in enumerate(State, 1)]
    reasons = [row(tables, State.BLOCKED, id=100 + REASON[reason], reason=REASON[reason]) for reason in Reason]
    own.transact(lambda connection: connection.execute(tables.jobs.insert(), states + reasons))
    found = in_words(own, tables)
    assert [job["state"] for job in found[: len(State)]] == [str(state) for state in State]
    assert {job["reason"] for job in found[len(State) :]} == {str(reason) for reason in Reason}


def test_the_times_of_the_view_are_timestamps(own: Database, tables: Tables) -> None:
    schema.create_fresh(own, tables)
    columns = {column["name"]: column["type"] for column in sa.inspect(own.engine).get_columns("dray_all_jobs")}
    if own.dialect.name == "sqlite":
        return  # it has no types for views; its functions read the text, as the test above does
    assert isinstance(columns["created_at"], sa.DateTime)
    assert isinstance(columns["finished_at"], sa.DateTime)


# --- the application's own Alembic ---------------------------------------------------------------------------


def differences(own: Database, models: sa.MetaData, **options: Any) -> set[str]:
    with own.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts=options), models)
    return {f"{one[0]} {one[1].name}" for one in found if isinstance(one, tuple)}


def test_an_applications_autogenerate_leaves_the_tables_alone(own: Database, tables: Tables, place: Tables) -> None:
    models = sa.MetaData()
    sa.Table("dray_horses", models, sa.Column("id", sa.Integer, primary_key=True))  # the application may use the word
    sa.Table("orders", models, sa.Column("id", sa.Integer, primary_key=True))
    schema.create_fresh(own, tables)
    with own.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE customers (id integer PRIMARY KEY)")
    wanted = {"add_table dray_horses", "add_table orders", "remove_table customers"}
    assert differences(own, models, include_object=schema.include_object()) == wanted
    assert "remove_table dray_jobs" in differences(own, models)
    if place.schema:
        schema.create_fresh(own, place)
        found = differences(
            own,
            models,
            include_schemas=True,
            include_name=lambda name, kind, parents: kind != "schema" or name in (None, place.schema),
            include_object=schema.include_object("q_", place.schema),
        )
        assert not {name for name in found if " q_" in name}
        assert "remove_table dray_jobs" in found


def test_an_upgrade_does_not_disturb_a_migration_of_the_application(
    own: Database, tables: Tables, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("alembic")
    (folder / "versions").mkdir()
    script = ScriptDirectory(str(folder))
    with own.engine.connect() as connection, EnvironmentContext(Config(), script) as environment:
        environment.configure(connection=connection)
        with Operations.context(environment.get_context()):
            assert schema.upgrade(own, tables) == [schema.HEAD]
            assert alembic.op.get_bind() is connection
            assert alembic.context.get_bind() is connection
