"""The floor plan: who may import whom.

A module imports only from floors below its own. To add a module, put its name on a floor of `FLOORS`: one
above the highest that it imports. If that seems too high, what it imports stands too high.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "dray"

# From the ground up; names are relative to `dray`, "" is the package itself.
FLOORS: list[set[str]] = [
    # 0 words
    {"outside", "tending", "first", "errors", "report", "job", "signals", "notice", "options", "durations", "urls", "tags"},
    # 1 rules
    {
        "lifecycle",
        "stations",
        "settings",
        "kinds",
        "events",
        "pids",
        "pulse",
        "lifeline",
        "codec",
        "payload",
        "shapes",
        "calls",
        "pace",
        "rates",
        "meter",
        "redact",
        "rollup",
        "selection",
        "command",
        "wholefile",
        "forks",
        "folder",
        "probe",
        "probe_port",
        "outside.capture",
        "outside.warden",
        "stacks",
        "stragglers",
        "single",
        "standing",
        "tending.planning",
        "tending.backoff",
    },
    # 2 the door
    {"store.base", "store.board", "store.codes"},
    # 3 behind the door: what the store stands on, its chapters, and what puts them together
    {
        "store.dialects",
        "store.tables",
        "store.rows",
        "store.view",
        "store.connect",
        "store.lines",
        "store.locked",
        "store.wakeup",
        "store.filters",
    }
    | {"store.schema", "store.migrations", "store.migrations.*"}
    | {
        "store.owed",
        "store.places",
        "store.ends",
        "store.edges",
        "store.gates",
        "store.limits",
        "store.follow",
        "store.unique",
        "store.cover",
    }
    | {
        "store.add",
        "store.lanes",
        "store.claim",
        "store.pick",
        "store.attempts",
        "store.notices",
        "store.rollups",
        "store.failures",
        "store.history",
        "store.finish",
    }
    | {"store.settle", "store.sweep", "store.expire", "store.rescue", "store.promote", "store.orders", "store.agenda"}
    | {"store.control", "store.controls", "store.workers", "store.waits", "store.listing", "store.read"}
    | {"store.output", "store.prune", "store.stuck"}
    | {"store.roster", "store.desk", "store.caller", "store.vitals", "store.sql"},
    # 4 the doorkeeper
    {"store"},
    # 5 one run
    {"task", "examples", "hooks", "runner", "context", "handle", "sender", "bulk", "lane", "grip", "transaction"},
    # 6 what the engine is made of
    {
        "app",
        "waits",
        "intake",
        "finisher",
        "process",
        "heartbeat",
        "lease",
        "limits",
        "obedience",
        "outage",
        "slots",
        "sight",
        "stock",
        "item",
        "deadlines",
        "heed",
        "outside.programs",
        "outside.wire",
        "outside.children",
        "executors",
        "fleet",
        "tally",
        "mail",
        "webhook",
        "notify",
    }
    | {"tending.relay", "tending.hired", "tending.keeper", "tending.rescuer", "tending.statusfile"}
    | {"why", "takers", "admin", "care", "stuck", "doctor"},
    # 7 the engine
    {"worker", "exchange", "upkeep", "discover", "tending.tended", "tending.tender"},
    # 8 faces
    {"outside.child", "cli.*", "testing.*", "demo", "demo.*"},
    # 9 doors to the street
    {"cli", "testing", "", "__main__"},
]

# Steps on one floor, one by one. They must not go in a circle.
NEIGHBOURS: dict[str, set[str]] = {
    "meter": {"pids"},
    "outside.programs": {"process"},
    "probe": {"wholefile"},
    "probe_port": {"forks"},
    "store.agenda": {"store.expire", "store.tables", "store.promote", "store.settle", "store.owed", "store.notices"},
    "cli.probe": {"cli.options"},
    "deadlines": {"item"},
    "outside.children": {"process", "outside.wire"},
    "store.orders": {"store.tables", "store.workers"},
    "fleet": {"app"},
    "grip": {"context"},
    "executors": {"outside.children", "outside.programs", "deadlines", "item"},
    "cli.process": {"cli.care", "cli.log", "cli.worker", "cli.work", "cli.opening", "cli.words", "cli.options", "cli.facts"},
    "cli.fleet": {"cli.words", "cli.opening", "cli.options", "cli.output", "cli.facts"},
    "slots": {"outside.children", "deadlines", "executors", "stacks", "item"},
    "store.pick": {"store.tables", "store.claim"},
    "store.failures": {"store.tables", "store.rows"},
    "cli.errors": {"cli.words", "cli.output", "cli.options", "cli.opening", "cli.facts"},
    "kinds": {"selection"},
    "lane": {"task"},
    "bulk": {"sender", "handle"},
    "cli.done": {"cli.words", "cli.output"},
    "store.rollups": {"store.tables", "store.rows"},
    "notify": {"app", "webhook", "mail"},
    "store.rows": {"store.tables"},
    "store.notices": {"store.tables", "store.rows", "store.controls"},
    "store.attempts": {"store.tables", "store.rows"},
    "stock": {"item", "slots", "intake"},
    "sight": {"slots"},
    "hooks": {"context"},
    "report": {"errors"},
    "store.base": {"store.board"},
    "sender": {"context", "handle", "task"},
    "finisher": {"item", "tally", "slots"},
    "obedience": {"item", "slots"},
    "job": {"errors", "report"},
    "options": {"durations", "errors", "job"},
    "durations": {"errors"},
    "urls": {"errors"},
    "settings": {"kinds"},
    "payload": {"shapes"},
    "codec": {"payload", "shapes"},
    "store.tables": {"store.dialects"},
    "store.view": {"store.tables"},
    "store.connect": {"store.dialects", "store.lines", "store.locked"},
    "store.wakeup": {"store.connect", "store.tables"},
    "store.schema": {"store.connect", "store.dialects", "store.tables", "store.view"}
    | {"store.migrations", "store.migrations.alone", "store.migrations.run", "store.migrations.steps"},
    "store.migrations.alone": {"store.tables"},
    "store.migrations.run": {"store.tables", "store.migrations.steps"},
    "store.migrations.steps": {"store.tables"},
    "store.migrations.versions.*": {"store.migrations.steps"},
    "store.owed": {"store.tables"},
    "store.ends": {"store.notices", "store.owed", "store.places", "store.rows", "store.tables"},
    "store.edges": {"store.rows", "store.ends", "store.owed", "store.places", "store.tables"},
    "store.unique": {"store.tables"},
    "store.cover": {"store.rows", "store.ends", "store.places", "store.tables"},
    "store.gates": {"store.rows", "store.owed", "store.places", "store.tables"},
    "store.limits": {"store.rows", "store.gates", "store.owed", "store.places", "store.tables"},
    "store.follow": {"store.gates", "store.claim", "store.tables"},
    "store.places": {"store.owed", "store.tables"},
    "store.add": {"store.unique", "store.edges", "store.owed", "store.tables"},
    "store.lanes": {"store.tables"},
    "store.claim": {"store.tables", "store.lanes"},
    "store.history": {"store.rows", "store.tables"},
    "store.finish": {"store.rows", "store.history", "store.notices", "store.attempts", "store.owed", "store.tables"},
    "store.settle": {"store.connect", "store.owed", "store.places", "store.tables", "store.wakeup"}
    | {"store.cover", "store.edges", "store.gates", "store.limits"},
    "store.expire": {"store.ends", "store.owed", "store.tables"},
    "store.sweep": {
        "store.gates",
        "store.cover",
        "store.connect",
        "store.limits",
        "store.owed",
        "store.settle",
        "store.tables",
    },
    "store.promote": {"store.owed", "store.places", "store.tables"},
    "store.control": {"store.unique", "store.edges", "store.ends", "store.gates", "store.owed", "store.places", "store.tables"},
    "store.controls": {"store.orders", "store.tables", "store.workers"},
    "store.workers": {"store.tables"},
    "store.waits": {"store.gates", "store.edges", "store.tables"},
    "store.output": {"store.tables"},
    "store.listing": {"store.tables", "store.filters"},
    "store.read": {"store.tables", "store.lanes", "store.listing", "store.filters"},
    "store.prune": {"store.control", "store.tables", "store.workers"},
    "store.stuck": {"store.lanes", "store.promote", "store.tables"},
    "store.rescue": {"store.attempts", "store.owed", "store.tables", "store.claim", "store.finish", "store.workers"},
    "store.caller": {"store.owed", "store.settle", "store.wakeup"},
    "store.roster": {"store.orders", "store.controls", "store.connect", "store.tables", "store.wakeup", "store.workers"},
    "store.desk": {
        "store.failures",
        "store.rollups",
        "store.notices",
        "store.connect",
        "store.settle",
        "store.tables",
        "store.wakeup",
    }
    | {"store.control", "store.controls", "store.edges", "store.gates", "store.output", "store.prune", "store.read"}
    | {"store.stuck", "store.unique", "store.waits"},
    "store.vitals": {"store.connect", "store.tables"},
    "store.sql": {
        "store.agenda",
        "store.pick",
        "store.edges",
        "store.lanes",
        "store.attempts",
        "store.dialects",
        "store.tables",
        "store.connect",
        "store.wakeup",
        "store.schema",
    }
    | {"store.add", "store.claim", "store.finish", "store.settle", "store.rescue", "store.promote", "store.orders"}
    | {
        "store.cover",
        "store.expire",
        "store.follow",
        "store.gates",
        "store.owed",
        "store.sweep",
        "store.roster",
        "store.desk",
        "store.caller",
    },
    "task": {"hooks", "context"},
    "single": {"forks"},
    "folder": {"events"},
    "stragglers": {"events"},
    "examples": {"context", "task"},
    "runner": {"hooks", "context", "task"},
    "lease": {"heartbeat"},
    "worker": {"discover", "exchange", "upkeep"},
    "tending.tended": {"worker"},
    "tending.hired": {"tending.relay"},
    "tending.keeper": {"process", "tending.hired"},
    "tending.rescuer": {"tending.hired", "tending.relay"},
    "app": {"waits"},
    "why": {"takers"},
    "stuck": {"takers"},
    "care": {"stuck"},
    "admin": {"app", "care", "doctor", "waits", "why"},
    "doctor": {"app", "takers"},
    "cli.opening": {"cli.options"},
    "cli.work": {"cli.log", "cli.options"},
    "cli.worker": {"cli.work", "cli.log", "cli.options"},
    "cli.log": {"cli.words"},
    "cli.tend": {"cli.log", "cli.options"},
    "cli.enqueue": {"cli.arguments", "cli.opening", "cli.options", "cli.words", "cli.detail", "cli.facts"},
    "cli.jobs": {"cli.options", "cli.words", "cli.detail", "cli.facts", "cli.opening", "cli.output"},
    "cli.moves": {"cli.output", "cli.options", "cli.bulk"},
    "cli.waiting": {"cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.queues": {"cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.bulk": {"cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.stats": {"cli.done", "cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.ops": {"cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.care": {"cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.example": {"cli.options", "cli.words", "cli.facts", "cli.opening", "cli.output"},
    "cli.demo": {"cli.options", "demo.run"},
    "cli.detail": {"cli.words", "cli.output"},
    "cli.facts": {"cli.words"},
    "cli.output": {"cli.words"},
    "__main__": {"cli"},
    "demo.run": {"demo.play", "demo.show", "demo.stage"},
    "demo.play": {"demo.census", "demo.ledger", "demo.show", "demo.stage"},
    "demo.show": {"demo.ledger", "demo.stage"},
    "demo.ledger": {"demo.census"},
}

# The functions that may import modules of ours when they are called, and why not at the top.
LATE = {
    ("store", "open_store"),  # SQLAlchemy is loaded when a store is opened
    ("cli.worker", "worker"),  # a web server is loaded where somebody asks for the port of a probe
    ("", "__getattr__"),  # the public names are lazy, so that `import dray` stays light
    ("__main__", "main"),  # a signal that comes while the command line is loaded must not be lost
}

TOO_LONG = 400  # lines
SAYS_NOTHING = {"utils", "util", "helpers", "common", "misc"}


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Give every module by its name relative to the package."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def floor(name: str) -> int | None:
    """Give the number of a module's floor; a name that is written out counts before a pattern."""
    for fits in (str.__eq__, fnmatchcase):
        for number, names in enumerate(FLOORS):
            if any(fits(name, pattern) for pattern in names):
                return number
    return None


