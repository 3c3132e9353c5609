"""Settings from default < file < environment < keyword < command line; each knows where its value came from.

The file is `dray.toml`, or `[tool.dray]` in `pyproject.toml`, in the current folder or the nearest one above.
A variable is called `DRAY_` and the setting's name in capitals. `SETTINGS` describes them all, so that the
command line and the reference can be generated from it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from dray.durations import show_duration
from dray.errors import ConfigurationError
from dray.kinds import (
    ADDRESS,
    ADDRESSES,
    CRON,
    DATABASE_URL,
    LOG_LEVEL,
    MAIL_URL,
    PRIORITY_LIST,
    QUEUES,
    ROUTES,
    SECRET,
    SIZE_ABOVE_ZERO,
    SWITCH,
    TABLE_PREFIX,
    TEXT,
    TIME,
    TIME_ABOVE_ZERO,
    WEB_URL,
    Kind,
    optional,
    whole_number,
)
from dray.urls import anchor_url, redact_url

DAY = 86_400.0
BEATS_PER_TTL = 6

T = TypeVar("T")


class Origin(StrEnum):
    """What kind of place a value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    KEYWORD = "keyword"
    COMMAND_LINE = "command line"
    DERIVED = "derived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a value came from; `name` is the file's path, the variable, the flag, `keyword` or `default`."""

    origin: Origin
    name: str

    def __str__(self) -> str:
        return self.name


DEFAULT = Source(origin=Origin.DEFAULT, name="default")
KEYWORD = Source(origin=Origin.KEYWORD, name="keyword")


def flag_of(name: str) -> str:
    """Give the flag of a setting on the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is known of one setting before anybody gave it a value."""

    name: str
    default: object
    kind: Kind
    help: str

    @property
    def variable(self) -> str:
        return f"DRAY_{self.name.upper()}"

    @property
    def flag(self) -> str:
        return flag_of(self.name)

    def read(self, value: object, source: Source) -> Any:
        """Give the checked value, or ConfigurationError with name, value, source and what is expected."""
        try:
            return self.kind.read(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.name} ({source}): {error}") from error
        except ValueError as error:
            # Whatever stands in the wrong place may be a URL with a password.
            shown = redact_url(repr(value))
            raise ConfigurationError(f"{self.name} = {shown} ({source}): expected {self.kind.expects}") from error


def _setting(default: T, kind: Kind, words: str) -> T:
    return field(default=default, metadata={"kind": kind, "help": words})


def _table_setting(kind: Kind, words: str) -> Any:
    return field(default_factory=dict, metadata={"kind": kind, "help": words})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one app, checked: ConfigurationError says which value is wrong and where it came from.

    Durations are seconds, sizes are bytes. `load` takes the file and the environment into account.
    """

    database_url: str = _setting("sqlite:///dray.db", DATABASE_URL, "the database that holds the jobs")
    app: str | None = _setting(None, optional(TEXT), "where commands find the app, as module:attribute")
    table_prefix: str = _setting("dray_", TABLE_PREFIX, "what the names of Dray's tables begin with")
    schema: str | None = _setting(None, optional(TEXT), "the database schema of Dray's tables")
    create_tables: bool | None = _setting(
        None,
        optional(SWITCH),
        "create missing tables at first use; not set: only on SQLite",
    )
    concurrency: int = _setting(10, whole_number(1), "jobs a worker runs at the same time")
    queues: Mapping[str, int] = _table_setting(QUEUES, "all queues there are, with their weights; not set: any name will do")
    routes: Mapping[str, str] = _table_setting(ROUTES, "which task goes to which queue, whatever the task itself says")
    priorities: tuple[int, ...] = _setting((), PRIORITY_LIST, "all priorities there are; not set: 0 to 999")
    prefetch: int = _setting(1000, whole_number(0), "most jobs a worker fetches ahead")
    beat: float = _setting(5.0, TIME_ABOVE_ZERO, "time between signs of life of a worker; not set: ttl/6")
    ttl: float = _setting(30.0, TIME_ABOVE_ZERO, "a worker silent for this long is dead, its jobs are rescued")
    grace: float = _setting(30.0, TIME, "time running jobs get at shutdown before they are released")
    keep_succeeded: float = _setting(7 * DAY, TIME, "how long succeeded jobs are kept")
    keep_cancelled: float = _setting(7 * DAY, TIME, "how long cancelled jobs are kept")
    keep_failed: float = _setting(90 * DAY, TIME, "how long failed jobs are kept")
    keep_stats: float = _setting(90 * DAY, TIME, "how long the numbers of what was done are kept")
    hook_limit: float = _setting(10.0, TIME_ABOVE_ZERO, "time a hook may take after the task it belongs to")
    notify_after: float = _setting(10.0, TIME, "time in which failures alike are gathered into one notice")
    mail: str | None = _setting(None, optional(MAIL_URL), "the mail server notices go through")
    mail_from: str | None = _setting(None, optional(ADDRESS), "the address that notices come from")
    mail_to: tuple[str, ...] = _setting((), ADDRESSES, "the addresses that notices go to")
    mail_templates: str | None = _setting(None, optional(TEXT), "a folder with texts of your own for notices")
    digest: str | None = _setting(None, optional(CRON), "when a digest of all failures is mailed, in UTC")
    webhook: str | None = _setting(None, optional(WEB_URL), "an address that notices are posted to, as JSON")
    webhook_key: str | None = _setting(None, optional(SECRET), "the key that posted notices are signed with")
    listen: bool = _setting(True, SWITCH, "be woken by the database; off behind PgBouncer's transaction mode")
    log_level: str = _setting("info", LOG_LEVEL, "least level of what is logged")
    max_args: int = _setting(2**20, SIZE_ABOVE_ZERO, "largest arguments a job may carry")

    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)
    unknown_environment: tuple[str, ...] = field(default=(), compare=False)
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.read(getattr(self, name), self.source(name)))
        for task, queue in self.routes.items():
            if self.queues and queue not in self.queues:
                raise ConfigurationError(
                    f"routes ({self.source('routes')}): task {task!r} goes to {queue!r}, which is none of the queues"
                    f" {', '.join(self.queues)}"
                )
        if self.ttl <= 2 * self.beat:
            raise ConfigurationError(
                f"ttl = {show_duration(self.ttl)} ({self.source('ttl')}) must be more than twice beat ="
                f" {show_duration(self.beat)} ({self.source('beat')}); leave beat out and it follows ttl"
            )

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={shown}' for name, shown, _ in self.explain())})"

    @property
    def silent_after(self) -> float:
        """Seconds without a sign of life after which a worker is worth a word: long before it is given up."""
        return self.ttl / 2

    def source(self, name: str) -> Source:
        """Say where the value of a setting came from."""
        return self.sources.get(name, DEFAULT)

    def explain(self) -> list[tuple[str, str, str]]:
        """Give (name, value, source) of every setting for people to read, passwords hidden."""
        return [(name, setting.kind.show(getattr(self, name)), str(self.source(name))) for name, setting in SETTINGS.items()]

    def override(self, options: Mapping[str, Any]) -> Settings:
        """Put the options of a command line over these settings; an option that is None was not given."""
        return _apply(self, _given(options, lambda name: Source(origin=Origin.COMMAND_LINE, name=flag_of(name))))


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        each.name: Setting(
            name=each.name,
            default={} if each.default is MISSING else each.default,
            kind=each.metadata["kind"],
            help=each.metadata["help"],
        )
        for each in fields(Settings)
        if "kind" in each.metadata
    }
)

_Given = dict[str, tuple[Any, Source]]


def load(
    explicit: Mapping[str, Any] = MappingProxyType({}),
    *,
    cwd: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Gather the settings: defaults, the file, `DRAY_*`, then `explicit`, where None means not given.

    >>> load({"ttl": "1m"}, environ={"DRAY_CONCURRENCY": "4"}).explain()[5:8]
    [('concurrency', '4', 'DRAY_CONCURRENCY'), ('prefetch', '1000', 'default'), ('beat', '10s', 'ttl/6')]
    """
    environ = os.environ if environ is None else environ
    file, table = _find_file(Path.cwd() if cwd is None else Path(cwd).absolute())
    given = _from_file(file, table) if file else {}
    given |= _from_environment(environ)
    given |= _given(explicit, lambda name: KEYWORD)
    known = {setting.variable for setting in SETTINGS.values()}
    unknown = sorted(name for name in environ if name.startswith("DRAY_") and name not in known)
    return _apply(Settings(file=file, unknown_environment=tuple(unknown)), given)


