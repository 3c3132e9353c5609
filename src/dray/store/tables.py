"""The tables, one column for each stored field."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    TextClause,
    TextualSelect,
    bindparam,
    column,
    literal_column,
    select,
    text,
)
from sqlalchemy.schema import SchemaItem

from dray.job import NAME_LIMIT, Reason
from dray.store.codes import BLOCKED, CANCELLED, FAILED, HOLDS, READY, REASON, RETRYING, RUNNING, SCHEDULED
from dray.store.dialects import Dialect

ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite gives out rowids only to a column that is called INTEGER
LONG = Text().with_variant(Text(2**32 - 1), "mysql", "mariadb")  # which they call LONGTEXT
NAME = String(NAME_LIMIT)
HASH = String(32).with_variant(String(32, collation="C"), "postgresql")  # of a unique key, see job.wide_hash


def job_columns() -> list[Column[Any]]:
    """The columns that live and ended jobs share, so that an ended job can be put back. Instants are microseconds, UTC."""
    return [
        Column("state", SmallInteger, nullable=False),
        Column("reason", SmallInteger),
        Column("queue_hash", BigInteger, nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("ready_at", BigInteger),  # since when it is ready: the order of claims
        Column("fence", Integer, nullable=False),  # rises by 1 at every claim, is never lowered
        Column("attempt", Integer, nullable=False),
        Column("max_attempts", Integer),
        Column("crashes", SmallInteger, nullable=False),
        Column("snoozes", Integer, nullable=False),
        Column("flags", Integer, nullable=False),
        Column("worker_id", BigInteger),
        Column("run_at", BigInteger),
        Column("created_at", BigInteger, nullable=False),
        Column("claimed_at", BigInteger),
        Column("started_at", BigInteger),  # while running: the mark that user code was surely reached
        Column("finished_at", BigInteger),
        Column("task_hash", BigInteger, nullable=False),
        Column("signature", BigInteger, nullable=False),  # the signature that could not take the arguments, when parked
        Column("key_hash", BigInteger),
        # What decides when a job may start; `stations.Held` says what the numbers in *_held mean.
        Column("group_hash", BigInteger),
        Column("group_held", SmallInteger),
        Column("group_rank", SmallInteger),  # its place in the line, before its id
        Column("limit_hash", BigInteger),
        Column("limit_held", SmallInteger),
        Column("unique_hash", HASH),
        Column("unique_scope", SmallInteger),
        Column("parent_id", BigInteger),  # the job that spawned it
        Column("batch_id", BigInteger),
        Column("threshold", BigInteger),  # of coalescing in its group
        Column("covered_by", BigInteger),  # the job that does the work of this one, too
        Column("expires_at", BigInteger),
        # Of the last run; KiB.
        Column("pid", Integer),
        Column("cpu_us", BigInteger),
        Column("memory_before", Integer),
        Column("memory_after", Integer),
        Column("peak_before", Integer),
        Column("peak_after", Integer),
        Column("queue", NAME, nullable=False),
        Column("task", NAME, nullable=False),
        Column("job_key", NAME),  # "key" is a reserved word in MySQL
        Column("owner", NAME),
        Column("group_name", NAME),
        Column("limit_name", NAME),
        Column("limit_rule", String(64)),
        Column("args", LONG, nullable=False),
        Column("result", LONG),
        Column("report", LONG),
        Column("error", LONG),
        Column("note", LONG),
        Column("metadata", LONG),
    ]


class Tables:
    """The tables under one prefix and schema, with the few things every statement needs: names, the dialect, the time."""

    def __init__(
        self, dialect: Dialect, prefix: str = "dray_", schema: str | None = None, clock: Callable[[], int] | None = None
    ) -> None:
        self.dialect = dialect
        self.prefix = prefix
        self.schema = schema
        self.clock = clock or dialect.host_clock
        self.metadata = MetaData(schema=schema)
        self._texts: dict[str, TextClause] = {}
        self._queries: dict[str, TextualSelect] = {}
        self._made: dict[Hashable, Select[Any]] = {}
        self._kept: dict[Hashable, str] = {}
        self.jobs = self._jobs()
        self.history = self._history()
        self.attempts = self._table(
            "attempts",
            Column("job_id", ID, primary_key=True, autoincrement=False),
            Column("fence", Integer, primary_key=True, autoincrement=False),
            Column("attempt", Integer, nullable=False),
            Column("state", SmallInteger, nullable=False),  # what the job became
            Column("worker_id", BigInteger),
            Column("started_at", BigInteger),
            Column("finished_at", BigInteger, nullable=False),
            Column("error", LONG),
            Column("traceback", LONG),
            Column("fingerprint", BigInteger),
            Index(f"{prefix}attempts_ended", "finished_at", "job_id"),
        )
        self.labels = self._table(
            "labels",
            Column("job_id", ID, primary_key=True, autoincrement=False),
            Column("name", NAME, primary_key=True),
            Column("value", NAME, nullable=False),
            Column("label_hash", BigInteger, nullable=False),  # of "name=value"
            Index(f"{prefix}labels_value", "label_hash", "job_id"),
        )
        self.output = self._table(
            "output",
            Column("id", ID, primary_key=True, autoincrement=True),
            Column("job_id", BigInteger, nullable=False),
            Column("fence", Integer, nullable=False),
            Column("at", BigInteger, nullable=False),
            Column("stream", String(16), nullable=False),
            Column("line", LONG, nullable=False),
            Index(f"{prefix}output_job", "job_id", "id"),
            counted=True,
        )
        self.unique_keys = self._table(
            "unique_keys",
            Column("unique_hash", HASH, primary_key=True),
            Column("job_id", BigInteger, nullable=False),
            Column("scope", SmallInteger, nullable=False),
            Column("hold_until", BigInteger),
        )
        self.gates = self._table(  # locked by whoever settles a group or limit; never counted in
            "gates",
            Column("gate_hash", BigInteger, primary_key=True, autoincrement=False),
            Column("kind", SmallInteger, nullable=False),
            Column("name", NAME, nullable=False),
            Column("rule", String(64)),
            Column("spent", LONG),  # the starts that a rate has allowed lately
            Column("opens_at", BigInteger),  # when it will allow the next, if somebody waits for that
            Column("made_at", BigInteger, nullable=False),
            Index(f"{prefix}gates_opens", "opens_at"),
        )
        self.halts = self._table(  # failed jobs whose group stands still because of them
            "halts",
            Column("group_hash", BigInteger, primary_key=True, autoincrement=False),
            Column("job_id", BigInteger, primary_key=True, autoincrement=False),
            Column("at", BigInteger, nullable=False),
        )
        self.edges = self._table(
            "edges",
            Column("job_id", BigInteger, primary_key=True, autoincrement=False),  # the one that waits
            Column("needs_id", BigInteger, primary_key=True, autoincrement=False),  # the one that it waits for
            Column("policy", SmallInteger, nullable=False),
            Column("outcome", SmallInteger),  # the state it ended in, as soon as that is known here
            Index(f"{prefix}edges_needs", "needs_id", "job_id"),
        )
        self.unsettled = self._table(  # what a transaction owes until what follows from it has been settled
            "unsettled",
            Column("id", ID, primary_key=True, autoincrement=True),
            Column("at", BigInteger, nullable=False),
            Column("owed", LONG, nullable=False),
            counted=True,
        )
        self.controls = self._table(  # paused queues, and when what is done at certain times is to be done next
            "controls",
            Column("kind", SmallInteger, primary_key=True, autoincrement=False),
            Column("name_hash", BigInteger, primary_key=True, autoincrement=False),
            Column("name", NAME, nullable=False),
            Column("note", LONG),
            Column("until_at", BigInteger),
            Column("changed_at", BigInteger, nullable=False),
            Column("generation", BigInteger, nullable=False),
        )
        self.notices = self._table(  # what somebody is to be told, until that has been done
            "notices",
            Column("id", ID, primary_key=True, autoincrement=True),
            Column("event", SmallInteger, nullable=False),
            Column("at", BigInteger, nullable=False),
            Column("job_id", BigInteger, nullable=False),
            Column("task", NAME, nullable=False),
            Column("queue", NAME, nullable=False),
            Column("attempt", Integer, nullable=False),
            Column("error", LONG),
            Column("fingerprint", BigInteger),
            Column("bundle", BigInteger),  # those that are told together
            Column("taken_until", BigInteger),  # by then whoever took it has told it, or another may
            Column("token", BigInteger),  # of who took it
            Column("tries", Integer, nullable=False),
            Column("deaths", Integer, nullable=False),
            Column("told", LONG),  # the channels that it has gone to
            Index(f"{prefix}notices_at", "at"),
            counted=True,
        )
        self.rollups = self._table(  # what was done in a minute or an hour, by the worker that did it
            "rollups",
            Column("span", Integer, primary_key=True, autoincrement=False),  # seconds
            Column("at", BigInteger, primary_key=True, autoincrement=False),  # its beginning
            Column("worker_id", BigInteger, primary_key=True, autoincrement=False),  # 0: of all workers
            Column("task_hash", BigInteger, primary_key=True, autoincrement=False),
            Column("queue_hash", BigInteger, primary_key=True, autoincrement=False),
            Column("task", NAME, nullable=False),
            Column("queue", NAME, nullable=False),
            Column("numbers", LONG, nullable=False),
        )
        self.workers = self._table(
            "workers",
            Column("id", ID, primary_key=True, autoincrement=True),
            Column("state", SmallInteger, nullable=False),
            Column("host", NAME, nullable=False),
            Column("pid", Integer, nullable=False),
            Column("queues", LONG, nullable=False),
            Column("priorities", String(16)),
            Column("tasks", LONG),  # those that it takes, or leaves, if not all
            Column("concurrency", Integer, nullable=False),
            Column("started_at", BigInteger, nullable=False),
            Column("beat_at", BigInteger, nullable=False),
            Column("ended_at", BigInteger),
            Column("generation", BigInteger, nullable=False),  # of the controls that it obeys
            Column("asked", SmallInteger),  # what somebody wants it to do
            Column("stack_asked", BigInteger),  # when somebody wanted to see where its jobs are
            Column("stack_at", BigInteger),
            Column("stack", LONG),
            Column("paused", SmallInteger),
            Column("memory", BigInteger),  # KiB
            Column("done", BigInteger),  # jobs that it has ended
            counted=True,
        )

    def _table(self, name: str, *items: SchemaItem, counted: bool = False) -> Table:
        options = self.dialect.counted if counted else self.dialect.table
        return Table(self.prefix + name, self.metadata, *items, **options)

    def _jobs(self) -> Table:
        table = self._table(
            "jobs",
            Column("id", ID, primary_key=True, autoincrement=True),
            *job_columns(),
            counted=True,
        )
        c, prefix = table.c, self.prefix
        if self.dialect.partial_indexes:
            self._partial(table, "ready", c.state == READY, c.queue_hash, c.priority, c.ready_at, c.id)
            self._partial(table, "running", c.state == RUNNING, c.worker_id)
            self._partial(table, "due", c.state.in_((SCHEDULED, RETRYING)), c.run_at, c.id)
            # Few rows of the hot path ever enter it; without it a count of the blocked reads every live row.
            self._partial(table, "waiting", c.state.in_((SCHEDULED, RETRYING, BLOCKED)), c.state, c.id)
            self._partial(table, "parked", c.reason == REASON[Reason.UNKNOWN_TASK], c.task_hash, c.signature, c.id)
        else:
            Index(f"{prefix}jobs_ready", c.state, c.queue_hash, c.priority, c.ready_at, c.id)
            Index(f"{prefix}jobs_due", c.state, c.run_at, c.id)
            Index(f"{prefix}jobs_running", c.worker_id, c.state)
            Index(f"{prefix}jobs_parked", c.reason, c.task_hash, c.signature, c.id)
        self._gated(table)
        self._given(table)
        return table

    def _gated(self, table: Table) -> None:
        """The lines of groups and limits, each in its order, and when jobs expire."""
        c = table.c
        group, limit = (c.group_hash, c.group_held, c.group_rank, c.id), (c.limit_hash, c.limit_held, c.priority, c.id)
        for name, columns in (("group", group), ("limit", limit), ("expires", (c.expires_at, c.id))):
            if self.dialect.partial_indexes:
                self._partial(table, name, columns[0].is_not(None), *columns)
            else:
                Index(f"{table.name}_{name}", *columns)
        if self.dialect.partial_indexes:
            # The lock of the gate sees to it; if it ever did not, this is an error instead of two jobs that run at once.
            where = self.dialect.where(c.group_held == HOLDS)
            Index(f"{table.name}_head", c.group_hash, unique=True, **where)

    def _given(self, table: Table) -> None:
        """Find jobs by what most of them have not: those are left out, where that can be said."""
        for name, columns in (("key", [table.c.key_hash]), ("owner", [table.c.owner, table.c.id])):
            if self.dialect.partial_indexes:
                self._partial(table, name, columns[0].is_not(None), *columns)
            else:
                Index(f"{table.name}_{name}", *columns)

    def _partial(self, table: Table, name: str, where: ColumnElement[bool], *columns: Column[Any]) -> None:
        # Literal numbers: a partial index cannot have parameters, and the planner compares them with those of the query.
        Index(f"{table.name}_{name}", *columns, **self.dialect.where(where))

    def _history(self) -> Table:
        table = self._table("history", Column("id", ID, primary_key=True, autoincrement=False), *job_columns())
        c, prefix = table.c, self.prefix
        Index(f"{prefix}history_ended", c.state, c.finished_at, c.id)
        # By state, so that those of a queue that failed are found among millions that did not.
        Index(f"{prefix}history_queue", c.queue_hash, c.state, c.id)
        Index(f"{prefix}history_task", c.task_hash, c.state, c.id)
        if self.dialect.partial_indexes:
            self._partial(table, "state", c.state.in_((FAILED, CANCELLED)), c.state, c.id)
        else:
            Index(f"{prefix}history_state", c.state, c.id)
        self._given(table)
        return table

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns of a job, id first."""
        return tuple(column.name for column in self.jobs.c)

    def now(self) -> ColumnElement[int]:
        """The one expression for the present: the database's clock, or the one a test has set, in microseconds."""
        if self.clock is None:
            return literal_column(self.dialect.now, BigInteger)
        return bindparam(None, callable_=self.clock, type_=BigInteger)

    def fixed_now(self) -> ColumnElement[int]:
        """The present, asked once for a whole statement. A clock that moves cannot be looked up in an index: PostgreSQL would
        compare it with row after row, to the end of what is not due."""
        return select(self.now()).scalar_subquery()

    def literal_now(self) -> str:
        """The present as it can stand in a statement that is not made by `text`."""
        return self.dialect.now if self.clock is None else str(self.clock())

    def text(self, template: str) -> TextClause:
        """A statement from a template with `{jobs}`, `{history}`, `{now}` and so on; made once for each template."""
        statement = self._texts.get(template)
        if statement is None:
            statement = self._texts[template] = self._build(template)
        return statement

    def query(self, template: str, columns: Sequence[str]) -> TextualSelect:
        """The same, giving these columns in this order: SQLAlchemy then need not find out each time what it is given."""
        statement = self._queries.get(template)
        if statement is None:
            named = self.text(template).columns(*[column(name) for name in columns])
            statement = self._queries[template] = named
        return statement

    def made(self, name: Hashable, make: Callable[[], Select[Any]]) -> Select[Any]:
        """A query that is asked again and again, made once: to put it together takes longer than to run it."""
        query = self._made.get(name)
        if query is None:
            query = self._made[name] = make()
        return query

    def kept(self, name: Hashable, make: Callable[[], str]) -> str:
        """The same of the text of a statement that takes long to put together."""
        statement = self._kept.get(name)
        if statement is None:
            statement = self._kept[name] = make()
        return statement

    def _build(self, template: str) -> TextClause:
        now = self.dialect.now if self.clock is None else self.dialect.given_now
        statement = text(template.format_map({**self.names(), "now": now}))
        if self.clock is not None and ":now" in statement.text:
            statement = statement.bindparams(bindparam("now", callable_=self.clock, type_=BigInteger))
        return statement

    def names(self) -> dict[str, str]:
        """Full names of the tables, by their short ones, as they stand in a statement."""
        quote = self.dialect.quote
        place = f"{quote(self.schema)}." if self.schema else ""
        return {table.name.removeprefix(self.prefix): f"{place}{quote(table.name)}" for table in self.metadata.tables.values()}
