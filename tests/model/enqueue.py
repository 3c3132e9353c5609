"""Chapter: jobs are enqueued, one, many, for later, in a transaction of the caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from dray.job import Added, Flag, NewJob, Ready, State
from tests.model.model import SECOND
from tests.model.story import QUEUES, TASKS, Story

KEYS = ("invoice-7", "Invoice-7")
GROUPS = ("ann", "bob")
LIMITS = {"one": "1", "two": "2", "ann": "2"}  # by name: how many at once
PRIORITIES = (100, 100, 100, 0)
# More often something ordinary, so that the odd ones meet many others.
WHEN = st.sampled_from([None, None, None, 0.0, 1.0, 60.0, -5.0])


@dataclass(frozen=True, repr=False)
class Wish:
    """A job to be, with its time counted from now."""

    queue: str
    task: str
    priority: int
    delay: float | None  # seconds
    dated: bool  # whether that time is said as an instant
    key: str | None
    owner: str | None
    labels: tuple[tuple[str, str], ...]
    max_attempts: int | None
    flags: Flag
    group: str | None
    strict: bool
    limit: str | None
    after: tuple[int, ...]  # places of the jobs that it needs
    when: str
    expires: float | None  # seconds from now

    def __repr__(self) -> str:
        said = [name for name in Wish.__dataclass_fields__ if getattr(self, name)]
        return f"Wish({', '.join(f'{name}={getattr(self, name)!r}' for name in said)})"

    def job(self, now: int, parents: Sequence[int] = ()) -> NewJob:
        # Only an instant can have passed already.
        dated = self.delay is not None and (self.dated or self.delay < 0)
        return NewJob(
            queue=self.queue,
            task=self.task,
            priority=self.priority,
            args="{}",
            delay=None if dated else self.delay,
            run_at=now + round((self.delay or 0) * SECOND) if dated else None,
            key=self.key,
            owner=self.owner,
            labels=dict(self.labels),
            max_attempts=self.max_attempts,
            flags=int(self.flags),
            group=self.group,
            rank=0 if self.strict and self.group else None,
            limit=self.limit,
            after=tuple(sorted(parents)),
            when=self.when,
            expires_in=self.expires,
            limit_rule=None if self.limit is None else LIMITS[self.limit],
        )


WISHES = st.builds(
    Wish,
    queue=st.sampled_from(("mail", "mail", *QUEUES)),
    task=st.sampled_from([*TASKS, "gone"]),
    priority=st.sampled_from(PRIORITIES),
    delay=WHEN,
    dated=st.booleans(),
    key=st.sampled_from([None, *KEYS]),
    owner=st.sampled_from([None, "ann"]),
    labels=st.sampled_from([(), (("shop", "1"),), (("shop", "2"), ("kind", "bill"))]),
    max_attempts=st.sampled_from([None, 1, 2]),
    flags=st.sampled_from([Flag(0), Flag(0), Flag.FAIL_ON_CRASH, Flag.HALT, Flag.CANCELS_WITH_PARENTS, Flag.DEADLINE]),
    group=st.sampled_from([None, None, *GROUPS]),
    strict=st.sampled_from([False, False, True]),
    limit=st.sampled_from([None, None, None, *LIMITS]),
    after=st.sampled_from([(), (), (0,), (1, 3)]),
    when=st.sampled_from(["all_succeeded", "all_succeeded", "all_done"]),
    expires=st.sampled_from([None, None, None, 0.0, 5.0, 60.0]),
)


class Enqueueing(Story):
    @initialize(wishes=st.lists(WISHES, min_size=1, max_size=6))
    def there_is_work(self, wishes: list[Wish]) -> None:
        self.enqueue(wishes)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=4))
    def enqueue(self, wishes: list[Wish]) -> None:
        jobs, rings = self.wished(wishes), self.world.rings
        added = self.store.add(jobs)
        self.committed(added, jobs)
        ready = [Ready(one.id, job.queue, job.priority) for one, job in zip(added, jobs, strict=True) if one.state == "ready"]
        self.expect(ready, ready, rings)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3), commits=st.booleans())
    def enqueue_in_a_transaction_of_the_caller(self, wishes: list[Wish], commits: bool) -> None:
        jobs, rings = self.wished(wishes), self.world.rings
        with self.world.caller.connect() as connection:
            added = self.store.add_within(connection, jobs)
            assert [one.id for one in added] == sorted(one.id for one in added)
            if commits:
                connection.commit()
        ready = [one for one in added if one.state is State.READY]
        settled: list[Ready] = []
        if commits:
            self.committed(added, jobs)
            settled = self.model.settle()
            self.world.wait_until_settled()
        assert (self.world.rings > rings) == bool(commits and (ready or settled))

    def wished(self, wishes: Sequence[Wish]) -> list[NewJob]:
        return [wish.job(self.model.now, self.jobs(wish.after)) for wish in wishes]

    def committed(self, added: Sequence[Added], jobs: Sequence[NewJob]) -> None:
        """The ids are new, in the order of the jobs, and each job is where the answer says."""
        assert len(added) == len(jobs)
        for one, job in zip(added, jobs, strict=True):
            assert one.id > self.model.newest, f"{one.id} is not newer than {self.model.newest}"
            self.model.newest = one.id
            assert one.state is State(self.model.add(one.id, job))
