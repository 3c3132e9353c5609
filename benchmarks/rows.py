"""The rows by name: what is measured for each, and beside which others it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import dray_rows, listener, raw
from benchmarks.beds import SQL
from benchmarks.peer_rows import Guest
from benchmarks.peers.catalogue import FOLDER, PEERS, Peer

Figures = dict[str, float]
DRAY = "dray"
KINDS = "drain", "enqueue-one", "enqueue-many", "enqueue-in-transaction", "latency"


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
        return max(50, self.jobs // 100)

    @property
    def fewer(self) -> int:
        """Jobs of rows that take long, or have no start that would weigh."""
        return min(self.jobs, max(1_000, self.jobs // 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: `run` measures it once on an empty database."""

    name: str
    kind: str  # rows of a kind are measured one after the other
    run: Callable[[str, int, Size], Figures]
    jobs: Callable[[Size], int]
    group: str = DRAY  # whose it is
    fill: Callable[[str, int], None] | None = None  # puts the jobs there before
    raw: str | None = None  # the row of the bare driver that it is compared with
    beside: tuple[str, ...] = ()  # the rows of Dray that a peer's is compared with
    databases: tuple[str, ...] = SQL


def _all(size: Size) -> int:
    return size.jobs


def _fewer(size: Size) -> int:
    return size.fewer


def _single(size: Size) -> int:
    return size.single


def _waits(size: Size) -> int:
    return size.waits


def _rate(seconds: Callable[[str, int], float]) -> Callable[[str, int, Size], Figures]:
    return lambda url, jobs, size: {"jobs/s": jobs / seconds(url, jobs)}


def _drain(drained: Callable[[str, int, int], Figures], workers: int) -> Callable[[str, int, Size], Figures]:
    return lambda url, jobs, size: drained(url, jobs, workers)


def _wait(latencies: Callable[[str, int, float], Figures]) -> Callable[[str, int, Size], Figures]:
    return lambda url, jobs, size: latencies(url, jobs, size.idle)


def _own() -> Iterator[Row]:
    fill = dray_rows.fill
    yield Row(name="raw", kind="drain", run=_rate(raw.drained), jobs=_all, fill=fill)
    for name, workers in (("drain", 1), ("drain-2", 2)):
        yield Row(name=name, kind="drain", run=_drain(dray_rows.drained, workers), jobs=_all, fill=fill, raw="raw")
    gated = (
        ("drain-groups", dray_rows.fill_groups, _all),
        ("drain-limits", dray_rows.fill_limits, _all),
        ("drain-dependents", dray_rows.fill_pairs, _all),
        ("drain-one-group", dray_rows.fill_line, lambda size: size.fewer // 10),
        ("drain-one-group-ahead", dray_rows.fill_line_ahead, _fewer),
    )
    for name, filled, jobs in gated:
        yield Row(name=name, kind="drain", run=_drain(dray_rows.drained, 1), jobs=jobs, fill=filled, raw="drain")
    pairs = (
        ("enqueue-one", raw.inserted_one_by_one, dray_rows.enqueued_one_by_one, _single),
        ("enqueue-many", raw.inserted_in_chunks, dray_rows.enqueued_in_chunks, _fewer),
        ("enqueue-in-transaction", raw.inserted_in_transactions, dray_rows.enqueued_in_transactions, _single),
    )
    for kind, bare, own, jobs in pairs:
        below = kind.replace("enqueue", "raw")
        yield Row(name=below, kind=kind, run=_rate(bare), jobs=jobs)
        yield Row(name=kind, kind=kind, run=_rate(own), jobs=jobs, raw=below)
    least = Row(name="raw-latency", kind="latency", run=_wait(listener.latencies), jobs=_waits, databases=("postgresql",))
    yield least
    yield Row(name="latency", kind="latency", run=_wait(dray_rows.latencies), jobs=_waits, raw=least.name)


def rows_of(peer: Peer, folder: Path) -> Iterator[Row]:
    """The rows of one peer, named and measured as Dray's are."""
    guest = Guest(peer, folder)

    def row(
        name: str, run: Callable[[str, int, Size], Figures], jobs: Callable[[Size], int], *beside: str, filled: bool = False
    ) -> Row:
        return Row(
            name=f"{peer.name}-{name}",
            kind=beside[0],
            run=run,
            jobs=jobs,
            group=peer.name,
            fill=guest.fill if filled else None,
            beside=beside,
            databases=peer.databases,
        )

    for name, workers in (("drain", 1), ("drain-2", 2)):
        run = _drain(guest.drained, workers)
        yield row(name, run, lambda size: peer.drained(size.jobs), "drain", "drain-2", filled=True)
    yield row("enqueue-one", _rate(guest.enqueued_one_by_one), _single, "enqueue-one")
    if peer.bulk:
        yield row("enqueue-many", _rate(guest.enqueued_in_chunks), _fewer, "enqueue-many")
    yield row("latency", _wait(guest.latencies), _waits, "latency")


def all_rows(folder: Path = FOLDER) -> dict[str, Row]:
    """Every row by name, peers' too, wherever they are installed; those of a kind beside each other."""
    rows = [*_own(), *(row for peer in PEERS.values() for row in rows_of(peer, folder))]
    return {row.name: row for row in sorted(rows, key=lambda row: KINDS.index(row.kind))}


def chosen(rows: Iterable[Row], names: list[str], database: str) -> list[Row]:
    """Those of these rows or groups (none meaning all) that run on this database, with what they are compared with."""
    rows = [row for row in rows if database in row.databases]
    wanted = [row for row in rows if not names or row.name in names or row.group in names]
    companions = {name for row in wanted for name in (row.raw, *row.beside)}
    return [row for row in rows if row in wanted or row.name in companions]
