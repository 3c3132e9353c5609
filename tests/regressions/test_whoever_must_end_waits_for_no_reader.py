"""Nobody read what a worker printed, so the pipe was full, and a job waited in its print. A worker that had to end, since its
lease was lost or its grace over, then waited for that job in order to flush its output: its other jobs ran on, for ever, beside
the second run that others had begun.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

FULL = """
import sys, threading, time
from dray.process import leave
def chatter():
    while True:
        print("x" * 1000, file=sys.{stream})
threading.Thread(target=chatter, daemon=True).start()
time.sleep(0.5)
leave(7, lambda: print("lost", file=sys.{stream}))
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_process_ends_though_nobody_reads_what_it_prints(stream: str) -> None:
    reading, writing = os.pipe()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with ExitStack() as stack:
        stack.callback(os.close, reading)
        stack.callback(os.close, writing)
        words = [sys.executable, "-c", FULL.format(stream=stream)]
        process = subprocess.Popen(words, env=environment, **{stream: writing})  # type: ignore[call-overload]
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.wait(20) == 7


def test_last_words_are_heard_by_who_listens() -> None:
    code = "import sys; from dray.process import leave; sys.stdout.write('first '); leave(7, lambda: print('last', end=''))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "first last")
