"""Tables: on a terminal cut to its width and coloured; whole and plain where a program reads them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

from dray.cli.words import one_line
from dray.job import State

GLYPHS = {
    State.BLOCKED: "■",
    State.SCHEDULED: "◷",
    State.READY: "○",
    State.RUNNING: "▶",
    State.RETRYING: "↻",
    State.SUCCEEDED: "✓",
    State.FAILED: "✗",
    State.CANCELLED: "–",
}
STYLES = {
    State.BLOCKED: "yellow",
    State.SCHEDULED: "blue",
    State.READY: "cyan",
    State.RUNNING: "bright_blue",
    State.RETRYING: "yellow",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.CANCELLED: "bright_black",
}

GAP = "  "  # between two columns
NARROWEST = 8  # characters a column is cut to at most


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour; the colour says nothing that the text does not."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; a `flexible` one is cut where the terminal ends, any other is shown whole."""

    title: str
    right: bool = False
    flexible: bool = False


def on_terminal() -> bool:
    """Whether a person is looking at standard output."""
    return sys.stdout.isatty()


def state_cell(state: State) -> Cell:
    """A state with its sign, for people; where there is no terminal, just its name."""
    return Cell(f"{GLYPHS[state]} {state}" if on_terminal() else str(state), STYLES[state])


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table in the way that fits who reads it."""
    texts = [[one_line(cell.text) for cell in row] for row in rows]
    if not on_terminal():
        widths = [max([len(column.title), *map(len, place)]) for column, place in zip(columns, _turned(texts), strict=True)]
        for line in [[column.title for column in columns], *texts]:
            _print_line([_padded(text, width, column) for text, width, column in zip(line, widths, columns, strict=True)])
        return
    # Here, so that a worker, a script and every other verb do without it.
    from rich.cells import cell_len, set_cell_size

    natural = [max([len(column.title), *map(cell_len, place)]) for column, place in zip(columns, _turned(texts), strict=True)]
    widths = fit(natural, [column.flexible for column in columns], shutil.get_terminal_size().columns)

    def shown(text: str, width: int, column: Column) -> str:
        length = cell_len(text)
        if length > width:
            return set_cell_size(text, width - 1) + "…"
        blanks = " " * (width - length)
        return blanks + text if column.right else text + blanks

    titles = [shown(column.title, width, column) for width, column in zip(widths, columns, strict=True)]
    _print_line([click.style(title, bold=True) for title in titles])
    for row, line in zip(rows, texts, strict=True):
        places = zip(row, line, widths, columns, strict=True)
        _print_line([_styled(shown(text, width, column), cell.style) for cell, text, width, column in places])


def _turned(texts: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    return iter(zip(*texts, strict=True))


def _padded(text: str, width: int, column: Column) -> str:
    return text.rjust(width) if column.right else text.ljust(width)


def _print_line(parts: Sequence[str]) -> None:
    click.echo(GAP.join(parts).rstrip())


def _styled(text: str, style: str) -> str:
    if not style or not text.strip():
        return text
    words = style.split()
    colors = [word for word in words if word not in ("bold", "dim")]
    return click.style(text, fg=colors[0] if colors else None, bold="bold" in words or None, dim="dim" in words or None)


def fit(natural: Sequence[int], flexible: Sequence[bool], room: int) -> list[int]:
    """The widths of columns in a terminal: the flexible ones share what the others leave, the narrow ones first.

    >>> fit([5, 40, 100], [False, True, True], 100)
    [5, 40, 51]
    >>> fit([5, 80, 100], [False, True, True], 80)
    [5, 35, 36]
    """
    widths = list(natural)
    left = room - len(GAP) * (len(natural) - 1) - sum(w for w, may in zip(natural, flexible, strict=True) if not may)
    places = sorted((place for place, may in enumerate(flexible) if may), key=lambda place: natural[place])
    for done, place in enumerate(places):
        widths[place] = min(natural[place], max(NARROWEST, left // (len(places) - done)))
        left -= widths[place]
    return widths


def note(text: str) -> None:
    """Say something that is no data, where it does not mix with data."""
    click.echo(text, err=True)
