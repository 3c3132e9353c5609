"""Writes docs/states.md from the moves the code allows: `.venv/bin/python docs/generate_states.py`."""

from __future__ import annotations

from pathlib import Path

from dray.job import State
from dray.lifecycle import MOVES, Move

PAGE = Path(__file__).with_name("states.md")

# What each state means to people; a test fails when one is missing.
MEANING = {
    State.BLOCKED: "Waits for something that has a name: other jobs, its group, a limit, an operator, a worker that knows it.",
    State.SCHEDULED: "Has a time before which it may not start.",
    State.READY: "May start at any moment.",
    State.RUNNING: "A worker holds it, under a lease.",
    State.RETRYING: "Failed, and will be tried again at its time.",
    State.SUCCEEDED: "Done.",
    State.FAILED: "Gave up; a person has to look.",
    State.CANCELLED: "Will not run, because somebody said so.",
}


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# The states of a job",
            "",
            "Written by `docs/generate_states.py` from `dray.lifecycle.MOVES`; a change of the moves belongs there.",
            "",
            *_states(),
            "",
            *_diagram(),
            "",
            *_moves(),
            "",
        ]
    )


def _states() -> list[str]:
    rows = [f"| `{state}` | {MEANING[state]} | {'yes' if state.ended else ''} |" for state in State]
    return ["| state | | an end |", "|---|---|---|", *rows]


def _diagram() -> list[str]:
    """One arrow for each pair of states, with all the ways from one to the other as its label."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for move in MOVES:
        arrows.setdefault((_node(move.before), _node(move.after)), []).append(move.by)
    # Mermaid ends a label at a semicolon and takes a colon for the beginning of one.
    lines = [f"    {before} --> {after} : {' / '.join(ways)}" for (before, after), ways in arrows.items()]
    ends = [f"    {state} --> [*]" for state in State if state.ended]
    return ["```mermaid", "stateDiagram-v2", *lines, *ends, "```"]


def _node(state: State | None) -> str:
    return "[*]" if state is None else str(state)


def _moves() -> list[str]:
    return ["| from | to | by |", "|---|---|---|", *(_row(move) for move in MOVES)]


def _row(move: Move) -> str:
    before = "" if move.before is None else f"`{move.before}`"
    return f"| {before} | `{move.after}` | {move.by} |"


if __name__ == "__main__":
    PAGE.write_text(page())
