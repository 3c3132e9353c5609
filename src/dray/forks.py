"""What a fork of this process must not keep: the ends of sockets by which others see that we are gone."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from weakref import WeakSet

_ours: WeakSet[socket.socket] = WeakSet()


def close_in_forks(end: socket.socket) -> socket.socket:
    """Let forks of this process close it: else its other end would not notice when we die."""
    _ours.add(end)
    return end


def _close() -> None:
    for end in list(_ours):
        with suppress(OSError):
            end.close()


os.register_at_fork(after_in_child=_close)
