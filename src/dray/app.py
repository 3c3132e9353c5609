"""The object that applications import: the registry of tasks, one store, and how jobs get into it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from dray.codec import Codec
from dray.errors import BadArguments, BadOption
from dray.handle import Job
from dray.job import DEFAULT_PRIORITY, Added, NewJob, Options
from dray.lifecycle import RetryLike
from dray.runner import Runner
from dray.settings import Settings, load
from dray.store import open_store
from dray.task import Definition, Registry, Task

if TYPE_CHECKING:
    from dray.store.sql import SqlStore

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=type[Task])


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A task with checked arguments and options: everything but the insert."""

    app: Dray
    job: NewJob
    before_enqueue: Callable[[], None] | None = None

    def enqueue(self) -> Job:
        """Insert it, and give the job."""
        return self.app.enqueue_many([self])[0]

    async def aenqueue(self) -> Job:
        """Insert it without blocking the event loop, and give the job."""
        return (await self.app.aenqueue_many([self]))[0]


class Sender(Generic[P]):
    """A task together with options: what `using(...)` gives."""

    def __init__(self, app: Dray, definition: Definition, options: Options) -> None:
        self._app, self._definition, self._options = app, definition, options

    def using(self, **options: Any) -> Sender[P]:
        """The same with these options changed; see `dray.job.Options` for all there are."""
        return Sender(self._app, self._definition, _changed(self._options, options))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Bound:
        """Check the arguments against the signature and make a job of them, without inserting it.

        Raises BadArguments when the call does not fit, and CodecError when a value cannot be stored: here, in the producer.
        """
        return self._app._bound(self._definition, self._options, args, kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Insert a job that will call the task with these arguments (S2.21)."""
        return self.bind(*args, **kwargs).enqueue()

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """The same without blocking the event loop."""
        return await self.bind(*args, **kwargs).aenqueue()


class FunctionTask(Sender[P], Generic[P, R]):
    """A decorated function: still an ordinary function, which can also be enqueued."""

    def __init__(self, app: Dray, definition: Definition, function: Callable[P, R]) -> None:
        super().__init__(app, definition, Options())
        self._function = function
        functools.update_wrapper(self, function)
        if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(function):
            inspect.markcoroutinefunction(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    @property
    def task(self) -> Definition:
        """What is registered under this task's name."""
        return self._definition

    def __repr__(self) -> str:
        return f"<task {self._definition.name}>"


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

    def __init__(
        self, database_url: str | None = None, *, clock: Callable[[], int] | None = None, **settings: Any
    ) -> None:
        given = settings if database_url is None else {"database_url": database_url, **settings}
        self.settings: Settings = load(given)
        self.codec = Codec(max_bytes=self.settings.max_args)
        self.registry = Registry()
        self.runner = Runner(self.registry, self.codec)
        self._clock = clock
        self._store: SqlStore | None = None
        self._opening = threading.Lock()
        self._pool_size = 5
        self._transaction: ContextVar[Any] = ContextVar("dray_transaction", default=None)

    # --- tasks ----------------------------------------------------------------------------------------------------------

    @overload
    def task(self, target: Callable[P, R], /) -> FunctionTask[P, R]: ...
    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = DEFAULT_PRIORITY,
        retry: RetryLike | None = None,
        on_crash: str = "retry",
        aliases: Sequence[str] = (),
    ) -> TaskDecorator: ...
    def task(self, target: Any = None, /, **options: Any) -> Any:
        """Register a function or a subclass of `Task`, with what is true of all its jobs.

        name        under which it is stored; the function's own name if not given. Keep it when the code moves
        queue       where its jobs wait
        priority    0-999, smaller is more urgent (S2.17)
        retry       a `Retry`, a number of attempts, delays in seconds, or a function of the attempt giving seconds
        on_crash    "retry" or "fail": what to do when the worker died while it surely ran (S0.35)
        aliases     former names, so that jobs enqueued under them still run

        Raises TaskError for a name that is taken (C10), and BadOption for a wrong option.
        """
        decorator = TaskDecorator(self, options)
        return decorator if target is None else decorator(target)

    def _register(
        self,
        target: Any,
        *,
        name: str | None = None,
        queue: str = "default",
        priority: int = DEFAULT_PRIORITY,
        retry: RetryLike | None = None,
        on_crash: str = "retry",
        aliases: Sequence[str] = (),
    ) -> Any:
        definition = self.registry.add(
            target, name=name, queue=queue, priority=priority, retry=retry, on_crash=on_crash, aliases=aliases
        )
        self.codec.register_from(target)
        return target if definition.is_class else FunctionTask(self, definition, target)

    # --- enqueue --------------------------------------------------------------------------------------------------------

    def using(self, **options: Any) -> AppSender:
        """Options for class tasks and for tasks by name: `app.using(priority=10).enqueue(CreateQuote(order_id=7))`."""
        return AppSender(self, _changed(Options(), options))

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
        target = self._transaction.get()
        if target is None:
            return self._jobs(bound, self.store.add([one.job for one in bound]))
        if _is_async(target):
            raise BadOption("this transaction is an async one: use `await ...aenqueue(...)` in it")
        return self._jobs(bound, self._add_within(bound, target))

    async def aenqueue_many(self, calls: Iterable[Bound | Task]) -> list[Job]:
        """The same without blocking the event loop."""
        bound = self._all_bound(calls)
        target = self._transaction.get()
        if target is not None and _is_async(target):
            added = await target.run_sync(lambda sync: self._add_within(bound, sync))
            return self._jobs(bound, added)
        return await asyncio.to_thread(self.enqueue_many, bound)

    def transaction(self, target: Any) -> Transaction:
        """Enqueue in the caller's own transaction: the jobs exist if and only if it commits.

        target      an SQLAlchemy Session or Connection; with `async with`, an AsyncSession or AsyncConnection

            with Session(engine) as session, session.begin(), app.transaction(session):
                session.add(order)
                send_invoice.enqueue(order.id)

        Workers are told after the commit, wherever it happens.
        """
        return Transaction(self, target)

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
            pool_size=self._pool_size,
        )

    def close(self) -> None:
        """Close the store's connections; they are opened again when needed."""
        if self._store is not None:
            self._store.close()

    # --- from a call to a row -------------------------------------------------------------------------------------------

    def _bound(
        self, definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Bound:
        definition.bind(args, kwargs)
        return Bound(self, self._new_job(definition, options, self.codec.encode_call(args, kwargs)))

    def _bound_instance(self, instance: Task, options: Options) -> Bound:
        definition = self.registry.get(self._name_of(type(instance)))
        instance.validate()  # fields may have been changed since it was made
        fields = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init}  # type: ignore[arg-type]
        job = self._new_job(definition, options, self.codec.encode_call((), fields))
        return Bound(self, job, instance.before_enqueue)

    def _name_of(self, task: type[Task]) -> str:
        for definition in self.registry:
            if definition.target is task:
                return definition.name
        return task.__name__  # not registered: the registry says so, and what is similar

    def _new_job(self, definition: Definition, options: Options, args: str) -> NewJob:
        defaults = definition.defaults
        return NewJob(
            task=definition.name,
            queue=defaults.queue if options.queue is None else options.queue,
            priority=defaults.priority if options.priority is None else options.priority,
            args=args,
            delay=options.run_in,
            run_at=None if options.run_at is None else _microseconds(options.run_at),
            key=options.key,
            owner=options.owner,
            labels=options.labels,
            max_attempts=defaults.retry.attempts if options.max_attempts is None else options.max_attempts,
            flags=int(defaults.flags),
        )

    def _all_bound(self, calls: Iterable[Bound | Task]) -> list[Bound]:
        bound = [one if isinstance(one, Bound) else self._bound_instance(one, Options()) for one in calls]
        for one in bound:
            if one.app is not self:
                raise BadOption(f"{one.job.task!r} belongs to another app")
            if one.before_enqueue is not None:
                one.before_enqueue()
        return bound

    def _jobs(self, bound: Sequence[Bound], added: Sequence[Added]) -> list[Job]:
        return [Job(self, one.id, state=one.state, task=it.job.task) for one, it in zip(added, bound, strict=True)]

    def _add_within(self, bound: Sequence[Bound], target: Any) -> list[Added]:
        return self.store.add_within(target, [one.job for one in bound])


