"""Many rows in one statement: they go to the database as one JSON document, which it reads as a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import TextClause

from dray.codec import sanitize
from dray.job import Lease
from dray.store.tables import Tables

Value = int | str | None

CHUNK_BYTES = 4_000_000  # in one statement: MariaDB takes packets of 16 MB unless told otherwise


def with_rows(tables: Tables, template: str, columns: Mapping[str, str]) -> TextClause:
    """The statement of a template in which `{rows}` stands for the document's rows, with these columns."""
    return tables.text(template.replace("{rows}", tables.dialect.rows(columns)))


def by_ids(tables: Tables, template: str) -> TextClause:
    """The same for ids, or hashes, that `codes.document` gives: they are the column `d.i`."""
    return tables.text(template.replace("{rows}", tables.dialect.ids()))


def by_leases(tables: Tables, template: str) -> TextClause:
    """The same for leases, that `lease_document` gives: `d.i` and `d.f`."""
    return with_rows(tables, template, _LEASES)


def lease_document(leases: Iterable[Lease]) -> str:
    """Leases as a statement takes them in its parameter `doc`."""
    return msgspec.json.encode([{"i": lease.id, "f": lease.fence} for lease in leases]).decode()


_LEASES = {"i": "int", "f": "int"}


def documents(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The rows as JSON arrays, none of which is more than a server takes at once."""
    return _parts(list(rows))


def packed(columns: Collection[str], rows: Iterable[Sequence[Value]]) -> Iterator[str]:
    """The same of rows whose values are in the order of the columns."""
    make = _record(tuple(columns))
    return _parts([make(*row) for row in rows])


class Bound(NamedTuple):
    """Values for a statement of so many rows."""

    size: int
    values: list[Value]


SIZES = (1, 10, 100, 500)  # of statements: few, so that the driver keeps them all prepared


def bound(rows: Sequence[Sequence[Value]], width: int) -> Iterator[Bound]:
    """Rows for statements with the `values` of one of the SIZES; what is left over are rows of nulls."""
    for start in range(0, len(rows), SIZES[-1]):
        some = rows[start : start + SIZES[-1]]
        size = next(size for size in SIZES if size >= len(some))
        yield Bound(size, [*chain.from_iterable(some), *[None] * (width * (size - len(some)))])


def values(columns: Collection[str], size: int) -> str:
    """SQL, in the words of SQLite and its driver: a table `d` of so many rows, each value of which is bound by itself."""
    row = f"({', '.join('?' * len(columns))})"
    names = ", ".join(f"column{place} AS {name}" for place, name in enumerate(columns, 1))
    return f"(SELECT {names} FROM (VALUES {', '.join([row] * size)})) AS d"


@cache
def _record(columns: tuple[str, ...]) -> type[msgspec.Struct]:
    return msgspec.defstruct("Row", columns)


def _parts(rows: Sequence[Any]) -> Iterator[str]:
    whole = msgspec.json.encode(rows)
    if len(whole) <= CHUNK_BYTES:  # as nearly always
        if rows:
            yield whole.decode()
        return
    chunk: list[str] = []
    size = 0
    for line in map(msgspec.json.encode, rows):
        if chunk and size + len(line) > CHUNK_BYTES:
            yield f"[{','.join(chunk)}]"
            chunk, size = [], 0
        chunk.append(line.decode())
        size += len(line)
    yield f"[{','.join(chunk)}]"


def storable(text: str | None) -> str | None:
    """A text that every database takes. One character it refuses would cost the whole batch, now and at each further try."""
    return None if text is None else sanitize(text)
