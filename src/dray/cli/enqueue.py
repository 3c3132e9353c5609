"""`dray enqueue`: a job from the command line."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from dray.admin import Admin
from dray.app import Dray
from dray.cli.arguments import parse_labels, read_call
from dray.cli.detail import report_lines
from dray.cli.facts import job_facts, print_json
from dray.cli.opening import be_brief
from dray.cli.options import duration, given, moment, option, verb
from dray.cli.words import clean
from dray.discover import require_app
from dray.errors import BadOption, JobFailed, NotFinished
from dray.handle import Job
from dray.job import JobRow, State

LOOKS = (0.02, 0.5)  # seconds between looks at a job that is waited for: soon at first, then more seldom


@verb(
    "enqueue",
    "dray enqueue send_invoice invoice_id:=7 to=ann@example.com",
    "dray enqueue make_report user.name=Al user.tags:='[1, 2]' --in 5m --key report-7",
    "dray enqueue import_file --args @args.json --wait --timeout 10m",
)
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=TEXT | NAME:=JSON]...")
@option("--args", "whole", metavar="JSON|@FILE|-", help="All arguments as JSON: an object, or a list of positional ones.")
@option("--queue", metavar="QUEUE", help="The queue, instead of the task's.")
@option("--priority", type=click.IntRange(0, 999), help="0 is the most urgent, instead of the task's.")
@option("--in", "run_in", type=duration, metavar="TIME", help="Not before this time has passed, such as 5m.")
@option("--at", "run_at", type=moment, metavar="ISO", help="Not before this instant; local time without a zone.")
@option("--key", help="Your own identifier of the job.")
@option("--owner", help="On whose behalf it runs.")
@option("--group", metavar="NAME", help="Its jobs run one at a time, in order.")
@option(
    "--after", type=click.IntRange(1), multiple=True, metavar="ID", help="A job that has to succeed first; may be repeated."
)
@option("--unique", is_flag=True, default=None, help="Not if one with the same arguments is queued: print that one's id.")
@option("--expires-in", type=duration, metavar="TIME", help="Cancel it if it has not started by then.")
@option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="May be given more than once.")
@option("--wait", is_flag=True, help="Show its log, wait for its end and print its result.")
@option("--timeout", type=duration, metavar="TIME", help="Wait no longer than this; then exit with 124.")
def enqueue(
    task: str,
    arguments: tuple[str, ...],
    whole: str | None,
    labels: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    **options: Any,
) -> None:
    """Enqueue a job of TASK, and print its id.

    \b
    name=text     a text                 to=ann@example.com
    name:=json    anything JSON can say  count:=3  ids:='[1, 2]'
    a.b=text      a value in an object   user.name=Al

    Needs the app, which knows the tasks and their arguments.
    """
    shared = given()
    if timeout is not None and not wait:
        raise BadOption("--timeout goes with --wait")
    app = require_app(shared.app, shared.settings).app
    be_brief(app, timeout)
    job = _enqueue(app, task, arguments, whole, {**options, "labels": parse_labels(labels)})
    if not wait:
        print_json({"id": job.id, "state": job.state, "created": job.created}) if shared.json else click.echo(job.id)
        return
    click.echo(f"job {job.id} enqueued", err=True)
    row = _follow(Admin(app), job.id, timeout)
    _tell(row, as_json=shared.json)
    if row.state is not State.SUCCEEDED:
        raise JobFailed(row.id, row.state, row.error or row.note)


def _enqueue(app: Dray, task: str, words: tuple[str, ...], whole: str | None, options: dict[str, Any]) -> Job:
    run_at: datetime | None = options["run_at"]
    if run_at is not None and options["run_in"] is not None:
        raise BadOption("give --in or --at, not both")
    app.registry.get(task)  # a slip in its name is told before one in the arguments
    positional, named = read_call(whole, words, app.codec.decode)
    return app.using(**options).enqueue(task, *positional, **named)


def _follow(admin: Admin, job_id: int, timeout: float | None) -> JobRow:
    """Show the job's log as it grows, until the job has ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause, longest = LOOKS
    seen = 0
    while True:
        row = admin.job(job_id, lines=0).row
        for line in admin.output(job_id, after=seen):
            click.echo(f"  {clean(line.text)}", err=True)
            seen = line.id
        if row.state.ended:
            return row
        left = longest if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise NotFinished(job_id, row.state)
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, longest)


def _tell(row: JobRow, *, as_json: bool) -> None:
    if as_json:
        print_json(job_facts(row))
        return
    for line in report_lines(row.report) if row.report is not None else []:
        click.echo(line, err=row.result is not None)
    if row.result is not None:
        result = job_facts(row)["result"]
        click.echo(clean(result) if isinstance(result, str) else row.result)
    if row.note:
        click.echo(clean(row.note), err=True)
