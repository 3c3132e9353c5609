"""Opening what a verb works on: the app with its tasks, or the desk of an operator."""

from __future__ import annotations

import traceback

import click

from dray.admin import Admin
from dray.app import Dray
from dray.cli.options import given
from dray.discover import Found, find_app


def look_for_app(timeout: float | None = None) -> Found:
    """The app that is configured, or a bare one on the configured database: verbs that look need no more.

    timeout     seconds that a locked database is waited for at most, where that is less than usual
    """
    shared = given()
    found = find_app(shared.app, shared.settings)
    if found.problem is not None:
        if shared.verbose and found.problem.__cause__ is not None:
            traceback.print_exception(found.problem.__cause__)
        click.echo(f"dray: warning: {found.problem}; going on without the app", err=True)
    be_brief(found.app, timeout)
    return found


def be_brief(app: Dray, timeout: float | None) -> None:
    """Wait for a locked database no longer than this (seconds), if anything is said."""
    if timeout is not None:
        database = app.store.database
        database.patience = min(database.patience, timeout)


def open_admin(timeout: float | None = None) -> Admin:
    """What an operator may see and do, on that app."""
    return Admin(look_for_app(timeout).app)


def wants_json() -> bool:
    """Whether JSON was asked for."""
    return given().json
