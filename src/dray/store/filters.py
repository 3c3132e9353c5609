"""Which jobs a list shall show: a value made of words that people write; none of them becomes SQL (C90)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from dray.durations import parse_duration
from dray.errors import BadFilter, BadOption
from dray.job import Reason, State

W = TypeVar("W", bound=StrEnum)

DEEP = 100_000  # jobs, the newest, among which is looked for what no index finds
DEEPLY = f"looked among the newest {DEEP:,} jobs: no index finds what text: and group: name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a job must be to be listed; what is None or empty does not matter.

    Names are exact (C50): queue `app` does not find `app2`.

    states      any of these
    label       a name and a value
    since       created at this instant or later
    until       created before it
    reason      why it is blocked
    group       the group that it is in; looked for among the newest `DEEP` jobs
    text        what its arguments or its error contain, large letters or small; looked for among as many
    """

    states: frozenset[State] = frozenset()
    queue: str | None = None
    task: str | None = None
    key: str | None = None
    owner: str | None = None
    worker_id: int | None = None
    label: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    reason: Reason | None = None
    group: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise BadFilter(f"{name} needs a time zone, got {moment!r}")

    @classmethod
    def parse(cls, words: Mapping[str, Any], now: datetime | None = None) -> Filter:
        """Read a filter from words such as `{"state": "failed,retrying", "queue": "mail", "since": "1h"}`.

        A duration in `since` and `until` is counted back from `now`. Empty words are passed over, as a form
        sends them. Raises BadFilter for a column that is not in the list, and for a value that does not fit.
        """
        values: dict[str, Any] = {}
        for name, word in words.items():
            if name not in _READERS:
                raise BadFilter(f"jobs cannot be listed by {name!r}; allowed: {', '.join(FILTERS)}")
            if word is None or word == "":
                continue
            field, read = _READERS[name]
            values[field] = read(name, word, now or datetime.now(UTC))
        return cls(**values)

    @property
    def selective(self) -> bool:
        """Whether it names something that few jobs share and an index finds."""
        return any(one is not None for one in (self.key, self.owner, self.label, self.worker_id))

    @property
    def is_deep(self) -> bool:
        """Whether no index finds what it names, so that only the newest jobs are looked at."""
        return self.group is not None or self.text is not None

    def possible_states(self) -> frozenset[State] | None:
        """The states that a job it lets through can be in; None: any."""
        if self.reason is None:
            return self.states or None
        blocked = frozenset({State.BLOCKED})  # the only state that has a reason
        return self.states & blocked if self.states else blocked


def _text(name: str, word: Any, now: datetime) -> str:
    return str(word)


def _states(name: str, word: Any, now: datetime) -> frozenset[State]:
    words = word.split(",") if isinstance(word, str) else word
    return frozenset(_one_of(State, name, one) for one in words)


def _reason(name: str, word: Any, now: datetime) -> Reason:
    return _one_of(Reason, name, word)


def _one_of(words: type[W], name: str, word: Any) -> W:
    try:
        return words(str(word).strip())
    except ValueError:
        raise BadFilter(f"{name} must be one of {', '.join(words)}, got {word!r}") from None


def _number(name: str, word: Any, now: datetime) -> int:
    try:
        number = int(word)
    except (TypeError, ValueError):
        raise BadFilter(f"{name} must be a whole number, got {word!r}") from None
    if abs(number) >= 2**63:
        raise BadFilter(f"{name} is too large: {word!r}")
    return number


def _label(name: str, word: Any, now: datetime) -> tuple[str, str]:
    pair = tuple(word.split("=", 1)) if isinstance(word, str) else tuple(word)
    if len(pair) != 2:
        raise BadFilter(f"{name} must be written as name=value, got {word!r}")
    return str(pair[0]), str(pair[1])


def _moment(name: str, word: Any, now: datetime) -> datetime:
    if isinstance(word, datetime):
        return word
    try:
        return now - timedelta(seconds=parse_duration(word))
    except (BadOption, OverflowError):
        pass
    try:
        return datetime.fromisoformat(str(word))
    except ValueError:
        expected = "an age such as 1h or a time such as 2024-02-29T12:00Z"
        raise BadFilter(f"{name} must be {expected}, got {word!r}") from None


_READERS: dict[str, tuple[str, Callable[[str, Any, datetime], Any]]] = {
    "state": ("states", _states),
    "states": ("states", _states),
    "queue": ("queue", _text),
    "task": ("task", _text),
    "key": ("key", _text),
    "owner": ("owner", _text),
    "worker": ("worker_id", _number),
    "worker_id": ("worker_id", _number),
    "label": ("label", _label),
    "since": ("since", _moment),
    "until": ("until", _moment),
    "reason": ("reason", _reason),
    "group": ("group", _text),
    "text": ("text", _text),
}
FILTERS = ("state", "queue", "task", "key", "owner", "worker", "label", "since", "until", "reason", "group", "text")
