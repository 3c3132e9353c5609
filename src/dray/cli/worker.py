"""`dray worker`: a process that stays. It loads neither Alembic nor rich."""

from __future__ import annotations

import faulthandler
import os
from pathlib import Path

import click

from dray import probe
from dray.cli.options import PATH, duration, option, setting, size, verb
from dray.cli.work import open_to_work, spare_collections
from dray.errors import BadOption
from dray.folder import Folder
from dray.limits import Limits
from dray.options import parse_priorities
from dray.process import bury, end_by, hold_signals, restart
from dray.selection import PRIORITY, STRATEGIES, TaskFilter, choice_of, read_queues
from dray.single import Single
from dray.tending.tended import tender_line, under_tender
from dray.worker import Worker

CONFLICT = 4
LINGERS = 10.0  # seconds until threads that jobs have left behind are left behind by the process
FORMER = "DRAY_FORMER_WORKER"  # how a worker that begins anew knows which one it was
PAUSED = "DRAY_BEGINS_PAUSED"  # and that it was paused


@verb(
    "worker",
    "dray worker -A shop:app                     every queue",
    "dray worker -A shop:app mail reports -c 20  these two, 20 jobs at a time",
    "dray worker -A shop:app -p 10               only what is most urgent",
    "dray worker -A shop:app --task send_mail     only jobs of this task",
    "dray worker -A shop:app mail:5 reports:1 --strategy weighted    five of mail for each of reports",
    "dray worker -A shop:app --burst             until nothing is left, then end",
    "dray worker -A shop:app --single mail       for cron, each minute: one runs, and is started again if it has ended",
)
@click.argument("queues", nargs=-1, metavar="[QUEUE[:WEIGHT]]...")
@setting("-c", "--concurrency", variable="DRAY_CONCURRENCY", type=click.IntRange(1), help="Jobs run at the same time.")
@option("-p", "--priorities", metavar="RANGE", help="Only these: 10, 20-40, 25- or -20; smaller is more urgent.")
@option("--strategy", type=click.Choice(STRATEGIES), default=PRIORITY, help="How to choose among queues.", show_default=True)
@option("-t", "--task", "only", multiple=True, metavar="TASK", help="Only jobs of this task; may be given more than once.")
@option("-s", "--no-task", "without", multiple=True, metavar="TASK", help="No jobs of this task; may be given more than once.")
@option("--burst", is_flag=True, help="End when nothing is ready or running.")
@option("--once", is_flag=True, help="Look once, run one job at most, and end.")
@option("--max-jobs", type=click.IntRange(1), metavar="N", help="End after N jobs.")
@option("--max-cycles", type=click.IntRange(1), metavar="N", help="End after N looks for jobs; those that find none count.")
@option("--max-time", type=duration, metavar="TIME", help="End after this time, such as 1h.")
@option("--max-memory", type=size, metavar="SIZE", help="End when it uses this much, such as 256M; asked between jobs.")
@option("--cycle-delay", type=duration, metavar="TIME", help="Look for jobs this often, from start to start, and no sooner.")
@option("--single", metavar="NAME", help="Only if no other of this name runs on this host; else end, with exit code 0.")
@option("--single-strict", is_flag=True, help="With --single: exit code 4 if another runs.")
@option("--pid-dir", type=PATH, metavar="DIR", help="With --single: where its lock is; by default a folder of this user.")
@option("--probe-port", metavar="[HOST:]PORT", help="Answer /live and /ready there; without a host, for this host alone.")
@option("--probe-file", type=PATH, metavar="FILE", help="Keep a file fresh that says how it is; dray probe reads it.")
@option("--no-upkeep", is_flag=True, help="Leave due jobs, rescue and pruning to other workers.")
@setting("--grace", variable="DRAY_GRACE", type=duration, metavar="TIME", help="Time that running jobs get at the end.")
def worker(
    queues: tuple[str, ...],
    concurrency: int | None,
    priorities: str | None,
    strategy: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    burst: bool,
    once: bool,
    max_jobs: int | None,
    max_cycles: int | None,
    max_time: float | None,
    max_memory: int | None,
    cycle_delay: float | None,
    single: str | None,
    single_strict: bool,
    pid_dir: Path | None,
    probe_port: str | None,
    probe_file: Path | None,
    no_upkeep: bool,
    grace: float | None,
) -> int:
    """Work jobs until told to stop.

    From these queues, by exact name; without one from all. Needs the app, whose tasks it runs.

    \b
    --strategy says which job comes next
      priority   the most urgent, whatever its queue; queues of equal urgency take turns
      weighted   queues that are not empty get shares by their weights: mail:5 reports:1
      strict     the first queue that is not empty, in this order; one start in 20 is kept for the queues behind it

    \b
    Signals
      TERM INT QUIT   let running jobs end within the grace period; a second one gives them back at once
      USR2 CONT       pause, and go on
      HUP             begin anew with the code as it is now, once what runs has ended
      USR1            show where every thread is
    """
    folder = Folder()
    hold_signals()
    bury()
    faulthandler.enable()  # a crash, and the heart that ends a worker whose Python stands still, leave its stacks on stderr
    line = tender_line()
    if (single_strict or pid_dir) and single is None:
        raise BadOption("--single-strict and --pid-dir are for --single NAME")
    lock = None if single is None else Single(f"worker-{single}", pid_dir)
    if lock is not None and not lock.take():
        return already_running(lock, strict=single_strict)
    found = open_to_work(concurrency=concurrency, grace=grace)
    app = found.app
    if not len(app.registry):
        click.echo(
            f"dray: warning: {found.name} has no tasks, so every job will be parked; is their module imported?", err=True
        )
    chosen = None if priorities is None else parse_priorities(priorities)
    tasks = TaskFilter(only, without)
    for task in (*only, *without):
        if app.registry.find(task) is None:
            click.echo(f"dray: warning: {found.name} has no task {task!r}", err=True)
    weights = app.settings.queues if strategy == PRIORITY else read_queues(queues) or app.settings.queues
    choice = choice_of(strategy, weights)
    queues = queues if choice is None else tuple(name for name, weight in weights.items() if weight and queues)
    limits = Limits(
        burst=burst,
        max_jobs=1 if once else max_jobs,
        max_time=max_time,
        max_cycles=1 if once else max_cycles,
        max_memory=max_memory,
    )
    working = Worker(
        app,
        queues,
        priorities=chosen,
        tasks=tasks,
        choice=choice,
        limits=limits,
        cycle=cycle_delay,
        upkeep=not no_upkeep,
        # A tender starts another.
        begin_anew=None if line else lambda: begin_anew(working, folder, lock),
        former=int(former) if (former := os.environ.pop(FORMER, "")).isdecimal() else 0,
        where=found.name,
    )
    if os.environ.pop(PAUSED, ""):
        working.standing.pause()
    if probe_port is not None:
        from dray import probe_port as port  # seldom wanted, and large

        port.serve(probe_port, working.vital.facts)
    if probe_file is not None:
        probe.write(probe_file, working.vital.facts)
    spare_collections()
    with under_tender(line, working):
        code = working.run()
    end_by(LINGERS, code)
    return code


def begin_anew(working: Worker, folder: Folder, lock: Single | None) -> None:
    """The same command again, in this process, which keeps its lock meanwhile, and stays paused if it was."""
    if lock is not None:
        lock.hand_on()
    if working.standing.paused:
        os.environ[PAUSED] = "1"
    os.environ[FORMER] = str(working.worker_id or working.former)
    restart(folder)


def already_running(lock: Single, *, strict: bool) -> int:
    """Say that another has the lock; that is no failure for a cron job that is to see that one runs (S0.44)."""
    click.echo(f"dray: already running (pid {lock.holder()}, {lock.path})", err=True)
    return CONFLICT if strict else 0
