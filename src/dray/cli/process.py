"""`dray process` and `dray run`: work that is done and over, from cron or by a person."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import click

from dray.admin import Admin
from dray.app import Dray
from dray.calls import call_text
from dray.cli.care import Progress
from dray.cli.facts import as_json, job_facts, print_json
from dray.cli.opening import wants_json
from dray.cli.options import PATH, duration, option, setting, size, verb
from dray.cli.words import jobs_word
from dray.cli.work import open_to_work
from dray.cli.worker import already_running
from dray.errors import BadOption, CodecError, IllegalMove
from dray.job import JobRow, State
from dray.limits import Limits
from dray.single import Single
from dray.upkeep import Upkeep
from dray.worker import Worker

FAILED = 1


@verb(
    "process",
    "dray process -A shop:app                      each minute, by cron",
    "dray process -A shop:app mail --max-time 50s",
    "dray process -A shop:app --no-work            only what is due, lost or unsettled",
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@setting("-c", "--concurrency", variable="DRAY_CONCURRENCY", type=click.IntRange(1), help="Jobs run at the same time.")
@option("--no-work", is_flag=True, help="Run no jobs: that is for workers.")
@option("--max-jobs", type=click.IntRange(1), metavar="N", help="End after N jobs.")
@option("--max-time", type=duration, metavar="TIME", help="Start nothing after this time, such as 50s.")
@option("--max-memory", type=size, default="1G", show_default=True, metavar="SIZE", help="End when it uses this much.")
@option("--pid-dir", type=PATH, metavar="DIR", help="Where its lock is; by default a folder of this user.")
def process(
    queues: tuple[str, ...],
    concurrency: int | None,
    no_work: bool,
    max_jobs: int | None,
    max_time: float | None,
    max_memory: int,
    pid_dir: Path | None,
) -> int:
    """Do one round: make due jobs ready, free what the dead held, settle what a crash left, and work what is ready.

    For cron, each minute, where nothing may run all the time. A round that still runs makes the next one end at once, with
    exit code 0. It may run beside workers: whoever claims a job first has it.
    """
    found = open_to_work(concurrency=concurrency)
    app = found.app
    lock = Single(f"process-{_number(app, queues)}", pid_dir)
    if not lock.take():
        return already_running(lock, strict=False)
    app.store.ensure()
    upkeep = Upkeep(app)
    upkeep.all_once()
    ended: dict[State, int] = {}
    if not no_work:
        limits = Limits(burst=True, max_jobs=max_jobs, max_time=max_time, max_memory=max_memory)
        worker = Worker(app, queues, limits=limits, where=found.name)
        code = worker.run()
        ended = dict(worker.tally.by_state)
        if code:
            return code
    Admin(app).care.rescue(Progress())
    if wants_json():
        print_json({"ended": {str(state): number for state, number in ended.items()}})
    else:
        parts = [f"{number:,} {state}" for state, number in sorted(ended.items())]
        click.echo(f"{jobs_word(sum(ended.values()))} run{': ' if parts else ''}{', '.join(parts)}")
    return 0


@verb(
    "run",
    "dray run -A shop:app 17             this job, now, here",
    "dray run -A shop:app 17 18 --force  whatever state they are in",
    "dray run -A shop:app 17 --dry-run   only show what would be called",
)
@click.argument("ids", nargs=-1, type=int, required=True, metavar="ID...")
@option("--force", is_flag=True, help="Also jobs that wait for something, are held, or have ended.")
@option("--dry-run", is_flag=True, help="Only show what would be called.")
def run(ids: tuple[int, ...], force: bool, dry_run: bool) -> int:
    """Run jobs now, on this terminal, one after the other; exits with 1 if one has not succeeded.

    A job that runs elsewhere is left alone. What a job waits for, and whether its queue is paused, is passed over with --force:
    meant for finding out what is wrong with one.
    """
    found = open_to_work(quiet=True, concurrency=1)
    app, admin = found.app, Admin(found.app)
    rows = [admin.job(job_id, lines=0).row for job_id in ids]
    for row in rows:
        _check(row, force)
    if dry_run:
        for row in rows:
            click.echo(_shown(app, row))
        return 0
    ended = [row.id for row in rows if row.state.ended]
    for moved in admin.retry(ended, force=True) if ended else []:
        if moved.error is not None:
            raise moved.error
    worker = Worker(app, ids=ids, upkeep=False, where=found.name)
    worker.on_line(_printed)
    code = worker.run()
    rows = [admin.job(job_id, lines=0).row for job_id in ids]
    for row in rows:
        click.echo(as_json(job_facts(row)) if wants_json() else _outcome(row))
    return code or (0 if all(row.state is State.SUCCEEDED for row in rows) else FAILED)


def _number(app: Dray, queues: tuple[str, ...]) -> str:
    """Which rounds are the same: those on one database, of the same queues."""
    settings = app.settings
    about = (settings.database_url, settings.schema or "", settings.table_prefix, *sorted(queues))
    return blake2b("\0".join(about).encode(), digest_size=8).hexdigest()


def _check(row: JobRow, force: bool) -> None:
    if row.state is State.RUNNING:
        raise IllegalMove(row.id, row.state, f"run here: worker {row.worker_id} runs it; cancel it first")
    if row.state is not State.READY and not force:
        why = f" ({row.reason})" if row.reason else ""
        raise IllegalMove(row.id, f"{row.state}{why}", "run without --force")


def _shown(app: Dray, row: JobRow) -> str:
    """The call as Python or a shell would have it."""
    definition = app.registry.find(row.task)
    if definition is None:
        raise BadOption(f"job {row.id}: the app has no task {row.task!r}")
    if definition.command is None:
        return call_text(row.task, row.args)
    try:
        args, kwargs = app.codec.decode_call(row.args)
    except CodecError as error:
        raise BadOption(f"job {row.id}: {error}") from error
    return definition.command.shown(definition.arguments(args, kwargs))


def _printed(kind: str, text: str) -> None:
    click.echo(text if kind in ("stdout", "message") else f"{kind}: {text}", err=kind == "stderr")


def _outcome(row: JobRow) -> str:
    took = "" if row.run_seconds is None else f" in {row.run_seconds:.3f}s"
    told = row.error or row.note or row.result
    return f"job {row.id} {row.state}{took}{f': {told}' if told else ''}"
