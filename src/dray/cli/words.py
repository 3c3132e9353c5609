"""How times and texts are shown to people. Nothing here needs more than Python: the tender uses it too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from dray.durations import show_duration

# What could move a terminal's cursor or change its colours: a job's text is written by others.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """A text that does nothing to a terminal but appear on it.

    >>> clean("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(text: str) -> str:
    """The same on one line."""
    return clean(text.replace("\r\n", "\n").replace("\n", "\\n").replace("\t", " "))


def about(seconds: float) -> str:
    """Say a time with the two units that matter.

    >>> about(0.25), about(130.7), about(7_200), about(100_000), about(40 * 86_400)
    ('0.2s', '2m10s', '2h', '1d3h', '40d')
    """
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds % 1 >= 0.05 else f"{seconds:.0f}s"
    for limit, step in ((3_600, 1), (86_400, 60), (7 * 86_400, 3_600)):
        if seconds < limit:
            return show_duration(float(seconds // step * step))
    return f"{seconds // 86_400:.0f}d"


def when(moment: datetime | None, *, now: datetime | None = None) -> str:
    """An instant for people: relative to `now`, or without it in ISO 8601, UTC."""
    if moment is None:
        return "-"
    if now is None:
        return iso(moment)
    seconds = (moment - now).total_seconds()
    return f"in {about(seconds)}" if seconds > 0 else f"{about(-seconds)} ago"


def iso(moment: datetime) -> str:
    """An instant in ISO 8601, UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def count(number: int, cap: int) -> str:
    """A number that was counted up to a cap plus one.

    >>> count(1204, 10_000), count(10_001, 10_000)
    ('1,204', '10,000+')
    """
    return f"{cap:,}+" if number > cap else f"{number:,}"


def jobs_word(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


def facts_line(facts: Mapping[str, object]) -> str:
    """Facts as `name=value`, on one line; a value with a blank in it stands in quotes.

    >>> facts_line({"job_id": 7, "error": "it broke"})
    'job_id=7 error="it broke"'
    """
    return " ".join(f"{name}={_fact(value)}" for name, value in facts.items())


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = one_line(str(value))
    return f'"{text}"' if " " in text or not text else text
