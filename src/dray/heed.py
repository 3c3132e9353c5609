"""What orders mean to a worker, and signals, but for those that end it (S3.35)."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable

from dray.standing import Standing
from dray.store.orders import Order


def meanings(standing: Standing, stacks: Callable[[], str]) -> dict[signal.Signals, Callable[[], None]]:
    """What to do at each signal. Nothing here waits for anything."""

    def show() -> None:
        # In a thread of its own: who reads it may be slow, or gone.
        threading.Thread(target=_write, args=(stacks,), name="dray-stacks", daemon=True).start()

    def hang_up() -> None:
        # A terminal that is closed wants no new process that nobody sees.
        standing.stop("SIGHUP") if _is_in_a_terminal() else standing.reload("SIGHUP")

    return {
        signal.SIGUSR2: standing.pause,
        signal.SIGCONT: standing.resume,
        signal.SIGUSR1: show,
        signal.SIGHUP: hang_up,
    }


def follow(standing: Standing, order: Order | None) -> None:
    """Do what the row of the worker tells it."""
    match order:
        case Order.STOP:
            standing.stop("dray stop")
        case Order.STOP_NOW:
            standing.stop_now("dray stop --now")
        case Order.RELOAD:
            standing.reload("dray reload")


def _write(stacks: Callable[[], str]) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(stacks() + "\n")
        sys.stderr.flush()


def _is_in_a_terminal() -> bool:
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):  # there is none, or it has been closed
        return False
