"""Tasks: functions and classes that were registered under a name, and the registry that knows them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, dataclass_transform

from dray.command import Command
from dray.context import Context
from dray.durations import parse_duration
from dray.errors import BadArguments, BadOption, TaskError, UnknownTask
from dray.hooks import Hook, Hooks
from dray.job import Flag, name_hash
from dray.lifecycle import DEFAULT_RETRY, Retry, RetryLike
from dray.options import ON_FAILURE, Isolate, Limit, Unique, check_choice, check_known, check_name, check_priority, fill

ON_CRASH = ("retry", "fail")
RESERVED = "dray."  # the beginning of names that no app may give


@dataclass_transform(kw_only_default=True)
@dataclasses.dataclass(kw_only=True)
class Task:
    """A task with typed fields: subclass it, annotate the fields, write `run`, and decorate the class with `@app.task` (S0.12).

    The fields are the arguments; the subclass becomes a dataclass with keyword-only fields. `validate` is called wherever one
    is made, in the producer and again in the worker; `before_enqueue` in the producer only, just before the insert.

        @app.task(queue="quotes")
        class CreateQuote(Task):
            order_id: int

            def run(self, ctx: Context) -> str: ...

        app.enqueue(CreateQuote(order_id=7))
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        dataclasses.dataclass(kw_only=True)(cls)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise an exception if the fields make no sense: such a job can then not even be enqueued (S0.17)."""

    def before_enqueue(self) -> None:
        """Called in the producer just before the insert (S0.18); an exception here stops the enqueue."""

    def run(self, ctx: Context) -> Any:
        """Do the work. May be `async def`, and may leave the context out of its parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no run method")


class RunOptions(TypedDict, total=False):
    """What can be said of any task, as keywords."""

    queue: str
    priority: int
    retry: RetryLike | None
    timeout: float | str | None
    hard_timeout: float | str | None
    isolate: Isolate | bool
    on_crash: str
    group: str | None
    strict_order: bool
    on_failure: str
    limit: Limit | None
    run_ahead: int
    master: bool
    unique: Unique | bool
    aliases: Sequence[str]
    permanent_on: Errors
    retry_on: Errors
    notify_at: int | None
    before_run: Hook | Sequence[Hook] | None
    after_run: Hook | Sequence[Hook] | None
    on_error: Hook | Sequence[Hook] | None
    metadata: Hook | Sequence[Hook] | None


class TaskOptions(RunOptions, total=False):
    """The options of `@app.task(...)`, as keywords."""

    name: str | None


