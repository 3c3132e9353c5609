"""`dray worker`: a process that stays. It loads neither Alembic nor rich."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click

from dray.app import Dray
from dray.cli.options import duration, given, option, setting, verb
from dray.cli.words import facts_line, iso, one_line
from dray.discover import require_app
from dray.limits import Limits
from dray.options import parse_priorities
from dray.selection import PRIORITY, STRATEGIES, TaskFilter, choice_of, read_queues
from dray.worker import Worker


class OneLine(logging.Formatter):
    """`time level event facts`, whatever is in them; only a traceback takes more than a line."""

    def __init__(self, *, short: bool) -> None:
        super().__init__()
        self._short = short

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        shown = time.strftime("%H:%M:%S", time.localtime(record.created)) if self._short else iso(moment)
        line = f"{shown} {record.levelname.lower():8} {_said(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _said(record: logging.LogRecord) -> str:
    facts: Any = getattr(record, "dray", None)
    if isinstance(facts, dict) and isinstance(record.args, tuple) and record.args:
        return f"{record.args[0]} {facts_line(facts)}"
    return one_line(record.getMessage())


def log_to_stderr(level: str) -> None:
    """Log in one-line form, unless the application has already said where its logs go."""
    logging.getLogger("dray").setLevel(level.upper())
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(OneLine(short=sys.stderr.isatty()))
        root.addHandler(handler)
        # What libraries say at debug level is not what was asked for.
        root.setLevel(max(logging.INFO, logging.getLogger("dray").level))


@verb(
    "worker",
    "dray worker -A shop:app                     every queue",
    "dray worker -A shop:app mail reports -c 20  these two, 20 jobs at a time",
    "dray worker -A shop:app -p 10               only what is most urgent",
    "dray worker -A shop:app --task send_mail     only jobs of this task",
    "dray worker -A shop:app mail:5 reports:1 --strategy weighted    five of mail for each of reports",
    "dray worker -A shop:app --burst             until nothing is left, then end",
)
@click.argument("queues", nargs=-1, metavar="[QUEUE[:WEIGHT]]...")
@setting("-c", "--concurrency", variable="DRAY_CONCURRENCY", type=click.IntRange(1), help="Jobs run at the same time.")
@option("-p", "--priorities", metavar="RANGE", help="Only these: 10, 20-40, 25- or -20; smaller is more urgent.")
@option("--strategy", type=click.Choice(STRATEGIES), default=PRIORITY, help="How to choose among queues.", show_default=True)
@option("-t", "--task", "only", multiple=True, metavar="TASK", help="Only jobs of this task; may be given more than once.")
@option("-s", "--no-task", "without", multiple=True, metavar="TASK", help="No jobs of this task; may be given more than once.")
@option("--burst", is_flag=True, help="End when nothing is ready or running.")
@option("--max-jobs", type=click.IntRange(1), metavar="N", help="End after N jobs.")
@option("--max-time", type=duration, metavar="TIME", help="End after this time, such as 1h.")
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
    max_jobs: int | None,
    max_time: float | None,
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

    The first Ctrl-C or SIGTERM lets running jobs end within the grace period, a second one gives them back at once.
    """
    shared = given()
    level = "debug" if shared.verbose else None
    found = require_app(shared.app, {**shared.settings, "concurrency": concurrency, "grace": grace, "log_level": level})
    app: Dray = found.app
    log_to_stderr(app.settings.log_level)
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
    limits = Limits(burst=burst, max_jobs=max_jobs, max_time=max_time)
    return Worker(app, queues, priorities=chosen, tasks=tasks, choice=choice, limits=limits, upkeep=not no_upkeep).run()
