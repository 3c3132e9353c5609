"""What workers print is passed on line by line, in bounded memory, and without ever waiting for whoever reads it (C76)."""

from __future__ import annotations

import contextlib
import errno
import os
import select

CHUNK = 65_536  # bytes read at once, and of a line that does not end; a longer one is broken
PIECE = 4_096  # bytes: what a pipe that says it can be written to takes without a wait
FULL = 4 * CHUNK  # bytes that may wait to be written, before pipes are left unread and workers wait
OVERFULL = 2 * FULL  # beyond it our own lines are lost as well


class Outlet:
    """A stream of ours that lines go to. It is shared with others, so it is never made non-blocking."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._waiting = bytearray()
        self._poll = select.poll()
        self._poll.register(number, select.POLLOUT)
        self._is_gone = False

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read for it."""
        return len(self._waiting) >= FULL

    @property
    def has_more(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    def put(self, lines: bytes) -> None:
        """Take whole lines, and write what can be written at once."""
        if not self._is_gone and len(self._waiting) < OVERFULL:
            self._waiting += lines
            self.flush()

    def write(self, text: str) -> None:
        """The same for a log: this is a stream that never keeps anybody waiting."""
        self.put(text.encode(errors="backslashreplace"))

    def flush(self, seconds: float = 0.0) -> None:
        """Write what the reader takes; `seconds` is how long to wait each time it takes nothing."""
        while self._waiting and self._poll.poll(seconds * 1000):
            try:
                written = os.write(self.number, self._waiting[:PIECE])
            except BlockingIOError:  # somebody else made it non-blocking
                return
            except OSError as error:  # which is no reason to end the work
                self._is_gone = error.errno in (errno.EPIPE, errno.EBADF)  # nobody reads it any more; a full disk may pass
                self._waiting.clear()
                return
            del self._waiting[:written]


class Relay:
    """Passes on what comes out of a pipe. `count` is how many bytes have come so far."""

    def __init__(self, number: int, outlet: Outlet) -> None:
        self.number, self.outlet = number, outlet
        self.count = 0
        self._line = b""  # the beginning of the last one
        os.set_blocking(number, False)

    def read(self) -> bool:
        """Pass on what is there, but not for ever; False at its end."""
        try:
            came = os.read(self.number, CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            came = b""
        self.count += len(came)
        lines, newline, self._line = (self._line + came).rpartition(b"\n")
        if newline:
            self.outlet.put(lines + newline)
        if len(self._line) >= CHUNK:
            self._break()
        return bool(came)

    def close(self) -> None:
        """Pass on what is left, and close the pipe: a grandchild may hold its other end for ever."""
        with contextlib.suppress(BlockingIOError):
            while came := os.read(self.number, CHUNK):
                self.count += len(came)
                self._line += came
                if len(self._line) >= FULL:
                    break
        if self._line:
            self._break()
        os.close(self.number)

    def _break(self) -> None:
        self.outlet.put(self._line if self._line.endswith(b"\n") else self._line + b"\n")
        self._line = b""
