"""Find the app a command is about: by `module:attribute`, with the current folder importable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from dray.app import Dray
from dray.errors import ConfigurationError
from dray.settings import Origin, load

HOW = 'give -A module:attribute, set DRAY_APP, or write app = "module:attribute" under [tool.dray] in pyproject.toml'


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An app to work with; `name` is None when it is a bare one, with settings but no tasks.

    problem     why the app that is configured could not be had
    """

    app: Dray
    name: str | None = None
    problem: ConfigurationError | None = None


def require_app(name: str | None, options: Mapping[str, Any]) -> Found:
    """The app by this name, or as configured, with these settings over its own; raises ConfigurationError."""
    settings = load()
    name = name or settings.app
    if name is None:
        raise ConfigurationError(f"which app? {HOW}")
    app = import_app(name, settings.file.parent if settings.file else None)
    return Found(app=_with(app, options), name=name)


def find_app(name: str | None, options: Mapping[str, Any]) -> Found:
    """The same for those who only look: without an app, or if it cannot be imported, a bare one on the settings' database.

    Raises ConfigurationError when the app cannot be imported and nothing but the app would name the database.
    """
    settings = load().override(options)
    name = name or settings.app
    if name is None:
        return Found(app=_with(Dray(), options))
    try:
        return require_app(name, options)
    except ConfigurationError as error:
        if settings.source("database_url").origin is Origin.DEFAULT:
            raise
        return Found(app=_with(Dray(), options), problem=error)


def _with(app: Dray, options: Mapping[str, Any]) -> Dray:
    app.override(options)
    return app


def import_app(name: str, folder: Path | None = None) -> Dray:
    """Import `module:attribute`, or a module that has one app; raises ConfigurationError with what is wrong.

    folder      importable too, behind the current one: where the file lies that named the app
    """
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path):
        raise ConfigurationError(f"{name!r} names no app: write module:attribute, such as shop.jobs:app")
    module = _import(module_name, folder)
    return _attribute(module, path) if path else _only_app(module)


def _import(name: str, folder: Path | None) -> ModuleType:
    for place in filter(None, [str(folder) if folder else "", str(Path.cwd())]):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            where = f"neither in {Path.cwd()} nor installed"
            raise ConfigurationError(f"there is no module {error.name!r}: it is {where}") from error
        raise ConfigurationError(f"{name} cannot be imported: it needs {error.name!r}, which is missing") from error
    except (Exception, SystemExit) as error:  # a script without a __main__ guard may end itself
        first = (str(error).strip().splitlines() or [""])[0]
        told = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise ConfigurationError(f"{name} cannot be imported: {told} (-v shows where)") from error


def _attribute(module: ModuleType, path: str) -> Dray:
    try:
        found = attrgetter(path)(module)
    except AttributeError as error:
        close = get_close_matches(path, vars(module), n=1) or sorted(_apps(module))
        hint = f"; did you mean {module.__name__}:{close[0]}?" if close else ""
        raise ConfigurationError(f"the module {module.__name__} has no {path!r}{hint}") from error
    if not isinstance(found, Dray):
        raise ConfigurationError(f"{module.__name__}:{path} is a {type(found).__name__}, not a Dray app")
    return found


def _only_app(module: ModuleType) -> Dray:
    apps = _apps(module)
    distinct = {id(app): app for app in apps.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not apps:
        raise ConfigurationError(f"the module {module.__name__} has no Dray app in it")
    names = " or ".join(f"{module.__name__}:{name}" for name in sorted(apps))
    raise ConfigurationError(f"the module {module.__name__} has {len(distinct)} apps: say {names}")


def _apps(module: ModuleType) -> dict[str, Dray]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Dray)}


def where_is(app: Dray) -> str | None:
    """The app as `module:attribute`, if an imported module has it; None: it is in none that could be imported again."""
    for name, module in list(sys.modules.items()):
        if name == "__main__":
            spec = getattr(module, "__spec__", None)
            name = "" if spec is None else spec.name
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and name:
                return f"{name}:{attribute}"
    return None
