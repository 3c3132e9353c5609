"""Chapter: jobs are enqueued, one, many, for later, in a transaction of the caller's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from dray.errors import Conflict, LeaseLost
from dray.job import Added, Flag, Lease, NewJob, Ready, State, UniqueKey, wide_hash
from dray.store.add import spawners_of
from dray.store.unique import EVER, QUEUED, UNFINISHED, WINDOW
from tests.model import keys
from tests.model.model import SECOND
from tests.model.story import QUEUES, TASKS, Story

KEYS = ("invoice-7", "Invoice-7")
UNIQUE = {name: scope for scope in (QUEUED, UNFINISHED, EVER, WINDOW) for name in (f"a{scope}", f"b{scope}")}
HELD_FOR = 30 * SECOND  # of a key that is held for a time
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
    args: str
    threshold: int | None
    unique: str | None
    conflict: str

    def __repr__(self) -> str:
        said = [name for name in Wish.__dataclass_fields__ if getattr(self, name)]
        said = [name for name in said if (name, getattr(self, name)) not in {("args", "{}"), ("conflict", "keep")}]
        return f"Wish({', '.join(f'{name}={getattr(self, name)!r}' for name in said)})"

    def job(self, now: int, parents: Sequence[int] = (), spawner: Lease | None = None) -> NewJob:
        # Only an instant can have passed already.
        dated = self.delay is not None and (self.dated or self.delay < 0)
        return NewJob(
            queue=self.queue,
            task=self.task,
            priority=self.priority,
            args=self.args,
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
            parent=spawner,
            threshold=None if self.group is None else self.threshold,
            unique=self.key_of_its_own(),
            limit_rule=None if self.limit is None else LIMITS[self.limit],
        )

    def key_of_its_own(self) -> UniqueKey | None:
        if self.unique is None:
            return None
        scope = UNIQUE[self.unique]
        window = HELD_FOR if scope == WINDOW else None
        return UniqueKey(wide_hash(self.unique), scope, window=window, conflict=self.conflict)


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
    flags=st.sampled_from(
        [Flag(0), Flag(0), Flag.FAIL_ON_CRASH, Flag.HALT, Flag.CANCELS_WITH_PARENTS, Flag.DEADLINE, Flag.MASTER]
    ),
    group=st.sampled_from([None, None, *GROUPS]),
    strict=st.sampled_from([False, False, True]),
    limit=st.sampled_from([None, None, None, *LIMITS]),
    after=st.sampled_from([(), (), (0,), (1, 3)]),
    when=st.sampled_from(["all_succeeded", "all_succeeded", "all_done"]),
    expires=st.sampled_from([None, None, None, 0.0, 5.0, 60.0]),
    args=st.sampled_from(["{}", "{}", '{"a":[1]}']),
    threshold=st.sampled_from([None, None, 1, 1, 2]),
    unique=st.sampled_from([*[None] * len(UNIQUE), *UNIQUE]),
    conflict=st.sampled_from(["keep", "keep", "replace", "raise"]),
)


class Enqueueing(Story):
    @initialize(wishes=st.lists(WISHES, min_size=1, max_size=6))
    def there_is_work(self, wishes: list[Wish]) -> None:
        self.enqueue(wishes)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=4))
    def enqueue(self, wishes: list[Wish]) -> None:
        self.add(self.wished(wishes))

    def add(self, jobs: list[NewJob]) -> None:
        """Enqueue these, or be told why not, and then none of them."""
        rings, spawners = self.world.rings, spawners_of(jobs)
        if not all(self.model.holds(lease) for lease in spawners):
            with pytest.raises(LeaseLost):
                self.store.add(jobs)
            return
        try:
            there = keys.there(self.model, jobs)
        except keys.Clash as clash:
            with pytest.raises(Conflict, match=f"job {clash.holder}"):
                self.store.add(jobs)
            return
        added = self.store.add(jobs)
        self.committed(added, jobs, there)
        self.mark(spawners)
        ready = [Ready(one.id, job.queue, job.priority) for one, job in zip(added, jobs, strict=True) if one.state == "ready"]
        self.expect(ready, ready, rings)

    @rule(wishes=st.lists(WISHES, min_size=1, max_size=3), commits=st.booleans())
    def enqueue_in_a_transaction_of_the_caller(self, wishes: list[Wish], commits: bool) -> None:
        self.add_within(self.wished(wishes), commits)

    def add_within(self, jobs: list[NewJob], commits: bool) -> None:
        """The same in a transaction of the caller, who may go on after an error, and then end it so or so."""
        rings, spawners, before = self.world.rings, spawners_of(jobs), deepcopy(self.model)
        try:
            lost = not all(self.model.holds(lease) for lease in spawners)
            there = None if lost else keys.there(self.model, jobs)
        except keys.Clash:
            there = None
        with self.world.caller.connect() as connection:
            if there is None:
                with pytest.raises((Conflict, LeaseLost)):
                    self.store.add_within(connection, jobs)
                added = []
            else:
                added = self.store.add_within(connection, jobs)
                made = [one.id for one in added if one.created]
                assert made == sorted(made)
            if commits:
                connection.commit()
        ready = [one for one in added if one.state is State.READY]
        settled: list[Ready] = []
        if commits and there is not None:
            self.committed(added, jobs, there)
            self.mark(spawners)
            settled = self.model.settle()
            self.world.wait_until_settled()
        else:
            self.model = before
            # Marked in a transaction of our own, which does no harm if the caller's is rolled back.
            if self.store.tables.dialect.skip_locked and all(self.model.holds(lease) for lease in spawners):
                self.mark(spawners)
        assert (self.world.rings > rings) == bool(commits and (ready or settled))

    def wished(self, wishes: Sequence[Wish], spawner: Lease | None = None) -> list[NewJob]:
        made = []
        for wish in wishes:
            # Whoever spawns a job that needs him would wait for it for ever.
            parents = [id for id in self.jobs(wish.after) if spawner is None or id != spawner.id]
            made.append(wish.job(self.model.now, parents, spawner))
        return made

    def committed(self, added: Sequence[Added], jobs: Sequence[NewJob], there: dict[str, tuple[int, State]]) -> None:
        """The new ids are in the order of the jobs, and each job is where the answer says."""
        assert len(added) == len(jobs)
        made: dict[str, int] = {}
        for one, job in zip(added, jobs, strict=True):
            hash = None if job.unique is None else job.unique.hash
            if hash in there:
                assert (one.id, one.state, one.created) == (*there[hash], False)
                continue
            if hash in made:
                assert (one.id, one.state, one.created) == (made[hash], self.model.jobs[made[hash]].state, False)
                continue
            assert one.created
            assert one.id > self.model.newest, f"{one.id} is not newer than {self.model.newest}"
            self.model.newest = one.id
            assert one.state is State(self.model.add(one.id, job))
            if hash is not None:
                made[hash] = one.id
                keys.take(self.model, one.id, job)

    def mark(self, spawners: Iterable[Lease]) -> None:
        for lease in spawners:
            self.model.jobs[lease.id].flags |= Flag.SPAWNED
