"""`dray retry`, `cancel`, `hold`, `release` and `move`: by id, from standard input, or by a filter."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace

import click

from dray.admin import read_filter
from dray.cli.bulk import Choices, Mover, by_filter, by_ids
from dray.cli.options import option, verb
from dray.cli.output import note
from dray.errors import BadFilter, BadOption
from dray.job import ENDED, State
from dray.store.filters import DEEPLY, Filter

LIVE = frozenset(State).difference(ENDED)
WAITING = LIVE - {State.RUNNING}


_WHICH = click.argument("which", nargs=-1, metavar="(ID... | - | FILTER...)")
_LIMIT = option("--limit", type=click.IntRange(1), metavar="N", help="The newest N that the filter lets through.")
_DRY_RUN = option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
_YES = option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")


@verb(
    "retry",
    "dray retry 17 18,19",
    "dray retry state:failed queue:mail since:1h --dry-run",
    "dray jobs state:failed task:send_invoice -o ids | dray retry -",
)
@_WHICH
@option("--force", is_flag=True, help="Run succeeded jobs again too.")
@option("--with-children", is_flag=True, help="And the jobs that were cancelled because of these.")
@_LIMIT
@_DRY_RUN
@_YES
def retry(which: tuple[str, ...], force: bool, with_children: bool, limit: int | None, dry_run: bool, yes: bool) -> int:
    """Run jobs again: ended ones start over under their ids, waiting ones start now.

    Jobs are named by ids, by ids on standard input (-), or by a filter as in `dray jobs`; a filter that names no state
    means failed jobs. More than one job chosen by a filter has to be confirmed.

    \b
    Of each id it is said what became of it; one that cannot be moved does not stop the others.
    Exits with 0 if all were moved, 1 if some were, 3 if there is none of them, 4 if no state allows it.
    """
    possible = frozenset({State.FAILED, State.CANCELLED, State.SCHEDULED, State.RETRYING, State.READY})
    mover = Mover(
        verb="retry",
        done="retried",
        example="state:failed",
        usual=frozenset({State.FAILED}),
        possible=possible | {State.SUCCEEDED} if force else possible,
        act=lambda admin, ids: (admin.retry_with_children if with_children else admin.retry)(ids, force=force),
    )
    return _move(mover, which, Choices(yes=yes, dry_run=dry_run, limit=limit))


@verb(
    "cancel",
    "dray cancel 17",
    "dray cancel task:old.cleanup --dry-run",
    "dray cancel state:scheduled queue:mail --yes",
)
@_WHICH
@_LIMIT
@_DRY_RUN
@_YES
def cancel(which: tuple[str, ...], limit: int | None, dry_run: bool, yes: bool) -> int:
    """Cancel jobs: waiting ones end at once, running ones are asked to end.

    Jobs are named by ids, by ids on standard input (-), or by a filter as in `dray jobs`; a filter that names no state
    means all that have not ended. More than one job chosen by a filter has to be confirmed.
    """
    mover = Mover(
        verb="cancel",
        done="cancelled",
        example="state:scheduled",
        usual=LIVE,
        possible=LIVE,
        act=lambda admin, ids: admin.cancel(ids),
    )
    return _move(mover, which, Choices(yes=yes, dry_run=dry_run, limit=limit))


@verb("hold", "dray hold 17 --reason 'ann is looking at it'", "dray hold queue:mail task:send_invoice")
@_WHICH
@option("--reason", metavar="TEXT", help="Why; shown with the job.")
@_LIMIT
@_DRY_RUN
@_YES
def hold(which: tuple[str, ...], reason: str | None, limit: int | None, dry_run: bool, yes: bool) -> int:
    """Keep jobs from starting until they are released; one that runs is not started again.

    A held job gives back its place in its group and its share of a limit, so that it keeps nobody else waiting.
    """
    mover = Mover(
        verb="hold",
        done="held",
        example="queue:mail",
        usual=WAITING,
        possible=LIVE,
        act=lambda admin, ids: admin.hold(ids, reason),
    )
    return _move(mover, which, Choices(yes=yes, dry_run=dry_run, limit=limit))


@verb("release", "dray release 17", "dray release reason:held")
@_WHICH
@_LIMIT
@_DRY_RUN
@_YES
def release(which: tuple[str, ...], limit: int | None, dry_run: bool, yes: bool) -> int:
    """Let held jobs go on; they stand in line again at the first station that keeps them."""
    mover = Mover(
        verb="release",
        done="released",
        example="reason:held",
        usual=LIVE,
        possible=LIVE,
        act=lambda admin, ids: admin.release(ids),
    )
    return _move(mover, which, Choices(yes=yes, dry_run=dry_run, limit=limit))


@verb("move", "dray move 17 --queue reports", "dray move task:send_invoice --priority 10")
@_WHICH
@option("--queue", metavar="NAME", help="The queue they shall wait in.")
@option("--priority", type=click.IntRange(0, 999), metavar="N", help="0 to 999, smaller is more urgent.")
@_LIMIT
@_DRY_RUN
@_YES
def move(which: tuple[str, ...], queue: str | None, priority: int | None, limit: int | None, dry_run: bool, yes: bool) -> int:
    """Put jobs that do not run into another queue, or give them another priority."""
    if queue is None and priority is None:
        raise BadOption("move them where? Give --queue, --priority or both")
    mover = Mover(
        verb="move",
        done="moved",
        example="queue:mail --queue reports",
        usual=WAITING,
        possible=WAITING,
        act=lambda admin, ids: admin.move(ids, queue=queue, priority=priority),
    )
    return _move(mover, which, Choices(yes=yes, dry_run=dry_run, limit=limit))


def _move(mover: Mover, which: tuple[str, ...], choices: Choices) -> int:
    if not which:
        raise BadOption(f"which jobs? Give ids, - for ids on standard input, or a filter: dray {mover.verb} {mover.example}")
    if which == ("-",):
        return by_ids(mover, _numbers(_apart([sys.stdin.read()])), choices)
    words = _apart(which)
    if words and all(word.isdecimal() for word in words):
        return by_ids(mover, _numbers(words), choices)
    if any(word == "-" or all(id.isdecimal() for id in _apart([word])) for word in which):
        raise BadOption("give ids or a filter, not both")
    return by_filter(mover, _chosen(mover, which), choices)


def _apart(words: Iterable[str]) -> list[str]:
    """Ids by themselves: they may be put together with commas, 17,18,19 (S1.51)."""
    return [id for word in words for id in word.replace(",", " ").split()]


def _numbers(words: Sequence[str]) -> list[int]:
    wrong = [word for word in words if not word.isdecimal() or int(word) >= 2**63]
    if wrong:
        raise BadOption(f"{wrong[0]!r} is no job id")
    return [int(word) for word in words]


def _chosen(mover: Mover, words: Sequence[str]) -> Filter:
    wanted = read_filter(words)
    if wanted.is_deep:
        note(DEEPLY)
    named = wanted.possible_states()
    if named is None:
        return replace(wanted, states=mover.usual)
    wrong = named - mover.possible
    if wrong:
        hint = " without --force" if State.SUCCEEDED in wrong and mover.verb == "retry" else ""
        raise BadFilter(f"{', '.join(sorted(wrong))} jobs cannot be {mover.done}{hint}")
    return wanted