def imports(name: str, source: Path = SOURCE) -> Iterator[tuple[str, str | None]]:
    """Give the modules of ours that a module imports, each with the function it does that in.

    Imports under TYPE_CHECKING count too: what a module must know to be checked, it knows.
    """
    known = modules(source)
    path = known[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, function: str | None) -> Iterator[tuple[str, str | None]]:
        for child in ast.iter_child_nodes(node):
            for target in targets(child, package, known):
                if target != name:
                    yield target, function
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else None
            yield from visit(child, function or inside)

    yield from visit(ast.parse(path.read_text()), None)


def targets(node: ast.AST, package: str, known: Container[str]) -> Iterator[str]:
    """Give the modules of ours that one statement imports."""
    if isinstance(node, ast.Import):
        found = [relative(alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = absolute(node, package)
        # `from dray.store import base` names a module, `from dray.store import open_store` a thing in one.
        inside = [relative(f"{base}.{alias.name}") for alias in node.names]
        found = [name if name in known else relative(base) for name in inside]
    else:
        return
    yield from (name for name in found if name is not None)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """Spell out `from . import x`."""
    if not node.level:
        return node.module or ""
    parts = ["dray", *filter(None, package.split("."))]
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def relative(target: str) -> str | None:
    """Give a module's name below `dray`; None if it is not one of ours."""
    if target == "dray":
        return ""
    return target.removeprefix("dray.") if target.startswith("dray.") else None


def is_neighbour(name: str, target: str) -> bool:
    return any(target in there for here, there in NEIGHBOURS.items() if fnmatchcase(name, here))


def wrong_steps(source: Path = SOURCE) -> list[str]:
    wrong = []
    for name in modules(source):
        for target in dict.fromkeys(target for target, _ in imports(name, source)):
            here, there = floor(name), floor(target)
            if here is None or there is None:
                continue  # another test says so
            if not (there < here or (there == here and is_neighbour(name, target))):
                wrong.append(f"{name or 'dray'} (floor {here}) -> {target or 'dray'} (floor {there})")
    return wrong


def test_every_module_stands_on_a_floor() -> None:
    homeless = [name for name in modules() if floor(name) is None]
    assert not homeless, f"add {homeless} to FLOORS in tests/unit/test_floors.py"


def test_nobody_imports_upwards_or_sideways() -> None:
    wrong = wrong_steps()
    assert not wrong, "upwards: move something; sideways: think, then add it to NEIGHBOURS:\n" + "\n".join(wrong)


def test_neighbours_do_not_go_in_a_circle() -> None:
    TopologicalSorter(NEIGHBOURS).prepare()


def test_our_own_modules_are_imported_at_the_top() -> None:
    late = {
        f"{name or 'dray'}.{function} imports {target}"
        for name in modules()
        for target, function in imports(name)
        if function is not None and (name, function) not in LATE
    }
    assert not late, late


def test_no_file_is_long() -> None:
    long = {
        name: lines
        for name, path in modules().items()
        if not name.startswith("store.migrations.") and (lines := len(path.read_text().splitlines())) > TOO_LONG
    }
    assert not long, long


def test_every_module_has_a_name_that_says_something() -> None:
    assert not [name for name in modules() if SAYS_NOTHING & set(name.split("."))]


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("lifecycle", "from dray.job import Job", []),
        ("job", "from dray.errors import BadOption", []),
        ("errors", "import dray.job", ["errors (floor 0) -> job (floor 0)"]),
        ("job", "from dray import lifecycle", ["job (floor 0) -> lifecycle (floor 1)"]),
        ("job", "from dray import Dray", ["job (floor 0) -> dray (floor 9)"]),
        ("job", "from .lifecycle import decide", ["job (floor 0) -> lifecycle (floor 1)"]),
        ("job", "if TYPE_CHECKING:\n    import dray.lifecycle", ["job (floor 0) -> lifecycle (floor 1)"]),
        ("job", "def f():\n    import dray.lifecycle", ["job (floor 0) -> lifecycle (floor 1)"]),
        ("store.base", "from ..lifecycle import decide", []),
        ("store.base", "from . import open_store", ["store.base (floor 2) -> store (floor 4)"]),
    ],
)
def test_a_wrong_step_is_seen(tmp_path: Path, name: str, text: str, wrong: list[str]) -> None:
    for other in ("", "errors", "job", "lifecycle", "store", "store.base"):
        inside = tmp_path / other.replace(".", "/")
        path = inside / "__init__.py" if other in ("", "store") else inside.with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if other == name else "")
    assert wrong_steps(tmp_path) == wrong
