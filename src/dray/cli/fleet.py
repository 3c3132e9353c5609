"""`dray workers`, `stop`, `start`, `reload` and `stack`: all workers, from wherever the database can be reached."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from dray.admin import Admin
from dray.calls import call_text
from dray.cli.facts import as_json, print_json
from dray.cli.opening import look_for_app, wants_json
from dray.cli.options import duration, option, verb
from dray.cli.output import Cell, Column, note, print_table
from dray.cli.words import about
from dray.durations import show_size
from dray.errors import BadOption
from dray.fleet import Fleet, Member
from dray.job import JobRow
from dray.store.orders import Order
from dray.store.workers import WorkerState

NOT_ALL, NO_ANSWER = 1, 124

COLUMNS = (
    *(Column("ID", right=True), Column("HOST"), Column("PID", right=True), Column("QUEUES", flexible=True)),
    *(Column("STATE"), Column("BUSY", right=True), Column("DONE", right=True), Column("MEMORY", right=True)),
    *(Column("AGE", right=True), Column("RUNNING", flexible=True)),
)


def open_fleet(timeout: float | None = None) -> Fleet:
    """All workers, on the app that is configured or a bare one on its database.

    timeout     seconds that a locked database is waited for at most, too
    """
    app = look_for_app(timeout).app
    Admin(app).check_schema()
    return Fleet(app)


@verb("workers", "dray workers", "dray workers --all", "dray workers --json | jq .jobs")
@option("--all", "everybody", is_flag=True, help="Also those that have ended, for a day.")
def workers(everybody: bool) -> int:
    """List the workers: where they are, what they take, what they run at this moment."""
    members = open_fleet().members(alive_only=not everybody)
    if wants_json():
        for member in members:
            jobs = [{"id": job.id, "task": job.task, "seconds": _seconds(job)} for job in member.jobs]
            click.echo(as_json({**msgspec.to_builtins(member.row), "state": _state(member), "jobs": jobs}))
        return 0
    if not members:
        note("no worker is alive" if not everybody else "there were no workers")
        return 0
    print_table(COLUMNS, [_row(member) for member in members])
    return 0


def _row(member: Member) -> list[Cell]:
    row, state = member.row, _state(member)
    style = {"silent": "red", "dead": "red", "paused": "yellow", "stopping": "yellow"}.get(state.split()[0], "")
    return [
        Cell(str(row.id), "bold"),
        Cell(row.host),
        Cell(str(row.pid)),
        Cell(row.queues + (f" -p {row.priorities}" if row.priorities else "") + (f" {row.tasks}" if row.tasks else "")),
        Cell(state, style),
        Cell(f"{len(member.jobs)}/{row.concurrency}"),
        Cell(f"{row.done:,}"),
        Cell("-" if row.memory is None else show_size(row.memory)),
        Cell(about(max(0.0, ((row.ended_at or datetime.now(UTC)) - row.started_at).total_seconds()))),
        Cell(_jobs(member.jobs)),
    ]


def _state(member: Member) -> str:
    row = member.row
    if row.state is not WorkerState.ALIVE:
        return str(row.state)
    if member.silent:
        return f"silent {about(row.silent_for)}"
    match row.asked:
        case Order.STOP | Order.STOP_NOW:
            return "stopping"
        case Order.RELOAD:
            return "reloading"
    if row.paused:
        return "paused"
    return "busy" if member.jobs else "idle"


def _jobs(jobs: Sequence[JobRow]) -> str:
    shown = [f"{job.id} {call_text(job.task, job.args)} {about(_seconds(job))}" for job in jobs[:3]]
    return ", ".join(shown) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")


def _seconds(job: JobRow) -> float:
    since = job.started_at or job.claimed_at
    return 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())


@verb(
    "stop",
    "dray stop                          all workers; a supervisor starts new ones",
    "dray stop mail                     those that take the queue mail by name",
    "dray stop --worker 7 --now",
    "dray stop --stay --reason 'the database moves'",
)
@click.argument("queue", required=False)
@option("--worker", "ids", type=int, multiple=True, metavar="ID", help="Only this worker; may be given more than once.")
@option("--host", metavar="NAME", help="Only those on this host.")
@option("--now", is_flag=True, help="Do not wait for what runs: it goes back, and is started elsewhere.")
@option("--stay", is_flag=True, help="Also let no worker start, until dray start.")
@option("--reason", metavar="TEXT", help="With --stay: why; workers say it.")
@option("--wait/--no-wait", default=True, show_default=True, help="Wait until they have ended.")
@option("--timeout", type=duration, metavar="TIME", help="How long to wait at most.")
def stop(
    queue: str | None,
    ids: tuple[int, ...],
    host: str | None,
    now: bool,
    stay: bool,
    reason: str | None,
    wait: bool,
    timeout: float | None,
) -> int:
    """Tell workers to end: they start nothing more, and what runs may end within their time of grace.

    Exits with 1 if some have not ended in time.
    """
    if stay and (queue or ids or host):
        raise BadOption("--stay is for all workers: leave out the queue, --worker and --host")
    if reason and not stay:
        raise BadOption("--reason is for --stay")
    fleet = open_fleet(timeout)
    if stay:
        fleet.stay_stopped(reason)
    told = fleet.stop(fleet.choose(queue=queue, host=host, ids=ids), now=now)
    left = fleet.wait_for_end(told, timeout, _say_busy) if wait else []
    if wants_json():
        print_json({"told": told, "left": left, "stay": stay})
    elif not told:
        click.echo("no worker is alive" + (" that fits" if queue or ids or host else ""))
    elif not wait:
        click.echo(f"{_workers(len(told))} told to stop")
    elif left:
        note(f"dray: {_workers(len(left))} not ended yet: {', '.join(map(str, left))}")
    else:
        click.echo(f"{_workers(len(told))} stopped")
    return NOT_ALL if left else 0


def _say_busy(left: Sequence[Member]) -> None:
    busy = [f"{job.task} {about(_seconds(job))}" for member in left for job in member.jobs]
    shown = f" ({', '.join(busy[:5])}{', …' if len(busy) > 5 else ''})" if busy else ""
    note(f"stopping: {_workers(len(left))}, {sum(bool(member.jobs) for member in left)} busy{shown}")


def _workers(number: int) -> str:
    return f"{number} worker{'s' * (number != 1)}"


@verb("start", "dray start")
def start() -> int:
    """Let workers work again after dray stop --stay. It starts none: that is for whoever started them before."""
    was = open_fleet().start()
    if wants_json():
        print_json({"was_stopped": was})
    else:
        click.echo("workers may start" if was else "workers were not stopped")
    return 0


@verb(
    "reload",
    "dray reload                 all workers, each when what it runs has ended",
    "dray reload mail 2          the two oldest of those that take mail by name",
    "dray reload --rolling 1     one after the other",
)
@click.argument("which", nargs=-1, metavar="[QUEUE] [N]")
@option("--rolling", type=click.IntRange(1), metavar="K", help="So many at a time; the next when those are replaced.")
@option("--timeout", type=duration, default=300.0, metavar="TIME", help="With --rolling: how long one may take.")
def reload(which: tuple[str, ...], rolling: int | None, timeout: float) -> int:
    """Let workers begin anew, with the code as it is by then. No job is cut.

    A worker that was started by itself begins anew in its own process; one under a supervisor ends, and is started again.
    Exits with 1 if one was not replaced in time.
    """
    queue, number = _queue_and_number(which)
    say = (lambda ids: None) if wants_json() else (lambda ids: click.echo(f"reloading {', '.join(map(str, ids))}"))
    told, left = open_fleet(timeout).reload(queue, number, rolling=rolling, timeout=timeout, tell=say)
    if wants_json():
        print_json({"told": told, "not_replaced": left})
    elif not told:
        click.echo("no worker is alive" + (" that takes this queue by name" if queue else ""))
    elif left:
        note(f"dray: nobody has taken the place of {', '.join(map(str, left))}: what starts your workers?")
    return NOT_ALL if left else 0


def _queue_and_number(which: Sequence[str]) -> tuple[str | None, int | None]:
    """Both orders are understood: of the systems that this comes from, one documents the one and does the other."""
    numbers, names = [one for one in which if one.isdecimal()], [one for one in which if not one.isdecimal()]
    if len(numbers) > 1 or len(names) > 1:
        raise BadOption("give at most a queue and a number of workers, such as: dray reload mail 2")
    if numbers and int(numbers[0]) < 1:
        raise BadOption("reload at least 1 worker")
    return (names[0] if names else None), (int(numbers[0]) if numbers else None)


@verb("stack", "dray stack 4711              where this job is", "dray stack --worker 7        where all jobs of a worker are")
@click.argument("job_id", type=int, required=False, metavar="[JOB]")
@option("--worker", "worker_id", type=int, metavar="ID", help="All jobs of this worker.")
@option("--timeout", type=duration, default=10.0, metavar="TIME", help="How long to wait for its answer.")
def stack(job_id: int | None, worker_id: int | None, timeout: float) -> int:
    """Show where running jobs are at this moment, line by line.

    Exits with 124 when the worker gives no answer: then something keeps all of its threads from running.
    """
    if (job_id is None) is (worker_id is None):
        raise BadOption("give the id of a job, or --worker ID")
    fleet = open_fleet(timeout)
    asked = fleet.worker_of(job_id) if job_id is not None else worker_id
    assert asked is not None
    told = fleet.stacks(asked, timeout)
    if told is None:
        note(f"dray: worker {asked} has not answered within {about(timeout)}")
        return NO_ANSWER
    chosen = [one for one in told if job_id in (None, one["id"])]
    if wants_json():
        print_json({"worker": asked, "jobs": chosen})
        return 0
    if not chosen:
        note("it has just ended" if job_id is not None else f"worker {asked} runs nothing")
    for one in chosen:
        click.echo(f"job {one['id']} {one['task']}, running for {about(one['seconds'])} on worker {asked}")
        click.echo(one["stack"].rstrip() or "  (its stack cannot be seen)")
    return 0
