"""What a command says: kept line by line, its beginning and its end, in as much memory as is allowed and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dray.durations import show_size

LINE_LIMIT = 8000  # bytes; a longer line becomes several
OVERHEAD = 100  # bytes that a line takes in memory beside its text
TAIL_LINES = 20  # that are shown with a failure

Tell = Callable[[str, str], None]


class Capture:
    """Takes two streams as they come.

    most    bytes that are kept: half of them from the beginning, which is told while it comes, half from the end
    tell    called with a line and the name of its stream
    """

    def __init__(self, most: int, tell: Tell) -> None:
        self._tell = tell
        self._head_left = self._tail_most = max(1, most // 2)
        self._tail: deque[tuple[str, bytes]] = deque()
        self._tail_size = 0
        self._dropped = 0  # bytes between the beginning and the end
        self._partial: dict[str, bytes] = {}
        self._last: deque[bytes] = deque(maxlen=TAIL_LINES)
        self.size = 0  # bytes that came

    def feed(self, stream: str, data: bytes) -> None:
        """Take what came on a stream."""
        self.size += len(data)
        *lines, rest = (self._partial.pop(stream, b"") + data).split(b"\n")
        for line in lines:
            self._take(stream, line)
        while len(rest) > LINE_LIMIT:
            self._put(stream, rest[:LINE_LIMIT])
            rest = rest[LINE_LIMIT:]
        if rest:
            self._partial[stream] = rest

    def close(self) -> None:
        """There will be no more: tell what has not been told."""
        for stream, rest in self._partial.items():
            self._take(stream, rest)
        self._partial = {}
        if self._dropped:
            self._tell(f"... {show_size(self._dropped)} left out here ...", "note")
        for stream, line in self._tail:
            self._tell(_text(line), stream)
        self._tail.clear()

    def last_lines(self) -> str:
        """The last lines it said, which mostly say what went wrong."""
        return "\n".join(map(_text, self._last))

    def last_line(self) -> str:
        """The last that is not empty."""
        return _text(next((line for line in reversed(self._last) if line.strip()), b"")).strip()

    def _take(self, stream: str, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        for start in range(0, len(line), LINE_LIMIT) or (0,):
            self._put(stream, line[start : start + LINE_LIMIT])

    def _put(self, stream: str, line: bytes) -> None:
        self._last.append(line[:500])
        size = len(line) + OVERHEAD
        if self._head_left >= size and not self._tail:
            self._head_left -= size
            self._tell(_text(line), stream)
            return
        self._head_left = 0
        self._tail.append((stream, line))
        self._tail_size += size
        while self._tail_size > self._tail_most:
            _, first = self._tail.popleft()
            self._tail_size -= len(first) + OVERHEAD
            self._dropped += len(first) + 1


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")
