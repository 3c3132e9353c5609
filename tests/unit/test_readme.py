"""The README's examples are run as they stand there, in their order, while a worker does the jobs."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dray.cli import VERBS
from dray.options import Options
from dray.settings import load
from dray.task import TaskOptions
from dray.worker import Worker

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The first example as the module that the others import, with a worker on its app."""
    (tmp_path / "shop.py").write_text(blocks("python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    # Dataclasses look for the module of their class.
    monkeypatch.setitem(sys.modules, "readme", ModuleType("readme"))
    module = __import__("shop")
    worker = Worker(module.app)
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield module
    worker.stop()
    thread.join(30)
    module.app.close()
    sys.modules.pop("shop", None)


def test_the_examples_run(shop: ModuleType) -> None:
    first, *others = blocks("python")
    assert first.startswith("# shop.py")
    namespace = vars(sys.modules["readme"])
    for number, example in enumerate(others, 2):
        exec(compile(example, f"README.md, example {number}", "exec"), namespace)
    namespace["job"] = namespace["charge"].enqueue(7).wait(timeout=30)
    assert f"charge-{namespace['job'].id}" in namespace["job"].result
    for url, state in {"ftp://x": "failed", "http://x": "succeeded"}.items():
        assert namespace["fetch"].enqueue(url).wait(timeout=30).state == state
    namespace["engine"].dispose()
    with contextlib.closing(sqlite3.connect("shop.db")) as connection:
        assert connection.execute("SELECT id FROM invoice").fetchall() == [(8,)]
        keys = connection.execute("SELECT key FROM dray_all_jobs WHERE key IS NOT NULL").fetchall()
    assert keys == [("invoice-9",)]


def test_the_transaction_for_sqlite_begins_immediately(shop: ModuleType) -> None:
    namespace = vars(sys.modules["readme"])
    for example in [one for one in blocks("python") if "engine" in one]:
        exec(example, namespace)
    with namespace["engine"].connect() as connection, connection.begin():
        connection.exec_driver_sql("SELECT 1").all()
        with contextlib.closing(sqlite3.connect("shop.db", timeout=0)) as other, pytest.raises(sqlite3.OperationalError):
            other.execute("INSERT INTO invoice (id) VALUES (9)")
    namespace["engine"].dispose()


def test_the_settings_are_settings(tmp_path: Path) -> None:
    (table,) = [tomllib.loads(block)["tool"]["dray"] for block in blocks("toml")]
    load(table, cwd=tmp_path, environ={})


def test_the_tables_of_options_are_complete() -> None:
    text = README.read_text()
    for title, names in {"using": Options.__dataclass_fields__, "@app.task": TaskOptions.__annotations__}.items():
        table = re.search(rf"^\| `{title}\(\.\.\.\)` \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
        assert table is not None
        told = re.findall(r"`([a-z_]+)`", "\n".join(row.split("|")[1] for row in table[0].strip().splitlines()[1:]))
        assert sorted(told) == sorted(names)


def test_the_verbs_are_verbs() -> None:
    told = set(re.findall(r"(?:^|`)dray ([a-z]+)\b", README.read_text(), re.MULTILINE))
    assert told
    assert told <= set(VERBS)
