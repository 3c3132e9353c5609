"""Enqueues in the caller's own transaction."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, Protocol

from dray.errors import BadOption


class App(Protocol):
    """What it needs of its app."""

    @property
    def store(self) -> Any: ...


class Transaction(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """While it is entered, enqueues of this thread or asyncio task go into the caller's transaction."""

    def __init__(self, app: App, current: ContextVar[Any], target: Any) -> None:
        self._app, self._current, self._target = app, current, target
        self._token: Token[Any] | None = None

    def __enter__(self) -> None:
        if is_async(self._target):
            raise BadOption("use `async with app.transaction(...)` for an async session or connection")
        self._app.store.ensure()  # now, not in the middle of the caller's transaction
        self._token = self._current.set(self._target)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        self._current.reset(self._token)

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self._app.store.ensure)
        self._token = self._current.set(self._target)

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def is_async(target: Any) -> bool:
    """Whether this is an AsyncSession or AsyncConnection: those have `run_sync`, and their sync twins have not."""
    return hasattr(target, "run_sync")
