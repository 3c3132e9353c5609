"""`dray queues`, `pause` and `resume`."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec

from dray.cli.facts import as_json, print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.options import duration, moment, option, verb
from dray.cli.output import Cell, Column, note, print_table
from dray.cli.words import about, count, when
from dray.errors import BadOption
from dray.store.read import CAP

NOT_ALL = 1


@verb("queues", "dray queues", "dray queues --json")
def queues() -> int:
    """List the queues in use, and those that are paused, with who paused them and until when."""
    admin = open_admin()
    paused = {pause.queue: pause for pause in admin.paused()}
    counts = {one.queue: one for one in admin.queues()}
    names = sorted({*paused, *counts})
    if wants_json():
        for name in names:
            facts = msgspec.to_builtins(counts[name]) if name in counts else {"queue": name, "ready": 0, "running": 0}
            pause = msgspec.to_builtins(paused[name], enc_hook=str) if name in paused else None
            click.echo(as_json({**facts, "paused": pause}))
        return 0
    if not names:
        note("no queue is in use")
        return 0
    columns = [Column("QUEUE", flexible=True), Column("READY", right=True), Column("RUNNING", right=True)]
    rows = []
    for name in names:
        one, pause = counts.get(name), paused.get(name)
        remark = ""
        if pause is not None:
            until = "" if pause.until is None else f" until {when(pause.until)}"
            remark = f"paused{until}{f': {pause.note}' if pause.note else ''}"
        oldest = "-" if one is None or one.oldest is None else about(one.oldest)
        cells = [
            Cell(name, "bold"),
            Cell("0" if one is None else count(one.ready, CAP)),
            Cell("0" if one is None else f"{one.running:,}"),
        ]
        rows.append([*cells, Cell(oldest), Cell(remark, "yellow")])
    print_table([*columns, Column("OLDEST", right=True), Column("")], rows)
    return 0


@verb(
    "pause",
    "dray pause mail --reason 'the mail server is away'",
    "dray pause mail --for 30m",
    "dray pause mail --until 2030-02-28T12:00",
)
@click.argument("queue")
@option("--reason", metavar="TEXT", help="Why; shown to everybody.")
@option("--for", "seconds", type=duration, metavar="TIME", help="Resume by itself after this time.")
@option("--until", type=moment, metavar="INSTANT", help="Resume by itself at this instant.")
@option("--timeout", type=duration, default=10.0, metavar="TIME", help="How long to wait for the workers.")
def pause(queue: str, reason: str | None, seconds: float | None, until: datetime | None, timeout: float) -> int:
    """Let nothing of a queue start until it is resumed; what runs goes on.

    Returns when all workers have confirmed that they start nothing of it any more, or names those that have not within
    the timeout; then the exit code is 1.
    """
    if seconds is not None and until is not None:
        raise BadOption("give --for or --until, not both")
    deaf = open_admin(timeout).pause(queue, note=reason, seconds=seconds, until=until, timeout=timeout)
    if wants_json():
        print_json({"queue": queue, "paused": True, "unconfirmed": deaf})
    elif not deaf:
        click.echo(f"{queue} is paused: no worker starts anything of it")
    if deaf:
        note(f"dray: {queue} is paused, but worker {', '.join(map(str, deaf))} has not confirmed it yet")
    return NOT_ALL if deaf else 0


@verb("resume", "dray resume mail")
@click.argument("queue")
def resume(queue: str) -> int:
    """Let a paused queue go on."""
    was = open_admin().resume(queue)
    if wants_json():
        print_json({"queue": queue, "was_paused": was})
    else:
        click.echo(f"{queue} goes on" if was else f"{queue} was not paused")
    return 0
