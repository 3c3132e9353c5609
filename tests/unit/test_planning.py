"""How many workers a pool has: the rule by itself, as a table, and over any story of load and time."""

from __future__ import annotations

import doctest
from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dray.errors import BadOption
from dray.tending import planning
from dray.tending.planning import SETTLED, Member, Pool, Retire, Stage, Start, census, plan, surplus

rows = pytest.mark.rows

POOL = Pool(name="mail", least=2, spare=1, most=5, max_age=600, max_output=6_000, max_memory=1_000)


def crew(*kinds: str, **attributes: object) -> list[Member]:
    """Workers by a letter each: s starting, i idle, w working with a free slot, b busy, l leaving."""
    made = {
        "s": Member(pid=0, stage=Stage.STARTING, slots=2),
        "i": Member(pid=0, slots=2),
        "w": Member(pid=0, running=1, slots=2),
        "b": Member(pid=0, running=2, slots=2),
        "l": Member(pid=0, stage=Stage.LEAVING, running=2, slots=2),
    }
    letters = [letter for kind in kinds for letter in kind]
    return [replace(made[letter], pid=number, **{"age": 60.0, **attributes}) for number, letter in enumerate(letters)]  # type: ignore[arg-type]


def decided(pool: Pool, members: list[Member], surplus_for: float = SETTLED, *, may_start: bool = True) -> str:
    match plan(pool, members, surplus_for=surplus_for, may_start=may_start):
        case Start():
            return "start"
        case Retire(pid=pid):
            return f"retire {pid}"
        case None:
            return "nothing"


def test_the_example_is_true() -> None:
    assert doctest.testmod(planning).failed == 0


@rows("S1.36", "S1.37", "S1.38", "S1.44", "S1.45", "C77", "C78")
@pytest.mark.parametrize(
    ("there", "does"),
    [
        ("", "start"),  # below min
        ("s", "start"),
        ("ss", "nothing"),
        ("ii", "nothing"),
        ("bi", "nothing"),  # one is to spare
        ("wi", "nothing"),
        ("ww", "nothing"),  # a free slot is enough to be spare
        ("bb", "start"),
        ("bbs", "nothing"),  # one is on its way
        ("bbbb", "start"),
        ("bbbbb", "nothing"),  # never above max,
        ("bbbbi", "nothing"),  # nor below it at full load
        ("bbbbl", "nothing"),  # those that leave take up room
        ("il", "start"),
        ("illll", "nothing"),
        ("iii", "retire 0"),
        ("iiii", "retire 0"),
        ("bii", "retire 1"),  # never a busy one,
        ("www", "nothing"),  # nor one that works
        ("iiil", "nothing"),  # one at a time
        ("iis", "retire 0"),
    ],
)
def test_one_step(there: str, does: str) -> None:
    assert decided(POOL, crew(there)) == does


def test_a_surplus_has_to_last_and_a_worker_to_have_lived() -> None:
    assert decided(POOL, crew("iii"), SETTLED - 0.1) == "nothing"
    assert decided(POOL, crew("iii", age=SETTLED - 0.1)) == "nothing"
    assert decided(POOL, crew("iii", age=SETTLED)) == "retire 0"


def test_nothing_is_started_while_it_waits_after_deaths() -> None:
    assert decided(POOL, crew(""), may_start=False) == "nothing"
    assert decided(POOL, crew("bb"), may_start=False) == "nothing"
    assert decided(POOL, crew("ii", outdated=True), may_start=False) == "nothing", "the old one is better than none"


@rows("S1.39", "S1.40", "C75", "C76")
@pytest.mark.parametrize(
    ("worn", "busy"),
    [
        ({"age": 601.0}, "nothing"),
        ({"age": 1201.0}, "start"),  # never idle and over twice its age: not waited for any longer
        ({"output": 6_001}, "nothing"),
        ({"output": 60_001}, "nothing"),
        ({"memory": 1_001}, "nothing"),
        ({"memory": 1_501}, "start"),
        ({"outdated": True}, "start"),
    ],
)
def test_a_worn_worker_is_replaced_when_idle_and_first_comes_the_new_one(worn: dict[str, object], busy: str) -> None:
    old = crew("i", **worn)
    young = [replace(one, pid=one.pid + 10) for one in crew("iis")]
    assert decided(POOL, old + young[:1], 0.0) == "start"
    assert decided(POOL, [*old, young[0], young[2]], 0.0) == "nothing", "the new one is not ready"
    assert decided(POOL, old + young[:2], 0.0) == "retire 0"
    working = crew("w", **worn)
    assert decided(POOL, working + young[:1], 0.0) == busy
    assert decided(POOL, working + young[:2], SETTLED) == ("nothing" if busy == "nothing" else "retire 0")


def test_where_there_is_no_room_for_both_the_old_one_goes_first_and_one_at_a_time() -> None:
    full = replace(POOL, least=2, most=2)
    assert decided(full, crew("ii", outdated=True)) == "retire 0"
    assert decided(full, [*crew("i", outdated=True), replace(crew("l")[0], pid=7)]) == "nothing"
    assert decided(full, crew("i", outdated=True)) == "start"


def test_more_than_one_too_many_are_retired_even_if_one_is_worn() -> None:
    long = crew("w", age=700.0)
    idle = [replace(one, pid=one.pid + 10) for one in crew("iii")]
    assert decided(POOL, long + idle[:2]) == "nothing", "the third may be there in its place"
    assert decided(POOL, long + idle) == "retire 10"


