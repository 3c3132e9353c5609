"""Hiding what looks like a secret in a text that leaves the system: mails, posts, log lines (C97)."""

from __future__ import annotations

import re

_IN_URL = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+(?=@)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<before>(?<![a-z])(?:[a-z0-9]+[_-])*(?:password|passwd|pwd|secret|token|api[_-]?key|authorization|credentials?)"
    r"[\"']?\s*[=:]\s*)(?:bearer\s+|basic\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Put *** in place of passwords, tokens and the like.

    >>> redact("login failed for postgresql://ann:hunter2@db/shop, api_key='abc' id=7")
    'login failed for postgresql://ann:***@db/shop, api_key=*** id=7'
    """
    return _NAMED.sub(r"\g<before>***", _IN_URL.sub(r"\g<before>***", text))
