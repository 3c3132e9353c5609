"""A demonstration on real input: two workers parse the Python files of this interpreter, and one of them is killed."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dray.demo.play import Play
from dray.demo.show import Show
from dray.demo.stage import DemoFailed, Place

FOLDER = ".dray-demo"


def run(jobs: int | None = None, keep: bool = False, database_url: str | None = None) -> int:
    """Run the demonstration and give its exit code: 0 only if every enqueued job ended, once, with the right result.

    jobs            how many at most; None: all there is to do
    keep            leave the database of an earlier run alone, and make a new one beside it
    database_url    use this database, under a table prefix of its own, instead of an SQLite file in `.dray-demo`
    """
    show = Show()
    try:
        with _terminable(), Place(_folder()) as place:
            return Play(show, place, jobs=jobs, keep=keep, database_url=database_url).perform()
    except DemoFailed as failure:
        show.close()
        show.complain(f"✕ {failure}")
        return 1
    except KeyboardInterrupt:
        show.close()
        show.complain("Interrupted. The workers were stopped in good order, and what was not done is still in the database.")
        return 130
    finally:
        show.close()


def _folder() -> Path:
    """A folder in this one, so that it is found again; a temporary one where this one is not ours to write to."""
    try:
        Path(FOLDER).mkdir(exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="dray-demo-"))
    return Path(FOLDER).absolute()


@contextmanager
def _terminable() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C, so that no worker is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