def test_no_limit_is_no_limit() -> None:
    free = Pool(name="mail")
    assert decided(free, crew("ii", age=1e9, output=10**12, memory=10**12)) == "nothing"


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"least": 3, "most": 2}, "min = 3 is more than max = 2"),
        ({"least": 0, "most": 0}, "max = 0 allows no worker"),
        ({"least": 0, "spare": 0}, "would never start a worker"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(numbers: dict[str, int], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        Pool(name="mail", **numbers)  # type: ignore[arg-type]


# --- stories --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """What happens before the next tick: how many jobs want a slot, who gets ready or is gone, and who dies."""

    load: int
    ready: bool
    gone: bool
    dies: int | None
    seconds: float


MOMENTS = st.lists(
    st.builds(
        Moment,
        load=st.integers(0, 12),
        ready=st.booleans(),
        gone=st.booleans(),
        dies=st.one_of(st.none(), st.none(), st.integers(0, 5)),
        seconds=st.sampled_from([0.1, 1.0, 11.0, 400.0]),
    ),
    max_size=40,
)
POOLS = st.builds(
    lambda least, more, spare, age: Pool(name="any", least=least, most=max(least + more, 1), spare=spare or 1, max_age=age),
    least=st.integers(0, 4),
    more=st.integers(0, 4),
    spare=st.integers(0, 3),
    age=st.sampled_from([None, 600.0]),
)


class Yard:
    """A pool in a model: jobs fill the slots of the workers in their order."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.members: list[Member] = []
        self.surplus_for = 0.0
        self.pids = count(1)
        self.changes = 0

    def tick(self, moment: Moment) -> None:
        self.age(moment)
        self.work(moment.load)
        self.surplus_for = self.surplus_for + moment.seconds if surplus(self.pool, self.members) > 0 else 0.0
        before = census(self.members)
        match plan(self.pool, self.members, surplus_for=self.surplus_for):
            case Start():
                self.members.append(Member(pid=next(self.pids), stage=Stage.STARTING, slots=2))
                self.changes += 1
            case Retire(pid=pid):
                (one,) = [one for one in self.members if one.pid == pid]
                assert one.stage is Stage.UP
                assert one.is_idle or one.age > 2 * (self.pool.max_age or 1e9)
                self.members = [replace(each, stage=Stage.LEAVING) if each.pid == pid else each for each in self.members]
                self.changes += 1
        self.check(before.working, len(self.members))

    def check(self, before: int, there: int) -> None:
        assert len(self.members) <= self.pool.most
        after = census(self.members).working
        if before < self.pool.least and there < self.pool.most:
            assert after == before + 1, "below min one is started in the same tick"
        if before >= self.pool.least and self.pool.most > self.pool.least:
            assert after >= self.pool.least, "nobody is retired below min"

    def age(self, moment: Moment) -> None:
        members = [replace(one, age=one.age + moment.seconds) for one in self.members]
        if moment.dies is not None:
            members = members[: moment.dies] + members[moment.dies + 1 :]
        if moment.ready:
            members = [replace(one, stage=Stage.UP) if one.stage is Stage.STARTING else one for one in members]
        if moment.gone:
            members = [one for one in members if one.stage is not Stage.LEAVING]
        self.members = members

    def work(self, load: int) -> None:
        members = []
        for one in self.members:
            running = min(load, one.slots) if one.stage is Stage.UP else 0
            load -= running
            members.append(replace(one, running=running))
        self.members = members


@rows("C77", "C78")
@settings(deadline=None)
@given(POOLS, MOMENTS)
def test_never_above_max_and_below_min_no_longer_than_a_tick(pool: Pool, story: list[Moment]) -> None:
    yard = Yard(pool)
    for moment in story:
        yard.tick(moment)


@rows("C77")
@settings(deadline=None)
@given(POOLS.map(lambda pool: replace(pool, max_age=None)), MOMENTS, st.integers(0, 12))
def test_a_load_that_stays_leads_to_a_pool_that_stays(pool: Pool, story: list[Moment], load: int) -> None:
    yard = Yard(pool)
    for moment in story:
        yard.tick(moment)
    calm = Moment(load=load, ready=True, gone=True, dies=None, seconds=11.0)
    for _ in range(3 * pool.most + 3):
        yard.tick(calm)
    settled = yard.changes
    for _ in range(20):
        yard.tick(calm)
    assert yard.changes == settled
    count = census(yard.members)
    assert count.up == len(yard.members) >= pool.target(count.busy)
    assert surplus(pool, yard.members) <= 0 or count.idle == 0


@rows("S1.39")
def test_ages_are_renewed_one_by_one_and_min_is_kept() -> None:
    pool = Pool(name="mail", least=2, most=3, max_age=600)
    yard = Yard(pool)
    fewest = []
    for number in range(2_000):
        yard.tick(Moment(load=number % 2, ready=number % 5 == 0, gone=number % 3 == 0, dies=None, seconds=1.0))
        fewest.append(census(yard.members).working)
    assert min(fewest[10:]) == 2
    assert next(yard.pids) > 2 * 3, "they were renewed"
    assert max(one.age for one in yard.members) < 700
