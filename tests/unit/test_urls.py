"""Database URLs: one form for SQLAlchemy, a helpful word for the others, and no password on any screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from dray.errors import ConfigurationError
from dray.urls import anchor_url, normalize_url, redact_url


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("sqlite:///dray.db", "sqlite:///dray.db"),
        ("sqlite:////var/lib/dray.db", "sqlite:////var/lib/dray.db"),
        ("sqlite+pysqlite:///dray.db", "sqlite:///dray.db"),
        ("sqlite://", "sqlite://"),
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("POSTGRESQL://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        (
            "postgresql://u:a%40b%2Fc@h/d?sslmode=require",
            "postgresql+psycopg://u:a%40b%2Fc@h/d?sslmode=require",
        ),
        ("mysql://u@h/d", "mysql+pymysql://u@h/d?charset=utf8mb4"),
        ("mariadb://u@h/d?ssl=1", "mysql+pymysql://u@h/d?ssl=1&charset=utf8mb4"),
        ("mysql+pymysql://u@h/d?charset=utf8mb4", "mysql+pymysql://u@h/d?charset=utf8mb4"),
    ],
)
def test_a_url_gets_the_driver_dray_uses(written: str, used: str) -> None:
    assert normalize_url(written) == used
    assert normalize_url(used) == used


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("oracle://h/d", "type 'oracle' are not supported: use sqlite:///"),
        ("postgresql+asyncpg://h/d", "through psycopg, not asyncpg: use postgresql://"),
        ("shop.db", "a file is written sqlite:///shop.db"),
        ("sqlite://shop.db", "write three slashes, sqlite:///shop.db"),
        ("", "is no database URL"),
        ("ann:secret@db", "is no database URL"),
    ],
)
def test_what_is_not_supported_is_told_the_way_out(written: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace("?", r"\?")) as error:
        normalize_url(written)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "anchored"),
    [
        ("sqlite:///dray.db", "sqlite:////srv/shop/dray.db"),
        ("sqlite:///../dray.db?timeout=5", "sqlite:////srv/shop/../dray.db?timeout=5"),
        ("sqlite:////var/dray.db", "sqlite:////var/dray.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("postgresql:///shop", "postgresql:///shop"),
    ],
)
def test_a_relative_file_starts_at_the_folder(written: str, anchored: str) -> None:
    assert anchor_url(written, Path("/srv/shop")) == anchored


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("postgresql://ann:secret@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann:se@cret@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann:se?cr/et@db/shop", "postgresql://ann:***@db/shop"),
        ("postgresql://ann@db/shop", "postgresql://ann@db/shop"),
        (
            "postgresql://db/shop?user=ann&password=secret&x=1",
            "postgresql://db/shop?user=ann&password=***&x=1",
        ),
        ("ann:secret@db", "ann:***@db"),
        ("sqlite:///C:/a@b.db", "sqlite:///C:/a@b.db"),
    ],
)
def test_a_password_is_never_shown(written: str, shown: str) -> None:
    assert redact_url(written) == shown
