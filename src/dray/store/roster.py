"""The store's workers: each call a transaction of its own."""

from __future__ import annotations

from collections.abc import Sequence

from dray.store import controls, orders, workers
from dray.store.connect import Database
from dray.store.orders import Order
from dray.store.tables import Tables
from dray.store.wakeup import channel
from dray.store.workers import Beat, WorkerRow


class Roster:
    """Who works, who is silent, who is dead."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database, self._tables = database, tables

    def register(
        self, *, host: str, pid: int, queues: str, concurrency: int, priorities: str | None = None, tasks: str | None = None
    ) -> int:
        """Write the row of a new worker, alive as of now, and give its id."""
        return self._database.once(
            lambda connection: workers.register(
                *(connection, self._tables),
                host=host,
                pid=pid,
                queues=queues,
                concurrency=concurrency,
                priorities=priorities,
                tasks=tasks,
            )
        )

    def beats(self) -> list[Beat]:
        """The heartbeats of all workers that count as alive."""
        return self._database.once(lambda connection: workers.beats(connection, self._tables))

    def declare_dead(self, beat: Beat) -> bool:
        """Declare a worker dead if its beat still stands where it was seen."""
        return self._database.once(lambda connection: workers.declare_dead(connection, self._tables, beat))

    def leave(self, worker_id: int) -> bool:
        """Say goodbye for a worker; what it still holds is free from now on."""
        return self._database.once(lambda connection: workers.leave(connection, self._tables, worker_id))

    def listing(self, *, alive_only: bool = True, limit: int = 1000) -> list[WorkerRow]:
        """The workers, the newest first."""
        return self._database.once(
            lambda connection: workers.listing(connection, self._tables, alive_only=alive_only, limit=limit)
        )

    # --- orders ---------------------------------------------------------------------------------------------------------

    def give(self, ids: Sequence[int], order: Order) -> list[int]:
        """Tell workers what to do; gives those of them that are alive to hear it."""
        return self._database.transact(lambda connection: orders.give(connection, self._tables, ids, order))

    def ask_stack(self, worker_id: int) -> int | None:
        """Ask a worker where its jobs are; gives the instant from which on its answer counts. None: it is not alive."""
        return self._database.transact(lambda connection: orders.ask_stack(connection, self._tables, worker_id))

    def answer(self, worker_id: int, stack: str) -> None:
        """Say where this worker's jobs are."""
        self._database.once(lambda connection: orders.answer(connection, self._tables, worker_id, stack))

    def stack(self, worker_id: int, since: int) -> str | None:
        """What a worker has answered since then; None: nothing yet."""
        return self._database.once(lambda connection: orders.stack(connection, self._tables, worker_id, since))

    def report(self, worker_id: int, *, paused: bool, memory: int, done: int) -> None:
        """Write down how a worker is; its memory in KiB."""
        self._database.once(
            lambda connection: orders.report(connection, self._tables, worker_id, paused=paused, memory=memory, done=done)
        )

    def find(self, worker_id: int) -> WorkerRow | None:
        """One worker, alive or not; None when there is none of this id."""
        found = self._database.once(
            lambda connection: workers.listing(connection, self._tables, alive_only=False, worker_id=worker_id)
        )
        return found[0] if found else None

    def sign(self) -> None:
        """Write something: it proves that beats can be written too, so that a silence is the worker's own."""
        self._database.transact(lambda connection: controls.sign(connection, self._tables))

    def heartbeat_plan(self, worker_id: int) -> dict[str, object]:
        """All that the heartbeat process has to know. It holds the password: pass it by pipe."""
        module, arguments, keywords = self._database.driver()
        return {
            "driver": module,
            "arguments": arguments,
            "keywords": keywords,
            "setup": list(self._tables.dialect.setup),
            "beat": workers.beat_statement(self._tables) % worker_id,
            "death": workers.death_statement(self._tables) % worker_id,
            "channel": channel(self._tables),
        }
