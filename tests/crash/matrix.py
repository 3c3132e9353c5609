"""Every failpoint, every fault: which cases there are, how one is tried, and what has to be true after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from dray import Dray
from tests.crash.acts import DONE, ORDERS, UNDONE, Act
from tests.crash.audit import Death, Story, Wrong, audit
from tests.crash.boss import Boss
from tests.crash.failpoints import Case
from tests.crash.fork import CALLS, CHILD, SEEN, STRUCK
from tests.crash.gateaudit import Lines, audit_lines
from tests.crash.ledger import ALIVE, RUNNING, SUCCEEDED, Ledger, Row
from tests.crash.nursery import Nursery
from tests.crash.receipt import steady
from tests.crash.repertoire import ACTS
from tests.crash.shop import Plan

KILLED = -9
WRITES = ("INSERT", "UPDATE", "DELETE")
UNTOUCHED = ("enqueue", "enqueue many", "enqueue within", "prune")


@dataclass
class Trial:
    """What is known of one case when it is over."""

    case: Case
    wrongs: list[Wrong] = field(default_factory=list)
    reached: bool = False
    took_over: bool = False
    refused: int = 0  # results that came too late, and were counted
    story: Story | None = None


class Matrix:
    """All cases on one database."""

    def __init__(self, url: str, folder: Path, nursery: Nursery) -> None:
        self._url, self._folder = url, folder
        _set_up(url)
        self.ledger = Ledger(url)
        self._nursery = nursery
        self._number = 0
        self._boss = Boss(self._plan(), self.ledger)
        self.calls: dict[str, list[list[str]]] = {}  # what each act asked the database for, call by call

    def close(self) -> None:
        self._boss.close()

    def rehearse(self, acts: Iterable[str] = ACTS) -> None:
        """Let acts happen without a fault, and write down which points they come by."""
        for name in acts:
            trial = self.run(Case(name))
            assert trial.story is not None
            assert not trial.wrongs, (name, trial.wrongs)
            ((said,),) = [[event.facts[CALLS]] for event in trial.story.account.of(CALLS)]
            self.calls[name] = [call for call in said if call and call[0].split(":")[0] in ACTS[name].operations]

    def cases(self) -> Iterator[Case]:
        """Every fault at every point. What is killed or frozen after one statement is so before the next."""
        for act, calls in self.calls.items():
            points = dict.fromkeys(point for call in calls for point in call)
            last = {call[-1] for call in calls}
            for point in points:
                for fault in ("kill", "freeze", "cut"):
                    yield Case(act, point, "before", fault)
                    if fault == "cut" or point in last:
                        yield Case(act, point, "after", fault)

    def run(self, case: Case) -> Trial:
        """Set the scene, let it happen, clear up, audit."""
        boss, act, trial = self._boss, ACTS[case.act], Trial(case)
        plan = self._plan()
        boss.begin(plan)
        scene = act.prepare(boss.shop)
        boss.openings = scene.get("openings", 0)
        began = steady()
        self._nursery.bear({"case": asdict(case), "plan": asdict(plan), "scene": scene})
        woken = self._watch(boss, trial)
        trial.reached = bool(boss.shop.account().of(STRUCK))
        trial.wrongs += self._at_once(act, trial, woken)
        if not boss.clear_up(unnoted=act.unnoted):
            trial.wrongs.append(Wrong("there are jobs that do not end", None))
        self._judge(trial, act, boss, Death(began, "failpoint", steady()), woken)
        return trial

    def _plan(self) -> Plan:
        self._number += 1
        self.folder = self._folder / f"case-{self._number}"
        self.folder.mkdir()
        return Plan(crew=uuid4().hex, url=self._url, folder=str(self.folder), ttl=30.0)

    def _watch(self, boss: Boss, trial: Trial) -> float | None:
        """Wait for the end of the child; gives when it was woken, if it was frozen."""
        woken = None
        while (code := self._nursery.wait()) is None:
            boss.take_over(brief=ACTS[trial.case.act].gated)
            trial.took_over = boss.took_over
            woken = steady()
            self._nursery.wake()
        if code != (KILLED if trial.case.fault == "kill" else 0):
            trial.wrongs.append(Wrong(f"the child ended with {code}", None))
        return woken

    # --- the audit --------------------------------------------------------------------------------------------------------

    def _at_once(self, act: Act, trial: Trial, woken: float | None) -> Iterator[Wrong]:
        """What is true as soon as the child has ended: all or nothing, and nothing held by one who said goodbye."""
        case, rows = trial.case, self.ledger.rows()
        operation = case.point.split(":")[0]
        # Those who took over may have done something to the same jobs, but not to what is new or old.
        if act.moved is not None and (not trial.took_over or operation in UNTOUCHED):
            found = act.moved(self.ledger, rows)
            wanted = (DONE,) if woken is not None or case.fault is None else (DONE, UNDONE)
            if operation == act.operations[-1] and woken is None and not case.breakage:
                wanted = (DONE,) if self._is_done(case) else (UNDONE,)
            if found not in wanted:
                yield Wrong(f"it is {found}, and should be {' or '.join(wanted)}", None)
        if case.fault != "kill" and act.moved is None and woken is None:
            left = {row.worker_id for row in rows if row.state == RUNNING} - self._alive()
            yield from [Wrong(f"worker {id} has left, and jobs run in its name", None) for id in left]

    def _is_done(self, case: Case) -> bool:
        """Whether the fault came behind the commit, or behind the one statement that needs none."""
        (call,) = [call for call in self.calls[case.act] if case.point in call]
        at = call.index(case.point)
        words = [point.split(":")[2] for point in call]
        turn = words.index("COMMIT") if "COMMIT" in words else next(i for i, one in enumerate(words) if one.startswith(WRITES))
        return at > turn or (at == turn and case.place == "after")

    def _alive(self) -> set[int]:
        return {id for id, (state, _) in self.ledger.workers().items() if state == ALIVE}

    def _judge(self, trial: Trial, act: Act, boss: Boss, death: Death, woken: float | None) -> None:
        account, rows = boss.shop.account(), self.ledger.rows()
        story = trial.story = Story(account=account, rows=rows, ttl=30.0)
        story.deaths["ghost"] = death
        if trial.case.fault == "kill":
            story.deaths[CHILD] = death
        if trial.took_over:
            story.declared_dead.add(CHILD)
        trial.refused = len(account.of("job.lease_lost", CHILD))
        trial.wrongs += late_results(story, self.ledger.attempts(), bare=act.bare)
        if woken is not None:
            _forget_late_starts(story, woken)
        trial.wrongs += [wrong for wrong in audit(story) if not _is_allowed(wrong, story, act, woken)]
        lines = Lines(account, self.ledger.stands(), self.ledger.family(), act.repeats, act.late)
        trial.wrongs += [Wrong(seen.facts["what"], seen.facts["n"]) for seen in account.of(SEEN)]
        trial.wrongs += [*sorted(boss.seen), *audit_lines(lines), *self._left(boss)]
        if trial.case.act == "rescue" and (found := [row.crashes for row in sorted(rows, key=lambda row: row.n)]) != [0, 1, 1]:
            trial.wrongs.append(Wrong(f"crashes {found} instead of 0, 1, 1", None))

    def _left(self, boss: Boss) -> Iterator[Wrong]:
        """What is there still though everything has ended: notes, and keys that cannot be had again."""
        if self.ledger.live() == 0 and (notes := self.ledger.count("dray_unsettled")):
            yield Wrong(f"{notes} notes are left, and nothing that waits", None)
        for n, key in boss.keys_not_free():
            yield Wrong(f"it has ended, and its key {key} cannot be had again", n)


def _set_up(url: str) -> None:
    app = Dray(url, create_tables=True)
    app.store.ensure()
    ORDERS.metadata.create_all(app.store.database.engine)
    app.close()


def late_results(story: Story, attempts: set[tuple[int, int]], *, bare: bool = False) -> Iterator[Wrong]:
    """Each result of the child is accepted or counted as refused: one of them, and never both."""
    lost = Counter((event.facts["job_id"], event.facts["fence"]) for event in story.account.of("job.lease_lost", CHILD))
    for (id, fence), end in story.account.ends.items():
        if end.holder != CHILD or CHILD in story.deaths:
            continue
        results = {f"{CHILD}:{fence}", None if bare else ""}
        failed = end.outcome == "failed" and (id, fence) in attempts
        taken = failed or _is_accepted(story.by_id[id], fence, end.outcome, results)
        if taken == bool(lost[id, fence]):
            yield Wrong(f"fence {fence}: {'accepted, and' if taken else 'not accepted, and not'} counted as refused", end.n)
    for (id, fence), count in lost.items():
        if count > 1:
            yield Wrong(f"fence {fence} of job {id} is counted as refused {count} times", None)


def _is_accepted(rows: list[Row], fence: int, outcome: str, results: set[str | None]) -> bool:
    if outcome == "snoozed":
        return any(row.snoozes for row in rows)
    return any(row.state == SUCCEEDED and row.fence == fence and row.result in results for row in rows)


def _forget_late_starts(story: Story, woken: float) -> None:
    """Who was frozen with jobs in its hand starts them when it wakes: its worker has no clock that would forbid it."""
    for id, starts in story.account.starts.items():
        late = [one for one in starts if one.holder == CHILD and one.time > woken and (id, one.fence) in story.lost_leases]
        story.account.starts[id] = [one for one in starts if one not in late]


def _is_allowed(wrong: Wrong, story: Story, act: Act, woken: float | None) -> bool:
    """What is no fault here: what an operator did, and what could not be stored."""
    if act.bare and wrong.what.endswith("with the result of another run, None"):
        return True
    if act is ACTS["retry"] and woken is not None:
        return False  # it was only held up
    gone = act is ACTS["prune"] and wrong.what.startswith("lost") and wrong.n not in story.by_n
    return gone or any(wrong.what.startswith(f"it ended in state {state}:") for state in act.ends)
