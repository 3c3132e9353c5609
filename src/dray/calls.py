"""How a stored call is shown to people."""

from __future__ import annotations

from typing import Any

import msgspec


def call_text(task: str, args: str) -> str:
    """Show a stored call as people write it, `send(7, to="a@b")`. Runs nothing of the application's; never raises."""
    try:
        call = msgspec.json.decode(args)
        parts = [_shown(value) for value in call.get("a", [])]
        parts += [f"{name}={_shown(value)}" for name, value in call.get("k", {}).items()]
    except (msgspec.MsgspecError, AttributeError, TypeError, RecursionError, UnicodeError):
        return f"{task} {args}"  # written by somebody else, or damaged: as it is
    return f"{task}({', '.join(parts)})"


def _shown(form: Any) -> str:
    if isinstance(form, dict) and len(form) == 1:
        ((name, value),) = form.items()
        if name.startswith("$"):  # a value that JSON has no word for
            return f"{name[1:]}({_shown(value)})"
    return msgspec.json.encode(form).decode()
