"""`dray why`, `groups` and `unblock`: what keeps jobs from running, and how to let them go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click
import msgspec

from dray.admin import Group
from dray.cli.facts import as_json, print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import option, verb
from dray.cli.output import Cell, Column, note, print_table
from dray.cli.words import count, jobs_word, one_line
from dray.errors import BadOption
from dray.store.waits import COUNTED
from dray.why import Cause

FAILED_SOME = 1


@verb("why", "dray why 17", "dray why 17 --json", "dray why 17 18 19")
@click.argument("ids", nargs=-1, type=click.IntRange(1), metavar="ID...", required=True)
def why(ids: tuple[int, ...]) -> int:
    """Say why a job is not running, and what keeps those that it waits for.

    \b
    Every job has an answer: a paused queue, no worker for its queue, priority or task, a group that is
    busy or stands still, a full limit, a rate that is used up, jobs that have not ended, its time, an
    operator's hold. An arrow says what to do, where there is something to be done.
    """
    admin = open_admin()
    for id in ids:
        causes = admin.why(id)
        if wants_json():
            print_json({"id": id, "causes": msgspec.to_builtins(causes)})
        else:
            for line in _lines(causes):
                click.echo(line)
    return 0


def _lines(causes: Sequence[Cause]) -> Iterator[str]:
    for cause in causes:
        indent = "  " * cause.depth
        yield f"{indent}job {cause.job_id}: {one_line(cause.text)}"
        if cause.advice is not None:
            yield click.style(f"{indent}  → {one_line(cause.advice)}", fg="cyan")


@verb("groups", "dray groups", "dray groups customer-42", "dray groups --stuck")
@click.argument("names", nargs=-1, metavar="[GROUP]...")
@option("--stuck", is_flag=True, help="Only those that stand still because of a failed job.")
@option("--limit", type=click.IntRange(1, 1000), default=50, help="So many at once.")
@option("--after", type=int, metavar="NUMBER", help="Those behind this one: the next page.")
def groups(names: tuple[str, ...], stuck: bool, limit: int, after: int | None) -> int:
    """Show how groups stand: who is at the head, how many wait, and for which failed job a group stands still."""
    found = open_admin().groups(names, limit=limit, after=after)
    if stuck:
        found = [one for one in found if one.line.halted_by]
    following = found[-1].number if len(found) >= limit and not names else None
    if wants_json():
        for one in found:
            click.echo(as_json({"number": one.number, **msgspec.to_builtins(one.line)}))
        return 0
    if not found:
        note("no group" + (" stands still" if stuck else " has jobs"))
        return 0
    columns = [Column("GROUP", flexible=True), Column("HEAD"), Column("STATE"), Column("WAITING", right=True), Column("")]
    print_table(columns, [_row(one) for one in found])
    if following is not None:
        note(f"→ dray groups --after {following}")
    return 0


def _row(one: Group) -> list[Cell]:
    line = one.line
    halted = ", ".join(map(str, line.halted_by))
    remark = f"! stands still: job {halted} failed → dray retry {line.halted_by[0]}" if halted else ""
    return [
        Cell(line.name, "bold"),
        Cell("-" if line.head is None else str(line.head)),
        Cell("-" if line.head_state is None else str(line.head_state)),
        Cell(count(line.waiting, COUNTED)),
        Cell(remark, "red"),
    ]


@verb(
    "unblock",
    "dray unblock 18 --without 17       job 18 no longer waits for job 17",
    "dray unblock 17 --give-up          cancel all that wait for job 17 to succeed",
    "dray unblock --group customer-42   go on without the failed job it stands still for",
)
@click.argument("job_id", type=click.IntRange(1), metavar="[ID]", required=False)
@option("--without", type=click.IntRange(1), metavar="ID", help="The parent that the job shall wait for no longer.")
@option("--give-up", is_flag=True, help="The job will never succeed: cancel what waits for that.")
@option("--group", metavar="NAME", help="Let this group go on without its failed job.")
def unblock(job_id: int | None, without: int | None, give_up: bool, group: str | None) -> int:
    """Let jobs go on that wait for what will not come."""
    if [without is not None, give_up, group is not None].count(True) != 1 or (job_id is None) != (group is not None):
        raise BadOption("say what: ID --without PARENT, ID --give-up, or --group NAME")
    admin = open_admin()
    if group is not None:
        ids = admin.unblock_group(group)
        return _tell(
            {"group": group, "without": ids}, f"group {group} goes on without job {', '.join(map(str, ids))}" if ids else ""
        )
    assert job_id is not None
    if without is not None:
        admin.waive(job_id, without)
        return _tell({"id": job_id, "without": without}, f"{job_id}  waits for job {without} no longer")
    moves = admin.give_up(job_id)
    return _tell({"given_up": job_id, "cancelled": [move.id for move in moves]}, f"{jobs_word(len(moves))} cancelled")


def _tell(facts: dict[str, object], text: str) -> int:
    if wants_json():
        print_json(facts)
    elif text:
        click.echo(text)
    else:
        note("it does not stand still")
    return 0
