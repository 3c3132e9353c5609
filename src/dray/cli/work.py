"""Opening the app for those who run its jobs: without all that operators need, which would stay in the memory of a worker."""

from __future__ import annotations

import gc

from dray.cli.log import log_to_stderr
from dray.cli.options import given
from dray.discover import Found, require_app

YOUNG = 10_000  # new objects between two looks for garbage
_USUAL = gc.get_threshold()  # before there is an app


def open_to_work(*, quiet: bool = False, **settings: object) -> Found:
    """The app that is configured, for those who run its jobs, with these settings over its own; its log goes to standard error.

    quiet   of the log, only what is wrong
    """
    shared = given()
    level = "debug" if shared.verbose else "warning" if quiet else None
    found = require_app(shared.app, {**shared.settings, **settings, "log_level": level})
    log_to_stderr(found.app.settings.log_level)
    return found


def spare_collections() -> None:
    """Let the garbage collector pass over all that is here before the first job, and look less often: otherwise a worker of
    short jobs spends a tenth of its time on that. An app that has set a threshold itself keeps it."""
    gc.freeze()
    if gc.get_threshold() == _USUAL and _USUAL[0] > 0:
        gc.set_threshold(max(YOUNG, _USUAL[0]), *_USUAL[1:])
