"""The promises of a store, as tests that a store's author inherits. Needs pytest.

class TestMyStore(StoreContract):
    @pytest.fixture
    def clock(self):
        return dray.testing.Clock()

    @pytest.fixture
    def open_again(self, tmp_path, clock):
        return functools.partial(open_my_store, tmp_path, clock=clock)
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing import get_context
from operator import attrgetter
from typing import Any, Protocol

import pytest

from dray.errors import WorkerGone
from dray.job import Claim, Done, Failed, Finish, HandedBack, JobRow, Lease, NewJob, Outcome, Parked, Snoozed, State
from dray.lifecycle import Retry, decide
from dray.store.base import Store

OpenAgain = Callable[[], Store]  # called in other processes too, so pickle must be able to carry it
SlowClaim = Callable[[int], AbstractContextManager[list[int]]]
PATIENCE = 60.0  # seconds, for processes to meet and to answer


class MovedByHand(Protocol):
    """A clock such as `dray.testing.Clock`."""

    def __call__(self) -> int: ...
    def forward(self, seconds: float) -> None: ...


# --- short words ----------------------------------------------------------------------------------------------------------


def some(count: int, **options: Any) -> list[NewJob]:
    return [NewJob(**{"task": "t", "queue": "q", "args": f'{{"a":[{number}]}}', **options}) for number in range(count)]


def add(store: Store, count: int = 1, **options: Any) -> list[int]:
    """Some new jobs; their ids."""
    return [one.id for one in store.add(some(count, **options))]


def hire(store: Store) -> int:
    """A worker that is alive; its id."""
    return store.roster.register(host="here", pid=1, queues="*", concurrency=1)


def claim(store: Store, limit: int = 1000, *queues: str, worker: int | None = None) -> list[Claim]:
    """What a worker gets that has never claimed before."""
    return store.claim(hire(store) if worker is None else worker, store.pickup(queues), limit)


def end(run: Claim, outcome: Outcome | None = None) -> Finish:
    """The end of a run: a success unless told otherwise; what fails is tried again after a minute."""
    return Finish(run, decide(run, outcome or Done(result="1"), Retry.after(60, 60)), ran=1.0)


def see(store: Store, job_id: int) -> JobRow:
    job = store.desk.job(job_id)
    assert job is not None
    return job


# --- other processes ------------------------------------------------------------------------------------------------------

Meet = Callable[[], Any]  # returns when all have come to the same point


def each(store: Store, meet: Meet, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a method of the store again and again, each time at the moment at which the others make their next call."""
    answers = []
    for arguments in calls:
        meet()
        time.sleep(random.random() * 0.002)  # let now one come first, now the other
        answers.append(attrgetter(method)(store)(*arguments))
    return answers


def claim_all(store: Store, meet: Meet, limit: int) -> list[list[Claim]]:
    worker, pickup, batches = hire(store), store.pickup([]), []
    meet()
    while claims := store.claim(worker, pickup, limit):
        batches.append(claims)
    return batches


def _serve(pipe: Any, barriers: dict[int, Any]) -> None:
    while (order := pipe.recv()) is not None:
        open_again, parties, work, arguments = order
        try:
            store = open_again()
            answer = work(store, lambda parties=parties: barriers[parties].wait(PATIENCE), *arguments)
            store.close()
            pipe.send((answer, None))
        except BaseException:
            barriers[parties].abort()  # nobody shall wait for us
            pipe.send((None, traceback.format_exc()))


class Crew:
    """Processes that do things at the same moment. They are started once: that takes longer than any race."""

    def __init__(self, size: int = 4) -> None:
        context = get_context("spawn")
        self._barriers = {parties: context.Barrier(parties) for parties in range(2, size + 1)}
        self._members: list[tuple[Any, Any]] = []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._barriers), daemon=True)
            process.start()
            theirs.close()
            self._members.append((ours, process))

    def race(self, open_again: OpenAgain, *works: tuple[Callable[..., Any], *tuple[Any, ...]]) -> list[Any]:
        """Let each process do one of these, `(function, *arguments)`, with the store open; gives what they returned."""
        self._barriers[len(works)].reset()
        pipes = [pipe for pipe, _ in self._members[: len(works)]]
        for pipe, (work, *arguments) in zip(pipes, works, strict=True):
            pipe.send((open_again, len(works), work, arguments))
        answers = [pipe.recv() if pipe.poll(PATIENCE) else (None, "no answer") for pipe in pipes]
        assert not any(error for _, error in answers), "\n".join(error for _, error in answers if error)
        return [answer for answer, _ in answers]

    def close(self) -> None:
        """Let them go."""
        for pipe, process in self._members:
            pipe.send(None)
            process.join(PATIENCE)
            pipe.close()


