"""The folder that a process was started in, by its name: behind a link that a deploy moves, that is another one later on."""

from __future__ import annotations

import os
from pathlib import Path

from dray import events


class Folder:
    """Where this process was started. The system only knows where a link led to by then; its name is what the shell says
    (`PWD`), if that is true, and else what the system says."""

    def __init__(self) -> None:
        try:
            self._was = os.getcwd()
        except OSError:  # it has been deleted
            self._was = ""
        said = os.environ.get("PWD", "")
        self.name = said if os.path.isabs(said) and _is_here(said) else self._was
        self._has_told = False

    def now(self) -> str | None:
        """Its name, for those that begin there; None, which is said once, if it is gone: stay where we are."""
        if self.name and os.path.isdir(self.name):
            return self.name
        self._tell("there is no such folder any more")
        return None

    def enter(self) -> None:
        """Go to where its name leads now."""
        if (name := self.now()) is not None:
            try:
                os.chdir(name)
            except OSError as error:
                self._tell(str(error.strerror))

    def of(self, program: str) -> str:
        """A program by the name of this folder, if there is one in it: the interpreter that was installed with the code."""
        if not self._was or not Path(program).is_relative_to(self._was):
            return program
        found = str(Path(self.name) / Path(program).relative_to(self._was))
        return found if os.access(found, os.X_OK) else program

    def _tell(self, why: str) -> None:
        if not self._has_told:
            self._has_told = True
            events.emit("folder.gone", folder=self.name, why=why)


def _is_here(folder: str) -> bool:
    try:
        return os.path.samefile(folder, ".")
    except OSError:
        return False
