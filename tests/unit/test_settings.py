"""Settings: who wins, where a value came from, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dray.errors import ConfigurationError
from dray.settings import DAY, SETTINGS, Origin, Settings, load


def loaded(cwd: Path, explicit: dict[str, Any] | None = None, **environ: str) -> Settings:
    return load(explicit or {}, cwd=cwd, environ=environ)


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.database_url == "sqlite:///dray.db"
    assert (settings.concurrency, settings.prefetch, settings.beat, settings.ttl) == (10, 1000, 5.0, 30.0)
    assert (settings.keep_succeeded, settings.keep_failed) == (7 * DAY, 90 * DAY)
    assert (settings.create_tables, settings.schema, settings.app, settings.file) == (None, None, None, None)
    assert {source for _, _, source in settings.explain()} == {"default"}
    assert settings == Settings()


@pytest.mark.rows("S0.4", "S0.6")
def test_later_places_win_and_each_value_knows_its_place(tmp_path: Path) -> None:
    file = tmp_path / "dray.toml"
    file.write_text('prefetch = 20\nconcurrency = 2\nlog_level = "debug"\nschema = "jobs"\n')
    settings = loaded(tmp_path, {"concurrency": 4}, DRAY_CONCURRENCY="3", DRAY_LOG_LEVEL="ERROR", DRAY_LISTEN="off").override(
        {"schema": "other", "prefetch": None}
    )
    assert (settings.prefetch, settings.log_level, settings.listen) == (20, "error", False)
    assert (settings.concurrency, settings.schema, settings.file) == (4, "other", file)
    names = {name: source for name, _, source in settings.explain()}
    assert names["prefetch"] == str(file)
    assert names["log_level"] == "DRAY_LOG_LEVEL"
    assert names["concurrency"] == "keyword"
    assert names["schema"] == "--schema"
    assert settings.source("grace").origin is Origin.DEFAULT
    assert settings.source("schema").origin is Origin.COMMAND_LINE


def test_the_file_is_found_from_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dray]\napp = "shop:app"\n')
    below = tmp_path / "src" / "shop"
    below.mkdir(parents=True)
    (below / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert loaded(below).app == "shop:app"
    assert loaded(below).file == tmp_path / "pyproject.toml"


def test_dray_toml_wins_over_pyproject_beside_it_and_the_nearest_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dray]\napp = "wrong:app"\nprefetch = 7\n')
    (tmp_path / "dray.toml").write_text('app = "right:app"\n')
    assert loaded(tmp_path).app == "right:app"
    assert loaded(tmp_path).prefetch == 1000
    below = tmp_path / "below"
    below.mkdir()
    (below / "pyproject.toml").write_text('[tool.dray]\napp = "nearest:app"\n')
    assert loaded(below).app == "nearest:app"


def test_a_relative_database_file_in_the_file_is_the_same_from_every_folder(tmp_path: Path) -> None:
    (tmp_path / "dray.toml").write_text('database_url = "sqlite:///jobs.db"\n')
    below = tmp_path / "below"
    below.mkdir()
    assert loaded(below).database_url == loaded(tmp_path).database_url == f"sqlite:///{tmp_path}/jobs.db"
    assert loaded(tmp_path, DRAY_DATABASE_URL="sqlite:///jobs.db").database_url == "sqlite:///jobs.db"


def test_none_and_an_empty_variable_mean_not_given(tmp_path: Path) -> None:
    settings = loaded(tmp_path, {"concurrency": None}, DRAY_CONCURRENCY="", DRAY_TTL="")
    assert settings.concurrency == 10
    assert settings.source("concurrency").origin is Origin.DEFAULT


def test_durations_and_sizes_may_be_written_for_people(tmp_path: Path) -> None:
    (tmp_path / "dray.toml").write_text('grace = "1h30m"\nkeep_failed = 60\n')
    settings = loaded(tmp_path, DRAY_MAX_ARGS="256K", DRAY_KEEP_SUCCEEDED="500ms")
    assert (settings.grace, settings.keep_failed, settings.max_args) == (5400.0, 60.0, 262_144)
    assert settings.keep_succeeded == pytest.approx(0.5)
    shown = {name: words for name, words, _ in settings.explain()}
    assert (shown["grace"], shown["max_args"], shown["schema"], shown["listen"]) == (
        "1h30m",
        "256 KiB",
        "-",
        "yes",
    )


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("DRAY_CONCURRENCY", "ten", "a whole number of at least 1"),
        ("DRAY_CONCURRENCY", "0", "a whole number of at least 1"),
        ("DRAY_PREFETCH", "-1", "a whole number of at least 0"),
        ("DRAY_TTL", "soon", "a duration"),
        ("DRAY_BEAT", "0", "above 0"),
        ("DRAY_LISTEN", "maybe", "true or false"),
        ("DRAY_LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
        ("DRAY_MAX_ARGS", "big", "a size"),
        ("DRAY_TABLE_PREFIX", "Dray-", "at most 21 of a-z"),
        ("DRAY_TABLE_PREFIX", "dray_\n", "at most 21 of a-z"),
    ],
)
def test_a_wrong_value_is_told_with_its_name_place_and_what_is_expected(
    tmp_path: Path, variable: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        loaded(tmp_path, **{variable: value})
    name = variable.removeprefix("DRAY_").lower()
    assert str(error.value).startswith(f"{name} = {value!r} ({variable}): expected ")
    assert expected in str(error.value)


@pytest.mark.parametrize("line", ["concurrency = true", "concurrency = 1.5", "app = 3", "listen = 1", "grace = [1]"])
def test_a_wrong_type_in_the_file_names_the_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "dray.toml"
    file.write_text(line)
    with pytest.raises(ConfigurationError) as error:
        loaded(tmp_path)
    assert str(error.value).startswith(line.split()[0])
    assert f"({file}): expected" in str(error.value)


def test_an_unknown_name_is_an_error_with_a_guess(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no setting 'keep-failed' \(--keep-failed\); did you mean 'keep_failed'"):
        Settings().override({"keep-failed": 3})
    with pytest.raises(ConfigurationError, match=r"no setting 'colour' \(keyword\); there are database_url, app"):
        loaded(tmp_path, {"colour": "red"})
    (tmp_path / "dray.toml").write_text("concurency = 3\n")
    with pytest.raises(ConfigurationError, match=r"no setting 'concurency' \(.*dray.toml\); did you mean 'concurrency'"):
        loaded(tmp_path)


def test_an_unknown_variable_is_kept_for_the_doctor(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DRAY_CONCURENCY="3", DRAY_TTL="60", PATH="/bin")
    assert settings.unknown_environment == ("DRAY_CONCURENCY",)
    assert settings.override({"grace": 1}).unknown_environment == ("DRAY_CONCURENCY",)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dray.toml", "a = = 1", "dray.toml cannot be read"),
        ("dray.toml", "a = '\udc80'", "dray.toml cannot be read"),
        ("pyproject.toml", "[tool]\ndray = 3", "tool.dray is not a table"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigurationError, match=words):
        loaded(tmp_path)


def test_a_ttl_without_a_beat_moves_the_beat(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DRAY_TTL="6s")
    assert settings.beat == 1.0
    assert str(settings.source("beat")) == "ttl/6"
    assert settings.override({"ttl": "1m"}).beat == 10.0
    assert settings.override({"ttl": "1m", "beat": 2}).override({"ttl": "2m"}).beat == 2.0


def test_a_ttl_must_outlast_two_beats(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ttl = 10s \(DRAY_TTL\) must be more than twice beat = 5s \(keyword\)"):
        loaded(tmp_path, {"beat": 5}, DRAY_TTL="10")
    with pytest.raises(ConfigurationError, match="leave beat out"):
        Settings(ttl=1.0)


def test_a_password_appears_nowhere(tmp_path: Path) -> None:
    url = "postgresql://ann:secret@db/shop"
    settings = loaded(tmp_path, {"database_url": url})
    assert settings.database_url == url
    assert "secret" not in repr(settings) + repr(settings.explain())
    with pytest.raises(ConfigurationError) as error:
        loaded(tmp_path, DRAY_APP="shop:app", DRAY_TTL=url)
    assert "secret" not in str(error.value)


def test_a_database_that_is_not_supported_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"database_url \(DRAY_DATABASE_URL\): databases of type 'redis'"):
        loaded(tmp_path, DRAY_DATABASE_URL="redis://localhost")


def test_every_setting_is_described_for_the_reference() -> None:
    for name, setting in SETTINGS.items():
        assert setting.help
        assert setting.kind.expects
        assert setting.variable == f"DRAY_{name.upper()}"
        assert getattr(Settings(), name) == setting.default
    assert SETTINGS["max_args"].flag == "--max-args"


def test_the_real_environment_and_folder_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dray.toml").write_text("prefetch = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAY_CONCURRENCY", "2")
    assert (load().prefetch, load().concurrency) == (3, 2)