# --- the promises ---------------------------------------------------------------------------------------------------------


class StoreContract:
    """Inherit it, say how the store is opened, and every test has to pass: a store cannot excuse itself."""

    @pytest.fixture
    def clock(self) -> MovedByHand:
        """A `dray.testing.Clock`; the store has to go by it."""
        raise NotImplementedError

    @pytest.fixture
    def open_again(self) -> OpenAgain:
        """How anybody, also in another process, opens the store of this test, at the time that the clock shows by then."""
        raise NotImplementedError

    @pytest.fixture
    def one_writer_at_a_time(self) -> bool:
        """Whether writers wait for each other. Said by the test, not asked of the store."""
        return False

    @pytest.fixture
    def slow_claim(self) -> SlowClaim:
        """A context manager that keeps a claim of n jobs from being over, and gives their ids. Not for one writer at a time."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_again: OpenAgain) -> Iterator[Store]:
        store = open_again()
        store.ensure()
        yield store
        store.close()

    @pytest.fixture(scope="class")
    @classmethod
    def crew(cls) -> Iterator[Crew]:
        crew = Crew()
        yield crew
        crew.close()

    # add

    def test_add_gives_ids_in_the_order_of_the_jobs(self, store: Store, open_again: OpenAgain, crew: Crew) -> None:
        batches = {name: [some(25, args=f'"{name}{batch}"') for batch in range(10)] for name in "abcd"}
        told = crew.race(open_again, *[(each, "add", [(jobs,) for jobs in batches[name]]) for name in "abcd"])
        rows = {one.id: one.args for one in claim(store, 2000)}
        assert len(rows) == 1000
        for name, answers in zip("abcd", told, strict=True):
            for jobs, ids in zip(batches[name], ([one.id for one in answer] for answer in answers), strict=True):
                assert ids == sorted(ids)
                assert [rows[id] for id in ids] == [job.args for job in jobs]

    def test_add_inserts_all_or_none(self, store: Store) -> None:
        broken: Any = None
        with pytest.raises(AttributeError):
            store.add([*some(2500), *some(1, queue=broken)])
        assert (claim(store), store.add([])) == ([], [])

    def test_an_id_is_never_used_again(self, store: Store, clock: MovedByHand) -> None:
        last = add(store, 3)[-1]
        store.finish([end(one) for one in claim(store)])
        clock.forward(1)
        assert store.desk.prune_batch(State.SUCCEEDED, 0) == 3
        assert add(store)[0] > last

    # claim

    def test_no_job_is_given_to_two_workers(self, store: Store, open_again: OpenAgain, crew: Crew) -> None:
        ids = [id for priority in (500, 100, 0, 100) for id in add(store, 500, priority=priority)]
        got = crew.race(open_again, *[(claim_all, 13)] * 4)
        assert sorted(one.id for batches in got for batch in batches for one in batch) == ids
        for batches in got:
            assert max(map(len, batches), default=0) <= 13
            # Also who has to share goes from the most urgent to the least, each time the longest ready first.
            order = [(one.priority, one.id) for batch in batches for one in batch]
            assert order == sorted(order)

    def test_the_most_urgent_come_first_then_the_longest_ready(self, store: Store, clock: MovedByHand) -> None:
        (last,) = add(store, priority=999)
        held, young = add(store, 2)
        store.desk.hold([held])
        clock.forward(1)
        store.desk.release([held])  # ready only since now, though its id is smaller
        (first,) = add(store, queue="other", priority=0)
        worker, pickup = hire(store), store.pickup([])
        assert [[one.id for one in store.claim(worker, pickup, 1)] for _ in range(5)] == [[first], [young], [held], [last], []]

    def test_a_claim_gives_no_more_than_its_limit(self, store: Store) -> None:
        for number in range(6):
            add(store, 5, priority=number // 2, queue=f"q{number % 2}")
        worker, pickup = hire(store), store.pickup([])
        assert [len(store.claim(worker, pickup, limit)) for limit in (0, 1, 2, 7, 12, 20, 1)] == [0, 1, 2, 7, 12, 8, 0]

    def test_a_queue_is_taken_by_its_exact_name(self, store: Store) -> None:
        names = ["app", "app2", "ap", "APP", "App", "a_p", "a%p", "a%", "%", "_", "app ", "äpp", "app'", 'a"pp', "a\\p"]
        ids = {name: add(store, queue=name)[0] for name in names}
        assert claim(store, 5, "ap_", "app%", "ÄPP", "*") == []
        assert {name: [one.id for one in claim(store, 5, name)] for name in names} == {name: [ids[name]] for name in names}

    def test_a_claim_waits_for_no_other(self, store: Store, slow_claim: SlowClaim, one_writer_at_a_time: bool) -> None:
        if one_writer_at_a_time:
            pytest.skip("one writer at a time: the test says so")
        ids = add(store, 6)
        with slow_claim(2) as taken:
            got = [one.id for one in claim(store, 3)]
            assert (len(taken), len(got), len({*taken, *got})) == (2, 3, 5)
            assert {*taken, *got, *(one.id for one in claim(store))} == {*ids}

    def test_only_who_is_alive_may_claim(self, store: Store, open_again: OpenAgain, crew: Crew) -> None:
        add(store, 2)
        gone, dead = hire(store), hire(store)
        (beat,) = (beat for beat in store.roster.beats() if beat.worker_id == dead)
        assert sorted(crew.race(open_again, *[(each, "roster.declare_dead", [(beat,)])] * 2)) == [[False], [True]]
        assert (store.roster.leave(gone), store.roster.leave(gone)) == (True, False)
        assert not store.roster.declare_dead(beat._replace(worker_id=hire(store), beat_at=beat.beat_at - 1))
        for worker in (gone, dead, dead + 1000):
            with pytest.raises(WorkerGone):
                claim(store, worker=worker)
        assert len(claim(store)) == 2

    # finish

    def test_a_lost_lease_writes_nothing(self, store: Store) -> None:
        ids = add(store, 3)
        lost = claim(store)
        store.finish([end(one, HandedBack()) for one in lost])
        held = claim(store)
        before = [see(store, id) for id in ids]
        foreign = Claim(*[999, *(getattr(held[0], name) for name in Claim.__struct_fields__[1:])])
        ends: list[Outcome] = [Done(), Failed(error="late", permanent=True)]
        ends += [Failed(error="late"), HandedBack(), Snoozed(delay=1), Parked(why="late")]
        for run in (*lost, foreign):
            for outcome in ends:
                assert store.finish([end(run, outcome)]).accepted == set()
            assert not store.mark_started(run.lease)
        assert [see(store, id) for id in ids] == before
        assert store.finish([end(one) for one in held]).accepted == {one.lease for one in held}
        assert store.finish([end(one) for one in held]).accepted == set()

    def test_of_a_finish_and_a_rescue_one_wins(self, store: Store, open_again: OpenAgain, crew: Crew) -> None:
        add(store, 200)
        workers = [hire(store) for _ in range(200)]
        runs = [claim(store, 1, worker=worker)[0] for worker in workers]
        crew.race(
            open_again, *[(each, "roster.leave", [(worker,) for worker in part]) for part in (workers[::2], workers[1::2])]
        )
        finishes = [([end(one)],) for one in runs]
        done, freed = crew.race(open_again, (each, "finish", finishes), (each, "rescue", [(200,)] * 200))
        won = {lease for one in done for lease in one.accepted}
        assert len(won) + sum(one.freed for one in freed) == 200
        for run in runs:
            assert see(store, run.id).state is (State.SUCCEEDED if run.lease in won else State.READY)

    def test_the_fence_rises_with_every_claim_and_is_never_lowered(self, store: Store, clock: MovedByHand) -> None:
        (id,) = add(store)
        ends: list[Outcome] = [
            HandedBack(),
            Snoozed(delay=1),
            Failed(error="x", retry_in=1.0),
            Failed(error="x", permanent=True),
        ]
        for fence, outcome in enumerate([*ends, Done(), HandedBack()], 1):
            (run,) = claim(store)
            assert run.lease == Lease(id, fence)
            assert store.finish([end(run, outcome)]).accepted == {run.lease}
            clock.forward(1)
            store.promote()
            assert see(store, id).fence == fence
            store.desk.retry([id], force=True)
        worker = hire(store)
        assert claim(store, worker=worker)[0].fence == 7
        store.roster.leave(worker)
        assert store.rescue().freed == 1
        assert claim(store)[0].fence == 8

    def test_an_end_is_never_overwritten(self, store: Store, clock: MovedByHand) -> None:
        ids = add(store, 3)
        done, failed, cancelled = claim(store)
        store.desk.cancel([cancelled.id])
        store.finish([end(done), end(failed, Failed(error="x", permanent=True)), end(cancelled, HandedBack())])
        before = [see(store, id) for id in ids]
        assert [one.state for one in before] == [State.SUCCEEDED, State.FAILED, State.CANCELLED]
        clock.forward(1000)
        desk = store.desk
        assert [one.after for move in (desk.cancel, desk.hold, desk.release) for one in move(ids)] == [None] * 9
        assert store.finish([end(done, HandedBack()), end(failed), end(cancelled)]).accepted == set()
        assert (store.promote().ready, store.rescue().freed, store.adopt({"t": 1}), claim(store)) == ([], 0, [], [])
        assert [see(store, id) for id in ids] == before

    def test_a_success_that_comes_before_the_cancel_is_seen_stays_one(self, store: Store) -> None:
        ids = add(store, 3)
        done, fails, back = claim(store)
        assert {(one.before, one.after) for one in store.desk.cancel(ids)} == {(State.RUNNING, State.RUNNING)}
        store.finish([end(done), end(fails, Failed(error="x")), end(back, HandedBack())])
        assert [see(store, id).state for id in ids] == [State.SUCCEEDED, State.CANCELLED, State.CANCELLED]

    def test_what_was_done_under_the_same_fence_is_accepted_again_and_done_once(self, store: Store) -> None:
        ids = add(store, 3)
        done, fails, back = claim(store)
        finishes = [end(done), end(fails, Failed(error="x")), end(back, HandedBack())]
        assert len(store.finish(finishes).accepted) == 3
        assert [one.id for one in claim(store)] == [back.id]
        before = [see(store, id) for id in ids]
        assert store.finish(finishes, again=True).accepted == {done.lease, fails.lease}
        assert [see(store, id) for id in ids] == before
        assert [len(store.desk.attempts(id)) for id in ids] == [0, 1, 0]

    def test_exchange_finishes_and_claims_both_or_none(self, store: Store) -> None:
        add(store, 5)
        worker, pickup = hire(store), store.pickup([])
        first = store.exchange(worker, pickup, [], 2)
        told = list[State]()
        begun = lambda: told.append(see(store, first.claims[0].id).state)  # noqa: E731
        second = store.exchange(worker, pickup, [end(one) for one in first.claims], 2, begun=begun)
        assert (set(told), second.finished.accepted) == ({State.RUNNING}, {one.lease for one in first.claims})
        assert len({one.id for one in (*first.claims, *second.claims)}) == 4
        store.roster.leave(worker)
        with pytest.raises(WorkerGone):
            store.exchange(worker, pickup, [end(one) for one in second.claims], 1)
        assert [see(store, one.id).state for one in second.claims] == [State.RUNNING] * 2
        third = store.exchange(worker, pickup, [end(one) for one in second.claims], 0)
        assert third.finished.accepted == {one.lease for one in second.claims}

    # time, death, and strangers

    def test_each_due_job_is_promoted_once(self, store: Store, open_again: OpenAgain, crew: Crew, clock: MovedByHand) -> None:
        ids = add(store, 200, delay=60)
        (held,) = add(store, delay=60)
        add(store, delay=90)
        store.desk.hold([held])
        assert (store.promote().ready, store.promote().next_in) == ([], 60.0)
        clock.forward(60)
        told = crew.race(open_again, *[(each, "promote", [(20,)] * 20)] * 2)
        assert sorted(one.id for answers in told for answer in answers for one in answer.ready) == ids
        assert see(store, held).state is State.BLOCKED
        assert store.promote().next_in == 30.0

    def test_rescue_frees_what_the_dead_held_and_nothing_of_the_living(self, store: Store) -> None:
        add(store, 4)
        dead, alive = hire(store), hire(store)
        surely, perhaps = claim(store, 2, worker=dead)
        claim(store, 2, worker=alive)
        assert store.mark_started(surely.lease, ago=1.0)
        assert store.rescue().freed == 0
        store.roster.leave(dead)
        rescued = store.rescue()
        assert (rescued.freed, {one.id for one in rescued.ready}) == (2, {surely.id, perhaps.id})
        counts = [(one.attempt, one.crashes) for one in (see(store, surely.id), see(store, perhaps.id))]
        assert counts == [(0, 1), (0, 0)]

    def test_a_parked_job_goes_on_with_who_can_run_it(self, store: Store) -> None:
        unknown, unfit = add(store, 2)
        store.finish([end(one, Parked(why="?", signature=7 if one.id == unfit else 0)) for one in claim(store)])
        assert (store.adopt({"other": 1}), claim(store)) == ([], [])
        assert [one.id for one in store.adopt({"t": 7})] == [unknown]
        assert [one.id for one in store.adopt({"t": 8})] == [unfit]
        assert [(one.id, one.attempt) for one in claim(store)] == [(unknown, 1), (unfit, 1)]
