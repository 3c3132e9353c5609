"""What running jobs say: log lines, and the output of commands. Lines are added and never changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, delete, select

from dray.codec import sanitize
from dray.job import Lease
from dray.store.codes import EPOCH, instant
from dray.store.tables import Tables

CHUNK = 1000  # lines in one statement
CHUNK_BYTES = 4_000_000  # MariaDB takes packets of 16 MB unless told otherwise
STREAM_LIMIT = 16  # characters of a stream's name


class Line(NamedTuple):
    """A line as its worker hands it in; `ago`: how many seconds before this write it was said."""

    job_id: int
    fence: int
    stream: str
    text: str
    ago: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLine:
    """A line as people read it; the fence tells which run of the job said it."""

    id: int
    fence: int
    at: datetime
    stream: str
    text: str


_FIELDS = {"o": "int", "j": "int", "f": "int", "a": "int", "s": "text", "l": "text"}
_INSERT = (
    "INSERT INTO {output} (job_id, fence, at, stream, line)"
    " SELECT d.j, d.f, n.now - d.a, d.s, d.l FROM (SELECT {now} AS now) AS n, "
)


def write(connection: Connection, tables: Tables, lines: Sequence[Line]) -> None:
    """Add lines in the order given, a thousand with each statement."""
    # "WHERE true" keeps SQLite's grammar from reading ORDER BY as part of a join.
    statement = tables.text(_INSERT + tables.dialect.rows(_FIELDS) + " WHERE true ORDER BY d.o")
    for chunk in _chunks(lines):
        rows = [
            {
                "o": order,
                "j": line.job_id,
                "f": line.fence,
                "a": round(line.ago * 1_000_000),
                "s": sanitize(line.stream)[:STREAM_LIMIT],
                "l": sanitize(line.text),
            }
            for order, line in enumerate(chunk)
        ]
        connection.execute(statement, {"doc": msgspec.json.encode(rows).decode()})


def _chunks(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    start = size = 0
    for position, line in enumerate(lines):
        # Four bytes for a character is the worst case; an exact count would cost an encoding.
        added = 4 * len(line.text) + 100
        if position > start and (position - start >= CHUNK or size + added > CHUNK_BYTES):
            yield lines[start:position]
            start, size = position, 0
        size += added
    if start < len(lines):
        yield lines[start:]


def forget(connection: Connection, tables: Tables, lease: Lease) -> None:
    """Delete what one run has said."""
    output = tables.output
    connection.execute(delete(output).where(output.c.job_id == lease.id, output.c.fence == lease.fence))


def read(connection: Connection, tables: Tables, job_id: int, after: int = 0, limit: int = 1000) -> list[OutputLine]:
    """The lines of a job behind the line `after`, in order; to follow, ask again with the last id."""
    output = tables.output
    query = (
        select(output.c.id, output.c.fence, output.c.at, output.c.stream, output.c.line)
        .where(output.c.job_id == job_id, output.c.id > after)
        .order_by(output.c.id)
        .limit(limit)
    )
    return [
        OutputLine(id=row.id, fence=row.fence, at=instant(row.at) or EPOCH, stream=row.stream, text=row.line)
        for row in connection.execute(query)
    ]
