"""Where a job waits, and how urgent it is: by its options, its task, and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.errors import BadOption, ConfigurationError

rows = pytest.mark.rows


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/dray.db"


# --- queues ---------------------------------------------------------------------------------------------------------------


@rows("S3.22", "S3.23")
def test_the_queue_of_a_job(url: str) -> None:
    app = Dray(url, routes={"send_*": "mail", "plain": "routed"})

    @app.task(queue="mail-{region}")
    def send_letter(region: str) -> None: ...

    @app.task(queue="own")
    def send_invoice() -> None: ...

    @app.task(queue="own")
    def report() -> None: ...

    @app.task
    def plain() -> None: ...

    @app.task
    def other() -> None: ...

    bound = {
        "mail-eu": send_letter.bind("eu"),
        "mail": send_invoice.bind(),
        "own": report.bind(),
        "routed": plain.bind(),
        "default": other.bind(),
        "here": send_letter.using(queue="here").bind("eu"),
    }
    assert {name: one.job.queue for name, one in bound.items()} == {name: name for name in bound}


@rows("S3.21", "S3.22", "S3.24")
def test_where_the_queues_are_known_no_other_is_taken(url: str) -> None:
    app = Dray(url, queues={"mail": 5, "reports": 1})

    @app.task
    def plain() -> None: ...

    assert plain.bind().job.queue == "mail"  # the first of them
    with pytest.raises(BadOption, match="no queue 'mial'; did you mean 'mail'"):
        plain.using(queue="mial").bind()
    with pytest.raises(BadOption, match="there are mail, reports"):
        app.task(queue="zzz")(lambda_named("other"))


def lambda_named(name: str) -> Any:
    def task() -> None: ...

    task.__name__ = name
    return task


@rows("S3.21", "S3.23")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"queues": ["mail", "mail"]}, "named twice"),
        ({"queues": "mail:x, mail:-1"}, None),
        ({"queues": {"mail": -1}}, "weight"),
        ({"queues": {"mail": "x"}}, "expected queues"),
        ({"queues": 7}, "expected queues"),
        ({"queues": {"mail": 1}, "routes": {"a": "post"}}, "none of the queues"),
        ({"routes": {"a": ""}}, "queue"),
        ({"routes": "a"}, "expected a table"),
        ({"priorities": [1, 1]}, "expected different whole numbers"),
        ({"priorities": [1000]}, "expected different whole numbers"),
        ({"priorities": "x"}, "expected different whole numbers"),
        ({"mail": "http://example.org"}, "smtp://"),
        ({"mail_to": "nobody"}, "mail addresses"),
        ({"mail_to": "a@b\nBcc: c@d"}, "mail addresses"),
        ({"digest": "now and then"}, "cron"),
        ({"webhook": "ftp://example.org"}, "http://"),
    ],
)
def test_wrong_settings_are_told_at_once(url: str, settings: dict[str, Any], told: str | None) -> None:
    if told is None:
        assert set(Dray(url, **settings).settings.queues) == {"mail:x", "mail:-1"}  # names, as strange as they are
        return
    with pytest.raises(ConfigurationError, match=told):
        Dray(url, **settings)


def test_settings_can_come_as_text(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_QUEUES", "mail:5, reports")
    monkeypatch.setenv("DRAY_ROUTES", "send_*=mail, build=reports")
    monkeypatch.setenv("DRAY_PRIORITIES", "10,100")
    settings = Dray(url).settings
    assert settings.queues == {"mail": 5, "reports": 1}
    assert settings.routes == {"send_*": "mail", "build": "reports"}
    assert settings.priorities == (10, 100)
    assert ("queues", "mail=5, reports=1", "DRAY_QUEUES") in settings.explain()


def test_what_is_secret_in_the_settings_is_not_shown(url: str) -> None:
    settings = Dray(
        url, mail="smtp://ann:hunter2@mail", webhook="https://hooks.example.org/T0/hunter2", webhook_key="hunter2"
    ).settings
    assert "hunter2" not in repr(settings)
    assert ("webhook", "https://hooks.example.org/***", "keyword") in settings.explain()


# --- priorities -----------------------------------------------------------------------------------------------------------


@rows("S2.17", "S2.29", "S2.30", "C52")
def test_the_priority_of_a_job(url: str) -> None:
    app = Dray(url, priorities=[10, 500, 20])

    @app.task
    def plain() -> None: ...

    @app.task(priority=20)
    def registration() -> None: ...

    assert plain.bind().job.priority == 10  # the first of them
    assert registration.bind().job.priority == 20
    assert registration.using(priority=500).bind().job.priority == 500
    with pytest.raises(BadOption, match="no priority 11; there are 10, 500, 20"):
        plain.using(priority=11).bind()
    with pytest.raises(BadOption, match="no priority 11"):
        app.task(priority=11)(lambda_named("other"))
    free = Dray(url)
    free.task(name="plain")(lambda_named("plain"))
    assert free.using().bind("plain").job.priority == 100
    assert free.using(priority=7).bind("plain").job.priority == 7
