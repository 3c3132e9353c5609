"""`dray demo`: the demonstration that comes with the package."""

from __future__ import annotations

import click

from dray.cli.options import given, option, verb
from dray.demo.run import run


@verb(
    "demo",
    "dray demo",
    "dray demo --jobs 200 --keep",
)
@option("--jobs", type=click.IntRange(1), metavar="N", help="At most so many jobs; without it all there is to do.")
@option("--keep", is_flag=True, help="Leave the database of an earlier run alone, and make a new one beside it.")
def demo(jobs: int | None, keep: bool) -> int:
    """See it work: two workers, real input, and one of them is killed on the way.

    Uses an SQLite file in .dray-demo, or the database given by --database-url, under a table prefix of its own.
    """
    return run(jobs=jobs, keep=keep, database_url=given().database_url)
