"""The rows by name: what is measured for each, and beside which raw figure it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import dray_rows, raw

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    jobs: int
    repetitions: int
    idle: float  # seconds an idle worker is watched
    waits: int = 100  # jobs whose latency is measured

    @property
    def single(self) -> int:
        """Jobs that are enqueued one by one, each with a commit of its own."""
        return max(50, self.jobs // 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: `run` measures it once on an empty database."""

    name: str
    run: Callable[[str, Size], Figures]
    raw: str | None = None  # the row it is compared with
    filled: bool = False  # the jobs are there before


def _rate(jobs: int, seconds: float) -> Figures:
    return {"jobs/s": jobs / seconds}


ROWS = {
    row.name: row
    for row in (
        Row(name="raw", run=lambda url, size: _rate(size.jobs, raw.drained(url, size.jobs)), filled=True),
        Row(
            name="drain",
            run=lambda url, size: _rate(size.jobs, dray_rows.drained(url, size.jobs, 1)),
            raw="raw",
            filled=True,
        ),
        Row(
            name="drain-2",
            run=lambda url, size: _rate(size.jobs, dray_rows.drained(url, size.jobs, 2)),
            raw="raw",
            filled=True,
        ),
        Row(name="raw-one", run=lambda url, size: _rate(size.single, raw.inserted_one_by_one(url, size.single))),
        Row(
            name="enqueue-one",
            run=lambda url, size: _rate(size.single, dray_rows.enqueued_one_by_one(url, size.single)),
            raw="raw-one",
        ),
        Row(name="raw-many", run=lambda url, size: _rate(size.jobs, raw.inserted_in_chunks(url, size.jobs, dray_rows.CHUNK))),
        Row(
            name="enqueue-many",
            run=lambda url, size: _rate(size.jobs, dray_rows.enqueued_in_chunks(url, size.jobs)),
            raw="raw-many",
        ),
        Row(
            name="raw-in-transaction",
            run=lambda url, size: _rate(size.single, raw.inserted_in_transactions(url, size.single)),
        ),
        Row(
            name="enqueue-in-transaction",
            run=lambda url, size: _rate(size.single, dray_rows.enqueued_in_transactions(url, size.single)),
            raw="raw-in-transaction",
        ),
        Row(name="latency", run=lambda url, size: dray_rows.latencies(url, size.waits, size.idle)),
    )
}


def chosen(names: list[str]) -> list[Row]:
    """These rows, none meaning all, each with the raw one beside it."""
    wanted = set(names or ROWS)
    wanted |= {ROWS[name].raw or name for name in wanted}
    return [row for name, row in ROWS.items() if name in wanted]