class AppSender:
    """Options for tasks that are named in the call: classes, bound calls, and tasks by name."""

    def __init__(self, app: Dray, options: Options) -> None:
        self._app, self._options = app, options

    def using(self, **options: Any) -> AppSender:
        """The same with these options changed."""
        return AppSender(self._app, _changed(self._options, options))

    def bind(self, task: Task | str, /, *args: Any, **kwargs: Any) -> Bound:
        """Check the call and make a job of it, without inserting it."""
        if isinstance(task, Task):
            if args or kwargs:
                raise BadArguments(type(task).__name__, "an instance carries its arguments itself; give no others")
            return self._app._bound_instance(task, self._options)
        if not isinstance(task, str):
            raise BadOption(f"enqueue takes a task's instance, name or bound call, not {task!r}")
        return self._app._bound(self._app.registry.get(task), self._options, args, kwargs)

    def enqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """Insert a job with these options."""
        return (task if isinstance(task, Bound) else self.bind(task, *args, **kwargs)).enqueue()

    async def aenqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """The same without blocking the event loop."""
        return await (task if isinstance(task, Bound) else self.bind(task, *args, **kwargs)).aenqueue()


class TaskDecorator:
    """What `app.task(...)` gives: registers a function or a class."""

    def __init__(self, app: Dray, options: Mapping[str, Any]) -> None:
        self._app, self._options = app, options

    @overload
    def __call__(self, target: T, /) -> T: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> FunctionTask[P, R]: ...
    def __call__(self, target: Any, /) -> Any:
        return self._app._register(target, **self._options)


class Transaction(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """While it is entered, enqueues of this thread or asyncio task go into the caller's transaction."""

    def __init__(self, app: Dray, target: Any) -> None:
        self._app, self._target = app, target
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        if _is_async(self._target):
            raise BadOption("use `async with app.transaction(...)` for an async session or connection")
        self._enter()

    def _enter(self) -> None:
        self._app.store.ensure()  # now, not in the middle of the caller's transaction
        self._token = self._app._transaction.set(self._target)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        self._app._transaction.reset(self._token)

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self._app.store.ensure)
        self._token = self._app._transaction.set(self._target)

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def _is_async(target: Any) -> bool:
    """Whether this is an AsyncSession or AsyncConnection: those have `run_sync`, and their sync twins have not."""
    return hasattr(target, "run_sync")


def _changed(options: Options, changes: Mapping[str, Any]) -> Options:
    names = [field.name for field in dataclasses.fields(Options)]
    for name in changes:
        if name not in names:
            raise BadOption(f"there is no option {name!r}; the options are {', '.join(names)}")
    return dataclasses.replace(options, **changes)


def _microseconds(instant: datetime) -> int:
    delta = instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
