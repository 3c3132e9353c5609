"""The process between a worker and a command. It is started as a file, imports nothing of Dray, and so stays small.

It starts the command in a process group of its own, waits for its end, and says what it came to. When the worker is gone,
however that happened, or frozen for so long that others may be about to take over, it ends the command at once, since its job
may be started elsewhere at once. Its arguments are the numbers of a socket to the worker and of the worker's `pulse`, the
worker's pid, the folder to be in ("" for the worker's), and the command. On the socket it says, as JSON:

    {"pid": 7}                      it runs; the number is also that of its process group
    {"error": "...", "errno": 2}    it could not be started
    {"late": true}                  it is ended, since others may be about to take over
    {"status": 0, "cpu": 0.1, "memory": 9000}   it has ended: as waitpid says it, processor seconds, and KiB at most
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

LOOK_EVERY = 1.0  # seconds between looks at the worker: a fork of it may hold the other end of the socket open


def say(life: socket.socket, **facts: object) -> None:
    with contextlib.suppress(OSError):  # nobody is there to hear it
        life.sendall(json.dumps(facts).encode() + b"\n")


def signal_group(group: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.killpg(group, number)


def ended(pid: int) -> tuple[int, float, int] | None:
    """What the command came to, if it has ended."""
    found, status, usage = os.wait4(pid, os.WNOHANG)
    return (status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss) if found == pid else None


def steady() -> float:
    """Seconds by the clock of the page, which also runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def left(page: int) -> float:
    """Seconds until what runs has to have ended, by the first eight bytes of the page; 0 or less when it is over."""
    (end,) = struct.unpack("d", os.pread(page, 8, 0))
    return float(end) - steady()


def start(folder: str, command: list[str]) -> int:
    """Start the command; gives its pid. Raises OSError."""
    defaults = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
    if folder:
        os.chdir(folder)
    return os.posix_spawnp(command[0], command, os.environ, setpgroup=0, setsigdef=defaults, setsigmask=[])


def main() -> None:
    life, page, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    for number in (life.fileno(), page):
        os.set_inheritable(number, False)
    bell, rung = os.pipe()
    os.set_blocking(rung, False)
    signal.set_wakeup_fd(rung, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    if left(page) <= 0:  # it was frozen before it came to that
        say(life, late=True)
        return
    try:
        pid = start(sys.argv[4], sys.argv[5:])
    except OSError as error:
        say(life, error=error.strerror or str(error), errno=error.errno)
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # the command's own: who reads them shall see their end when it ends
        os.dup2(nothing, number)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # it ends with its command
    say(life, pid=pid)
    while (end := ended(pid)) is None:
        sources: list[Any] = [bell, life]
        readable, _, _ = select.select(sources, [], [], min(LOOK_EVERY, max(left(page), 0)))
        if bell in readable:
            os.read(bell, 4096)
        if (late := left(page) <= 0) or os.getppid() != parent or (life in readable and not life.recv(100)):
            signal_group(pid, signal.SIGKILL)
            if late:
                say(life, late=True)
            return
    say(life, status=end[0], cpu=end[1], memory=end[2])


if __name__ == "__main__":
    main()
