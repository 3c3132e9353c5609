"""Notices as posts to an address of the application's own."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec

from dray.notice import Notice
from dray.redact import redact

TIMEOUT = 10.0  # seconds


class Webhook:
    """One post for each notice, as JSON; any answer of 200 to 299 is a receipt.

    With a secret the header `Dray-Signature` holds `sha256=` and the HMAC of the body. `Dray-Notice` is the same when it has to
    be sent again.
    """

    name = "webhook"

    def __init__(self, url: str, secret: str | None = None) -> None:
        self._url, self._secret = url, secret

    def tell(self, notice: Notice) -> None:
        """Post it. Raises OSError when that does not work, or the answer is no receipt."""
        import urllib.error  # late: most workers never post, and this takes megabytes
        import urllib.request

        class NoRedirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *args: Any, **kwargs: Any) -> None:
                """Nowhere: what was meant for one address is not sent to another."""

        body = msgspec.json.encode(content(notice))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "dray",
            "Dray-Event": str(notice.event),
            "Dray-Notice": f"{notice.event}-{notice.id}",
        }
        if self._secret is not None:
            headers["Dray-Signature"] = f"sha256={hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        with urllib.request.build_opener(NoRedirects).open(request, timeout=TIMEOUT) as answer:
            if not 200 <= answer.status < 300:
                raise urllib.error.HTTPError(self._url, answer.status, "no receipt", answer.headers, None)


def content(notice: Notice) -> dict[str, Any]:
    """What is posted. Errors are cleared of what looks like a secret; arguments and tracebacks are not in it."""
    facts: dict[str, Any] = {
        "event": str(notice.event),
        "id": notice.id,
        "task": notice.task,
        "fingerprint": notice.fingerprint,
        "count": notice.count,
    }
    if notice.groups:
        facts["since"] = notice.since
        facts["groups"] = [{**group._asdict(), "error": _clean(group.error)} for group in notice.groups]
    else:
        facts["failures"] = [{**failure._asdict(), "error": _clean(failure.error)} for failure in notice.failures]
    return facts


def _clean(error: str | None) -> str | None:
    return None if error is None else redact(error)
