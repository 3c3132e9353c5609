"""docs/states.md says what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    generator = runpy.run_path(str(DOCS / "generate_states.py"))
    assert (DOCS / "states.md").read_text() == generator["page"](), "run .venv/bin/python docs/generate_states.py"


def test_no_label_breaks_the_diagram() -> None:
    diagram = (DOCS / "states.md").read_text().split("```")[1]
    arrows = [line for line in diagram.splitlines() if "-->" in line]
    assert arrows
    assert not [line for line in arrows if line.count(":") > 1 or ";" in line]
