"""`dray rescue`: what the dead hold."""

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
from dray.cli.options import option, verb
from dray.cli.output import note
from dray.cli.words import about, one_line
from dray.job import State
from dray.store.base import Freed
from dray.store.workers import WorkerRow

UNCONFIRMED = 2


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
