"""Telling people of failures: notices are taken from the store and go to every channel, once each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from dray import events
from dray.errors import ConfigurationError
from dray.mail import Mail
from dray.notice import Event, Failure, Notice
from dray.redact import redact
from dray.settings import Settings
from dray.store.board import NoticeBoard, TakenNotice
from dray.webhook import Webhook

if TYPE_CHECKING:
    from dray.app import Dray

LEASE = 120.0  # seconds after which another takes over what somebody was telling
FIRST_AGAIN, LAST_AGAIN = 30.0, 3600.0  # seconds until a channel that did not work is tried again
MOST_TRIES = 100
MOST_DEATHS = 3  # of workers that were telling a notice: then it is not told to what is left, since that may be what kills


class Channel(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str: ...
    def tell(self, notice: Notice) -> None:
        """Raises whatever it likes when that did not work: it is tried again later."""


class Log:
    """The log: one line for each notice, at the level of what somebody has to look at (S2.3, S2.42)."""

    name = "log"

    def tell(self, notice: Notice) -> None:
        first = notice.failures[0] if notice.failures else None
        facts = {} if first is None else {"job_id": first.job_id, "attempt": first.attempt, "error": redact(first.error or "")}
        events.emit("notice", about=str(notice.event), task=notice.task, count=notice.count, **facts)


class Function:
    """A function of the application, called once; what it raises is its own affair, and if it hangs it is left behind."""

    def __init__(self, function: Callable[[Notice], object], limit: float) -> None:
        self.name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"
        self._function, self._limit = function, limit

    def tell(self, notice: Notice) -> None:
        thread = threading.Thread(target=self._call, args=(notice,), name="dray-on-notify", daemon=True)
        thread.start()
        thread.join(self._limit)
        if thread.is_alive():
            events.emit("hook.hangs", hook="on_notify", function=self.name, seconds=self._limit)

    def _call(self, notice: Notice) -> None:
        try:
            self._function(notice)
        except BaseException as error:
            events.emit("hook.failed", hook="on_notify", function=self.name, error=f"{type(error).__name__}: {error}")


def channels_of(app: Dray) -> list[Channel]:
    """The channels that an app's settings and hooks ask for. Raises ConfigurationError."""
    settings = app.settings
    found: list[Channel] = [Log()]
    found += [Function(listener, settings.hook_limit) for listener in app.listeners]
    if settings.mail is not None:
        found.append(_mail(settings, settings.mail))
    if settings.webhook is not None:
        found.append(Webhook(settings.webhook, settings.webhook_key))
    return found


def _mail(settings: Settings, url: str) -> Mail:
    if settings.mail_from is None or not settings.mail_to:
        raise ConfigurationError("mail is set, so mail_from and mail_to are needed too")
    return Mail(url, settings.mail_from, settings.mail_to, settings.mail_templates)


class Notifier:
    """Takes notices and tells them. Any number of workers may do it at once: each notice is told by one.

    A channel that does not work is tried again later, for hours, without the others hearing it twice. Only if a process dies
    between the telling and the note of it is something told again: under the same number.
    """

    def __init__(self, board: NoticeBoard, channels: Iterable[Channel], *, gathered: float, digest: str | None = None) -> None:
        self._board, self._channels, self._gathered, self._digest = board, list(channels), gathered, digest

    def round(self) -> int:
        """Tell all that waits; gives how many notices that were."""
        if self._digest is not None:
            expression = self._digest
            self._board.digest_if_due(lambda now: next_tick(expression, now))
        if not self._board.notices_waiting(self._gathered):
            return 0
        taken = self._board.take_notices(self._gathered, LEASE)
        for one in taken:
            self._tell(one)
        return len(taken)

    def _tell(self, taken: TakenNotice) -> None:
        told, failed = set(taken.told), False
        for channel in self._channels:
            if channel.name in told:
                continue
            if taken.deaths >= MOST_DEATHS or taken.tries >= MOST_TRIES:
                events.emit("notice.undelivered", channel=channel.name, notice=taken.notice.id, why="given up")
                continue
            try:
                channel.tell(taken.notice)
            except Exception as error:
                failed = True
                why = redact(f"{type(error).__name__}: {error}")
                events.emit("notice.undelivered", channel=channel.name, notice=taken.notice.id, why=why)
                continue
            told.add(channel.name)
            if not self._board.notice_told(taken, sorted(told), LEASE):
                return  # it took so long that another has taken over
        if failed:
            self._board.notice_later(taken, min(FIRST_AGAIN * 2.0 ** min(taken.tries, 20), LAST_AGAIN))
        else:
            self._board.notice_done(taken)


def next_tick(expression: str, now: int) -> int:
    """When a cron expression comes true next after an instant, both in microseconds, UTC."""
    from cronsim import CronSim

    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    following = next(CronSim(expression, epoch + timedelta(microseconds=now)))
    return round((following - epoch).total_seconds()) * 1_000_000


def trial_notice() -> Notice:
    """A notice of a failure that never was, to try channels out with."""
    failure = Failure(0, "default", 1, "this is a test: nothing has failed", datetime.now(UTC))
    return Notice(id=0, event=Event.FAILED, task="test", fingerprint=None, count=1, failures=(failure,))
