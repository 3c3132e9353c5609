"""How Dray's rates stand to those of each peer on the same database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.series import RATE, Series


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of Dray's beside the best that a peer did at the same."""

    database: str
    row: str
    peer: str
    peer_rows: tuple[str, ...]
    repetitions: tuple[float, ...]  # what each says: above 1, Dray was faster

    @property
    def ratio(self) -> float:
        return median(self.repetitions)


def comparisons(series: Iterable[Series]) -> Iterator[Comparison]:
    """In each repetition against the faster of the peer's rows in that repetition; where either is missing, there is none."""
    found = [one for one in series if one.figures and RATE in one.figures[0]]
    own = {(one.database, one.row.name): one for one in found if not one.row.beside}
    theirs: dict[tuple[str, str, str], list[Series]] = {}
    for one in found:
        for name in one.row.beside:
            theirs.setdefault((one.database, name, one.row.group), []).append(one)
    for (database, name, peer), rows in theirs.items():
        if (mine := own.get((database, name))) is not None:
            best = [max(rates) for rates in zip(*map(_rates, rows), strict=False)]
            ratios = tuple(rate / other for rate, other in zip(_rates(mine), best, strict=False))
            yield Comparison(database, name, peer, tuple(row.row.name for row in rows), ratios)


def _rates(series: Series) -> list[float]:
    return [figures[RATE] for figures in series.figures]
