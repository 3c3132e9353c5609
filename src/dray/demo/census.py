"""The app of the demonstration: one task, which parses a Python file and counts what is in it."""

from __future__ import annotations

import ast
import itertools
import os
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dray.app import Dray
from dray.lifecycle import Retry

QUEUE = "census"
RETRIES = (0.5, 1.0)  # seconds before the second and the third try
ENOUGH = 1500  # files; an interpreter that brings fewer is helped out by the packages installed beside it
NOT_PYTHON = (".so", ".txt", ".css")
ELSEWHERE = {"site-packages", "dist-packages", "__pycache__"}  # no part of the library, even where they are below it

# CPython 3.11 counts the depth of a syntax tree in one place for all threads, and raises SystemError when two build one.
_parser = threading.Lock()

# Database and lease come from the environment, as in any deployment: the stage sets it for its workers.
app = Dray()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one file came to. `modules` are the top names it imports from elsewhere, each once."""

    lines: int
    functions: int
    classes: int
    imports: int
    modules: list[str]


@app.task(queue=QUEUE, retry=Retry.after(*RETRIES))
def census(path: str) -> Figures:
    """Parse a file and count. What the parser refuses raises SyntaxError or ValueError: the retry policy is for that."""
    source = Path(path).read_bytes()
    with _parser:
        tree = ast.parse(source, Path(path).name)
    functions = classes = imports = 0
    modules: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
            case ast.ClassDef():
                classes += 1
            case ast.Import():
                imports += 1
                modules.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom():
                imports += 1
                if node.module and not node.level:
                    modules.add(node.module.partition(".")[0])
            case _:
                pass
    lines = len(source.splitlines())
    return Figures(lines=lines, functions=functions, classes=classes, imports=imports, modules=sorted(modules))


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What there is to do: the files of the standard library, some of installed packages, and some that are not Python."""

    library: list[Path]
    packages: list[Path]
    others: list[Path]

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.others, *self.library, *self.packages]


def find_input(limit: int | None = None) -> Input:
    """Look for real files; `limit` is how many in all, spread evenly over what is there."""
    folders = sysconfig.get_paths()
    everything = list(_walk(folders["stdlib"]))
    library = [path for path in everything if path.suffix == ".py"]
    others = list(_not_python(everything))
    packages = [path for path in _walk(folders["purelib"]) if path.suffix == ".py"][: max(0, ENOUGH - len(library))]
    if limit is not None:
        others = others[: max(1, limit // 10)]
        packages = _spread(packages, max(0, limit - len(others) - len(library)))
        library = _spread(library, max(0, limit - len(others)))
    return Input(library=library, packages=packages, others=others)


def _walk(folder: str) -> Iterator[Path]:
    """All files in and below a folder, in an order that is the same every time."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - ELSEWHERE)
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file())


def _not_python(files: list[Path]) -> Iterator[Path]:
    """The first file of each of some other kinds that the parser really refuses: something has to fail."""
    for suffix in NOT_PYTHON:
        refused = (path for path in files if path.suffix == suffix and not parses(path))
        yield from itertools.islice(refused, 1)


def parses(path: Path) -> bool:
    """Whether the parser takes this file."""
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return False
    return True


def _spread(files: list[Path], wanted: int) -> list[Path]:
    """So many of the files, at even distances."""
    if wanted >= len(files):
        return files
    return [files[index * len(files) // wanted] for index in range(wanted)]
