"""`dray init`, `dray doctor`, `dray prune`: looking after an installation."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from dray.admin import Admin
from dray.care import Pruned
from dray.cli.facts import print_json
from dray.cli.opening import look_for_app, open_admin, wants_json
from dray.cli.options import duration, option, verb
from dray.cli.output import note
from dray.cli.words import clean, count
from dray.discover import HOW, Found
from dray.doctor import Check, Level, fail, ok, warn
from dray.durations import show_duration
from dray.errors import BadOption
from dray.job import ENDED, State
from dray.store.read import CAP

UNHEALTHY, UNCONFIRMED = 1, 2
STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
ENDS = [state for state in State if state in ENDED]
KEPT_FOR = {
    "needed": "jobs that have not ended depend on how they ended",
    "halting": "their group stands still because of them: dray groups --stuck",
}
END_WORDS = [str(state) for state in ENDS]  # click would offer the names of the enum


@verb(
    "init",
    "dray init",
    "dray init --check || echo 'the schema is missing or old'",
    "dray init --sql --database-url postgresql:// > dray.sql",
)
@option("--check", is_flag=True, help="Change nothing; exit with 5 if the tables are missing or old.")
@option("--sql", is_flag=True, help="Print the tables as SQL; no database is asked.")
def init(check: bool, sql: bool) -> None:
    """Create the tables, or bring them up to date. Safe to repeat, also at the same time on many hosts."""
    if check and sql:
        raise BadOption("give --check or --sql, not both")
    admin = open_admin()
    if sql:
        click.echo(admin.schema_sql())
        return
    if check:
        admin.check_schema()
        steps = []
    else:
        steps = admin.init(lambda line: None if wants_json() else click.echo(line))
    if wants_json():
        print_json({"applied": steps})
    elif not steps:
        click.echo("up to date")


# --- doctor -----------------------------------------------------------------------------------------------------------------


@verb(
    "doctor",
    "dray doctor",
    "dray doctor --json | jq '.checks[] | select(.level != \"ok\")'",
)
@click.pass_context
def doctor(context: click.Context) -> int:
    """Find out what is wrong, and how to mend it; exits with 1 if a check fails.

    Shows the settings, each with where it came from, and looks at the app, the database, its clock and its tables,
    at workers, queues and tasks.
    """
    found = look_for_app()
    checks = [_app_check(found), *Admin(found.app).doctor(_variables(context.find_root()))]
    failed = sum(check.level is Level.FAIL for check in checks)
    settings = found.app.settings.explain()
    if wants_json():
        shown = [{"name": name, "value": value, "source": source} for name, value, source in settings]
        told = [{"name": one.name, "level": one.level, "text": one.text, "fix": one.fix} for one in checks]
        print_json({"healthy": not failed, "settings": shown, "checks": told})
        return UNHEALTHY if failed else 0
    width = max(len(value) for _, value, _ in settings)
    for name, value, source in settings:
        click.echo(f"{name:15} {value:{min(width, 40)}}  {click.style(source, dim=True)}")
    click.echo()
    for check in checks:
        click.echo(_told(check))
    warned = sum(check.level is Level.WARN for check in checks)
    click.echo(f"{failed} failed, {warned} warning{'s' * (warned != 1)}" if failed or warned else "all is well")
    return UNHEALTHY if failed else 0


def _app_check(found: Found) -> Check:
    if found.problem is not None:
        return fail("app", str(found.problem), "dray doctor -v shows where it breaks")
    if found.name is None:
        return warn("app", "no app is configured, so its tasks are not looked at", HOW)
    number = len(found.app.registry)
    if not number:
        return warn("app", f"{found.name} has no tasks", "import the modules of its tasks where the app is made")
    return ok("app", f"{found.name}, {number} task{'s' * (number > 1)}")


def _told(check: Check) -> str:
    level = click.style(f"{check.level:4}", fg=STYLES[check.level], bold=check.level is not Level.OK)
    fix = f"\n{'':17}→ {clean(check.fix)}" if check.fix else ""
    return f"{level}  {check.name:10} {clean(check.text)}{fix}"


def _variables(root: click.Context) -> Iterator[str]:
    """The variables of all flags, so that the doctor does not call them unknown."""
    group = root.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command is not None
        yield from (parameter.envvar for parameter in command.params if isinstance(parameter.envvar, str))


# --- prune ------------------------------------------------------------------------------------------------------------------


@verb(
    "prune",
    "dray prune --older-than 14d --dry-run",
    "dray prune --older-than 90d --state failed --yes",
    "dray prune --defaults --yes",
)
@option("--older-than", type=duration, metavar="TIME", help="Those that ended longer ago, such as 14d.")
@option("--defaults", is_flag=True, help="As long as the settings keep each state.")
@option("--state", "states", multiple=True, type=click.Choice(END_WORDS), help="Only this state; may be given more than once.")
@option("--dry-run", is_flag=True, help="Only say how many there are.")
@option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
def prune(older_than: float | None, defaults: bool, states: tuple[str, ...], dry_run: bool, yes: bool) -> int:
    """Delete jobs that ended long ago, with their attempts, labels and logs. Workers do so too, as the settings say.

    What something still refers to is kept, and counted: jobs on whose end others depend that have not ended, and
    failed jobs for which their group stands still.
    """
    if (older_than is None) is not defaults:
        raise BadOption("how old? Give --older-than 14d, or --defaults for what the settings keep")
    care, chosen = open_admin().care, [State(state) for state in states] or ENDS
    if dry_run or not yes:
        found = care.prune(older_than, chosen, dry_run=True)
        if dry_run:
            _report(found, dry_run=True)
            return 0
        if any(found.gone.values()) and not _confirmed(found, older_than):
            return UNCONFIRMED
    watched = sys.stderr.isatty()

    def progress(state: State, number: int) -> None:
        if watched:
            click.echo(f"\r{number:,} {state} ", err=True, nl=False)

    gone = care.prune(older_than, chosen, on_progress=progress)
    if watched:
        click.echo("\r\x1b[K", err=True, nl=False)
    _report(gone, dry_run=False)
    return 0


def _confirmed(found: Pruned, older_than: float | None) -> bool:
    _list(found, err=True)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        note("dray: delete them? There is nobody to ask: add --yes, or look with --dry-run")
        return False
    how = "as the settings say" if older_than is None else f"older than {show_duration(older_than)}"
    if click.confirm(f"delete these jobs, {how}?", err=True):
        return True
    note("nothing changed")
    return False


def _report(found: Pruned, *, dry_run: bool) -> None:
    if wants_json():
        kept = {str(state): some._asdict() for state, some in found.kept.items()}
        print_json({"dry_run": dry_run, "pruned": {str(state): number for state, number in found.gone.items()}, "kept": kept})
        return
    _list(found, err=False)
    if dry_run:
        note("dry run: nothing changed")


def _list(found: Pruned, *, err: bool) -> None:
    for state, number in found.gone.items():
        click.echo(f"{state:10} {count(number, CAP):>10}", err=err)
    for state, some in found.kept.items():
        for reason, kept in some._asdict().items():
            if kept:
                click.echo(f"{state:10} {count(kept, CAP):>10}  kept: {KEPT_FOR[reason]}", err=err)
