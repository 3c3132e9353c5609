"""What workers print is passed on whole, in bounded memory, and nobody is waited for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dray.tending.relay import CHUNK, FULL, OVERFULL, Outlet, Relay


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """From a worker to us (read, write), and from us to a reader (read, write)."""
    ends = (*os.pipe(), *os.pipe())
    os.set_blocking(ends[2], False)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def all_of(number: int) -> bytes:
    came = b""
    while True:
        try:
            more = os.read(number, CHUNK)
        except BlockingIOError:
            return came
        if not more:
            return came
        came += more


@pytest.mark.rows("S1.31", "C76")
def test_only_whole_lines_are_passed_on_and_the_rest_at_the_end(pipes: tuple[int, int, int, int]) -> None:
    read, write, reader, writer = pipes
    relay = Relay(read, Outlet(writer))
    os.write(write, b"one\ntwo\nthr")
    assert relay.read()
    assert all_of(reader) == b"one\ntwo\n"
    os.write(write, b"ee\nfour")
    assert relay.read()
    assert all_of(reader) == b"three\n"
    relay.close()
    assert all_of(reader) == b"four\n"
    assert relay.count == len("one\ntwo\nthree\nfour")


def test_a_line_without_an_end_is_broken(pipes: tuple[int, int, int, int]) -> None:
    read, write, reader, writer = pipes
    relay, came = Relay(read, Outlet(writer)), b""
    for _ in range(5):
        os.write(write, b"x" * (CHUNK // 4))
        relay.read()
        came += all_of(reader)
        relay.outlet.flush()
        came += all_of(reader)
    assert came == b"x" * CHUNK + b"\n"


def test_nothing_to_read_is_no_end_and_a_closed_pipe_is(pipes: tuple[int, int, int, int]) -> None:
    read, write, _, writer = pipes
    relay = Relay(read, Outlet(writer))
    assert relay.read()
    os.close(write)
    assert not relay.read()


@pytest.mark.rows("C76")
def test_a_reader_that_does_not_read_is_not_waited_for(pipes: tuple[int, int, int, int]) -> None:
    read, write, reader, writer = pipes
    relay = Relay(read, Outlet(writer))
    os.set_blocking(write, False)
    sent = 0
    while not relay.outlet.is_full:
        sent += os.write(write, b"y" * 99 + b"\n")
        relay.read()
    assert FULL <= sent < FULL + 3 * CHUNK
    for _ in range(20_000):
        relay.outlet.put(b"z" * 99 + b"\n")  # our own log goes on, for a while
    came = all_of(reader)
    while relay.outlet.has_more:
        relay.outlet.flush()
        came += all_of(reader)
    assert came.count(b"y" * 99 + b"\n") == sent // 100
    assert came.count(b"z" * 99 + b"\n") <= OVERFULL // 100


def test_a_reader_that_is_gone_is_no_reason_to_end(pipes: tuple[int, int, int, int]) -> None:
    _, _, reader, writer = pipes
    outlet = Outlet(writer)
    os.close(reader)
    outlet.write("for nobody\n")
    outlet.write("for nobody\n")
    assert not outlet.has_more
