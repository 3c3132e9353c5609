"""From the options of an enqueue and of its task to what a new job has to wait for, and what it is the same as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from dray.codec import Codec
from dray.errors import BadOption
from dray.job import Flag, Lease, NewJob, UniqueKey, wide_hash
from dray.options import SCOPES, Options, Unique
from dray.task import Definition

WINDOW = len(SCOPES)  # the scope of a key that is held for a time


def with_waits(
    job: NewJob, definition: Definition, options: Options, args: Sequence[Any], kwargs: Mapping[str, Any], codec: Codec
) -> NewJob:
    """The same job with its group, limit, parents, expiry and unique key; raises BadOption for what does not go together."""
    defaults = definition.defaults
    group = definition.named(defaults.group, args, kwargs) if options.group is None and defaults.group else options.group
    limit = options.limit or defaults.limit
    unique = Unique.of(options.unique) if options.unique is not None else defaults.unique
    if options.coalesce is not None and group is None:
        raise BadOption("coalesce works within a group: give group= too")
    if unique is not None and unique.debounce is not None and (options.run_in is not None or options.run_at is not None):
        raise BadOption("debounce says when the job runs: give no run_in or run_at beside it")
    strict = defaults.strict_order if options.strict_order is None else options.strict_order
    return replace(
        job,
        flags=int(Flag(job.flags) | _flags(options, options.on_failure or defaults.on_failure)),
        group=group,
        rank=0 if strict else None,
        limit=None if limit is None else definition.named(limit.name, args, kwargs),
        limit_rule=None if limit is None else limit.rule,
        after=options.parents,
        when=options.when,
        parent=None if options.parent is None else Lease(options.parent.id, options.parent.fence),
        threshold=options.coalesce,
        expires_in=options.deadline_in if options.expires_in is None else options.expires_in,
        expires_at=microseconds(options.deadline_at if options.expires_at is None else options.expires_at),
        delay=job.delay if unique is None or unique.debounce is None else unique.debounce,
        unique=None if unique is None else _key(unique, definition, definition.arguments(args, kwargs), codec),
    )


def _flags(options: Options, on_failure: str) -> Flag:
    flags = Flag(0)
    if on_failure == "halt":
        flags |= Flag.HALT
    if options.on_parent_failure == "cancel":
        flags |= Flag.CANCELS_WITH_PARENTS
    if options.deadline_in is not None or options.deadline_at is not None:
        flags |= Flag.DEADLINE
    return flags


def _key(unique: Unique, definition: Definition, arguments: Mapping[str, Any], codec: Codec) -> UniqueKey:
    """The task, the scope and the arguments that count, in one hash (C61)."""
    names = sorted(arguments) if unique.by is None else sorted(unique.by)
    if missing := [name for name in names if name not in arguments]:
        known = ", ".join(arguments) or "none"
        raise BadOption(f"unique names {missing[0]!r}, which is no argument of {definition.name!r}; there are {known}")
    scope = WINDOW if unique.window is not None else SCOPES.index(unique.scope)
    chosen = codec.encode_call((), {name: arguments[name] for name in names})
    return UniqueKey(
        hash=wide_hash(f"{definition.name}\0{scope}\0{chosen}"),
        scope=scope,
        window=None if unique.window is None else round(unique.window * 1_000_000),
        conflict="replace" if unique.debounce is not None else unique.conflict,
        max_wait=unique.max_wait,
    )


def microseconds(instant: datetime | None) -> int | None:
    """Microseconds since 1970, UTC, of an aware datetime."""
    if instant is None:
        return None
    delta = instant.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
