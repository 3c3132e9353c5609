"""A call into C kept the interpreter's lock for longer than the TTL. The heart went on beating all that time, but what it said
lay unread; behind that call the thread that guards the lease came first, took it for silence, and ended the worker.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from dray import Dray
from dray.lease import WorkerLease
from dray.pulse import Pulse

TTL = 1.0


def test_beats_that_have_not_been_read_are_beats(tmp_path: Path) -> None:
    app = Dray(f"sqlite:///{tmp_path}/dray.db")
    app.store.ensure()
    ends: list[float] = []
    lease = WorkerLease(
        *(app.store.roster,),
        ttl=TTL,
        beat=TTL / 10,
        listen=False,
        pulse=Pulse(),
        on_wake=lambda: None,
        on_lost=lambda: None,
        on_cut_off=lambda: ends.append(lease.age()),
    )
    lease.take(queues="*", concurrency=1)
    try:
        for _ in range(3):
            ctypes.PyDLL(None).usleep(round(TTL * 1.5 * 1_000_000))  # unlike CDLL it keeps the lock
            assert not lease.must_end()
    finally:
        lease.give_up()
        app.close()
    assert ends == []
