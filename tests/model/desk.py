"""Chapter: operators cancel, hold, release and retry, and read lists and counts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from dray.job import Reason, State
from dray.store.codes import EPOCH
from dray.store.desk import ready_again
from dray.store.filters import Filter
from tests.model.enqueue import KEYS
from tests.model.model import SECOND, Job
from tests.model.moves import move
from tests.model.story import PLACE, PLACES, QUEUES, Story

FEW = st.lists(PLACE, min_size=1, max_size=2)
TIMES = ("created_at", "run_at", "ready_at", "claimed_at", "started_at", "finished_at")
AS_STORED = ("state", "reason", "queue", "task", "priority", "fence", "attempt", "flags", "worker_id", "note", "error")
NOBODY = 2**40  # an id that was never given out


class Operating(Story):
    @rule(places=FEW)
    def cancel(self, places: list[int]) -> None:
        self.move("cancel", self.jobs(places))

    @rule(places=FEW, note=st.sampled_from([None, "ann is looking"]))
    def hold(self, places: list[int], note: str | None) -> None:
        self.move("hold", self.jobs(places), note=note)

    @rule(places=PLACES, later=st.sampled_from([0.0, 1.0]))
    def release(self, places: list[int], later: float) -> None:
        self.wait(later)
        self.move("release", self.jobs(places))

    @rule(places=PLACES, force=st.booleans(), later=st.sampled_from([0.0, 1.0]))
    def retry(self, places: list[int], force: bool, later: float) -> None:
        self.wait(later)
        self.move("retry", self.jobs(places), force=force)

    @rule(places=FEW, verb=st.sampled_from(["cancel", "release"]))
    def name_some_twice_and_one_that_is_not_there(self, places: list[int], verb: str) -> None:
        ids = self.jobs(places)
        self.move(verb, [*ids, NOBODY, *ids[:1]])

    def move(self, verb: str, ids: list[int], **options: Any) -> None:
        rings = self.world.rings
        moved = getattr(self.store.desk, verb)(ids, **options)
        did, ought = [(one.id, one.before, one.after, one.holder) for one in moved], move(self.model, verb, ids, **options)
        assert did == ought, f"{verb} gave {did}, should be {ought}"
        told = {*ready_again(moved)}
        assert told == {one for one in told if self.model.jobs[one.id].ready_at == self.model.now}
        self.expect(told, told, rings)

    # --- reading ----------------------------------------------------------------------------------------------------------

    @rule(
        place=PLACE,
        limit=st.sampled_from([1, 3, 50]),
        states=st.frozensets(st.sampled_from(State), max_size=3),
        queue=st.sampled_from([None, None, *QUEUES]),
        name=st.sampled_from(["", "", "task", "key", "owner", "label", "reason", "since", "until", "worker_id"]),
    )
    def read(self, place: int, limit: int, states: frozenset[State], queue: str | None, name: str) -> None:
        self.look_at_one(place)
        asked = {name: self.asked(name, place)} if name else {}
        self.turn_pages(Filter(states=states, queue=queue, **asked), limit)
        self.count(running=place % 2 == 0, failed=place % 3 == 0)

    def look_at_one(self, place: int) -> None:
        for id in self.jobs([place]):
            seen = self.store.desk.job(id)
            assert seen is not None
            check_seen(seen, self.model.jobs[id])
            kept = [(lease.fence, *self.model.attempts[lease]) for lease in sorted(self.model.attempts) if lease.id == id]
            assert [(a.fence, a.attempt, a.state, a.worker_id, a.error) for a in self.store.desk.attempts(id)] == kept
            assert self.store.desk.labels([id]) == {id: self.model.labels.get(id, {})}
            said = [(fence, text) for job, fence, text in self.model.lines if job == id]
            assert [(line.fence, line.text) for line in self.store.desk.read_output(id)] == said

    def turn_pages(self, wanted: Filter, limit: int) -> None:
        ought = [job for job in reversed(self.model.where(*State)) if fits(wanted, job, self.model.labels.get(job.id, {}))]
        before: int | None = None
        for start in range(0, len(ought) + 1, limit):
            page = self.store.desk.jobs(wanted, limit=limit, before=before)
            assert [one.id for one in page] == [job.id for job in ought[start : start + limit]]
            for seen, job in zip(page, ought[start:], strict=False):
                check_seen(seen, job)
            before = page[-1].id if page else None

    def asked(self, name: str, place: int) -> Any:
        """A value for one field of a filter."""
        moment = EPOCH + timedelta(microseconds=self.model.now - place * 20 * SECOND)
        words: dict[str, list[Any]] = {
            "task": ["send", "gone"],
            "key": [*KEYS],
            "owner": ["ann", "Ann"],
            "label": [("shop", "1"), ("kind", "bill"), ("shop", "3")],
            "reason": [Reason.HELD, Reason.UNKNOWN_TASK, Reason.GROUP],
            "worker_id": [*self.model.workers, NOBODY],
        }
        return words[name][place % len(words[name])] if name in words else moment

    def count(self, running: bool, failed: bool) -> None:
        jobs, desk = self.model.jobs.values(), self.store.desk
        assert desk.counts() == {state: len(self.model.where(state)) for state in State}
        oldest: dict[str, float] = {}
        for job in self.model.where(State.READY):
            assert job.ready_at is not None
            oldest[job.queue] = max(oldest.get(job.queue, 0.0), (self.model.now - job.ready_at) / SECOND)
        told = [(one.queue, one.ready, one.running, one.oldest) for one in desk.queues()]
        ready, runs = ([job.queue for job in self.model.where(state)] for state in (State.READY, State.RUNNING))
        assert told == [(name, ready.count(name), runs.count(name), oldest.get(name)) for name in sorted({*ready, *runs})]
        counted = {State.READY, State.SCHEDULED, State.RETRYING, State.BLOCKED}
        counted |= ({State.RUNNING} if running else set()) | ({State.FAILED} if failed else set())
        unfinished = {job.job_key for job in jobs if job.state in counted and job.job_key}
        options = {"include_running": running, "include_failed": failed}
        assert desk.unfinished_keys([*KEYS, "x"], **options) == [key for key in KEYS if key in unfinished]
        assert {*desk.unfinished_keys(None, **options)} == unfinished


def check_seen(seen: Any, job: Job) -> None:
    """A job as people read it is the job."""
    for name in TIMES:
        moment, stored = getattr(seen, name), getattr(job, name)
        assert moment == (None if stored is None else EPOCH + timedelta(microseconds=stored)), f"{name} of job {job.id}"
    for name in AS_STORED:
        assert getattr(seen, name) == getattr(job, name), f"{name} of job {job.id}"
    assert (seen.report.to_json() if seen.report else None) == job.report


def fits(wanted: Filter, job: Job, labels: dict[str, str]) -> bool:
    """Whether a filter lets a job through."""
    created = EPOCH + timedelta(microseconds=job.created_at)
    return (
        (not wanted.states or job.state in wanted.states)
        and all(
            getattr(wanted, name) in (None, getattr(job, "job_key" if name == "key" else name))
            for name in ("queue", "task", "key", "owner", "worker_id", "reason")
        )
        and (wanted.label is None or wanted.label in labels.items())
        and (wanted.since is None or created >= wanted.since)
        and (wanted.until is None or created < wanted.until)
    )
