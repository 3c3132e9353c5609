"""`dray probe`: whether a worker is well, for whoever restarts it. It needs neither the app nor the database."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dray.cli.options import PATH, given, option, verb
from dray.probe import read

UNWELL = 1


@verb(
    "probe", "dray probe /run/dray/mail.json           is it ready?", "dray probe /run/dray/mail.json --live    does it turn?"
)
@click.argument("file", type=PATH)
@option("--live", is_flag=True, help="Only ask whether its loop turns, not whether it can work.")
def probe(file: Path, live: bool) -> int:
    """Say whether the worker that keeps this file (--probe-file) is well; exits with 1 if not.

    \b
    ready   it has been given jobs or told that there are none, and its signs of life arrive
    live    its loop turns
    """
    told = read(file)
    good = bool(told["live" if live else "ready"])
    if given().json:
        click.echo(json.dumps({"v": 1, **told}))
    else:
        click.echo(("live" if live else "ready") if good else f"not {'live' if live else 'ready'}: {told.get('why')}")
    return 0 if good else UNWELL
