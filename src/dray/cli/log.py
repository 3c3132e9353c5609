"""The log of processes that stay: one line for each event."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Protocol

from dray.cli.words import facts_line, iso, one_line


class Stream(Protocol):
    """What a log needs of a stream."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class OneLine(logging.Formatter):
    """`time level event facts`, whatever is in them; only a traceback takes more than a line."""

    def __init__(self, *, short: bool) -> None:
        super().__init__()
        self._short = short

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        shown = time.strftime("%H:%M:%S", time.localtime(record.created)) if self._short else iso(moment)
        line = f"{shown} {record.levelname.lower():8} {_said(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _said(record: logging.LogRecord) -> str:
    facts: Any = getattr(record, "dray", None)
    if isinstance(facts, dict) and isinstance(record.args, tuple) and record.args:
        return f"{record.args[0]} {facts_line(facts)}"
    return one_line(record.getMessage())


def log_to_stderr(level: str, stream: Stream | None = None) -> None:
    """Log in one-line form, unless the application has already said where its logs go; `stream` leads to standard error."""
    logging.getLogger("dray").setLevel(level.upper())
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(OneLine(short=stream is None and sys.stderr.isatty()))
        root.addHandler(handler)
        # What libraries say at debug level is not what was asked for.
        root.setLevel(max(logging.INFO, logging.getLogger("dray").level))
