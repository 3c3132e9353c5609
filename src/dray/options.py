"""How a job should be queued: the options of an enqueue, and the checks of what people give as options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dray.durations import parse_size
from dray.errors import BadOption
from dray.job import NAME_LIMIT, PRIORITIES

WHEN = ("all_succeeded", "all_done")
ON_PARENT_FAILURE = ("wait", "cancel")
ON_FAILURE = ("continue", "halt")


class HasId(Protocol):
    """A job, as an enqueue or the context of a run gives it."""

    @property
    def id(self) -> int: ...


class Running(HasId, Protocol):
    """A job that runs here: what `current_job()` gives."""

    @property
    def fence(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolate:
    """How jobs of a task run in a process of their own: what crashes, leaks or hangs in it stays there.

    memory  bytes, or a size such as "512M", that the process may use; beyond them an allocation fails with a MemoryError
    jobs    runs that one process does, one after the other, until a new one takes its place
    """

    memory: int | str | None = None
    jobs: int = 100

    def __post_init__(self) -> None:
        if self.memory is not None:
            object.__setattr__(self, "memory", parse_size(self.memory))
        if isinstance(self.jobs, bool) or not isinstance(self.jobs, int) or self.jobs < 1:
            raise BadOption(f"jobs of an isolated task must be a whole number from 1 up, got {self.jobs!r}")

    @property
    def bytes(self) -> int:
        """What it may use; 0: as much as there is."""
        return self.memory if isinstance(self.memory, int) else 0

    @classmethod
    def of(cls, value: Isolate | bool) -> Isolate | None:
        """The value an option was given as; False is none."""
        if isinstance(value, bool):
            return cls() if value else None
        if not isinstance(value, Isolate):
            raise BadOption(f"isolate must be True or a dray.Isolate, got {value!r}")
        return value


@dataclass(frozen=True, slots=True)
class Limit:
    """How many jobs of one name may run at once, or start in a time, whatever worker they are on (S4.16).

    name    whatever they share: a service, a tenant. On a task it may name arguments: "tenant-{tenant_id}"
    most    so many at the same time
    rate    so many starts in `per` seconds

    The latest enqueue decides about the numbers of a name.

    >>> Limit("stripe", 10)
    Limit(name='stripe', most=10, rate=None, per=1.0)
    >>> Limit("stripe", rate=100, per=60).rule
    '100/60'
    """

    name: str
    most: int | None = None
    rate: int | None = None
    per: float = 1.0

    def __post_init__(self) -> None:
        check_name("limit", self.name)
        if self.most is None and self.rate is None:
            raise BadOption(f"limit {self.name!r} needs a number: most=10 at the same time, or rate=100, per=60 seconds")
        for name, value in (("most", self.most), ("rate", self.rate)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31):
                raise BadOption(f"{name} of limit {self.name!r} must be a whole number from 1 up, got {value!r}")
        if not 0.001 <= self.per <= 366 * 86_400:
            raise BadOption(f"per of limit {self.name!r} must be seconds, from 0.001 to a year, got {self.per!r}")

    @property
    def rule(self) -> str:
        """Its numbers in one short word, as they are stored with a job: `10`, `100/60`, `10,100/60`."""
        rate = None if self.rate is None else f"{self.rate}/{self.per:g}"
        return ",".join(str(one) for one in (self.most, rate) if one is not None)

    @classmethod
    def parse(cls, name: str, rule: str) -> Limit:
        """The limit that `rule` was made of; raises BadOption for anything else."""
        most = rate = None
        per = 1.0
        try:
            for part in rule.split(","):
                number, slash, seconds = part.partition("/")
                if slash:
                    rate, per = int(number), float(seconds)
                else:
                    most = int(number)
        except ValueError:
            raise BadOption(f"{rule!r} is no rule of a limit: write 10, 100/60 or 10,100/60") from None
        return cls(name, most, rate, per)


SCOPES = ("queued", "unfinished", "ever")
CONFLICTS = ("keep", "replace", "raise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """No two jobs of a task with the same arguments (S2.26, C59-C62).

    scope       how long a job keeps others away: "queued" until it starts, so that a change made while it runs is not lost;
                "unfinished" until it has ended; "ever", also when it has failed or was pruned
    window      instead: for so many seconds after its enqueue, whatever becomes of it
    conflict    what an enqueue of the same does: "keep" gives the job that is there, "replace" also puts the new arguments,
                priority and time into it if it has not started, "raise" raises Conflict
    by          names of the arguments that have to be the same; None: all
    debounce    run so many seconds after the last enqueue, with its arguments; implies conflict="replace"
    max_wait    but not later than so many seconds after the first
    """

    scope: str = "queued"
    window: float | None = None
    conflict: str = "keep"
    by: Sequence[str] | None = None
    debounce: float | None = None
    max_wait: float | None = None

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, SCOPES)
        check_choice("conflict", self.conflict, CONFLICTS)
        for name in ("window", "debounce", "max_wait"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e10:
                raise BadOption(f"{name} must be a number of seconds above 0, got {value!r}")
        if isinstance(self.by, str):
            raise BadOption(f"by must be a list of names of arguments, got {self.by!r}")
        if self.max_wait is not None and (self.debounce is None or self.max_wait < self.debounce):
            raise BadOption("max_wait belongs to debounce, and cannot be shorter")
        if self.debounce is not None and (self.scope != "queued" or self.window is not None):
            raise BadOption("debounce works on jobs that wait: leave scope and window out")

    @classmethod
    def of(cls, value: Unique | bool | None) -> Unique | None:
        """True is the usual kind of uniqueness, None and False are none; raises BadOption for anything else."""
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if not isinstance(value, cls):
            raise BadOption(f"unique must be True or a dray.Unique, got {value!r:.300}")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a job should be queued. None means: as its task says.

    queue       the named lane it waits in
    priority    0-999, smaller is more urgent (S2.29)
    run_in      seconds from now until it may start
    run_at      aware datetime before which it may not start
    key         the caller's own identifier, not unique by itself (S2.24)
    labels      free names and values, for people and for lists
    owner       on whose behalf it runs
    max_attempts  how often it may be started before it fails; the task's retry policy says how long it waits in between
    group       its jobs run one at a time, by priority and then in the order of the enqueues (S2.23)
    strict_order  in its group the order of the enqueues alone counts
    on_failure  what its failure does to its group: "continue", or "halt" until a person has looked (C45)
    limit       at most so many running, or starting in a time, of all jobs under the limit's name
    after       jobs, or their ids, that have to end first (S0.14)
    when        "all_succeeded" or "all_done": how those have to end
    on_parent_failure  "wait" until a person has mended them, or "cancel", when one of those fails
    parent      `current_job()`: a child of the job that runs here, which has not ended before its children have (S3.18)
    expires_in, expires_at     cancelled if it has not started after so many seconds, or at this instant
    deadline_in, deadline_at   the same, and asked to end if it runs by then
    unique      True, or a `Unique`: no second job with the same arguments
    coalesce    a number: when this job starts, those of its task that wait in its group with this number or a greater one are
                done by it (S2.36)
    """

    queue: str | None = None
    priority: int | None = None
    run_in: float | None = None
    run_at: datetime | None = None
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    max_attempts: int | None = None
    group: str | None = None
    strict_order: bool | None = None
    on_failure: str | None = None
    limit: Limit | None = None
    after: HasId | int | Sequence[HasId | int] = ()
    when: str = "all_succeeded"
    on_parent_failure: str = "wait"
    parent: Running | None = None
    expires_in: float | None = None
    expires_at: datetime | None = None
    deadline_in: float | None = None
    deadline_at: datetime | None = None
    unique: Unique | bool | None = None
    coalesce: int | None = None

    def __post_init__(self) -> None:
        if self.priority is not None:
            check_priority(self.priority)
        for name in ("queue", "key", "owner", "group"):
            if (value := getattr(self, name)) is not None:
                check_name(name, value)
        for name, value in self.labels.items():
            check_name("label", name)
            check_name(f"label {name}", value)
        if self.max_attempts is not None and self.max_attempts < 1:
            raise BadOption(f"max_attempts must be at least 1, got {self.max_attempts}")
        self._check_times()
        self._check_waits()

    def _check_times(self) -> None:
        for name in ("run", "expires", "deadline"):
            seconds, instant = getattr(self, f"{name}_in"), getattr(self, f"{name}_at")
            if seconds is not None and instant is not None:
                raise BadOption(f"give {name}_in or {name}_at, not both")
            if seconds is not None and not 0 <= seconds < 1e10:
                raise BadOption(f"{name}_in must be a number of seconds from 0 up, got {seconds!r}")
            if instant is not None and instant.tzinfo is None:
                raise BadOption(f"{name}_at needs a time zone, got {instant!r}; use datetime.now(UTC) or similar")
        given = [
            name for name in ("expires", "deadline") if any(getattr(self, f"{name}_{how}") is not None for how in ("in", "at"))
        ]
        if len(given) > 1:
            raise BadOption("give an expiry or a deadline, not both: what has to have ended by then must also have started")

    def _check_waits(self) -> None:
        if self.limit is not None and not isinstance(self.limit, Limit):
            raise BadOption(f"limit must be a dray.Limit, such as Limit('stripe', 10), got {self.limit!r}")
        check_choice("when", self.when, WHEN)
        check_choice("on_parent_failure", self.on_parent_failure, ON_PARENT_FAILURE)
        if self.on_failure is not None:
            check_choice("on_failure", self.on_failure, ON_FAILURE)
        _ = self.parents  # raises for what is no job
        Unique.of(self.unique)
        if self.coalesce is not None and (isinstance(self.coalesce, bool) or not isinstance(self.coalesce, int)):
            raise BadOption(f"coalesce must be a whole number, got {self.coalesce!r}")
        if self.parent is not None and not hasattr(self.parent, "fence"):
            raise BadOption(f"parent takes the job that runs here, parent=current_job(), not {self.parent!r:.300}")

    @property
    def parents(self) -> tuple[int, ...]:
        """The ids of the jobs in `after`, each once, ascending."""
        given = self.after
        some = given if isinstance(given, Sequence) else (given,)
        return tuple(sorted({job_id("after", one) for one in some}))


