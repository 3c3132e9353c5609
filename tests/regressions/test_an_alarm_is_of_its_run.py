"""An isolated job set an alarm and forgot it. The process was kept for the next job, which was told that its time was over."""

from __future__ import annotations

import signal

from dray.outside.child import Interrupt


def test_an_alarm_of_one_run_does_not_ring_in_the_next() -> None:
    before = signal.getsignal(signal.SIGALRM)
    interrupt = Interrupt()
    try:
        interrupt.begin()
        signal.alarm(60)
        interrupt.begin()
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
