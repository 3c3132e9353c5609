"""The doorkeeper of the stores: `open_store` gives the one that a URL names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dray.urls import normalize_url

if TYPE_CHECKING:
    from dray.store.sql import SqlStore


def open_store(
    url: str,
    *,
    prefix: str = "dray_",
    schema: str | None = None,
    create_tables: bool | None = None,
    clock: Callable[[], int] | None = None,
    pool_size: int = 5,
) -> SqlStore:
    """Open the store behind a URL; nothing is connected yet. Raises ConfigurationError for a URL Dray does not speak."""
    from dray.store.sql import SqlStore  # loads SQLAlchemy: only who opens a store pays for it

    return SqlStore(
        normalize_url(url),
        prefix=prefix,
        schema=schema,
        create_tables=create_tables,
        clock=clock,
        pool_size=pool_size,
    )
