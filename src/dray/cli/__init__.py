"""The command line: the verbs, each loaded only when it is used, and the one place where an error becomes an exit code."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from dray import events, first
from dray.cli.options import Common, common
from dray.errors import (
    Conflict,
    DrayError,
    IllegalMove,
    JobFailed,
    NotFinished,
    OutcomeUnknown,
    SchemaError,
    StoreError,
    StoreUnavailable,
    UnknownJob,
    UnknownTask,
    UnknownWorker,
    WorkerLives,
)

OK, FAILED, USAGE, NOT_FOUND, CONFLICT, SCHEMA, UNREACHABLE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 69, 124, 130

# The first that fits counts, so the narrow ones stand above the wide ones.
EXIT_CODES: tuple[tuple[type[DrayError], int], ...] = (
    (UnknownJob, NOT_FOUND),
    (UnknownWorker, NOT_FOUND),
    (UnknownTask, NOT_FOUND),
    (IllegalMove, CONFLICT),
    (WorkerLives, CONFLICT),
    (Conflict, CONFLICT),
    (JobFailed, FAILED),
    (NotFinished, TIMED_OUT),
    (SchemaError, SCHEMA),
    (StoreUnavailable, UNREACHABLE),
    (OutcomeUnknown, UNREACHABLE),
    (StoreError, FAILED),
    (DrayError, USAGE),  # what is left is said wrongly: an option, an argument, a setting
)


class Place(NamedTuple):
    """Where a verb is, and what it does in a few words: so that the list of verbs needs none of them."""

    where: str
    words: str


VERBS = {
    "init": Place("dray.cli.ops:init", "Create the tables, or bring them up to date."),
    "worker": Place("dray.cli.worker:worker", "Work jobs until told to stop."),
    "tend": Place("dray.cli.tend:tend", "Keep enough workers alive."),
    "process": Place("dray.cli.process:process", "Do one round of all there is to do, for cron."),
    "run": Place("dray.cli.process:run", "Run jobs now, on this terminal."),
    "enqueue": Place("dray.cli.enqueue:enqueue", "Enqueue a job, and wait for it if asked."),
    "jobs": Place("dray.cli.jobs:jobs", "List jobs."),
    "show": Place("dray.cli.jobs:show", "Show everything about one job."),
    "why": Place("dray.cli.waiting:why", "Say why a job is not running."),
    "retry": Place("dray.cli.moves:retry", "Run jobs again."),
    "cancel": Place("dray.cli.moves:cancel", "Cancel jobs."),
    "hold": Place("dray.cli.moves:hold", "Keep jobs from starting."),
    "release": Place("dray.cli.moves:release", "Let held jobs go on."),
    "move": Place("dray.cli.moves:move", "Give jobs another queue or priority."),
    "unblock": Place("dray.cli.waiting:unblock", "Let jobs go on that wait for what will not come."),
    "groups": Place("dray.cli.waiting:groups", "Show how groups stand."),
    "queues": Place("dray.cli.queues:queues", "List queues, and which are paused."),
    "pause": Place("dray.cli.queues:pause", "Let nothing of a queue start."),
    "resume": Place("dray.cli.queues:resume", "Let a paused queue go on."),
    "workers": Place("dray.cli.fleet:workers", "List workers and what they run."),
    "stop": Place("dray.cli.fleet:stop", "Tell workers to end."),
    "start": Place("dray.cli.fleet:start", "Let workers work again after stop --stay."),
    "reload": Place("dray.cli.fleet:reload", "Let workers begin anew with new code."),
    "stack": Place("dray.cli.fleet:stack", "Show where running jobs are."),
    "stuck": Place("dray.cli.care:stuck", "Show what does not move, and what to do about it."),
    "rescue": Place("dray.cli.care:rescue", "Take back the jobs of dead workers."),
    "probe": Place("dray.cli.probe:probe", "Say whether a worker is well."),
    "stats": Place("dray.cli.stats:stats", "Show how things are, or check it."),
    "errors": Place("dray.cli.errors:errors", "Show what fails, alike with alike."),
    "notify": Place("dray.cli.errors:notify", "Tell people of failures now, or try it out."),
    "doctor": Place("dray.cli.ops:doctor", "Find out what is wrong, and how to mend it."),
    "prune": Place("dray.cli.ops:prune", "Delete jobs that ended long ago."),
    "example": Place("dray.cli.example:example", "Enqueue jobs to try an installation with."),
    "demo": Place("dray.cli.demo:demo", "See it work, with nothing to set up."),
}


LOCKED = "store.locked"
COLLECTS = "tend"  # the verb that can be process 1 by itself


class Verbs(click.Group):
    """Verbs by name, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].where.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            close = get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}"
            ctx.fail(f"there is no verb {args[0]!r}; {hint}")
        if args and args[0] != COLLECTS:  # before anything is loaded for it, which may take a second
            first.step_aside()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, place.words) for name, place in VERBS.items()])

    def main(self, args: Sequence[str] | None = None, *given: Any, **extra: Any) -> NoReturn:
        """Run, and end the process with one of the documented exit codes."""
        shared = Common()
        extra |= {"standalone_mode": False, "obj": shared}
        unlisten = events.listen(_tell_lock, [LOCKED])
        try:
            code = super().main(args, *given, **extra) or OK
        except click.ClickException as error:
            code = _say_usage(error)
        except click.Abort as error:
            click.echo("stopped", err=True)
            code = INTERRUPTED if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt) else USAGE
        except DrayError as error:
            code = _say(error, shared)
        finally:
            unlisten()
        sys.exit(code)


def _tell_lock(event: str, facts: dict[str, Any]) -> None:
    """Whoever has no log wants to know all the same what is waited for."""
    if not logging.getLogger().handlers:
        click.echo(f"dray: {facts['file']} is locked by {facts['by']}; waiting for at most {facts['patience']:g} s", err=True)


def _say_usage(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = "" if context is None else f" (see '{context.command_path} --help')"
    click.echo(f"dray: {' '.join(error.format_message().split())}{where}", err=True)
    return error.exit_code


def _say(error: DrayError, shared: Common) -> int:
    """One line that says what is wrong and what to do; with -v also where it came from."""
    if shared.verbose and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    click.echo(f"dray: {' '.join(str(error).split())}", err=True)
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


@click.group(
    "dray",
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  dray enqueue -A shop:app send_invoice invoice_id:=7 --wait
  dray jobs state:failed since:1h
  dray doctor

\b
Exit codes: 0 ok · 1 a job failed, some items failed, or unhealthy · 2 usage, or a
confirmation is missing · 3 not found · 4 wrong state · 5 schema missing or old ·
69 database unreachable · 124 waited too long · 130 interrupted""",
)
@common
@click.version_option(package_name="dray", message="dray %(version)s")
@click.pass_context
def cli(context: click.Context) -> int:
    """Background jobs that live in your own database.

    \b
    Verbs that look and act on jobs need only a database: --database-url,
    DRAY_DATABASE_URL, or database_url under [tool.dray] in pyproject.toml.
    Those that run or enqueue tasks need your app: -A module:attribute.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return USAGE
    return OK


def main() -> NoReturn:
    """The `dray` command."""
    first.hold()
    # A terminal that cannot show a sign shall not end in a traceback about it.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    cli.main(prog_name="dray")
