"""All acts, by their names."""

from __future__ import annotations

from dataclasses import replace

from tests.crash import acts, gatedacts

PLAIN = acts.ACTS
GATED = {name: replace(act, gated=True) for name, act in gatedacts.GATED.items()}
ACTS = {**PLAIN, **GATED}
