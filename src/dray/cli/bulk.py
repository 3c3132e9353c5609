"""Moving many jobs: by their ids, or by a filter, page by page, with a question before it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import click

from dray.admin import Admin, Move
from dray.calls import call_text
from dray.cli.facts import print_json
from dray.cli.opening import open_admin, wants_json
from dray.cli.output import note
from dray.cli.words import count, jobs_word, one_line
from dray.errors import IllegalMove, UnknownJob
from dray.job import JobRow, State
from dray.store.filters import Filter

SHOWN = 3  # samples before the question
COUNTED = 10_000  # jobs that are counted before it; beyond, the number says no more
FAILED_SOME, UNCONFIRMED, NOT_FOUND, CONFLICT = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """A move of jobs: the words for it, and what it can be made from."""

    verb: str
    done: str
    example: str
    usual: frozenset[State]  # what a filter without a state means
    possible: frozenset[State]
    act: Callable[[Admin, Sequence[int]], list[Move]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How a bulk is to be moved."""

    yes: bool
    dry_run: bool
    limit: int | None


# --- by ids -----------------------------------------------------------------------------------------------------------------


def by_ids(mover: Mover, ids: Sequence[int], choices: Choices) -> int:
    """Move these jobs and say what became of each; gives the exit code (S1.51)."""
    ids = list(dict.fromkeys(ids))[: choices.limit]
    admin = open_admin()
    if choices.dry_run:
        return _foretell(mover, admin, ids)
    moves = mover.act(admin, ids)
    if wants_json():
        _print_json(mover, moves)
    else:
        for move in moves:
            if move.error is None:
                click.echo(_told(move))
    return _complain(moves) and _code(moves)


def _told(move: Move) -> str:
    if move.after is State.RUNNING:
        return f"{move.id}  running: asked to end"
    return f"{move.id}  {move.before} → {move.after}" if move.before is not move.after else f"{move.id}  {move.after} already"


def _foretell(mover: Mover, admin: Admin, ids: Sequence[int]) -> int:
    """Say what would become of each, as far as its state says so; gives the exit code that would be."""
    told: list[Move] = []
    for id in ids:
        error: UnknownJob | IllegalMove | None = None
        try:
            before: State | None = admin.job(id, lines=0).row.state
        except UnknownJob as missing:
            before, error = None, missing
        if before is not None and before not in mover.possible:
            error = IllegalMove(id, before, mover.done)
        if error is None:
            note(f"{id}  {before}: would be {mover.done}")
        told.append(Move(id=id, before=before, after=None, error=error))
    code = _complain(told) and _code(told)
    note("dry run: nothing changed")
    return code


def _code(moves: Sequence[Move]) -> int:
    """Honest also for many: some were moved, or there is none of them, or they are in no state for it."""
    if any(move.error is None for move in moves):
        return FAILED_SOME
    return NOT_FOUND if all(isinstance(move.error, UnknownJob) for move in moves) else CONFLICT


def _complain(moves: Sequence[Move]) -> int:
    errors = [move.error for move in moves if move.error is not None]
    for error in errors:
        note(f"dray: {error}")
    return FAILED_SOME if errors else 0


def _print_json(mover: Mover, moves: Sequence[Move]) -> None:
    done = [{"id": move.id, "before": move.before, "after": move.after} for move in moves if move.error is None]
    failed = [{"id": move.id, "error": str(move.error)} for move in moves if move.error is not None]
    print_json({mover.done: done, "failed": failed})


# --- by a filter ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Seen:
    """What a filter lets through: how many, of which tasks, the newest few; counted up to a cap plus one."""

    number: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    newest: list[JobRow] = field(default_factory=list)

    @property
    def many(self) -> str:
        return f"{count(self.number, COUNTED)} job{'s' * (self.number != 1)}"


def by_filter(mover: Mover, wanted: Filter, choices: Choices) -> int:
    """Move the jobs that a filter lets through, after a question if they are many; gives the exit code."""
    admin = open_admin()
    seen = _look(admin, wanted, choices.limit)
    if not seen.number:
        note("no job matches")
        return 0
    if choices.dry_run or seen.number > 1:
        _preview(seen)
    if choices.dry_run:
        note("dry run: nothing changed")
        return 0
    if seen.number == 1:
        return by_ids(mover, [seen.newest[0].id], choices)
    if not choices.yes and not _confirmed(mover, seen):
        return UNCONFIRMED
    # Nothing newer than what was shown: that is what was agreed to.
    return _move_pages(mover, admin, admin.pages(wanted, limit=choices.limit, before=seen.newest[0].id + 1))


def _look(admin: Admin, wanted: Filter, limit: int | None) -> Seen:
    seen = Seen()
    for page in admin.pages(wanted, limit=min(limit or COUNTED + 1, COUNTED + 1)):
        seen.number += len(page)
        seen.tasks.update(row.task for row in page)
        seen.newest += page[: SHOWN - len(seen.newest)]
    return seen


def _preview(seen: Seen) -> None:
    tasks = ", ".join(f"{one_line(task)} {times:,}" for task, times in seen.tasks.most_common(5))
    note(f"{seen.many} match{'es' * (seen.number == 1)}   {tasks}")
    for row in seen.newest:
        error = f"  {one_line(row.error)}" if row.error else ""
        note(f"  {row.id}  {row.state}  {one_line(call_text(row.task, row.args))[:100]}{error[:100]}")
    if seen.number > SHOWN:
        note(f"  … and {count(seen.number - SHOWN, COUNTED - SHOWN)} more")


def _confirmed(mover: Mover, seen: Seen) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        note(f"dray: {mover.verb} them all? There is nobody to ask: add --yes, or look with --dry-run")
        return False
    if click.confirm(f"{mover.verb} {seen.many}?", err=True):
        return True
    note("nothing changed")
    return False


def _move_pages(mover: Mover, admin: Admin, pages: Iterable[Sequence[JobRow]]) -> int:
    kept: list[Move] = []
    done = asked = failed = 0
    watched = sys.stderr.isatty()
    for page in pages:
        moves = mover.act(admin, [row.id for row in page])
        failed += sum(move.error is not None for move in moves)
        asked += sum(move.after is State.RUNNING for move in moves)
        done += len(moves)
        if wants_json():
            kept += moves
        _complain(moves)
        if watched:
            click.echo(f"\r{done:,} jobs ", err=True, nl=False)
    if watched:
        click.echo("\r\x1b[K", err=True, nl=False)
    if wants_json():
        _print_json(mover, kept)
    else:
        click.echo(f"{jobs_word(done - asked - failed)} {mover.done}" + (f", {asked:,} running asked to end" if asked else ""))
    return FAILED_SOME if failed else 0