def _apply(base: Settings, given: _Given) -> Settings:
    values = {name: value for name, (value, _) in given.items()}
    sources = {name: source for name, (_, source) in given.items()}
    beat_is_free = base.source("beat").origin in (Origin.DEFAULT, Origin.DERIVED)
    if "ttl" in given and "beat" not in given and beat_is_free:
        values["beat"] = SETTINGS["ttl"].read(*given["ttl"]) / BEATS_PER_TTL
        sources["beat"] = Source(origin=Origin.DERIVED, name=f"ttl/{BEATS_PER_TTL}")
    return replace(base, **values, sources={**base.sources, **sources})


def _given(values: Mapping[str, Any], source: Callable[[str], Source]) -> _Given:
    for name in values:
        if name not in SETTINGS:
            close = get_close_matches(str(name), SETTINGS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(SETTINGS)}"
            raise ConfigurationError(f"there is no setting {name!r} ({source(name)}){hint}")
    return {name: (value, source(name)) for name, value in values.items() if value is not None}


def _from_environment(environ: Mapping[str, str]) -> _Given:
    # An empty variable is how compose files and CI say "not set".
    return {
        name: (environ[setting.variable], Source(origin=Origin.ENVIRONMENT, name=setting.variable))
        for name, setting in SETTINGS.items()
        if environ.get(setting.variable)
    }


def _from_file(file: Path, table: Mapping[str, Any]) -> _Given:
    source = Source(origin=Origin.FILE, name=str(file))
    given = _given(table, lambda name: source)
    if isinstance(url := table.get("database_url"), str):
        # The file is also found from folders below it: all of them must open the same database.
        given["database_url"] = (anchor_url(url, file.parent), source)
    return given


def _find_file(start: Path) -> tuple[Path | None, Mapping[str, Any]]:
    for folder in (start, *start.parents):
        own, shared = folder / "dray.toml", folder / "pyproject.toml"
        if os.path.isfile(own):
            return own, _read_toml(own)
        if os.path.isfile(shared) and (table := _tool_table(shared)) is not None:
            return shared, table
    return None, {}


def _tool_table(file: Path) -> Mapping[str, Any] | None:
    tools = _read_toml(file).get("tool")
    table = tools.get("dray") if isinstance(tools, dict) else None
    if table is None or isinstance(table, dict):
        return table
    raise ConfigurationError(f"{file}: tool.dray is not a table")


def _read_toml(file: Path) -> dict[str, Any]:
    # Loaded only where there is a file to read: `import dray` stays light.
    import tomllib

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error
