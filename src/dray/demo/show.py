"""What the demonstration prints: a live display in a terminal, plain lines elsewhere, and tables at the end."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dray.demo.ledger import Counts, Failure, Results
from dray.demo.stage import Actor
from dray.job import State

WINDOW = 3.0  # seconds over which the speed is measured
MOST_FAILURES = 12  # lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that one frame shows; `elapsed` is in seconds."""

    counts: Counts
    total: int
    elapsed: float
    actors: Sequence[Actor]


class Show:
    """Speaks to a console. In a terminal the progress is drawn again and again; elsewhere a line appears every 10 %."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._live: Live | None = None
        self._history: deque[tuple[float, int]] = deque()
        self._said = 0

    def say(self, text: str | Text = "", style: str = "") -> None:
        """Print a line; paths in it are neither broken nor coloured."""
        self.console.print(Text(text, style) if isinstance(text, str) else text, soft_wrap=True)

    def complain(self, text: str) -> None:
        """Say what went wrong, where errors belong."""
        Console(stderr=True, highlight=False).print(Text(text, "red"), soft_wrap=True)

    def open(self) -> None:
        """Begin to show progress."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()

    def close(self) -> None:
        """Leave the last frame where it is, and the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, scene: Scene) -> None:
        """Show how far it is."""
        speed = self._speed(scene)
        if self._live is not None:
            self._live.update(_frame(scene, speed), refresh=True)
            return
        percent = scene.counts.ended * 100 // scene.total
        if percent // 10 > self._said // 10:
            self._said = percent
            parts = [f"{percent:>3} %", f"{scene.counts.ended:>5,} of {scene.total:,}", f"{speed:>4.0f} jobs/s"]
            parts += [f"worker {actor.number}: {actor.done:,}" for actor in scene.actors]
            self.say("   ".join(parts))

    def _speed(self, scene: Scene) -> float:
        self._history.append((scene.elapsed, scene.counts.ended))
        while len(self._history) > 2 and self._history[0][0] < scene.elapsed - WINDOW:
            self._history.popleft()
        (since, before), (now, after) = self._history[0], self._history[-1]
        if scene.counts.ended >= scene.total:
            since, before = 0.0, 0  # the last frame stays: it tells of the whole
        return (after - before) / (now - since) if now > since else 0.0


def _frame(scene: Scene, speed: float) -> RenderableType:
    done, total = scene.counts.ended, scene.total
    top = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total, completed=done, width=30, complete_style="cyan", finished_style="green")
    words = [f"{done:,} of {total:,}", f"{done * 100 // total} %", f"{speed:.0f} jobs/s", f"{scene.elapsed:.0f} s"]
    top.add_row(bar, *words)
    below = Table.grid(padding=(0, 2))
    for actor in scene.actors:
        below.add_row(f"worker {actor.number}", f"pid {actor.pid}", _state_of(actor), f"{actor.done:>5,} done")
    if waiting := scene.counts.by_state[State.RETRYING]:
        below.add_row("", "", Text("↻ retrying", "yellow"), f"{waiting:>5,} waiting")
    return Group("", top, below, "")


def _state_of(actor: Actor) -> Text:
    if actor.killed:
        return Text("✕ killed", "red")
    return Text("◔ working", "cyan") if actor.worker_ids else Text("○ starting", "dim")


def results(show: Show, found: Results) -> None:
    """Print what was counted: totals, the most imported modules, the largest files, and what failed."""
    figures = found.figures.values()
    totals = Table.grid(padding=(0, 2))
    totals.add_column(justify="right")
    totals.add_row(f"{len(figures):,}", "files parsed")
    for name in ("lines", "functions", "classes", "imports"):
        totals.add_row(f"{sum(getattr(one, name) for one in figures):,}", name)
    show.console.print(_titled("Counted", totals))
    side_by_side = Table.grid(padding=(0, 4))
    side_by_side.add_row(_most_imported(found), _largest(found))
    show.console.print(side_by_side)
    if found.failures:
        show.console.print(_failed(found.failures))


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(title, "bold"), body, "")


def _most_imported(found: Results) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(justify="right")
    for name, number in sorted(found.modules.items(), key=lambda item: (-item[1], item[0]))[:10]:
        rows.add_row(f"{number:,}", Text(name))
    return _titled("Most imported, in so many files", rows)


def _largest(found: Results) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(justify="right")
    largest = sorted(found.figures.items(), key=lambda item: (-item[1].lines, item[0]))
    for path, figures in largest[:10]:
        rows.add_row(f"{figures.lines:,}", Text(short(path)))
    return _titled("Longest, in lines", rows)


def _failed(failures: Sequence[Failure]) -> RenderableType:
    rows = Table.grid(padding=(0, 2), expand=True)
    rows.add_column(justify="right", style="dim", width=max(len(str(one.id)) for one in failures))
    rows.add_column(no_wrap=True, overflow="ellipsis", width=24)
    rows.add_column(no_wrap=True, width=len("3 tries"))
    rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for one in failures[:MOST_FAILURES]:
        rows.add_row(str(one.id), Text(short(one.path)), count(one.tries, "try", "tries"), Text(one.error, "red"))
    if len(failures) > MOST_FAILURES:
        rows.add_row("", f"and {len(failures) - MOST_FAILURES} more", "", "")
    return _titled(f"✕ {len(failures)} failed: the parser refuses them, at every try", rows)


def short(path: str) -> str:
    """The end of a path: its last folder and its name."""
    return str(Path(*Path(path).parts[-2:]))


def nearby(path: Path) -> Path:
    """A path as it is typed from here, where that is shorter."""
    seen = Path(os.path.relpath(path))
    return seen if len(str(seen)) < len(str(path)) else path


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
