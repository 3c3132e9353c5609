"""The clock was set back by two hours, and then the worker died. Its probe file was two hours from becoming old, and said for
as long that all was well.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dray import probe


@pytest.mark.parametrize(("ago", "live"), [(0, True), (60, False), (-7200, False)])
def test_a_file_that_was_not_written_now_says_nothing(ago: float, live: bool, tmp_path: Path) -> None:
    file = tmp_path / "probe"
    file.write_text(json.dumps({"at": time.time() - ago, "live": True, "ready": True}))
    assert probe.read(file)["live"] is live
