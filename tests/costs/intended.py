"""By which index each statement of each operation is meant to find its rows, on each database.

In the order in which they are sent. `id` is the primary key; `(all)` means an index that holds few rows, walked along as far as
is wanted; `|` stands between ways that are as good; "" is a statement that looks for nothing, such as an INSERT of values. The
rows of workers are few, and may be read from end to end.
"""

from __future__ import annotations

# What SQLite does, and the others too unless something else is said below.
# Asked after a commit: who waits for these, and are there edges at all.
_DEPENDENTS = "edges.needs edges.needs (all) jobs.id|edges.scan jobs.id|edges.id (all) edges.needs jobs.id"
# What a job waits for, or a group stands still for, is not pruned. There are few of these here.
_OLD = "|".join(f"edges.{edges} halts.{halts} history.ended jobs.id" for edges in ("needs", "scan") for halts in ("id", "scan"))
COMMON = {
    "enqueue": [""],
    "enqueue many": [""],
    "enqueue for a date": [""],
    "enqueue with labels": ["", ""],
    "look in vain": ["jobs.id jobs.ready jobs.ready (all)"],
    "claim": ["jobs.id jobs.ready jobs.ready (all)", "workers.id", "jobs.ready", "jobs.id"],
    "finish": ["jobs.id", "jobs.id", "jobs.id", _DEPENDENTS],
    "finish again": ["jobs.id", "history.id jobs.id", "attempts.id", _DEPENDENTS],
    "fail": ["jobs.id", "jobs.id", "jobs.id", "", "", _DEPENDENTS],
    "fail for now": ["jobs.id", "jobs.id", ""],
    "hand back": ["jobs.id", "jobs.id"],
    "mark the start": ["jobs.id"],
    "recount": ["jobs.running", "jobs.running"],
    "attend": ["jobs.running"],
    "nothing is due": ["jobs.due"],
    "promote": ["jobs.due", "jobs.due", "jobs.id", "jobs.due"],
    "adopt": ["jobs.parked (all)", "jobs.parked", "jobs.id"],
    "nothing is lost": ["jobs.running (all) workers.id"],
    "rescue": ["jobs.running (all) workers.id", "jobs.running (all) workers.id", "attempts.id", "jobs.id", "jobs.id", ""],
    "a worker leaves": ["", "workers.id"],
    "a worker dies": ["", "workers.scan", "workers.id"],
    "nothing is old": [_OLD],
    "prune": [_OLD, "labels.id", "edges.id|edges.scan", "attempts.id", "output.job", "history.id"],
    "prune workers": ["jobs.running workers.scan", "workers.id"],
    "show a job": ["history.id jobs.id"],
    "cancel": ["jobs.id", "jobs.id", "jobs.id", _DEPENDENTS],
    "hold": ["jobs.id", "jobs.id"],
    "release": ["jobs.id", "jobs.id"],
    "retry": ["jobs.id", "history.id", "history.id", "history.id", _DEPENDENTS],
}

# PostgreSQL reads the index of running jobs rather than fetch each by its id, while they are few; when dead entries have made
# it large, it goes by the id again.
_MINE = "jobs.id|jobs.running (all)"
_LOST = "jobs.running (all) workers.scan|jobs.running (all) workers.id"
_ANYWHERE = "jobs.id jobs.ready jobs.ready (all) workers.id"  # finds the lanes and takes the jobs
_STILL = "jobs.id|jobs.waiting"  # that index ends with the id
_PARKED = "jobs.parked|jobs.parked (all)|jobs.parked (all) jobs.waiting"
POSTGRESQL = {
    "look in vain": [_ANYWHERE],
    "claim": [_ANYWHERE],
    "exchange": [_MINE, "jobs.id jobs.ready jobs.ready (all)", "jobs.id jobs.ready workers.id", _DEPENDENTS],
    "finish": [_MINE, _DEPENDENTS],
    "finish again": [_MINE, "history.id jobs.id", "attempts.id", _DEPENDENTS],
    "fail": [_MINE, "", "", _DEPENDENTS],
    "fail for now": [_MINE, _MINE, ""],
    "hand back": [_MINE, _MINE],
    "promote": ["jobs.due", "jobs.due", _STILL, "jobs.due"],
    "adopt": [_PARKED, _PARKED, f"{_STILL}|{_PARKED}"],
    "nothing is lost": [_LOST],
    "rescue": [_LOST, _LOST, "attempts.id|attempts.scan", _MINE, _MINE, ""],
    "prune workers": ["jobs.running (all) workers.scan", "workers.scan|workers.id"],
    "hold": ["jobs.id", _STILL],
    "release": ["jobs.id", _STILL],
}

# MySQL has no index of some rows only, so each of its own begins with what the rows have in common. It looks for lanes one by
# one, and finds the first of several states one state at a time.
_RUNNING = "jobs.due workers.scan|jobs.ready workers.scan|jobs.due workers.id|jobs.ready workers.id"
_LANES = ["jobs.ready", "jobs.ready", "jobs.ready"]  # of two lanes, of which nothing was known
MYSQL = {
    "enqueue for a date": ["", "jobs.id"],
    "look in vain": ["jobs.ready"],
    "claim": [*_LANES, "workers.id", "jobs.ready", "jobs.id", "jobs.id"],
    "nothing is due": ["jobs.due", "jobs.due"],
    "promote": ["jobs.due", "jobs.due", "jobs.due", "jobs.due", "jobs.id", "jobs.due", "jobs.due"],
    "adopt": ["jobs.parked", "jobs.parked", "jobs.id"],
    "nothing is lost": [_RUNNING],
    "rescue": [_RUNNING, _RUNNING, "attempts.id", "jobs.id", "jobs.id", ""],
    "prune workers": ["jobs.running workers.id (all)|jobs.running workers.scan", "workers.id"],
    "show a job": ["jobs.id"],  # the server has looked for it in the history before it tells its plan
}


# Nobody else writes meanwhile, so nothing is locked before it is moved; where less was moved than asked, a look says what.
SQLITE = {
    "finish": ["jobs.id", "jobs.id", _DEPENDENTS],
    "finish again": ["jobs.id", "jobs.id", "history.id jobs.id", "attempts.id", _DEPENDENTS],
    "fail": ["jobs.id", "jobs.id", "", "", _DEPENDENTS],
}


def intended(database: str) -> dict[str, list[str]]:
    ways = COMMON | {"sqlite": SQLITE, "postgresql": POSTGRESQL}.get(database, MYSQL)
    *writes, settles = ways["finish"]
    return {"exchange": [*writes, *ways["claim"], settles], **ways}
