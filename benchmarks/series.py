"""What was measured of one row, again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from benchmarks.rows import Figures, Row

RATE = "jobs/s"
WAIT = "p50 ms"


@dataclass(slots=True)
class Series:
    """All repetitions of one row on one database."""

    database: str
    row: Row
    figures: list[Figures] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # processors that everybody else used meanwhile

    @property
    def measure(self) -> str:
        """By which it is compared with another."""
        return RATE if RATE in self.figures[0] else WAIT

    def median(self, name: str) -> float:
        return median(one[name] for one in self.figures)