Errors = type[BaseException] | Sequence[type[BaseException]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a task says of all its jobs; an enqueue may say otherwise."""

    queue: str | None = None  # may name arguments: "mail-{region}"; None: as the settings say
    priority: int | None = None
    retry: Retry = DEFAULT_RETRY
    timeout: float | None = None  # seconds until TimedOut is raised in it
    hard_timeout: float | None = None  # seconds until it is ended
    isolate: Isolate | None = None  # it runs in a process of its own
    on_crash: str = "retry"
    group: str | None = None  # may name arguments: "customer-{customer_id}"
    strict_order: bool = False
    on_failure: str = "continue"
    limit: Limit | None = None  # its name may name arguments, too
    master: bool = False  # what becomes of its children is not its own outcome
    unique: Unique | None = None
    run_ahead: int = 1  # of its group, how many a worker takes at once, to run them one after the other
    permanent_on: tuple[type[BaseException], ...] = ()  # these fail the job at once
    retry_on: tuple[type[BaseException], ...] = ()  # if any are named, only these are tried again
    notify_at: int | None = None  # failed attempts after which somebody is told
    hooks: Hooks = dataclasses.field(default_factory=Hooks)

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_name("queue", self.queue)
        if self.priority is not None:
            check_priority(self.priority)
        check_choice("on_crash", self.on_crash, ON_CRASH)
        check_choice("on_failure", self.on_failure, ON_FAILURE)
        if self.group is not None:
            check_name("group", self.group)
        if isinstance(self.run_ahead, bool) or not isinstance(self.run_ahead, int) or not 1 <= self.run_ahead <= 500:
            raise BadOption(f"run_ahead must be a whole number from 1 to 500, got {self.run_ahead!r}")
        if self.limit is not None and not isinstance(self.limit, Limit):
            raise BadOption(f"limit must be a dray.Limit, such as Limit('stripe', 10), got {self.limit!r}")
        if both := set(self.permanent_on) & set(self.retry_on):
            raise BadOption(f"{both.pop().__name__} is in permanent_on and in retry_on: only one can be meant")
        number = self.notify_at
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise BadOption(f"notify_at must be a number of attempts, 1 or more, got {number!r}")

    @classmethod
    def of(cls, options: TaskOptions) -> Defaults:
        """The defaults a task was registered with."""
        retry = options.get("retry")
        return cls(
            queue=options.get("queue"),
            priority=options.get("priority"),
            retry=DEFAULT_RETRY if retry is None else Retry.of(retry),
            timeout=_limit("timeout", options.get("timeout")),
            hard_timeout=_hard(options),
            isolate=Isolate.of(options.get("isolate", False)),
            on_crash=options.get("on_crash", "retry"),
            group=options.get("group"),
            strict_order=options.get("strict_order", False),
            on_failure=options.get("on_failure", "continue"),
            limit=options.get("limit"),
            run_ahead=options.get("run_ahead", 1),
            master=options.get("master", False),
            unique=Unique.of(options.get("unique")),
            permanent_on=_errors("permanent_on", options.get("permanent_on", ())),
            retry_on=_errors("retry_on", options.get("retry_on", ())),
            notify_at=options.get("notify_at"),
            hooks=Hooks.of(
                before_run=options.get("before_run"),
                after_run=options.get("after_run"),
                on_error=options.get("on_error"),
                metadata=options.get("metadata"),
            ),
        )

    def is_permanent(self, kind: type[BaseException]) -> bool:
        """Whether an error of this kind will not heal: the nearest of its classes that is named decides."""
        if not self.permanent_on and not self.retry_on:
            return False
        for each in kind.__mro__:
            if each in self.permanent_on:
                return True
            if each in self.retry_on:
                return False
        return bool(self.retry_on)

    @property
    def flags(self) -> Flag:
        return (Flag.FAIL_ON_CRASH if self.on_crash == "fail" else Flag(0)) | (Flag.MASTER if self.master else Flag(0))


HARD_AFTER = 10.0  # seconds that a run has to clean up once its time is over, unless its task says otherwise


def _limit(name: str, given: float | str | None) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not (seconds := parse_duration(given)) > 0:
        raise BadOption(f"{name} must be seconds, more than 0, got {given!r}")
    return seconds


def _hard(options: TaskOptions) -> float | None:
    soft, hard = _limit("timeout", options.get("timeout")), _limit("hard_timeout", options.get("hard_timeout"))
    if soft is None or hard is None:
        return hard if soft is None else soft + HARD_AFTER
    if hard < soft:
        raise BadOption(f"hard_timeout = {hard:g} s must not be less than timeout = {soft:g} s")
    return hard


def _errors(name: str, given: Errors) -> tuple[type[BaseException], ...]:
    some = (given,) if isinstance(given, type) else tuple(given)
    for one in some:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise BadOption(f"{name} takes classes of exceptions, such as {name}=[ValueError], got {one!r:.300}")
    return some


class Definition:
    """A registered task: its name, what it runs, and how its arguments have to look."""

    def __init__(
        self, target: Callable[..., Any] | type[Task], name: str, defaults: Defaults, aliases: Sequence[str] = ()
    ) -> None:
        self.target = target
        self.name = name
        self.defaults = defaults
        self.aliases = tuple(aliases)
        self.signature = _signature(target)
        self._fewest, self._most = _by_position(self.signature)
        self.signature_number = name_hash(_shape(self.signature)) or 1
        self.is_class = isinstance(target, type)
        body = target.run if isinstance(target, type) and issubclass(target, Task) else target
        self.is_async = inspect.iscoroutinefunction(body)
        self.on_loop = self.is_async and defaults.isolate is None
        self.command = target if isinstance(target, Command) else None
        self.is_apart = self.command is not None or defaults.isolate is not None  # it runs in another process
        # Run as most are: in the thread of a slot, for as long as it takes.
        self.is_plain = not self.is_apart and not self.is_limited
        self._wants_context = self.is_class and len(inspect.signature(body).parameters) > 1

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise BadArguments unless a call with these arguments would fit; nothing is called."""
        if self.command is not None:
            self.command.check(self._bound(args, kwargs))
            return
        if not kwargs and self._fewest <= len(args) <= self._most:
            return
        self._bound(args, kwargs)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise BadArguments(self.name, f"{error}; the signature is {self.name}{self.signature}") from None

    def named(self, template: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """A name with the values of arguments in it: "customer-{customer_id}" -> "customer-7"; raises BadOption."""
        return fill(template, self.arguments(args, kwargs)) if "{" in template else template

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names, also those that were not given."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any], context: Context) -> Any:
        """Run it; an async task gives its coroutine. The arguments are known to fit."""
        if not self.is_class:
            return self.target(*args, **kwargs)
        made: Any = self.target(*args, **kwargs)
        return made.run(context) if self._wants_context else made.run()

    @property
    def is_limited(self) -> bool:
        """Whether its runs have a limit of time."""
        return self.defaults.timeout is not None or self.defaults.hard_timeout is not None

    @property
    def place(self) -> tuple[str, int] | None:
        """File and line it was written at: the same place twice is a reloaded module, not a second task."""
        try:
            _, line = inspect.getsourcelines(self.target)
            return inspect.getsourcefile(self.target) or "", line
        except (OSError, TypeError):
            return None


def _by_position(signature: inspect.Signature) -> tuple[float, float]:
    """How many arguments, at least and at most, fit a call by position alone. Asking the signature itself takes long."""
    fewest = most = 0.0
    for parameter in signature.parameters.values():
        must = parameter.default is parameter.empty
        match parameter.kind:
            case parameter.POSITIONAL_ONLY | parameter.POSITIONAL_OR_KEYWORD:
                fewest, most = fewest + must, most + 1
            case parameter.VAR_POSITIONAL:
                most = math.inf
            case parameter.KEYWORD_ONLY if must:
                fewest = math.inf
    return fewest, most


def _signature(target: Callable[..., Any] | type[Task]) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{target!r} has no signature that could be read, so it cannot be a task: {error}") from error


def _shape(signature: inspect.Signature) -> str:
    """What decides whether a call binds: names, kinds, and which have a default. Annotations may change freely."""
    return ",".join(
        f"{int(parameter.kind)}{parameter.name}{'' if parameter.default is parameter.empty else '='}"
        for parameter in signature.parameters.values()
    )


class Registry:
    """The tasks of an app, by name and by former names.

    built_in    tasks that every app has beside its own: they can be run and enqueued, and do not count
    """

    def __init__(self, built_in: Iterable[Definition] = ()) -> None:
        self._built_in = {definition.name: definition for definition in built_in}
        self._by_name: dict[str, Definition] = {}
        self._by_alias: dict[str, Definition] = {}

    def add(self, target: Callable[..., Any] | type[Task], options: TaskOptions) -> Definition:
        """Register a task. Raises TaskError for a name that is taken or a target that cannot be a task, BadOption otherwise."""
        check_known("task", options, TaskOptions.__annotations__)
        _check_target(target)
        given, aliases = options.get("name"), options.get("aliases", ())
        name = target.__name__ if given is None else given
        if isinstance(aliases, str):  # else each of its letters would be one
            raise BadOption(f"aliases must be a list of names, got {aliases!r}")
        for each in (name, *aliases):
            check_name("task name", each)
            if each.startswith(RESERVED):
                raise TaskError(f"a task cannot be called {each!r}: names that begin with {RESERVED!r} are Dray's own")
        definition = Definition(target, name, Defaults.of(options), aliases)
        for each in (name, *aliases):
            self._refuse_duplicate(each, definition)
        self._by_name[name] = definition
        self._by_alias.update(dict.fromkeys(aliases, definition))
        return definition

    def _refuse_duplicate(self, name: str, new: Definition) -> None:
        old = self._by_name.get(name) or self._by_alias.get(name)
        if old is None or (old.place is not None and old.place == new.place) or (old.command and old.command == new.command):
            return
        raise TaskError(
            f"there are two tasks called {name!r}: {old.target.__module__}.{old.target.__qualname__} and "
            f"{new.target.__module__}.{new.target.__qualname__}; give one of them another name=..."
        )

    def get(self, name: str) -> Definition:
        """The task of this name or former name; raises UnknownTask."""
        found = self.find(name)
        if found is None:
            raise UnknownTask(name, difflib.get_close_matches(name, self._by_name, n=2))
        return found

    def find(self, name: str) -> Definition | None:
        """The task of this name or former name, or None."""
        return self._by_name.get(name) or self._by_alias.get(name) or self._built_in.get(name)

    def known(self) -> dict[str, int]:
        """Every name and former name with the number of its signature: what this process could run."""
        places = (self._built_in, self._by_name, self._by_alias)
        return {name: definition.signature_number for names in places for name, definition in names.items()}

    def __iter__(self) -> Iterator[Definition]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _check_target(target: object) -> None:
    if inspect.isclass(target):
        if not issubclass(target, Task):
            raise TaskError(f"class {target.__name__} must derive from dray.Task to be a task")
        if target.run is Task.run:
            raise TaskError(f"{target.__name__} has no run method, so there is nothing it could do")
        return
    if isinstance(target, Command):
        return
    if not inspect.isfunction(target):
        raise TaskError(f"a task is a function or a subclass of dray.Task, not {target!r}")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise TaskError(f"{target.__name__} is a generator; a task has to do its work when it is called")
