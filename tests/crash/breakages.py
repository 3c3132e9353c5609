"""What can be wrong with an operation: made on purpose, in the process under test, to prove that the audit finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dray import finisher
from dray.errors import OutcomeUnknown
from dray.job import Lease
from dray.store import finish, history, limits, sql
from tests.crash.shop import Shop


def no_fence(shop: Shop) -> None:
    """Whoever holds a job, its result is taken."""
    statement, copy, bound = history._move_statement, history._copy_statement, history._copy_bound_statement

    def any_holder(connection: Any, tables: Any, leases: Sequence[Lease]) -> dict[Lease, int]:
        wanted = {lease.id: lease for lease in leases}
        query = f"SELECT id, fence, flags FROM {{jobs}} WHERE state = 1 AND id IN ({', '.join(map(str, wanted))})"
        return {wanted[row[0]]: row[2] for row in connection.execute(tables.text(query))}

    history.lock_running = finish.lock_running = any_holder  # type: ignore[assignment]

    def loose(template: str) -> str:
        wide = template.replace(" AND j.fence = d.f", "")
        return wide.replace("EXCEPT SELECT id, fence FROM moved", "WHERE i NOT IN (SELECT id FROM moved)")

    history._move_statement = lambda tables, plain: loose(statement(tables, plain=plain))  # type: ignore[misc]
    history._copy_statement = lambda tables, plain: loose(copy(tables, plain=plain))  # type: ignore[misc]
    history._copy_bound_statement = lambda tables, size, plain: loose(bound(tables, size, plain=plain))  # type: ignore[misc]


def no_transaction(shop: Shop) -> None:
    """Each statement of a transaction is committed by itself."""
    once = shop.app.store.database.once
    shop.app.store.database.transact = lambda work, waits=None: once(work)  # type: ignore[method-assign, misc, assignment]


def no_word_of_a_loss(shop: Shop) -> None:
    """A result that was refused is forgotten in silence."""
    finisher.events.emit = lambda event, **facts: None  # type: ignore[assignment]


def no_doubt(shop: Shop) -> None:
    """A write whose answer was lost is taken for one that was refused."""
    real = sql.finish
    sql.finish = lambda connection, tables, finishes, again=False: real(connection, tables, finishes)  # type: ignore


def added_again(shop: Shop) -> None:
    """An enqueue of unknown result is simply repeated."""
    add = shop.app.store.add

    def twice(jobs: Any) -> Any:
        try:
            return add(jobs)
        except OutcomeUnknown:
            return add(jobs)

    shop.app.store.add = twice  # type: ignore[method-assign]


def nobody_looks_again(shop: Shop) -> None:
    """What was claimed without an answer is not looked for."""
    shop.app.store.held = lambda worker_id, known: []  # type: ignore[method-assign]


def no_note(shop: Shop) -> None:
    """Nothing is written down of what follows from a fact."""
    shop.app.store.settler.note = lambda connection, owed: None  # type: ignore[method-assign]


def no_settle(shop: Shop) -> None:
    """What is written down is deleted, and never done."""
    settler: Any = shop.app.store.settler
    settler._steps = ()


def no_count(shop: Shop) -> None:
    """Those who have a share of a limit already are overlooked."""
    room = limits._room
    limits._room = lambda gate, held, unstarted, now: room(gate, 0, unstarted, now)  # type: ignore[assignment]


BREAKAGES: dict[str, Callable[[Shop], None]] = {
    one.__name__: one
    for one in (
        *(no_fence, no_transaction, no_word_of_a_loss, no_doubt, added_again, nobody_looks_again),
        *(no_note, no_settle, no_count),
    )
}
