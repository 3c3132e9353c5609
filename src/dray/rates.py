"""What a rate remembers of the starts it has allowed: enough that no stretch of its time sees too many, and never much.

Starts are pairs of an instant and a count, instants and times in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Start = tuple[int, int]

KEPT = 64  # parts of a rate's time of which it is known how many started in each, where there were more starts than that


def counting(starts: Iterable[Start], now: int, per: int) -> list[Start]:
    """Those that count still. What a clock that was set back makes a thing of the future counts as if it were now."""
    return sorted((min(at, now), count) for at, count in starts if at > now - per)


def thinned(starts: Sequence[Start], per: int) -> list[Start]:
    """The same starts, in ascending order, in `KEPT` pairs and one more at most.

    Those of one part of the time become one pair, with the instant of the last of them: so they count for as long as each of
    them would, and the first a little longer.
    """
    if len(starts) <= KEPT:
        return list(starts)
    width = -(-per // KEPT)
    parts: dict[int, Start] = {}
    for at, count in starts:
        last, before = parts.get(at // width, (at, 0))
        parts[at // width] = (max(at, last), before + count)
    return sorted(parts.values())
