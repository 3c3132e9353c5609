"""Output of commands: every line once and in order while there is room, then the beginning and the end."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dray.outside.capture import LINE_LIMIT, Capture

rows = pytest.mark.rows


def captured(most: int, *chunks: bytes) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    capture = Capture(most, lambda line, stream: told.append((stream, line)))
    for chunk in chunks:
        capture.feed("stdout", chunk)
    capture.close()
    return told


@given(st.lists(st.binary(max_size=30)), st.integers(1, 7))
def test_lines_come_whole_whatever_the_pieces(lines: list[bytes], size: int) -> None:
    lines = [line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
    data = b"".join(line + b"\n" for line in lines)
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert captured(10**6, *chunks) == [("stdout", line.decode(errors="replace")) for line in lines]


def test_what_ends_without_a_newline_is_a_line_too() -> None:
    assert captured(10**6, b"a\r\nb") == [("stdout", "a"), ("stdout", "b")]


def test_streams_are_kept_apart() -> None:
    told: list[tuple[str, str]] = []
    capture = Capture(10**6, lambda line, stream: told.append((stream, line)))
    for stream, data in (("stdout", b"o"), ("stderr", b"e"), ("stdout", b"ut\n"), ("stderr", b"rr\n")):
        capture.feed(stream, data)
    capture.close()
    assert told == [("stdout", "out"), ("stderr", "err")]
    assert capture.last_line() == "err"
    assert capture.last_lines() == "out\nerr"


@rows("C76", "C80")
@given(st.integers(1, 4000), st.integers(100, 5000))
def test_beyond_the_room_the_beginning_and_the_end_are_kept(count: int, most: int) -> None:
    told = captured(most, b"".join(b"%d\n" % number for number in range(count)))
    numbers = [int(line) for stream, line in told if stream == "stdout"]
    assert numbers == sorted(set(numbers))
    if len(numbers) < count:
        assert any(stream == "note" for stream, _ in told)
        assert sum(len(str(number)) + 100 for number in numbers) <= most + 200


@rows("C76")
def test_a_flood_without_a_newline_takes_no_more_memory_than_it_may() -> None:
    tracemalloc.start()
    try:
        told: list[str] = []
        capture = Capture(2**20, lambda line, stream: told.append(line))
        for _ in range(1024):
            capture.feed("stdout", b"x" * 65536)
        capture.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert capture.size == 64 * 2**20
    assert max(map(len, told)) <= LINE_LIMIT
    assert sum(map(len, told)) <= 2**20
    assert peak < 4 * 2**20
