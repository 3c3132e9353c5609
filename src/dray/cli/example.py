"""`dray example`: jobs to try an installation with."""

from __future__ import annotations

import click

from dray.cli.facts import print_json
from dray.cli.opening import look_for_app, wants_json
from dray.cli.options import duration, option, verb
from dray.cli.output import note
from dray.cli.words import jobs_word, one_line
from dray.errors import BadOption
from dray.examples import EXAMPLE

AT_ONCE = 1000  # jobs inserted together


def share(value: str) -> float:
    """Read a part such as 20% or 0.2."""
    try:
        part = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        part = -1.0
    if not 0 <= part <= 1:
        raise click.BadParameter(f"{value!r} is no part: write 20% or 0.2")
    return part


@verb(
    "example",
    "dray example",
    "dray example --count 100 --slow 1s --fail 20%",
    "dray example --count 5 && dray worker -A shop:app --burst",
)
@option("--count", type=click.IntRange(1, 1_000_000), default=1, show_default=True, metavar="N", help="So many jobs.")
@option("--slow", type=duration, default="0s", metavar="TIME", help="How long each of them takes, such as 1s.")
@option("--fail", type=share, default="0", metavar="PART", help="How many of them fail, such as 20%.")
@option("--queue", metavar="QUEUE", help="The queue they wait in.")
@option("--message", default="an example", metavar="TEXT", help="What they write to their logs.")
def example(count: int, slow: float, fail: float, queue: str | None, message: str) -> int:
    """Enqueue jobs to try an installation with; every worker knows their task, dray.example.

    Each waits, writes a line to its log, and fails for good if it is one of those that shall: the second of --fail 50%,
    the fifth of 20%.
    """
    if not message.strip():
        raise BadOption("--message is empty")
    found = look_for_app()
    app = found.app
    sender = app.using() if queue is None else app.using(queue=queue)
    ids: list[int] = []
    for start in range(0, count, AT_ONCE):
        some = range(start + 1, min(start + AT_ONCE, count) + 1)
        calls = [
            sender.bind(
                EXAMPLE, number=number, wait=slow, fails=_failed(number, fail) > _failed(number - 1, fail), message=message
            )
            for number in some
        ]
        ids += [job.id for job in app.enqueue_many(calls)]
    if wants_json():
        print_json({"task": EXAMPLE, "queue": calls[0].job.queue, "ids": ids})
        return 0
    which = f"job {ids[0]}" if count == 1 else f"jobs {ids[0]} to {ids[-1]}"
    click.echo(f"{jobs_word(count)} enqueued in {one_line(calls[0].job.queue)}: {which}")
    how = "" if found.name else " -A module:app"
    note(f"→ dray worker{how} --burst, then dray jobs task:{EXAMPLE}")
    return 0


def _failed(number: int, part: float) -> int:
    """How many of the first so many fail; 0.29 of a hundred are 29, whatever floats make of it."""
    return int(number * part + 1e-9)
