"""Verbs about what fails: seen together, and told to people."""

from __future__ import annotations

import click
import msgspec

from dray.app import Dray
from dray.cli.facts import as_json, print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import duration, given, option, verb
from dray.cli.output import Cell, Column, note, print_table
from dray.cli.words import clean, one_line, when
from dray.discover import require_app
from dray.errors import BadOption
from dray.notify import Notifier, channels_of, trial_notice
from dray.redact import redact
from dray.store.failures import NEWEST, ErrorKind

FAILED = 1


@verb(
    "errors",
    "dray errors                       what fails, most of it first",
    "dray errors --since 1h",
    "dray errors 3fa2c01b              which jobs, and where it is raised",
    "dray errors 3fa2c01b --ids | xargs dray retry",
)
@click.argument("kind", required=False)
@option("--since", type=duration, metavar="TIME", help="Only of the last 1h, 7d or the like.")
@option("--ids", is_flag=True, help="With a kind: only the ids of its jobs, one on each line.")
def errors(kind: str | None, since: float | None, ids: bool) -> int:
    """Show what fails, alike with alike: the same exception out of the same function of the same task.

    Looks at the newest 10,000 failed attempts. With the key of one kind it shows its jobs and its newest traceback.
    """
    if ids and kind is None:
        raise BadOption("--ids needs a kind, as `dray errors` names them")
    found = open_admin().errors(since)
    if kind is not None:
        found = [one for one in found if kind != "-" and one.key.startswith(kind.lower())]
        if len(found) != 1:
            raise BadOption(f"{kind!r} is no kind of error of this time" if not found else f"{kind!r} is more than one kind")
        return _one(found[0], ids)
    if wants_json():
        for one in found:
            click.echo(as_json(_facts(one)))
        return 0
    if not found:
        note("nothing has failed in this time")
        return 0
    names = (Column("KIND"), Column("TASK"), Column("FAILED", right=True), Column("FOR GOOD", right=True))
    rows = [
        [
            Cell(one.key, "bold"),
            Cell(one.task or "?"),
            Cell(f"{one.attempts:,}"),
            Cell(f"{one.final:,}", "bold red" if one.final else ""),
            Cell(when(one.last_at)),
            Cell(one_line(redact(one.error))),
        ]
        for one in found
    ]
    print_table([*names, Column("LAST"), Column("ERROR", flexible=True)], rows)
    if sum(one.attempts for one in found) >= NEWEST:
        note(f"of the newest {NEWEST:,} failed attempts")
    return 0


def _facts(one: ErrorKind) -> dict[str, object]:
    facts: dict[str, object] = msgspec.to_builtins(one)
    return {"kind": one.key, **facts, "error": redact(one.error)}


def _one(kind: ErrorKind, ids: bool) -> int:
    if ids:
        for id in kind.jobs:
            click.echo(id)
        return 0
    attempts = open_admin().job(kind.jobs[0]).attempts
    traceback = next((one.traceback for one in reversed(attempts) if one.fingerprint == kind.fingerprint), None)
    if wants_json():
        print_json({**_facts(kind), "traceback": None if traceback is None else redact(traceback)})
        return 0
    click.echo(f"{click.style(kind.key, bold=True)}  {kind.task or '?'}  {one_line(redact(kind.error))}")
    click.echo(f"  {kind.attempts:,} attempts, {kind.final:,} jobs failed for good")
    click.echo(f"  from {when(kind.first_at)} to {when(kind.last_at)}")
    more = f" and {len(kind.jobs) - 20} more" if len(kind.jobs) > 20 else ""
    click.echo(f"  jobs {', '.join(map(str, kind.jobs[:20]))}{more}")
    if traceback is not None:
        click.echo()
        for line in redact(traceback).rstrip().splitlines():
            click.echo(f"  {clean(line)}")
    return 0


@verb(
    "notify",
    "dray notify --test     see whether mails and posts arrive",
    "dray notify            tell now what waits to be told",
)
@option("--test", "testing", is_flag=True, help="Tell every channel of a failure that never was, and say how it went.")
def notify(testing: bool) -> int:
    """Tell people of failures now: by mail, webhook and the app's own functions, as its settings say.

    Workers do that by themselves, and each failure is told once; this is for trying it out, and where no worker stays.
    """
    shared = given()
    app: Dray = require_app(shared.app, shared.settings).app
    channels = channels_of(app)
    if not testing:
        told = Notifier(app.store.desk, channels, gathered=0.0, digest=app.settings.digest).round()
        click.echo(f"{told} notice{'' if told == 1 else 's'} told")
        return 0
    went_wrong = False
    for channel in channels:
        try:
            channel.tell(trial_notice())
        except Exception as error:
            went_wrong = True
            click.echo(f"✗ {channel.name}: {one_line(redact(f'{type(error).__name__}: {error}'))}")
        else:
            click.echo(f"✓ {channel.name}")
    if len(channels) == 1:
        note("only the log is told: set mail, mail_from and mail_to, or webhook, or use @app.on_notify")
    return FAILED if went_wrong else 0
