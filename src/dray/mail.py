"""Notices by mail: texts that an application can replace with its own, sent by SMTP."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from dray import events
from dray.errors import ConfigurationError
from dray.notice import Event, Notice
from dray.redact import redact

if TYPE_CHECKING:
    import smtplib
    import ssl
    from email.message import EmailMessage

TIMEOUT = 20.0  # seconds for each answer of the server
ERROR_LIMIT = 300  # characters of an error that are mailed
SUBJECT_LIMIT = 200
_OWN = Path(__file__).with_name("texts")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Mail:
    """One mail for each notice.

    url         smtp://user:password@host:port, or smtps:// for TLS from the start
    templates   a folder in which `failed.txt`, `attempts.txt` or `digest.txt` take the place of ours. The first line is
                `Subject: ...`; $task, $count, $error, $job, $queue, $attempt, $at, $since and $list are filled in
    """

    name = "mail"

    def __init__(self, url: str, sender: str, to: tuple[str, ...], templates: str | None = None) -> None:
        self._url, self._sender, self._to = urlsplit(url), sender, to
        self._templates = {event: _template(event, templates) for event in Event}

    def tell(self, notice: Notice) -> None:
        """Send it. Raises OSError, smtplib.SMTPException or ConfigurationError when that does not work."""
        message = self.message(notice)
        with self._connect() as server:
            refused = server.send_message(message)
        for address, (code, reason) in refused.items():
            events.emit("notice.undelivered", channel=self.name, address=address, why=f"{code} {reason!r}")

    def message(self, notice: Notice) -> EmailMessage:
        """The mail as it is sent."""
        from email.message import EmailMessage  # late: most workers never mail, and this takes megabytes
        from email.utils import formatdate

        head, _, body = self._templates[notice.event].safe_substitute(values_of(notice)).partition("\n")
        message = EmailMessage()
        message["Subject"] = " ".join(head.removeprefix("Subject:").split())[:SUBJECT_LIMIT]
        message["From"] = self._sender
        message["To"] = ", ".join(self._to)
        message["Date"] = formatdate()
        # The same when it is sent again because nobody knows whether it was: mail programs then show it once.
        message["Message-ID"] = f"<dray-{notice.event}-{notice.id}@{self._sender.rpartition('@')[2].strip('> ')}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(body.lstrip("\n"))
        return message

    def _connect(self) -> smtplib.SMTP:
        import smtplib
        import ssl

        url, context = self._url, ssl.create_default_context()
        host = url.hostname or ""
        if url.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, url.port or 465, timeout=TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(host, url.port or (587 if url.username else 25), timeout=TIMEOUT)
        try:
            self._introduce(server, host, context)
        except BaseException:
            with contextlib.suppress(OSError):
                server.close()
            raise
        return server

    def _introduce(self, server: smtplib.SMTP, host: str, context: ssl.SSLContext) -> None:
        server.ehlo_or_helo_if_needed()
        secure = self._url.scheme == "smtps"
        if not secure and server.has_extn("starttls"):
            server.starttls(context=context)
            server.ehlo()
            secure = True
        if self._url.username:
            if not secure and host not in _LOCAL:
                raise ConfigurationError(f"{host} offers no TLS, and a password is not sent in the clear")
            server.login(unquote(self._url.username), unquote(self._url.password or ""))


def values_of(notice: Notice) -> dict[str, str]:
    """What templates may name."""
    first = notice.failures[0] if notice.failures else None
    said = _short(notice.error)
    return {
        "task": notice.task,
        "count": str(notice.count),
        "error": said.partition("\n")[0],
        "job": "" if first is None else str(first.job_id),
        "queue": "" if first is None else first.queue,
        "attempt": "" if first is None else str(first.attempt),
        "at": "" if first is None or first.at is None else f"{first.at:%Y-%m-%d %H:%M:%S} UTC",
        "since": "" if notice.since is None else f"{notice.since:%Y-%m-%d %H:%M} UTC",
        "host": socket.gethostname(),
        "list": "\n".join(_lines(notice)),
    }


def _lines(notice: Notice) -> list[str]:
    lines = [f"  job {one.job_id}, attempt {one.attempt}: {_short(one.error)}" for one in notice.failures]
    lines += [f"  {one.failed:>6}  {one.task}: {_short(one.error)} (job {one.job_id})" for one in notice.groups]
    more = notice.count - len(notice.failures) if notice.failures else 0
    return [*lines, f"  and {more} more"] if more > 0 else lines


def _short(error: str | None) -> str:
    return " ".join(redact(error or "no reason given").split())[:ERROR_LIMIT]


def _template(event: Event, folder: str | None) -> Template:
    file = _OWN / f"{event}.txt"
    if folder is not None and (own := Path(folder) / f"{event}.txt").is_file():
        file = own
    elif folder is not None and not Path(folder).is_dir():
        raise ConfigurationError(f"mail_templates: there is no folder {folder!r}")
    text = file.read_text(encoding="utf-8")
    if not text.startswith("Subject:"):
        raise ConfigurationError(f"{file}: its first line must be `Subject: ...`")
    return Template(text)
