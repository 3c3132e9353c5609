"""`dray`, and `python -m dray`: the way in."""

from __future__ import annotations

from typing import NoReturn

from dray import first


def main() -> NoReturn:
    """The `dray` command."""
    first.hold()
    from dray.cli import main as call

    call()


if __name__ == "__main__":
    main()
