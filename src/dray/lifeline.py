"""A pipe of which only the worker has the end that writes: when the worker is gone, the kernel ends what runs in its processes.

An isolated job may be in a call into C that keeps the interpreter's lock: then no line of Python runs in its process that could
notice that its worker is gone, while others start the job anew at once. On Linux a file can send a signal of one's choice when
something happens to it, so it is SIGKILL. The heart uses the same pipe for a worker that cannot end anything itself, and
loads this module as a file, so this imports nothing of Dray. Elsewhere nothing of this happens, and Python has to notice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal

_SET_SIGNAL = getattr(fcntl, "F_SETSIG", None)  # only Linux has it


def hold_on(line: int) -> bool:
    """Tie this process, and its group, to the line: they end with whoever has the other end, whatever runs here. Whether that
    can be done. The process has to lead its group."""
    if _SET_SIGNAL is None:
        return False
    try:
        # Opened anew: what it sends to whom would else be the same for all who have it.
        mine = os.open(f"/proc/self/fd/{line}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    fcntl.fcntl(mine, fcntl.F_SETOWN, -os.getpid())
    fcntl.fcntl(mine, _SET_SIGNAL, signal.SIGKILL)
    fcntl.fcntl(mine, fcntl.F_SETFL, fcntl.fcntl(mine, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([mine], [], [], 0)[0]:  # it had broken by then
        end_group()
    return True


def cut(line: int) -> None:
    """End all that hold on to it: they take what is written there for its end."""
    with contextlib.suppress(OSError):
        other = os.open(f"/proc/self/fd/{line}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(other, b"!")
            os.read(line, 1)  # those to come shall not find it
        finally:
            os.close(other)


def end_group() -> None:
    """End this process, and whatever is in its group, at once."""
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)  # it has left its group
