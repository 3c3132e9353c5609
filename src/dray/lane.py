"""Which queue a job waits in, and how urgent it is there, by its options, its task and the settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from dray.errors import BadOption
from dray.job import DEFAULT_PRIORITY
from dray.options import Options
from dray.selection import route
from dray.settings import Settings
from dray.task import Definition

DEFAULT_QUEUE = "default"


def queue_of(
    definition: Definition, options: Options, settings: Settings, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """The queue of a job: what the enqueue says, a name with arguments in it that its task gives, what the settings map its
    task to, what the task says, `default`, or the first of the queues there are (S3.22). Raises BadOption for one that is none
    of those.
    """
    own = definition.defaults.queue
    if options.queue is not None:
        queue = options.queue
    elif own is not None and "{" in own:
        queue = definition.named(own, args, kwargs)
    else:
        queue = route(definition.name, settings.routes) or own or _default(settings)
    if settings.queues and queue not in settings.queues:
        close = difflib.get_close_matches(queue, settings.queues, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(settings.queues)}"
        raise BadOption(f"there is no queue {queue!r}; {hint}")
    return queue


def _default(settings: Settings) -> str:
    return DEFAULT_QUEUE if not settings.queues or DEFAULT_QUEUE in settings.queues else next(iter(settings.queues))


def priority_of(definition: Definition, options: Options, settings: Settings) -> int:
    """The priority of a job: what the enqueue says, what its task says, the usual one, or the first there is (S2.29). Raises
    BadOption for one that is not among those there are (S2.17)."""
    own = definition.defaults.priority if options.priority is None else options.priority
    known = settings.priorities
    if own is None:
        return DEFAULT_PRIORITY if not known or DEFAULT_PRIORITY in known else known[0]
    if known and own not in known:
        raise BadOption(f"there is no priority {own}; there are {', '.join(map(str, known))}")
    return own
