"""Finding the app: what can be named, and one clear line for each way it goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.discover import find_app, import_app, require_app
from dray.errors import ConfigurationError

SHOP = """
from types import SimpleNamespace
from dray import Dray
app = Dray("sqlite:///shop.db")
same = app
inner = SimpleNamespace(app=app)
number = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with modules in it, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shop_a.py").write_text(SHOP)
    (tmp_path / "shop_two.py").write_text("from dray import Dray\na, b = Dray('sqlite:///a'), Dray('sqlite:///b')\n")
    (tmp_path / "shop_none.py").write_text("x = 1\n")
    (tmp_path / "shop_broken.py").write_text("def f():\n    raise ValueError('first\\nsecond')\nf()\n")
    (tmp_path / "shop_needs.py").write_text("import not_there_at_all\n")
    (tmp_path / "shop_exits.py").write_text("raise SystemExit(3)\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["shop_a:app", "shop_a", "shop_a:same", "shop_a:inner.app"])
def test_an_app_is_found(name: str) -> None:
    assert import_app(name).settings.database_url == "sqlite:///shop.db"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "names no app"),
        (":app", "names no app"),
        ("shop_a:", "names no app"),
        ("shop_x:app", "there is no module 'shop_x': it is neither in"),
        ("shop_a.deep:app", "there is no module 'shop_a.deep'"),
        ("shop_a:apq", "has no 'apq'; did you mean shop_a:app?"),
        ("shop_a:zzz", "has no 'zzz'; did you mean shop_a:app?"),
        ("shop_a:number", "shop_a:number is a int, not a Dray app"),
        ("shop_two", "has 2 apps: say shop_two:a or shop_two:b"),
        ("shop_none", "has no Dray app in it"),
        ("shop_broken:app", "shop_broken cannot be imported: ValueError: first"),
        ("shop_needs:app", "shop_needs cannot be imported: it needs 'not_there_at_all'"),
        ("shop_exits:app", "shop_exits cannot be imported: SystemExit: 3"),
    ],
)
def test_each_way_it_goes_wrong_is_one_line(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_app(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_mistake_in_the_app_is_the_cause() -> None:
    with pytest.raises(ConfigurationError) as caught:
        import_app("shop_broken")
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_app_may_be_configured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="which app"):
        require_app(None, {})
    (folder / "dray.toml").write_text('app = "shop_a:app"\n')
    assert require_app(None, {}).name == "shop_a:app"
    monkeypatch.setenv("DRAY_APP", "shop_two:a")
    assert require_app(None, {}).name == "shop_two:a"
    assert require_app("shop_a", {}).name == "shop_a"


def test_the_file_that_names_the_app_says_where_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "dray.toml").write_text('app = "shop_a:app"\n')
    below = folder / "deep" / "er"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert require_app(None, {}).name == "shop_a:app"


def test_the_command_line_is_stronger_than_the_app() -> None:
    app = require_app("shop_a", {"database_url": "sqlite:///other.db", "concurrency": None}).app
    assert app.settings.database_url == "sqlite:///other.db"
    assert str(app.settings.source("database_url")) == "--database-url"


def test_an_app_that_has_opened_its_database_keeps_it() -> None:
    app = import_app("shop_a:app")
    assert app.store is not None
    with pytest.raises(ConfigurationError, match="opened its own database"):
        require_app("shop_a", {"database_url": "sqlite:///other.db"})
    app.close()


def test_who_only_looks_needs_no_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_DATABASE_URL", "sqlite:///env.db")
    found = find_app(None, {})
    assert (found.name, found.problem) == (None, None)
    assert found.app.settings.database_url == "sqlite:///env.db"


def test_a_broken_app_does_not_stop_who_only_looks() -> None:
    found = find_app("shop_broken", {"database_url": "sqlite:///flag.db"})
    assert found.app.settings.database_url == "sqlite:///flag.db"
    assert "ValueError" in str(found.problem)


def test_but_nobody_looks_at_a_database_that_was_only_guessed() -> None:
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        find_app("shop_broken", {})
