"""`dray stats`: one screen that says how things are, and the same as a check for monitoring."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import click
import msgspec

from dray.admin import Stats
from dray.cli.done import done_facts, print_done
from dray.cli.facts import print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import duration, option, verb
from dray.cli.output import Cell, Column, note, on_terminal, print_table
from dray.cli.words import about, count, one_line
from dray.durations import parse_duration
from dray.errors import BadOption
from dray.job import State
from dray.store.read import CAP, QueueCount
from dray.takers import serves

UNHEALTHY = 1
BAR = 20  # characters of the longest queue's bar

_RULE = re.compile(r"\s*([a-z_]+)\s*(>=|<=|==|=|>|<)\s*(\S+)\s*")
_TESTS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
}
# What can be asked of the stats beside the number of jobs in a state.
_MEASURES: dict[str, Callable[[Stats], float]] = {
    "workers": lambda stats: len(stats.workers),
    "silent": lambda stats: max((worker.silent_for for worker in stats.workers), default=0.0),
    "oldest": lambda stats: max((queue.oldest or 0.0 for queue in stats.queues), default=0.0),
    "overdue": lambda stats: max(0.0, -(stats.next_due or 0.0)),
}
_TIMES = ("silent", "oldest", "overdue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition of `--fail-if`."""

    text: str
    name: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `failed>10` or `oldest>5m`; raises BadOption."""
        found = _RULE.fullmatch(text)
        names = [*State, *_MEASURES]
        if found is None or found[1] not in names:
            raise BadOption(f"--fail-if {text!r}: write NAME>NUMBER, where NAME is one of {', '.join(names)}")
        name, sign, bound = found.groups()
        try:
            return cls(text=text, name=name, sign=sign, bound=parse_duration(bound) if name in _TIMES else int(bound))
        except ValueError as error:
            raise BadOption(f"--fail-if {text!r}: {bound!r} is no {'time' if name in _TIMES else 'number'}") from error

    def broken(self, stats: Stats) -> str | None:
        """What is the matter, if the condition holds."""
        measure = _MEASURES.get(self.name)
        value = stats.counts.get(State(self.name), 0) if measure is None else measure(stats)
        if not _TESTS[self.sign](value, self.bound):
            return None
        shown = about(value) if self.name in _TIMES else count(int(value), stats.cap)
        return f"{self.text}: {self.name} is {shown}"


@verb(
    "stats",
    "dray stats",
    "dray stats --since 1h                       what was done, by task",
    "watch -n 2 dray stats",
    "dray stats --fail-if 'failed>10' --fail-if 'oldest>5m' --fail-if 'workers<1'",
)
@option(
    "--fail-if",
    "rules",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 if this holds, such as 'failed>10'; may be given more than once.",
)
@option("--since", type=duration, metavar="TIME", help="Also what was done in this time, such as 1h or 7d, by task.")
def stats(rules: tuple[str, ...], since: float | None) -> int:
    """Show how things are: queues, workers, and how many jobs are in each state.

    --since adds what was done: runs, how many failed, how long they waited and ran, processor and memory. It comes from
    numbers that the workers write every few seconds and that are kept for months, so it costs the same whatever was pruned.

    \b
    --fail-if makes it a check for monitoring. It knows
      each state         jobs in it                      'failed>10'
      oldest             since when the longest waiting ready job waits    'oldest>5m'
      overdue            how long a due job has waited for upkeep          'overdue>1m'
      workers, silent    how many are alive; the longest silence of one    'workers<1'
    """
    conditions = [Rule.parse(rule) for rule in rules]
    most = max([rule.bound for rule in conditions if rule.name not in _TIMES], default=0)
    found = open_admin().stats(cap=max(CAP, int(most) + 1))
    done = None if since is None else open_admin().done(since)
    if wants_json():
        print_json(_facts(found) if done is None else {**_facts(found), "since": since, "done": list(done_facts(done))})
    else:
        _print(found)
        if done is not None:
            print_done(done)
    broken = [text for rule in conditions if (text := rule.broken(found)) is not None]
    for text in broken:
        note(f"dray: {text}")
    return UNHEALTHY if broken else 0


def _facts(found: Stats) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(found)
    facts["counts"] = {str(state): number for state, number in found.counts.items()}
    return facts


def _print(found: Stats) -> None:
    if found.queues:
        print_table(_columns(), list(_rows(found)))
        click.echo()
    click.echo(_counts(found))
    click.echo(_workers(found))
    if found.counts[State.FAILED] and on_terminal():
        note("→ dray jobs state:failed")


def _columns() -> Sequence[Column]:
    bar = [Column("")] if on_terminal() else []
    numbers = [Column("READY", right=True), Column("RUNNING", right=True), Column("OLDEST", right=True)]
    return [Column("QUEUE", flexible=True), *bar, *numbers, Column("")]


def _rows(found: Stats) -> Iterator[list[Cell]]:
    most = max(queue.ready for queue in found.queues)
    for queue in found.queues:
        bar = [Cell(_bar(queue.ready, most), "cyan")] if on_terminal() else []
        remark = _remark(found, queue)
        yield [
            Cell(queue.queue, "bold"),
            *bar,
            Cell(count(queue.ready, found.cap)),
            Cell(f"{queue.running:,}"),
            Cell("-" if queue.oldest is None else about(queue.oldest)),
            Cell(remark, "bold red"),
        ]


def _bar(number: int, most: int) -> str:
    """A bar in eighths of a character, of at least one eighth for what is not nothing."""
    if not number:
        return ""
    whole, eighths = divmod(max(1, round(8 * BAR * number / most)), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def _remark(found: Stats, queue: QueueCount) -> str:
    return "" if any(serves(worker, queue.queue) for worker in found.workers) else "! no worker"


def _counts(found: Stats) -> str:
    parts = [f"{count(number, found.cap)} {state}" for state, number in found.counts.items() if number]
    if found.next_due is not None:
        due = f"next due in {about(found.next_due)}" if found.next_due > 0 else f"due since {about(-found.next_due)}"
        parts.append(due)
    return " · ".join(parts) or "no jobs"


def _workers(found: Stats) -> str:
    if not found.workers:
        return "no worker is alive"
    hosts = sorted({one_line(worker.host) for worker in found.workers})
    number, slots = len(found.workers), sum(worker.concurrency for worker in found.workers)
    where = f"on {hosts[0]}" if len(hosts) == 1 else f"on {len(hosts)} hosts"
    return f"{number} worker{'s' * (number > 1)} {where}, {slots} slots"
