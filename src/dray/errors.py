"""Everything that can go wrong.

    DrayError
    ├── BadOption             the caller's mistake in an option (also a ValueError)
    ├── BadArguments          a call that does not fit the task's signature (also a TypeError)
    ├── BadFilter             a list asked for by a column that is not there (also a ValueError)
    ├── CodecError            a value that cannot be stored, or a payload that cannot be read (also a ValueError)
    ├── ConfigurationError    a setting that is missing, misspelt or of the wrong type
    ├── TaskError             a task that cannot be registered as asked
    │   └── UnknownTask       no task of that name (also a LookupError)
    ├── UnknownJob            no job of that id, live or in the history (also a LookupError)
    ├── UnknownWorker         no worker of that id (also a LookupError)
    ├── WorkerLives           a worker that was to be declared dead is not (C18)
    ├── Conflict              another job has the unique key
    ├── IllegalMove           the job's state does not allow this move
    ├── JobFailed             asked for the result of a job that failed or was cancelled
    ├── NotFinished           asked for the result of a job that has not ended (also a TimeoutError)
    ├── Permanent             raised by a task: this will never work, do not try again
    └── StoreError
        ├── SchemaError       the tables are missing, too old or too new
        ├── StoreUnavailable  the database cannot be reached, or stays locked
        ├── OutcomeUnknown    the connection broke after the enqueue was sent
        ├── LeaseLost         a job that is not run here any more cannot spawn others
        └── WorkerGone        this worker was declared dead; its leases are no longer its own

Signals that a task raises to say what should become of it (`Snooze`, `RetryIn`, `Skip`, `StopWorker`) are no errors; they
live in `dray.job` and derive from BaseException, so that a task's `except Exception` cannot eat them.
"""

from __future__ import annotations

from collections.abc import Sequence


class DrayError(Exception):
    """The root of everything Dray raises."""


class BadOption(DrayError, ValueError):
    """An option of a task, of an enqueue or of a command is wrong; the text says which and what is allowed."""


class BadArguments(DrayError, TypeError):
    """The arguments of a call do not fit the task's signature."""

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(f"{task}: {reason}")
        self.task, self.reason = task, reason


class BadFilter(DrayError, ValueError):
    """A list was asked for by a column or an order that does not exist."""


class CodecError(DrayError, ValueError):
    """A value cannot be stored, or a stored payload cannot be read."""


class ConfigurationError(DrayError):
    """A setting is missing, misspelt or of the wrong type."""


class TaskError(DrayError):
    """A task cannot be registered as asked."""


class UnknownTask(TaskError, LookupError):
    """No task of this name is registered (S0.8)."""

    def __init__(self, name: str, similar: Sequence[str] = ()) -> None:
        hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ""
        super().__init__(f"task {name!r} is not registered{hint}")
        self.name = name


class UnknownJob(DrayError, LookupError):
    """There is no job of this id, neither live nor in the history."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"there is no job {job_id}; it may have been pruned")
        self.job_id = job_id


class UnknownWorker(DrayError, LookupError):
    """There is no worker of this id."""

    def __init__(self, worker_id: int) -> None:
        super().__init__(f"there is no worker {worker_id}")
        self.worker_id = worker_id


class WorkerLives(DrayError):
    """A worker was to be declared dead, and there is a sign of its life."""

    def __init__(self, worker_id: int, sign: str) -> None:
        super().__init__(f"worker {worker_id} lives: {sign}")
        self.worker_id, self.sign = worker_id, sign


class Conflict(DrayError):
    """Another job has the unique key that this one needs; `holder` is its id."""

    def __init__(self, holder: int) -> None:
        super().__init__(
            f"job {holder} has the same unique key; wait for its end, or enqueue with conflict='keep' or 'replace'"
        )
        self.holder = holder


class IllegalMove(DrayError):
    """The job's state does not allow this move."""

    def __init__(self, job_id: int, state: str, move: str) -> None:
        super().__init__(f"job {job_id} is {state} and cannot be {move}")
        self.job_id, self.state, self.move = job_id, state, move


class JobFailed(DrayError):
    """The job whose result was asked for did not succeed."""

    def __init__(self, job_id: int, state: str, error: str | None) -> None:
        super().__init__(f"job {job_id} {state}: {error or 'no reason was stored'}")
        self.job_id, self.state, self.error = job_id, state, error


class NotFinished(DrayError, TimeoutError):
    """The job has not ended yet."""

    def __init__(self, job_id: int, state: str) -> None:
        super().__init__(f"job {job_id} has not ended: it is {state}")
        self.job_id, self.state = job_id, state


class Permanent(DrayError):
    """Raise it in a task when trying again cannot help: the job fails at once (S2.42)."""


class CommandFailed(DrayError):
    """A command ended with another exit code than 0, was killed, or could not be started.

    code    its exit code; None: there is none
    said    the last lines of what it said
    """

    def __init__(self, why: str, code: int | None = None, said: str = "") -> None:
        super().__init__(why)
        self.code, self.said = code, said


class StoreError(DrayError):
    """The database did not do what was asked."""


class SchemaError(StoreError):
    """Dray's tables are missing, too old or too new for this code."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, or stays locked: the same may succeed later."""


class OutcomeUnknown(StoreError):
    """The connection broke after the enqueue was sent: the jobs may exist or not.

    `keys` are the keys the jobs were given, to be looked up with `app.unfinished_keys(keys)` once the database answers.
    Dray never repeats such an enqueue by itself, since that could do the work twice.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        check = f"look for the key {', '.join(keys[:3])}" if keys else "give jobs a key to be able to look them up"
        super().__init__(f"the database connection broke during the enqueue; the jobs may exist or not: {check}")
        self.keys = tuple(keys)


class LeaseLost(StoreError):
    """A job wanted to spawn children that is not run by this worker any more: others may run it by now."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"job {job_id} is not run here any more, so it cannot have children; end this run")
        self.job_id = job_id


class WorkerGone(StoreError):
    """This worker was declared dead, or its row is gone; what it still runs may be run by others."""

    def __init__(self, worker_id: int) -> None:
        super().__init__(f"worker {worker_id} is no longer registered as alive")
        self.worker_id = worker_id
