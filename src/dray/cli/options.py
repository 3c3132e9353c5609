"""What all verbs share: the global options, which may stand before or behind the verb, and kinds of value."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from dray.durations import parse_duration, parse_size
from dray.errors import BadOption

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
COLORS = {"always": True, "never": False, "auto": None}


@dataclass(slots=True)
class Common:
    """The global options of this call, wherever they stood."""

    app: str | None = None
    database_url: str | None = None
    json: bool = False
    verbose: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Those that are settings, to be put over the app's own."""
        return {"app": self.app, "database_url": self.database_url}


def given() -> Common:
    """The global options of the call that is running."""
    return click.get_current_context().ensure_object(Common)


class Verb(click.Command):
    """A command whose help ends with examples and keeps the global options apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                (shared if isinstance(parameter, GlobalOption) else own).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class GlobalOption(click.Option):
    """An option that every verb has; behind a verb it counts only when it was given there."""


class SettingOption(click.Option):
    """An option that is also a setting: the settings read its variable, so that they can say where a value came from."""

    def resolve_envvar_value(self, ctx: click.Context) -> None:
        return None


class GlobalSettingOption(GlobalOption, SettingOption):
    """A global option that is also a setting."""


def duration(value: str) -> float:
    """Read a time such as 90s or 1h30m; gives seconds."""
    try:
        return parse_duration(value)
    except BadOption as error:
        raise click.BadParameter(str(error)) from error


def size(value: str) -> int:
    """Read a size such as 256M; gives bytes."""
    try:
        return parse_size(value)
    except BadOption as error:
        raise click.BadParameter(str(error)) from error


def moment(value: str) -> datetime:
    """Read an instant such as 2030-02-28T12:00; without a zone it is local time."""
    try:
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError) as error:
        expected = "write 2030-02-28T12:00, or with a zone 2030-02-28T12:00Z"
        raise click.BadParameter(f"{value!r} is no time: {expected}") from error


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option that can also be given as a variable, which the help names."""
    return click.option(*names, show_envvar=True, **attributes)


def setting(*names: str, variable: str, **attributes: Any) -> Callable[[F], F]:
    """An option that overrides a setting."""
    return click.option(*names, cls=SettingOption, envvar=variable, show_envvar=True, **attributes)


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Common), name, value)

    return store


def _color(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.color = COLORS[value]
    elif ctx.parent is None:
        ctx.color = _usual_color()


def _usual_color() -> bool | None:
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def common(function: F) -> F:
    """Give a verb the global options; what was given is found in the context's `Common`."""
    shared: dict[str, Any] = {"expose_value": False, "show_envvar": True, "is_eager": True}
    declared = [
        click.option(
            "-A",
            "--app",
            cls=GlobalSettingOption,
            envvar="DRAY_APP",
            metavar="MODULE:ATTR",
            callback=_store("app"),
            help="The app: where its Dray object is.",
            **shared,
        ),
        click.option(
            "--database-url",
            cls=GlobalSettingOption,
            envvar="DRAY_DATABASE_URL",
            metavar="URL",
            callback=_store("database_url"),
            help="The database, instead of the one of the app.",
            **shared,
        ),
        _switch("--json", "json", "Print JSON.", shared),
        _switch("-v", "--verbose", "verbose", "Say more; with an error, show where it came from.", shared),
        click.option(
            "--color",
            cls=GlobalOption,
            envvar="DRAY_COLOR",
            type=click.Choice(list(COLORS)),
            callback=_color,
            help="When to use colours; NO_COLOR and FORCE_COLOR are heeded too.",
            **shared,
        ),
    ]
    for decorate in reversed(declared):
        function = decorate(function)
    return function


def _switch(*names: Any) -> Callable[[F], F]:
    *flags, target, words, shared = names
    return click.option(
        *flags,
        target,
        cls=GlobalOption,
        envvar=f"DRAY_{target.upper()}",
        is_flag=True,
        callback=_store(target),
        help=words,
        **shared,
    )


def verb(name: str, *examples: str, cls: type[Verb] = Verb) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a verb with the global options, and with examples at the end of its help."""
    lines = "\n".join(f"  {line}" for line in examples)

    def decorate(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=cls, epilog=f"\b\nExamples:\n{lines}")(common(function))
        for parameter in made.params:
            if isinstance(parameter, click.Option) and parameter.envvar is None:
                # As the flag is called; click would take the name of the function's parameter.
                flag = max(parameter.opts, key=len).lstrip("-").replace("-", "_")
                parameter.envvar = f"DRAY_{name}_{flag}".upper()
        return made

    return decorate
