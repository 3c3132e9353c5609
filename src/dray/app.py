"""The object that applications import: the registry of tasks, one store, and how jobs get into it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, overload

from dray.bulk import Bulk
from dray.codec import Codec
from dray.command import Command
from dray.context import Context
from dray.durations import parse_size
from dray.errors import BadOption, ConfigurationError
from dray.examples import BUILT_IN
from dray.handle import Job
from dray.hooks import Hooks
from dray.job import Added, NewJob
from dray.lane import priority_of, queue_of
from dray.notice import Notice
from dray.options import Options
from dray.runner import Runner
from dray.sender import AppSender, Bound, FunctionTask, Using, changed
from dray.settings import Settings, load
from dray.store import open_store
from dray.task import Definition, Registry, RunOptions, Task, TaskOptions
from dray.transaction import Transaction, is_async
from dray.waits import microseconds, with_waits

if TYPE_CHECKING:
    from dray.store.sql import SqlStore

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=type[Task])
H = TypeVar("H", bound=Callable[..., Any])


class Dray:
    """A registry of tasks with one store (S3.1).

    database_url    sqlite:///file.db, postgresql://..., mysql://..., mariadb://...; None: as configured
    settings        any field of `dray.settings.Settings`, stronger than file and environment

    Nothing is opened or connected before the first use.

        app = Dray("sqlite:///shop.db")

        @app.task(queue="mail")
        def send_invoice(invoice_id: int) -> None: ...

        send_invoice.enqueue(7)
    """

    def __init__(self, database_url: str | None = None, *, clock: Callable[[], int] | None = None, **settings: Any) -> None:
        given = settings if database_url is None else {"database_url": database_url, **settings}
        self.settings: Settings = load(given)
        self.codec = Codec(max_bytes=self.settings.max_args)
        self.registry = Registry(BUILT_IN)
        self.runner = Runner(self.registry, self.codec, hook_limit=self.settings.hook_limit)
        self.listeners: list[Callable[[Notice], object]] = []
        self._clock = clock
        self._learnt = 0  # of how many tasks the types were looked at with all their module defined
        self._store: SqlStore | None = None
        self._opening = threading.Lock()
        self._transaction: ContextVar[Any] = ContextVar("dray_transaction", default=None)
        self._bulk: ContextVar[Bulk | None] = ContextVar("dray_bulk", default=None)

    # --- tasks ----------------------------------------------------------------------------------------------------------

    @overload
    def task(self, target: T, /) -> T: ...
    @overload
    def task(self, target: Callable[P, R], /) -> FunctionTask[P, R]: ...
    @overload
    def task(self, target: None = None, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, target: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Register a function or a subclass of `Task`, with what is true of all its jobs.

        name        under which it is stored; the function's own name if not given. Keep it when the code moves
        queue       where its jobs wait
        priority    0-999, smaller is more urgent (S2.17)
        retry       a `Retry`, a number of attempts, delays in seconds, or a function of the attempt giving seconds
        timeout     seconds until `TimedOut` is raised in it; hard_timeout: until it is ended (10 s later if not given)
        isolate     True or an `Isolate`: it runs in a process of its own, so that a crash or a leak stays there
        on_crash    "retry" or "fail": what to do when the worker died while it surely ran (S0.35)
        aliases     former names, so that jobs enqueued under them still run
        permanent_on, retry_on  exceptions that fail it at once, or that alone are tried again; the nearest class counts
        notify_at   failed attempts after which somebody is told, once (S2.3)
        before_run, after_run, on_error, metadata  hooks of this task alone; see `dray.hooks`

        Raises TaskError for a name that is taken (C10), and BadOption for a wrong option.
        """
        decorator = TaskDecorator(self, options)
        return decorator if target is None else decorator(target)

    def command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        fields: Mapping[str, type] | None = None,
        options: Mapping[str, str] | None = None,
        stdin: str | None = None,
        folder: str | None = None,
        env: Mapping[str, str] | None = None,
        output: str = "failure",
        max_output: int | str = 2**20,
        **task: Unpack[RunOptions],
    ) -> FunctionTask[..., None]:
        """Register a program as a task: run for each job without a shell, done when its exit code is 0 (S1.3-S1.8).

            make_pdf = app.command("make-pdf", ["bin/make-pdf", "--id", "{invoice_id}"], timeout=60)
            make_pdf.enqueue(invoice_id=7)
            make_pdf(invoice_id=7)      # by hand, on this terminal

        argv, fields, options, stdin, folder, env, output, max_output   see `dray.command.Command`
        task        the options of `task`; with a timeout it gets SIGTERM, and SIGKILL at the hard one

        Raises BadOption and TaskError.
        """
        command = Command(
            name=name,
            argv=tuple(argv) if not isinstance(argv, str) else argv,
            fields=fields or {},
            options=options or {},
            stdin=stdin,
            folder=folder,
            env=env or {},
            output=output,
            max_output=parse_size(max_output),
        )
        given: Any = task  # every option of a run is one of a task
        made: FunctionTask[..., None] = self.register(command, given)
        return made

    def register(self, target: Any, options: TaskOptions) -> Any:
        """What `task` does, without decorator's syntax: gives a class as it is, a function as a task."""
        definition = self.registry.add(target, options)
        self._check_lane(definition)
        self.codec.register_from(target)
        return target if definition.is_class else FunctionTask(self, definition, target)

    def _check_lane(self, definition: Definition) -> None:
        """Raise BadOption now for a queue or priority that no job of this task could ever have."""
        if "{" not in (definition.defaults.queue or ""):
            queue_of(definition, Options(), self.settings, (), {})
        priority_of(definition, Options(), self.settings)

    # --- hooks ----------------------------------------------------------------------------------------------------------

    def before_run(self, hook: H) -> H:
        """Call `hook(ctx)` before each run; what it raises counts as raised by the task (S2.11). A decorator."""
        return self._hook(hook, before_run=hook)

    def after_run(self, hook: H) -> H:
        """Call `hook(ctx, ended)` in the thread of each run once its end is committed (S2.12, C34). A decorator."""
        return self._hook(hook, after_run=hook)

    def on_error(self, hook: H) -> H:
        """Call `hook(ctx, error)` when a run has failed: a signal or Permanent that it raises decides (S2.13). A decorator."""
        return self._hook(hook, on_error=hook)

    def metadata(self, hook: H) -> H:
        """Call `hook(ctx)` at the start of each run, and keep the dict that it gives with the job (S2.14). A decorator."""
        return self._hook(hook, metadata=hook)

    def on_notify(self, hook: H) -> H:
        """Call `hook(notice)` when jobs have failed for good, or as many times as `notify_at` says (S2.3). A decorator."""
        self.listeners.append(hook)
        return hook

    def _hook(self, hook: H, **kind: Any) -> H:
        self.runner.hooks |= Hooks.of(**kind)
        return hook

    # --- enqueue --------------------------------------------------------------------------------------------------------

    def using(self, **options: Unpack[Using]) -> AppSender:
        """Options for class tasks and for tasks by name: `app.using(priority=10).enqueue(CreateQuote(order_id=7))`."""
        return AppSender(self, changed(Options(), options))

    def enqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """Insert a job: of a class task's instance, of what `bind` gave, or of a task's name with its arguments.

        Raises UnknownTask, BadArguments, BadOption or CodecError before anything is written, and OutcomeUnknown when the
        connection broke after the job was sent.
        """
        return AppSender(self, Options()).enqueue(task, *args, **kwargs)

    async def aenqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """The same without blocking the event loop."""
        return await AppSender(self, Options()).aenqueue(task, *args, **kwargs)

    def enqueue_many(self, calls: Iterable[Bound | Task]) -> list[Job]:
        """Insert many jobs, all or none, and give them in the order of the calls (S2.31, C8)."""
        bound = self._all_bound(calls)
        bulk = self._bulk.get()
        if bulk is None:
            return self.insert(bound)
        jobs = bulk.put(bound)
        if bulk.is_full:
            bulk.flush()
        return jobs

    def insert(self, bound: Sequence[Bound]) -> list[Job]:
        """Insert bound calls at once, also within a bulk."""
        target = self._transaction.get()
        if target is None:
            return self._jobs(bound, self.store.add([one.job for one in bound]))
        if is_async(target):
            raise BadOption("this transaction is an async one: use `await ...aenqueue(...)` in it")
        return self._jobs(bound, self._add_within(bound, target))

    def pending(self, bound: Bound) -> Job:
        """The handle of a job that is not inserted yet."""
        return Job(self, 0, task=bound.job.task)

    async def aenqueue_many(self, calls: Iterable[Bound | Task]) -> list[Job]:
        """The same without blocking the event loop."""
        bound = self._all_bound(calls)
        bulk = self._bulk.get()
        if bulk is None:
            return await self.ainsert(bound)
        jobs = bulk.put(bound)
        if bulk.is_full:
            await bulk.aflush()
        return jobs

    async def ainsert(self, bound: Sequence[Bound]) -> list[Job]:
        """`insert` without blocking the event loop, also in an async transaction."""
        target = self._transaction.get()
        if target is not None and is_async(target):
            return self._jobs(bound, await target.run_sync(lambda sync: self._add_within(bound, sync)))
        return await asyncio.to_thread(self.insert, bound)

    def bulk(self, size: int = 500) -> Bulk:
        """Gather the enqueues of a block and insert them `size` at a time (S2.31); also as `async with`.

            with app.bulk() as bulk:
                for address in addresses:
                    send_newsletter.enqueue(address)

        A job has its id once it is inserted: at the end, whenever `size` have come together, and by `bulk.flush()`.
        """
        return Bulk(self, size, self._bulk)

    def transaction(self, target: Any) -> Transaction:
        """Enqueue in the caller's own transaction: the jobs exist if and only if it commits.

        target      an SQLAlchemy Session or Connection; with `async with`, an AsyncSession or AsyncConnection

            with Session(engine) as session, session.begin(), app.transaction(session):
                session.add(order)
                send_invoice.enqueue(order.id)

        Workers are told after the commit, wherever it happens.
        """
        return Transaction(self, self._transaction, target)

    def run_ahead(self, task: str) -> int:
        """How many jobs of a group, the first included, a worker may take at once when that is of this task."""
        definition = self.registry.find(task)
        return 1 if definition is None else definition.defaults.run_ahead

    def unfinished_keys(
        self, keys: Sequence[str] | None = None, *, include_running: bool = True, include_failed: bool = True
    ) -> list[str]:
        """The keys, of these or of all, that still have work to do (S2.25); a failed job counts as unfinished."""
        return self.store.desk.unfinished_keys(keys, include_running=include_running, include_failed=include_failed)

    def job(self, job_id: int) -> Job:
        """The job of this id; raises UnknownJob."""
        return Job(self, job_id).refresh()

    # --- the store ------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> SqlStore:
        """The store, opened at first use. Raises ConfigurationError when its URL or its driver is not there."""
        if self._store is None:
            with self._opening:
                if self._store is None:
                    self._store = self._open()
        return self._store

    def _open(self) -> SqlStore:
        settings = self.settings
        return open_store(
            settings.database_url,
            prefix=settings.table_prefix,
            schema=settings.schema,
            create_tables=settings.create_tables,
            clock=self._clock,
        )

    def override(self, options: Mapping[str, Any]) -> None:
        """Put the options of a command line over the settings; None is none. Raises ConfigurationError when it is too late."""
        settings = self.settings.override(options)
        if self._store is not None and settings.database_url != self.settings.database_url:
            raise ConfigurationError("the app has opened its own database already: it uses it while it is imported")
        self.settings = settings
        self.codec.max_bytes = settings.max_args

    def close(self) -> None:
        """Close the store's connections; they are opened again when needed."""
        if self._store is not None:
            self._store.close()

    # --- from a call to a row -------------------------------------------------------------------------------------------

    def learn_types(self) -> None:
        """Look at the signatures again: a hint can name a class that is defined below its task. Costs nothing when done."""
        if self._learnt != len(self.registry):
            self._learnt = len(self.registry)
            for definition in self.registry:
                self.codec.register_from(definition.target)

    def bound(self, definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Bound:
        self.learn_types()
        definition.bind(args, kwargs)
        job = self._new_job(definition, options, args, kwargs)
        return Bound(self, with_waits(job, definition, options, args, kwargs, self.codec), spawner=_spawner(options))

    def bound_instance(self, instance: Task, options: Options) -> Bound:
        self.learn_types()
        definition = self.registry.get(self._name_of(type(instance)))
        instance.validate()  # fields may have been changed since it was made
        fields = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init}
        job = self._new_job(definition, options, (), fields)
        return Bound(
            self, with_waits(job, definition, options, (), fields, self.codec), instance.before_enqueue, _spawner(options)
        )

    def _name_of(self, task: type[Task]) -> str:
        for definition in self.registry:
            if definition.target is task:
                return definition.name
        return task.__name__  # not registered: the registry says so, and what is similar

    def _new_job(self, definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NewJob:
        defaults = definition.defaults
        return NewJob(
            task=definition.name,
            queue=queue_of(definition, options, self.settings, args, kwargs),
            priority=priority_of(definition, options, self.settings),
            args=self.codec.encode_call(args, kwargs),
            delay=options.run_in,
            run_at=microseconds(options.run_at),
            key=options.key,
            owner=options.owner,
            labels=options.labels,
            max_attempts=defaults.retry.attempts if options.max_attempts is None else options.max_attempts,
            flags=int(defaults.flags),
        )

    def _all_bound(self, calls: Iterable[Bound | Task]) -> list[Bound]:
        bound = [one if isinstance(one, Bound) else self.bound_instance(one, Options()) for one in calls]
        for one in bound:
            if one.spawner is not None:
                one.spawner.spawned = True  # in whatever thread this is: its success waits for them
            if one.app is not self:
                raise BadOption(f"{one.job.task!r} belongs to another app")
            if one.before_enqueue is not None:
                one.before_enqueue()
        return bound

    def _jobs(self, bound: Sequence[Bound], added: Sequence[Added]) -> list[Job]:
        return [
            Job(self, one.id, state=one.state, task=it.job.task, created=one.created)
            for one, it in zip(added, bound, strict=True)
        ]

    def _add_within(self, bound: Sequence[Bound], target: Any) -> list[Added]:
        return self.store.add_within(target, [one.job for one in bound])


class TaskDecorator:
    """What `app.task(...)` gives: registers a function or a class."""

    def __init__(self, app: Dray, options: TaskOptions) -> None:
        self._app, self._options = app, options

    @overload
    def __call__(self, target: T, /) -> T: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> FunctionTask[P, R]: ...
    def __call__(self, target: Any, /) -> Any:
        return self._app.register(target, self._options)


def _spawner(options: Options) -> Context | None:
    return options.parent if isinstance(options.parent, Context) else None
