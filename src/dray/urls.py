"""Database URLs as text: which ones Dray speaks, in which form SQLAlchemy wants them, how to show one safely.

No driver and no SQLAlchemy here: reading the settings must stay light.
"""

from __future__ import annotations

import re
from pathlib import Path

from dray.errors import ConfigurationError

SUPPORTED = "sqlite:///file.db, postgresql://user@host/name, mysql://user@host/name or mariadb://user@host/name"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")
_DIALECTS = {
    "sqlite": "sqlite",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
_DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg", "mysql": "pymysql"}
_CHARSET = re.compile(r"[?&]charset=")
_SECRETS = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&]*", re.IGNORECASE)


def normalize_url(url: str) -> str:
    """Give the URL in SQLAlchemy's form with the driver Dray uses; user, password and query stay untouched.

    >>> normalize_url("postgres://ann@db/shop")
    'postgresql+psycopg://ann@db/shop'
    """
    found = _SCHEME.match(url)
    if not found:
        hint = f"; a file is written sqlite:///{url}" if url and ":" not in url else ""
        raise ConfigurationError(f"{redact_url(url)!r} is no database URL: use {SUPPORTED}{hint}")
    name, _, driver = found[1].lower().partition("+")
    dialect = _DIALECTS.get(name)
    if dialect is None:
        raise ConfigurationError(f"databases of type {name!r} are not supported: use {SUPPORTED}")
    if driver not in ("", _DRIVERS[dialect]):
        raise ConfigurationError(f"Dray speaks to {name} through {_DRIVERS[dialect]}, not {driver}: use {name}://…")
    rest = url[found.end() :]
    if dialect == "sqlite":
        return _sqlite(rest)
    # Without utf8mb4 MySQL refuses or garbles every character beyond the 65,536th.
    if dialect == "mysql" and not _CHARSET.search(rest):
        rest += ("&" if "?" in rest else "?") + "charset=utf8mb4"
    return f"{dialect}+{_DRIVERS[dialect]}://{rest}"


def _sqlite(rest: str) -> str:
    # Two slashes instead of three make the file's name a host name.
    if rest and not rest.startswith(("/", "?")):
        raise ConfigurationError(f"sqlite://{rest} has no file: write three slashes, sqlite:///{rest}")
    return f"sqlite://{rest}"


def anchor_url(url: str, folder: Path) -> str:
    """Let a relative SQLite path start at `folder`; any other URL is given back as it is."""
    prefix, slashes, path = url.partition(":///")
    if prefix.lower().partition("+")[0] != "sqlite" or not slashes or not path:
        return url
    if path.startswith(("/", ":", "?", "file:")) or Path(path).is_absolute():
        return url
    return f"{prefix}:///{folder / path}"


def redact_url(url: str) -> str:
    """Show a URL without its password.

    >>> redact_url("postgresql://ann:secret@db/shop")
    'postgresql://ann:***@db/shop'
    """
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    # Up to the last @, since a password that was not percent-encoded may hold one; hiding too much is safe.
    user, at, host = rest.rpartition("@")
    if at and ":" in user and not scheme.lower().startswith("sqlite"):
        rest = f"{user.partition(':')[0]}:***@{host}"
    return _SECRETS.sub(r"\1***", f"{scheme}{slashes}{rest}")
