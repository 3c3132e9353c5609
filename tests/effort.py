"""How long the long suites take: a slice in `make test`; `make stress MINUTES=n` shares n minutes among them."""

from __future__ import annotations

import os

MINUTES = float(os.environ.get("DRAY_TEST_MINUTES", "0"))
LONG_SUITES = 5  # crashes, failpoints, model, outages, lines
DATABASES = 3
KILL_EVERY = 4.5  # seconds


def seconds(slice_of: float) -> float:
    """What one long suite may take on one database: `slice_of` seconds, or its share of the minutes that were asked for."""
    return max(slice_of, MINUTES * 60 / (LONG_SUITES * DATABASES))


def kills(least: int) -> int:
    """How many kills fit in there; in a trial they are some seconds apart."""
    return max(least, int(seconds(0) / KILL_EVERY))
