"""What tasks become when they are about to be enqueued: bound calls, and senders that carry options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

from dray.context import Context
from dray.errors import BadArguments, BadOption
from dray.handle import Job
from dray.job import NewJob
from dray.options import HasId, Limit, Options, Running, Unique, check_known
from dray.task import Definition, Registry, Task

P = ParamSpec("P")
R = TypeVar("R")


class Using(TypedDict, total=False):
    """The options of an enqueue, as keywords; `dray.options.Options` says what each means."""

    queue: str
    priority: int
    run_in: float
    run_at: datetime
    key: str
    labels: Mapping[str, str]
    owner: str
    max_attempts: int
    group: str
    strict_order: bool
    on_failure: str
    limit: Limit
    after: HasId | int | Sequence[HasId | int]
    when: str
    on_parent_failure: str
    parent: Running | None
    expires_in: float
    expires_at: datetime
    deadline_in: float
    deadline_at: datetime
    unique: Unique | bool
    coalesce: int


class App(Protocol):
    """What a sender needs of its app."""

    registry: Registry

    def bound(self, definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Bound: ...
    def bound_instance(self, instance: Task, options: Options) -> Bound: ...
    def enqueue_many(self, calls: Iterable[Bound | Task]) -> list[Job]: ...
    async def aenqueue_many(self, calls: Iterable[Bound | Task]) -> list[Job]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """A task with checked arguments and options: everything but the insert."""

    app: App
    job: NewJob
    before_enqueue: Callable[[], None] | None = None
    spawner: Context | None = None  # the job that runs here and is its parent

    def enqueue(self) -> Job:
        """Insert it, and give the job."""
        return self.app.enqueue_many([self])[0]

    async def aenqueue(self) -> Job:
        """Insert it without blocking the event loop, and give the job."""
        return (await self.app.aenqueue_many([self]))[0]


class Sender(Generic[P]):
    """A task together with options: what `using(...)` gives."""

    def __init__(self, app: App, definition: Definition, options: Options) -> None:
        self._app, self._definition, self._options = app, definition, options

    def using(self, **options: Unpack[Using]) -> Sender[P]:
        """The same with these options changed; see `dray.options.Options` for all there are."""
        return Sender(self._app, self._definition, changed(self._options, options))

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Bound:
        """Check the arguments against the signature and make a job of them, without inserting it.

        Raises BadArguments when the call does not fit, and CodecError when a value cannot be stored: here, in the producer.
        """
        return self._app.bound(self._definition, self._options, args, kwargs)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Insert a job that will call the task with these arguments (S2.21)."""
        return self.bind(*args, **kwargs).enqueue()

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """The same without blocking the event loop."""
        return await self.bind(*args, **kwargs).aenqueue()


class FunctionTask(Sender[P], Generic[P, R]):
    """A decorated function: still an ordinary function, which can also be enqueued."""

    def __init__(self, app: App, definition: Definition, function: Callable[P, R]) -> None:
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


class AppSender:
    """Options for tasks that are named in the call: classes, bound calls, and tasks by name."""

    def __init__(self, app: App, options: Options) -> None:
        self._app, self._options = app, options

    def using(self, **options: Unpack[Using]) -> AppSender:
        """The same with these options changed."""
        return AppSender(self._app, changed(self._options, options))

    def bind(self, task: Task | str, /, *args: Any, **kwargs: Any) -> Bound:
        """Check the call and make a job of it, without inserting it."""
        if isinstance(task, Task):
            if args or kwargs:
                raise BadArguments(type(task).__name__, "an instance carries its arguments itself; give no others")
            return self._app.bound_instance(task, self._options)
        if not isinstance(task, str):
            raise BadOption(f"enqueue takes a task's instance, name or bound call, not {task!r}")
        return self._app.bound(self._app.registry.get(task), self._options, args, kwargs)

    def enqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """Insert a job with these options."""
        return (task if isinstance(task, Bound) else self.bind(task, *args, **kwargs)).enqueue()

    async def aenqueue(self, task: Task | Bound | str, /, *args: Any, **kwargs: Any) -> Job:
        """The same without blocking the event loop."""
        return await (task if isinstance(task, Bound) else self.bind(task, *args, **kwargs)).aenqueue()


def changed(options: Options, changes: Using) -> Options:
    """The options with some of them changed; raises BadOption for one that does not exist or makes no sense."""
    check_known("enqueue", changes, Using.__annotations__)
    return dataclasses.replace(options, **changes)
