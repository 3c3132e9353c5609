"""`dray tend`: a process that stays and starts others. It loads neither the app nor anything that speaks to a database."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from dray.cli.log import log_to_stderr
from dray.cli.options import Common, Verb, duration, given, option, size, verb
from dray.errors import BadOption
from dray.folder import Folder
from dray.tending.planning import Pool
from dray.tending.relay import Outlet
from dray.tending.tender import Commands, Tender

FLAGS = "dray.tend.flags"


class Tend(Verb):
    """What stands behind `--` is for the workers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[FLAGS] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@verb(
    "tend",
    "dray tend -A shop:app                       2 to 5 workers for all queues",
    "dray tend -A shop:app mail --min 1 --max 8",
    "dray tend -A shop:app --pool mail=2..8 --pool reports=1..1",
    "dray tend -A shop:app mail -- -c 20         what stands behind -- is for the workers",
    cls=Tend,
)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@option("--min", "least", type=click.IntRange(0), default=2, show_default=True, help="Workers that are always there.")
@option("--spare", type=click.IntRange(0), default=1, show_default=True, help="Workers with a free slot that are kept ready.")
@option("--max", "most", type=click.IntRange(1), default=5, show_default=True, help="Processes there are at most.")
@option("--pool", "pools", multiple=True, metavar="QUEUE=MIN..MAX", help="A pool of its own for a queue; may be repeated.")
@option("--max-age", type=duration, default="10m", show_default=True, metavar="TIME", help="Replace older ones; 0: never.")
@option("--max-output", type=size, default="6M", show_default=True, metavar="SIZE", help="The same by what they printed.")
@option("--max-memory", type=size, metavar="SIZE", help="The same by the memory they have.")
@option("--worker-command", metavar="COMMAND", help="Instead of `dray worker`; options and queues are added to it.")
@option("--status-file", type=click.Path(dir_okay=False, path_type=Path), help="Keep how it stands in this file, as JSON.")
@click.pass_context
def tend(
    context: click.Context,
    queues: tuple[str, ...],
    least: int,
    spare: int,
    most: int,
    pools: tuple[str, ...],
    max_age: float,
    max_output: int,
    max_memory: int | None,
    worker_command: str | None,
    status_file: Path | None,
) -> int:
    """Keep enough workers alive.

    As many as are busy and --spare, at least --min, at most --max. A worker that has grown old, has printed much or has too
    much memory is replaced when it is idle; no job is ever cut. When a worker dies, what it held is freed at once.

    The first Ctrl-C or SIGTERM lets running jobs end, a second one gives them back at once. SIGHUP replaces all workers, one
    by one; SIGUSR1 shows how they are.
    """
    if status_file is not None and not status_file.absolute().parent.is_dir():
        raise BadOption(f"--status-file {status_file}: there is no such folder")
    said = any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("least", "most"))
    if pools and (queues or said):
        raise BadOption("with --pool the queues, and the least and most workers of each, are said there: --pool QUEUE=MIN..MAX")
    spans = [read_pool(one) for one in pools] or [(queues, least, most)]
    chosen = [
        Pool(
            name=",".join(names) or "all",
            queues=names,
            least=first,
            spare=spare,
            most=last,
            max_age=max_age or None,
            max_output=max_output or None,
            max_memory=max_memory or None,
        )
        for names, first, last in spans
    ]
    if len({pool.name for pool in chosen}) < len(chosen):
        raise BadOption("--pool names a queue twice")
    shared = given()
    commands = make_commands(shared, worker_command, context.meta.get(FLAGS, ()))
    outlets = (Outlet(1), Outlet(2))
    log_to_stderr("debug" if shared.verbose else "info", outlets[1])
    return Tender(chosen, commands, outlets=outlets, status_file=status_file).run()


def read_pool(text: str) -> tuple[tuple[str, ...], int, int]:
    """Read `QUEUE=MIN..MAX`; raises BadOption.

    >>> read_pool("mail=2..8")
    (('mail',), 2, 8)
    """
    name, sign, span = text.rpartition("=")
    first, dots, last = span.partition("..")
    if not (name and sign and dots and first.isdecimal() and last.isdecimal()):
        raise BadOption(f"--pool {text!r}: write QUEUE=MIN..MAX, such as mail=2..8")
    return (name,), int(first), int(last)


def make_commands(shared: Common, worker_command: str | None, flags: Sequence[str]) -> Commands:
    """How workers and rescues are started: as we were, with the same global options. BadOption if that is not possible."""
    # Where `python -m dray` found us, in the current folder perhaps, our workers have to be looked for as well; otherwise that
    # folder is none to import our own modules from.
    dray = (sys.executable, *(() if Path(sys.argv[0]).name == "__main__.py" else ("-P",)), "-m", "dray")
    options = [
        *(("-A", shared.app) if shared.app else ()),
        *(("--database-url", shared.database_url) if shared.database_url else ()),
    ]
    worker = (*dray, "worker") if worker_command is None else _words(worker_command)
    verbose = ("-v",) if shared.verbose else ()
    return Commands(worker=(*worker, *options, *verbose, *flags), rescue=(*dray, "rescue", *options), folder=Folder())


def _words(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadOption(f"--worker-command {command!r}: {error}") from error
    if not words:
        raise BadOption("--worker-command is empty")
    if shutil.which(words[0]) is None:
        raise BadOption(f"--worker-command: there is no program {words[0]!r}")
    return tuple(words)
