"""`dray stuck` and `dray rescue`: what does not move, and what the dead hold."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click
import msgspec

from dray.care import Rescue, Whereabouts
from dray.cli.facts import print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import duration, option, verb
from dray.cli.output import Cell, Column, note, print_table
from dray.cli.words import about, one_line
from dray.job import State
from dray.store.base import Freed
from dray.store.workers import WorkerRow
from dray.stuck import LOOKED, Stuck

SOME, UNCONFIRMED = 1, 2
COLUMNS = (
    Column("WHY"),
    Column("QUEUE"),
    Column("TASK", flexible=True),
    Column("JOBS", right=True),
    Column("OLDEST", right=True),
    Column("WHAT TO DO"),
)


@verb(
    "stuck",
    "dray stuck",
    "dray stuck --older-than 2h --queue reports",
    "dray stuck --task old.cleanup --ids | dray cancel -",
)
@option("--older-than", type=duration, default="10m", show_default=True, metavar="TIME", help="Runs or waits for longer.")
@option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
@option("--task", metavar="TASK", help="Only jobs of this task.")
@option("--ids", is_flag=True, help="Only their ids, one on each line.")
def stuck(older_than: float, queue: str | None, task: str | None, ids: bool) -> int:
    """Show what does not move, and what to do about it; exits with 1 if there is anything.

    \b
    dead, silent      it runs, and so is its worker
    long              it runs for longer than --older-than
    paused            it is ready for longer, and its queue is paused
    no worker         and no worker takes its queue, priority or task
    parked            no worker knows its task, or not with such arguments
    overdue           its time has come, and nobody has made it ready

    What waits for its turn is not stuck; `dray why` says what a job waits for, `dray groups --stuck`
    which groups stand still.
    """
    found = open_admin().care.stuck(older_than, queue=queue, task=task)
    if wants_json():
        print_json({"stuck": [msgspec.to_builtins(one) for one in found]})
    elif ids:
        for id in sorted({id for one in found for id in one.ids}):
            click.echo(id)
    elif found:
        print_table(COLUMNS, [_row(one) for one in found])
    else:
        note("nothing is stuck")
    if ids and any(one.more for one in found):
        note(f"of each queue and priority the {LOOKED:,} that wait the longest were looked at; there are more")
    return SOME if found else 0


def _row(one: Stuck) -> list[Cell]:
    return [
        Cell(one.kind, "yellow" if one.kind == "long" else "red"),
        Cell(one.queue),
        Cell(one.task),
        Cell(f"{len(one.ids):,}{'+' * one.more}"),
        Cell(about(one.oldest)),
        Cell(one.advice, "cyan"),
    ]


# --- rescue -----------------------------------------------------------------------------------------------------------------


@verb(
    "rescue",
    "dray rescue                    watch the silent, take back what the dead hold",
    "dray rescue --worker 7         its process is dead: do not wait",
    "dray rescue --worker 7 --yes   the same of a worker on another host",
)
@option("--worker", type=click.IntRange(1), metavar="ID", help="This worker, whose process you know to be dead.")
@option("-y", "--yes", is_flag=True, help="You are sure, also of a worker on another host.")
def rescue(worker: int | None, yes: bool) -> int:
    """Take back the jobs of dead workers, and say what became of each.

    \b
    Workers do so all the time; this is for when none is left, or when it shall not take so long.
    Silent workers are watched for as long as a lease lasts (ttl), and only those whose beat stands
    still all that time are declared dead. A worker whose process is gone from this host is, with
    its id, declared dead at once.
    """
    care = open_admin().care
    if worker is None:
        found = care.rescue(Progress())
    else:
        row, where = care.whereabouts(worker)
        if where is Whereabouts.ELSEWHERE and not yes:
            if not _confirmed(row):
                return UNCONFIRMED
            yes = True
        found = care.rescue_worker(worker, sure=yes, on_wait=Progress())
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    _tell(found)
    return 0


def _who(worker: WorkerRow) -> str:
    return f"worker {worker.id} (pid {worker.pid} on {one_line(worker.host)})"


def _confirmed(worker: WorkerRow) -> bool:
    note(f"{_who(worker)} was heard of {about(worker.silent_for)} ago; what it does cannot be seen from here")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        note("dray: is its process surely dead? There is nobody to ask: add --yes, or leave out --worker to have it watched")
        return False
    if click.confirm("is its process surely dead? If not, its jobs will run twice", err=True):
        return True
    note("nothing changed")
    return False


@dataclass(slots=True)
class Progress:
    """One line that changes, for a person; where nobody looks, a line for each change of who is watched."""

    said: str = ""

    def __call__(self, silent: Sequence[WorkerRow], left: float) -> None:
        who = _who(silent[0]) if len(silent) == 1 else f"{len(silent)} silent workers"
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[Kwatching {who}: {about(math.ceil(left))} more ", err=True, nl=False)
        elif who != self.said:
            note(f"watching {who} for {about(math.ceil(left))}")
        self.said = who


def _tell(found: Rescue) -> None:
    if wants_json():
        jobs = [msgspec.to_builtins(job._asdict()) for job in found.jobs]
        print_json(
            {
                "declared_dead": [worker.id for worker in found.declared],
                "heard_again": [worker.id for worker in found.spared],
                "jobs": jobs,
            }
        )
        return
    for worker in found.spared:
        click.echo(f"{_who(worker)} was heard again")
    for worker in found.declared:
        click.echo(f"{_who(worker)} is dead")
    for job in found.jobs:
        click.echo(f"{job.id}  {one_line(job.task)}  {_became(job)}")
    if not (found.declared or found.spared or found.jobs):
        note("nobody is silent, and the dead hold nothing")


def _became(job: Freed) -> str:
    why = f": {one_line(job.why)}" if job.why else ""
    return "ready again" if job.state is State.READY else f"{job.state}{why}"