def job_id(what: str, job: object) -> int:
    """The id of a job, or an id as it is; raises BadOption for anything else."""
    found = job if isinstance(job, int) and not isinstance(job, bool) else getattr(job, "id", None)
    if found == 0 and not isinstance(job, int):
        raise BadOption(f"{what} names a job that is not in the database yet: flush its bulk first")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found < 2**63:
        raise BadOption(f"{what} takes jobs, as an enqueue gives them, or their ids, not {job!r:.300}")
    return found


def check_known(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise BadOption for an option that does not exist."""
    names = list(known)
    for name in options:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            raise BadOption(f"there is no {what} option {name!r}; {hint}")


def check_name(what: str, value: object) -> None:
    """Raise BadOption unless the value is a short, printable, non-empty string."""
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_LIMIT or not value.isprintable():
        raise BadOption(f"{what} must be a printable text of 1 to {NAME_LIMIT} characters, got {value!r:.300}")


def check_choice(what: str, value: object, choices: Sequence[str]) -> None:
    """Raise BadOption unless the value is one of these words."""
    if value not in choices:
        raise BadOption(f"{what} must be one of {', '.join(choices)}, got {value!r}")


def check_priority(value: object) -> None:
    """Raise BadOption unless the value is a whole number from 0 to 999 (S2.17)."""
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise BadOption(f"priority must be a whole number from 0 (most urgent) to 999, got {value!r}")


def parse_priorities(text: str) -> range:
    """Read `10`, `20-40`, `25-` or `-20` (S2.71): both ends belong to it.

    Raises BadOption for anything else, and for what holds no priority.

    >>> parse_priorities("20-40"), parse_priorities("-20"), parse_priorities("10")
    (range(20, 41), range(0, 21), range(10, 11))
    """
    found = re.fullmatch(r"\s*(\d{0,4})\s*(-?)\s*(\d{0,4})\s*", text)
    if found is None or not (found[1] or found[3]) or (found[1] and found[3] and not found[2]):
        raise BadOption(f"{text!r} is no range of priorities: write 10, 20-40, 25- or -20")
    first = int(found[1] or PRIORITIES.start)
    last = int(found[3] or PRIORITIES[-1]) if found[2] else first
    if first > last or last not in PRIORITIES:
        raise BadOption(
            f"{text!r} holds no priority: they go from 0 (most urgent) to {PRIORITIES[-1]}, the smaller number first"
        )
    return range(first, last + 1)


def show_priorities(priorities: range) -> str:
    """The same in words: `20-40`, or `10` for one."""
    first, last = priorities.start, priorities.stop - 1
    return str(first) if first == last else f"{first}-{last}"


_PLACE = re.compile(r"\{(\w*)\}")


def fill(template: str, values: Mapping[str, object]) -> str:
    """Put values into a name: `customer-{id}`. Only whole values, as text: no formats, no attributes. Raises BadOption."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in values:
            raise BadOption(f"{template!r} names {name!r}, which is no argument; there are {', '.join(values) or 'none'}")
        return str(values[name])

    filled = _PLACE.sub(value, template)
    check_name(f"what {template!r} becomes", filled)
    return filled
