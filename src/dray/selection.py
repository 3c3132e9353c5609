"""Which of the waiting jobs a worker takes next: from which queues, in what proportion, of which tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from dray.errors import BadOption
from dray.job import name_hash
from dray.options import check_choice, check_name

T = TypeVar("T")

PRIORITY, WEIGHTED, STRICT = STRATEGIES = ("priority", "weighted", "strict")
RESERVE = 0.05  # of the starts go to queues behind the first, under "strict": nobody waits for ever (C54)
MOST_WEIGHT = 1_000_000
DEEP = 1000  # how many ready jobs of a lane are looked at for those of the wanted tasks


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks a worker takes (S0.48): only those of `only`, if there are any, and none of `without`."""

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.only, *self.without):
            check_name("task", name)
        if both := set(self.only) & set(self.without):
            raise BadOption(f"task {both.pop()!r} is wanted and not wanted at once")

    def __bool__(self) -> bool:
        return bool(self.only or self.without)

    def takes(self, task: str) -> bool:
        """Whether a job of this task is taken."""
        return task in self.only if self.only else task not in self.without

    @property
    def hashes(self) -> list[int]:
        """Of the tasks that are wanted, or else of those that are not."""
        return sorted(name_hash(name) for name in (self.only or self.without))

    def show(self) -> str | None:
        """In words, as it stands in the row of a worker: `only a, b` or `not c`; None: all are taken."""
        if self.only:
            return f"only {', '.join(self.only)}"
        return f"not {', '.join(self.without)}" if self.without else None

    @classmethod
    def parse(cls, shown: str | None) -> TaskFilter:
        """The filter that was shown so; what cannot be read takes all."""
        word, _, names = (shown or "").partition(" ")
        some = tuple(name for name in names.split(", ") if name)
        return cls(only=some) if word == "only" else cls(without=some) if word == "not" else cls()


class Choice(Protocol):
    """How a claim is divided among queues, by their hashes."""

    def shares(self, queues: Sequence[int], wanted: int) -> list[tuple[int, int]]:
        """From which of these queues, which are not empty, to take how many; in this order. Some or all of what is wanted."""
        ...


@dataclass(slots=True)
class Weighted:
    """Each queue that is not empty gets its share by weight, exactly on the long run (S3.25, C53). A weight of 0 is off."""

    weights: Mapping[int, int]  # by the hash of the queue; 1 for one that is not named
    _credit: dict[int, float] = field(default_factory=dict)

    def shares(self, queues: Sequence[int], wanted: int) -> list[tuple[int, int]]:
        weights = {queue: weight for queue in queues if (weight := self.weights.get(queue, 1)) > 0}
        total = sum(weights.values())
        if not total:
            return []
        # What a queue was owed while it was empty is forgotten.
        due = {queue: self._credit.get(queue, 0.0) + wanted * weight / total for queue, weight in weights.items()}
        given = {queue: max(0, int(owed)) for queue, owed in due.items()}
        while (left := wanted - sum(given.values())) > 0:
            for queue in sorted(due, key=lambda queue: (given[queue] - due[queue], queue))[:left]:
                given[queue] += 1
        while (over := sum(given.values()) - wanted) > 0:
            taken = [queue for queue, number in given.items() if number]
            for queue in sorted(taken, key=lambda queue: (due[queue] - given[queue], queue))[:over]:
                given[queue] -= 1
        self._credit = {queue: due[queue] - given[queue] for queue in due}
        return [(queue, number) for queue, number in given.items() if number]


@dataclass(slots=True)
class Strict:
    """The first queue that is not empty, in this order; but a reserved share for those behind it, who take turns (S3.26)."""

    order: Sequence[int]  # hashes of queues; those not named come last
    reserve: float = RESERVE
    _owed: float = 0.0
    _turn: int = 0

    def shares(self, queues: Sequence[int], wanted: int) -> list[tuple[int, int]]:
        places = {queue: place for place, queue in enumerate(self.order)}
        first, *others = sorted(queues, key=lambda queue: (places.get(queue, len(places)), queue))
        if not others:
            self._owed = 0.0
            return [(first, wanted)]
        self._owed += wanted * self.reserve
        reserved = min(int(self._owed + 1e-9), wanted)
        self._owed -= reserved
        if not reserved:
            return [(first, wanted)]
        self._turn += 1
        shares = [(first, wanted - reserved), (others[self._turn % len(others)], reserved)]
        return [share for share in shares if share[1]]


def spread(some: Sequence[Sequence[T]]) -> list[T]:
    """Merge lists so that each is spread evenly over the whole.

    >>> "".join(spread(["aaaa", "bb"]))
    'aabaab'
    """
    placed = [
        ((place + 1) / (len(one) + 1), number, place, item) for number, one in enumerate(some) for place, item in enumerate(one)
    ]
    return [item for *_, item in sorted(placed, key=lambda one: one[:3])]


def choice_of(strategy: str, weights: Mapping[str, int]) -> Choice | None:
    """How to choose among queues; None: by priority alone, whatever the queue. Raises BadOption.

    strategy    "priority", "weighted" or "strict"
    weights     of the queues, in their order; under "strict" the greater weight comes first, equal ones as they stand
    """
    check_choice("strategy", strategy, STRATEGIES)
    hashed = {name_hash(name): weight for name, weight in weights.items()}
    if strategy == WEIGHTED:
        if hashed and not any(hashed.values()):
            raise BadOption("every queue has the weight 0, so nothing would ever be taken")
        return Weighted(hashed)
    if strategy == STRICT:
        if not hashed:
            raise BadOption("the strategy strict needs queues in an order: name them, the most important first")
        return Strict(sorted(hashed, key=lambda queue: -hashed[queue]))
    return None


def read_queues(given: Iterable[str]) -> dict[str, int]:
    """Read queues with their weights: `mail:5`, or `mail` for a weight of 1. Raises BadOption.

    >>> read_queues(["mail:5", "reports"])
    {'mail': 5, 'reports': 1}
    """
    found: dict[str, int] = {}
    for text in given:
        name, colon, weight = text.rpartition(":")
        if not colon or not weight.isascii() or not weight.isdecimal():
            name, weight = text, "1"
        check_name("queue", name)
        if name in found:
            raise BadOption(f"queue {name!r} is named twice")
        found[name] = check_weight(name, int(weight))
    return found


def check_weight(queue: str, weight: object) -> int:
    """Give back the weight of a queue; raises BadOption unless it is a whole number from 0 up (S3.21)."""
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= MOST_WEIGHT:
        raise BadOption(f"the weight of queue {queue!r} must be a whole number from 0 to {MOST_WEIGHT}, got {weight!r}")
    return weight


def route(task: str, routes: Mapping[str, str]) -> str | None:
    """The queue of a task by a map of names, or patterns such as `send_*`, to queues (S3.23); the first that fits counts."""
    exact = routes.get(task)
    if exact is not None:
        return exact
    return next((queue for pattern, queue in routes.items() if fnmatchcase(task, pattern)), None)
