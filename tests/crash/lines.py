"""Producers and workers for the lines of groups, limits and dependencies, with an oracle that is none of ours: the kernel.

    python -m tests.crash.lines produce|work URL FOLDER MODE SEED SECONDS

Every run of a job takes file locks: one for its group, one of as many as its limit allows. Whoever finds none free has caught
two that run where one may. The kernel gives the locks of a killed process back.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import select

from dray.errors import StoreError
from dray.job import Claim, Done, Finish, NewJob
from dray.lifecycle import decide
from dray.store import open_store
from dray.store.sql import SqlStore

GROUPS = ("serial-0", "serial-1")
LIMITS = {"one": 1, "three": 3, "other three": 3}
DROPPED = 0.2  # of the settles
SWEEP_EVERY = 0.3  # seconds
AT_ONCE = 5


def main(role: str, url: str, folder: str, mode: str, seed: str, seconds: str) -> None:
    store, chance = open_store(url), random.Random(int(seed))
    settle = store.settler.settle
    store.settler.settle = lambda owed, notes=(): [] if chance.random() < DROPPED else settle(owed, notes)  # type: ignore[method-assign]
    try:
        if role == "produce":
            _produce(store, Path(folder), mode, chance, int(seed), float(seconds))
        else:
            _work(store, Path(folder))
    finally:
        (Path(folder) / f"conflicts-{os.getpid()}").write_text(str(store.database.conflicts))
        store.close()


# --- producers ------------------------------------------------------------------------------------------------------------


def _produce(store: SqlStore, folder: Path, mode: str, chance: random.Random, seed: int, seconds: float) -> None:
    until, made = time.monotonic() + seconds, []
    ids: list[int] = []
    while time.monotonic() < until:
        if (folder / "enough").exists():
            time.sleep(0.02)
            continue
        new = [_gated(chance) if mode == "gates" else _dependent(chance, ids) for _ in range(chance.randint(1, 5))]
        added = store.add(new)
        ids = [*ids, *(one.id for one in added)][-60:]
        made += [one.id for one in added]
        time.sleep(0.004)
    (folder / f"made-{seed}").write_text(json.dumps(made))


def _gated(chance: random.Random) -> NewJob:
    # Strict, so that the order of the ids is the order of the commits, whoever enqueues.
    gate = chance.choice([*GROUPS, *LIMITS])
    group = gate if gate in GROUPS else None
    limit = gate if gate in LIMITS else chance.choice([None, "three"])
    rule = None if limit is None else str(LIMITS[limit])
    return NewJob(task="t", queue="q", args="{}", group=group, rank=0 if group else None, limit=limit, limit_rule=rule)


def _dependent(chance: random.Random, ids: list[int]) -> NewJob:
    parents = tuple(sorted(chance.sample(ids, min(len(ids), chance.choice([0, 0, 1, 1, 2, 3])))))
    return NewJob(task="t", queue="q", args=json.dumps(parents), after=parents)


# --- workers --------------------------------------------------------------------------------------------------------------


def _work(store: SqlStore, folder: Path) -> None:
    worker = store.roster.register(host="here", pid=os.getpid(), queues="*", concurrency=AT_ONCE)
    (folder / f"worker-{os.getpid()}").write_text(str(worker))
    threading.Thread(target=_sweep, args=(store,), daemon=True).start()
    pickup = store.pickup(())
    pool = ThreadPoolExecutor(AT_ONCE)
    claims: list[Claim] = []
    while not (folder / "stop").exists():
        finishes = list(pool.map(lambda claim: _run(store, folder, claim), claims))
        claims = store.exchange(worker, pickup, finishes, AT_ONCE).claims
        if not claims:
            time.sleep(0.005)


def _sweep(store: SqlStore) -> None:
    while True:
        time.sleep(SWEEP_EVERY)
        try:
            store.settler.sweep(older_than=SWEEP_EVERY)
            store.round.go_on()
        except StoreError as error:
            print(f"sweep: {error}", file=sys.stderr)


def _run(store: SqlStore, folder: Path, claim: Claim) -> Finish:
    row = store.desk.job(claim.id)
    assert row is not None
    locks = []
    if row.group is not None:
        locks.append(_lock(folder, [f"group-{row.group}"], claim))
        _append(folder / f"order-{row.group}", f"{claim.id}\n")
    if row.limit is not None:
        locks.append(_lock(folder, [f"limit-{row.limit}-{number}" for number in range(LIMITS[row.limit])], claim))
    if row.args != "{}":
        _check_parents(store, folder, claim)
    time.sleep(0.001)
    for file in locks:
        os.close(file)
    return Finish(claim, decide(claim, Done()), ran=0.001)


def _lock(folder: Path, names: list[str], claim: Claim) -> int:
    for name in names:
        file = os.open(folder / name, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            return file
    _append(folder / "violations", f"job {claim.id} runs beside too many others of {names}\n")
    return os.open(os.devnull, os.O_RDONLY)


def _check_parents(store: SqlStore, folder: Path, claim: Claim) -> None:
    parents, history = json.loads(claim.args), store.tables.history
    if parents:
        ended = store.database.once(
            lambda connection: connection.execute(select(history.c.id).where(history.c.id.in_(parents))).scalars().all()
        )
        if missing := set(parents) - set(ended):
            _append(folder / "violations", f"job {claim.id} runs before {sorted(missing)} have ended\n")


def _append(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
