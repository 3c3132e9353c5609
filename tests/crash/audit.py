"""The audit: receipts against rows. Each check is a function that yields what is wrong, job by job; pure, so that forged
stories can prove that it finds fault.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from tests.crash.ledger import FAILED, SUCCEEDED, Row
from tests.crash.receipt import Account, End, Start

KILLS = ("witness", "family")


class Death(NamedTuple):
    """How a worker ended before its time: killed with or without its witness, or because its lease was lost."""

    time: float  # just before it was killed
    mode: str
    gone: float  # when nothing was left of it


class Wrong(NamedTuple):
    """One promise broken for one job; `n` is None when it is not about a job."""

    what: str
    n: int | None


@dataclass
class Story:
    """All that is known of a trial when it is over."""

    account: Account
    rows: Sequence[Row]
    deaths: dict[str, Death] = field(default_factory=dict)  # by the name of the worker
    lives: dict[str, tuple[float, float]] = field(default_factory=dict)  # when each worker was ready, and when it ended
    worker_names: dict[int, str] = field(default_factory=dict)  # by the worker's id in the database
    declared_dead: set[str] = field(default_factory=set)  # those that the test itself gave up
    ttl: float = 30.0
    allowance: float = 1.5  # seconds for starting processes and for waiting in the queue

    @property
    def unseen_starts(self) -> int:
        """How many crashes are believed of runs that the receipt knows nothing of.

        A job that leaves a mark asks the database for it, and a server goes on with what it was asked though the worker has
        died meanwhile: to the database it had started, to the receipt it had not. So it goes with one kill in a few.
        """
        return len(self.deaths)

    @cached_property
    def by_id(self) -> dict[int, list[Row]]:
        rows = defaultdict(list)
        for row in self.rows:
            rows[row.id].append(row)
        return rows

    @cached_property
    def by_n(self) -> dict[int, list[Row]]:
        rows = defaultdict(list)
        for row in self.rows:
            rows[row.n].append(row)
        return rows

    @cached_property
    def lost_leases(self) -> set[tuple[int, int]]:
        """Claims whose holder says that they were taken from it while it lived."""
        lost = self.account.of("job.lease_lost")
        return {(event.facts["job_id"], event.facts["fence"]) for event in lost}

    @cached_property
    def given_up(self) -> set[str]:
        """Workers that others declared dead because their beat stood still."""
        ids = {event.facts["worker_id"] for event in self.account.of("rescue.dead_worker")}
        return self.declared_dead | {self.worker_names[id] for id in ids if id in self.worker_names}

    def end(self, start: Start) -> End | None:
        return self.account.ends.get((start.id, start.fence))

    def died_running(self, start: Start) -> bool:
        """Whether the worker died after this start. It may have ended by then: nobody knows whether that was written."""
        death = self.deaths.get(start.holder)
        return death is not None and death.gone >= start.time


def audit(story: Story) -> list[Wrong]:
    """Everything that is wrong."""
    return [wrong for check in CHECKS for wrong in check(story)]


def nothing_is_lost(story: Story) -> Iterator[Wrong]:
    for n, id in story.account.added.items():
        rows = story.by_id[id]
        if not rows:
            yield Wrong("lost: it was added, and there is no row", n)
        elif len(rows) > 1:
            yield Wrong(f"it stands in {len(rows)} rows, so it is live and ended at once", n)
        elif rows[0].n != n:
            yield Wrong(f"the row has the arguments of {rows[0].n}", n)
        elif rows[0].live:
            yield Wrong("it has not ended", n)
        elif rows[0].state != SUCCEEDED and not _may_have_failed(story, rows[0]):
            yield Wrong(f"it ended in state {rows[0].state}: {rows[0].error}", n)


def _may_have_failed(story: Story, row: Row) -> bool:
    """A task that asked for it fails with its worker; any other only when three workers have died while it ran."""
    if row.state != FAILED or row.error is None:
        return False
    if row.task == "careful":
        return 'says on_crash="fail"' in row.error
    return row.error.startswith("worker died 3 times") and own_deaths(story, row) >= 3


def nothing_is_made_up(story: Story) -> Iterator[Wrong]:
    known = set()
    for intent in story.account.intents:
        numbers = range(intent.n, intent.n + intent.count)
        known |= set(numbers)
        there = [len(story.by_n.get(n, ())) for n in numbers]
        if max(there) > 1:
            yield Wrong("one call added it more than once", intent.n)
        if len(set(there)) > 1:
            yield Wrong(f"one call added {sum(there)} of {intent.count} jobs", intent.n)
        if intent.n in story.account.refused and any(there):
            yield Wrong(f"the call raised {story.account.refused[intent.n]}, and yet it was added", intent.n)
    for n in story.by_n.keys() - known:
        yield Wrong("nobody ever meant to add it", n)


def one_run_is_accepted(story: Story) -> Iterator[Wrong]:
    for row in story.rows:
        if row.state != SUCCEEDED:
            continue
        starts = story.account.starts[row.id]
        mine = [start for start in starts if start.fence == row.fence]
        end = story.account.ends.get((row.id, row.fence))
        if not mine or end is None or end.outcome != "done":
            yield Wrong(f"fence {row.fence} was accepted, which has no complete run", row.n)
        elif row.result != f"{mine[0].holder}:{row.fence}":
            yield Wrong(f"fence {row.fence} was accepted with the result of another run, {row.result}", row.n)
        elif row.fence < max(start.fence for start in starts):
            yield Wrong(f"fence {row.fence} was accepted, and it was started again after that", row.n)


def fences_rise(story: Story) -> Iterator[Wrong]:
    for starts in story.account.starts.values():
        if any(second.fence <= first.fence for first, second in pairwise(starts)):
            yield Wrong(f"its fences do not rise: {[start.fence for start in starts]}", starts[0].n)


def runs_again_only_for_a_reason(story: Story) -> Iterator[Wrong]:
    for starts in story.account.starts.values():
        for first, second in pairwise(starts):
            if why_again(story, first, second) is None:
                yield Wrong(f"started with fence {second.fence}, though nothing had happened to {first.fence}", first.n)


def why_again(story: Story, first: Start, second: Start) -> str | None:
    """What explains a second start: its own outcome, the death of its worker before it, or a lease that was lost."""
    end = story.end(first)
    if end is not None and end.outcome != "done" and end.time <= second.time:
        return "outcome"
    death = story.deaths.get(first.holder)
    if death is not None and first.time <= death.gone and death.time <= second.time:
        return death.mode
    if (first.id, first.fence) in story.lost_leases or first.holder in story.given_up:
        return "lease lost"
    return None


def careful_tasks_start_once(story: Story) -> Iterator[Wrong]:
    unseen = []
    for row in story.rows:
        if row.task != "careful":
            continue
        starts = story.account.starts[row.id]
        if len(starts) > 1:
            yield Wrong(f"on_crash is fail, and it was started {len(starts)} times", row.n)
        if row.state != FAILED:
            continue
        if not starts:
            unseen.append(Wrong("failed with its worker, though it never ran", row.n))
        elif not (story.died_running(starts[-1]) or starts[-1].holder in story.given_up):
            yield Wrong(f"failed with its worker, though {starts[-1].holder} did not die while it ran", row.n)
    yield from unseen if len(unseen) > story.unseen_starts else ()


def own_deaths(story: Story, row: Row) -> int:
    """How often a worker died, or was given up, while it ran this job."""
    return sum(story.died_running(start) or start.holder in story.given_up for start in story.account.starts[row.id])


def crashes_are_its_own(story: Story) -> Iterator[Wrong]:
    unseen = []
    for row in story.rows:
        own = own_deaths(story, row)
        if row.crashes > own:
            wrong = Wrong(f"{row.crashes} crashes, and {own} times its worker died while it ran", row.n)
            # Except for careful ones, only a job leaves the mark that had been in the hands of somebody else who died.
            believable = row.crashes == own + 1 and (row.task == "careful" or row.fence - 1 > row.crashes)
            unseen.append(wrong) if believable else (yield wrong)
    yield from unseen if len(unseen) > story.unseen_starts else ()


def attempts_are_counted(story: Story) -> Iterator[Wrong]:
    """A death, a snooze and a hand-back give the attempt back; a failure does not, such as that of who could not spawn."""
    for row in story.rows:
        wanted = {"flaky": (2,), "spawning": (1, 2)}.get(row.task, (1,))
        if row.state == SUCCEEDED and row.attempt not in wanted:
            yield Wrong(f"it has {row.attempt} attempts instead of {' or '.join(map(str, wanted))}", row.n)
        if row.snoozes > (1 if row.task == "snoozing" else 0):
            yield Wrong(f"it has {row.snoozes} snoozes", row.n)


def recovery_is_prompt(story: Story) -> Iterator[Wrong]:
    for one in recoveries(story):
        if one.seconds > one.limit:
            what = f"{one.mode} kill: started again after {one.seconds:.2f} s, the limit is {one.limit:.2f} s"
            yield Wrong(what, one.n)


CHECKS: tuple[Callable[[Story], Iterator[Wrong]], ...] = (
    nothing_is_lost,
    nothing_is_made_up,
    one_run_is_accepted,
    fences_rise,
    runs_again_only_for_a_reason,
    careful_tasks_start_once,
    crashes_are_its_own,
    attempts_are_counted,
    recovery_is_prompt,
)


# --- recovery -------------------------------------------------------------------------------------------------------------


class Recovery(NamedTuple):
    """How long a job that was cut off by a kill waited for its next start, and how long it may have."""

    n: int
    mode: str
    seconds: float
    limit: float


def recoveries(story: Story) -> list[Recovery]:
    """One for each start that a kill cut off."""
    found = []
    for starts in story.account.starts.values():
        for first, second in pairwise(starts):
            death = story.deaths.get(first.holder)
            if death is not None and death.mode in KILLS and why_again(story, first, second) == death.mode:
                limit = _limit(story, death)
                found.append(Recovery(first.n, death.mode, second.time - death.time, limit - death.time))
    return found


def _limit(story: Story, death: Death) -> float:
    """The latest moment of a next start: some worker lived long enough to see the death and to do something about it.

    A witness writes the death down, and the next rescue, every sixth of the TTL, finds it. Without one, a rescuer has to
    see the beat stand still for the TTL; it begins to watch when it begins to live.
    """
    watch = story.ttl if death.mode == "family" else 0.0
    span = watch + story.ttl / 6 + story.allowance
    until = [max(death.time, ready) + span for ready, ended in story.lives.values() if ended >= max(death.time, ready) + span]
    return min(until, default=float("inf"))


# --- for people -----------------------------------------------------------------------------------------------------------


def summary(story: Story) -> str:
    """What happened, in numbers."""
    modes = Counter(death.mode for death in story.deaths.values())
    again: Counter[str | None] = Counter()
    for starts in story.account.starts.values():
        again.update(why_again(story, first, second) for first, second in pairwise(starts))
    unsure = [intent for intent in story.account.intents if intent.n not in story.account.added]
    states = Counter(row.state for row in story.rows)
    lines = [
        f"jobs {len(story.rows)} (succeeded {states[SUCCEEDED]}, failed {states[FAILED]}), added {len(story.account.added)},"
        f" calls cut off {len(unsure)}; workers killed {dict(modes)}",
        f"starts {sum(map(len, story.account.starts.values()))}, started again because of: {dict(again)};"
        f" given up without a kill: {sorted(story.given_up - story.deaths.keys())}",
    ]
    found = recoveries(story)
    for mode in KILLS:
        times = sorted(one.seconds for one in found if one.mode == mode)
        if times:
            spare = min(one.limit - one.seconds for one in found if one.mode == mode)
            lines.append(
                f"recovery after {mode} kills: {len(times)} runs, median {median(times):.2f} s, max {times[-1]:.2f} s,"
                f" closest to its limit by {spare:.2f} s"
            )
    return "\n".join(lines)


def report(story: Story, wrongs: Sequence[Wrong], most: int = 8) -> str:
    """What is wrong, with all that is known of the jobs it is about."""
    counts = Counter(wrong.what.split(":")[0] for wrong in wrongs)
    lines = [f"{count} x {what}" for what, count in counts.most_common(12)]
    for wrong in wrongs[:most]:
        lines += ["", f"job {wrong.n}: {wrong.what}"]
        if wrong.n is None:
            continue
        rows = story.by_n.get(wrong.n, [])
        lines += [f"    {line}" for line in story.account.lines.get(wrong.n, [])]
        lines += [f"    {row}" for row in rows]
        holders = {start.holder for row in rows for start in story.account.starts[row.id]}
        lines += [f"    {name}: {story.deaths[name]}" for name in sorted(holders & story.deaths.keys())]
    return "\n".join(lines)
