"""Range headers and multipart bodies."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.streams import BytesStream
from proxy.swift.ranges import MultipartRanges, parse_ranges


@pytest.mark.parametrize(
    ("value", "ranges"),
    [
        (b"bytes=0-4", [(0, 5)]),
        (b"bytes=5-", [(5, 10)]),
        (b"bytes=-3", [(7, 10)]),
        (b"bytes=-30", [(0, 10)]),
        (b"bytes=0-99", [(0, 10)]),
        (b"Bytes = 0-0 , -1", [(0, 1), (9, 10)]),
        (b"bytes=10-", []),
        (b"bytes=10-20", []),
        (b"bytes=-0", []),
        (b"bytes=3-4,20-30", [(3, 5)]),
        (b"bytes=5-4", None),
        (b"bytes=", None),
        (b"bytes=-", None),
        (b"bytes=a-b", None),
        (b"bytes=1-2,x", None),
        (b"lines=1-2", None),
        (b"bytes", None),
        (b"bytes=0x1-2", None),
        (b"bytes=" + b"9" * 30 + b"-", None),
    ],
)
def test_ranges_of_ten_bytes(value: bytes, ranges: list[tuple[int, int]] | None) -> None:
    """Each form gives its bytes, nothing (416), or is ignored."""
    assert parse_ranges(value, 10) == ranges


def test_ranges_of_nothing() -> None:
    """Of an empty object a suffix is all of it, everything else lies outside."""
    assert parse_ranges(b"bytes=-5", 0) == [(0, 0)]
    assert parse_ranges(b"bytes=0-", 0) == []


def test_clients_that_ask_for_too_much() -> None:
    """Too many ranges, overlapping or jumping about, are refused as a whole."""
    assert parse_ranges(b"bytes=" + b",".join(b"%d-%d" % (i * 2, i * 2) for i in range(50)), 1000)
    assert parse_ranges(b"bytes=" + b",".join(b"%d-%d" % (i * 2, i * 2) for i in range(51)), 1000) == []
    assert parse_ranges(b"bytes=0-,0-,0-,0-", 1000) == []
    assert parse_ranges(b"bytes=" + b",".join(b"%d-%d" % (i * 10, i * 10) for i in range(20, 0, -1)), 1000) == []


@given(st.binary(max_size=40), st.integers(0, 100))
def test_ranges_lie_within_the_object(value: bytes, size_bytes: int) -> None:
    """Whatever is asked for, what is given are bytes of the object."""
    for start, stop in parse_ranges(b"bytes=" + value, size_bytes) or ():
        assert 0 <= start <= stop <= size_bytes


async def test_several_ranges_are_one_mime_message() -> None:
    """The body is as long as announced, and a MIME parser finds the parts in it."""
    data = bytes(range(256)) * 4
    ranges = parse_ranges(b"bytes=0-9,100-199,-5", len(data))
    assert ranges
    body = MultipartRanges(ranges, len(data), b"text/plain", b"edge", lambda start, stop: BytesStream(data[start:stop]))
    pieces = []
    while piece := await body.read():
        pieces.append(bytes(piece))
    await body.aclose()
    whole = b"".join(pieces)
    assert len(whole) == body.length
    head = b"Content-Type: multipart/byteranges; boundary=edge\r\n\r\n"
    message = email.message_from_bytes(head + whole, policy=email.policy.HTTP)
    assert [part["Content-Range"] for part in message.iter_parts()] == [
        "bytes 0-9/1024",
        "bytes 100-199/1024",
        "bytes 1019-1023/1024",
    ]
    assert b"\r\n\r\n" + data[100:200] + b"\r\n--edge" in whole


async def test_a_body_that_is_left_halfway() -> None:
    """A client that goes away leaves no part open."""
    closed = []

    class Part(BytesStream):
        async def aclose(self) -> None:
            closed.append(True)

    ranges = parse_ranges(b"bytes=0-1,4-5", 10)
    assert ranges
    body = MultipartRanges(ranges, 10, b"x/y", b"edge", lambda start, stop: Part(b"ab"))
    await body.read()
    await body.aclose()
    assert closed == [True]
    assert await body.read() == b""
