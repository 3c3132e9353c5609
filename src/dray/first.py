"""What process 1 of a container has to do beside its work: heed signals, and collect whoever ends there.

The system gives it no default actions: a TERM that it has no handler for is dropped, and the container is killed at last. And
every process whose parent has ended is left to it. Whom its own code waits for cannot be told from those, so somebody else has
to do the work: in a process of its own, whose children are its own.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

PASSED_ON = frozenset(
    {
        *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH),
    }
)


def hold() -> None:
    """As process 1: let signals wait until somebody heeds them."""
    if os.getpid() == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)


def release() -> None:
    """From now on they are heeded."""
    if os.getpid() == 1:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)


def _holds() -> bool:
    return os.getpid() == 1 and signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def step_aside() -> None:
    """As process 1 that holds its signals: go on in a new process. This one passes them on, collects whoever ends, and ends as
    that one does."""
    if not _holds():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if somebody ignores it, ends are told to nobody
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*PASSED_ON, signal.SIGCHLD})
        return
    code = None
    while code is None:
        heard = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if heard.si_signo == signal.SIGCHLD:
            code = _collect(pid)
        elif heard.si_code <= 0:  # somebody has sent it; what a terminal says, all of its processes hear
            os.kill(pid, heard.si_signo)
    os._exit(code if code >= 0 else 128 - code)


def _collect(awaited: int) -> int | None:
    """Collect all that have ended; gives how the one has that is waited for, if it was among them."""
    code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == awaited:
                code = os.waitstatus_to_exitcode(status)
    return code
