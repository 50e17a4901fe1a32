"""Invariant tested: however a stream is cut up, the reader gives the payloads that were framed, or ProtocolError."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_node.frames import (
    BATCH_BYTES,
    BATCH_COUNT_MAX,
    HEADER,
    RAW_FLAG,
    FrameReader,
    Outbox,
    ProtocolError,
    check_payload,
    frame,
    raw_header,
)

LIMIT = 10_000


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in portions of those sizes, over and over."""
    portions = []
    position = index = 0
    while position < len(stream):
        size = sizes[index % len(sizes)]
        portions.append(stream[position : position + size])
        position += size
        index += 1
    return portions


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_frames_survive_any_cutting(payloads: list[bytes], sizes: list[int]) -> None:
    """Payloads come out whole and in order wherever the network cuts the stream."""
    reader = FrameReader(LIMIT)
    stream = b"".join(frame(payload) for payload in payloads)
    got = [bytes(payload) for portion in cut(stream, sizes) for payload in reader.feed(portion)]
    assert got == payloads
    assert reader.held_bytes == 0


@given(
    st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=4),
    st.integers(0),
    st.integers(1, 255),
    st.lists(st.integers(1, 150), min_size=1, max_size=4),
)
def test_a_flipped_bit_is_never_believed(payloads: list[bytes], where: int, flip: int, sizes: list[int]) -> None:
    """After any byte was changed, what is handed on is a prefix of what was sent: the changed frame never is."""
    stream = bytearray(b"".join(frame(payload) for payload in payloads))
    stream[where % len(stream)] ^= flip
    reader = FrameReader(LIMIT)
    got: list[bytes] = []
    try:
        for portion in cut(bytes(stream), sizes):
            got += [bytes(payload) for payload in reader.feed(portion)]
    except ProtocolError:
        pass
    assert got == payloads[: len(got)]
    assert len(got) < len(payloads)


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_raises_nothing_but_protocol_errors(portions: list[bytes]) -> None:
    """Random bytes are waited for or refused, never anything else."""
    reader = FrameReader(1000)
    try:
        for portion in portions:
            reader.feed(portion)
            assert reader.held_bytes <= 1000 + HEADER.size
    except ProtocolError:
        pass


def test_a_frame_beyond_the_limit_is_refused_by_its_header() -> None:
    """Nobody waits for, or stores, a frame that is longer than allowed."""
    reader = FrameReader(100)
    with pytest.raises(ProtocolError, match="101 bytes"):
        reader.feed(HEADER.pack(101, 0))


def test_raw_data_is_refused_where_messages_are_expected() -> None:
    """A control connection takes no object data."""
    header = raw_header(b"data")
    with pytest.raises(ProtocolError, match="object data"):
        FrameReader(100).feed(header + b"data")
    assert [bytes(payload) for payload in FrameReader(100, raw_allowed=True).feed(header + b"data")] == [b"data"]


def test_the_checksum_covers_the_kind() -> None:
    """A message cannot be turned into data by the flip of one bit."""
    word, checksum = HEADER.unpack(frame(b"message")[: HEADER.size])
    check_payload(word, checksum, b"message")
    with pytest.raises(ProtocolError):
        check_payload(word | RAW_FLAG, checksum, b"message")


@given(st.lists(st.sampled_from([1, 50, 1000, BATCH_BYTES // 3, BATCH_BYTES + 7]), max_size=30))
def test_an_outbox_sends_all_in_order(sizes: list[int]) -> None:
    """What was queued leaves in order, in frames of bounded length, and the count of what waits is exact."""
    outbox = Outbox()
    messages = [msgpack.packb(bytes([index]) * size) for index, size in enumerate(sizes)]
    for message in messages:
        outbox.add(message)
    assert outbox.waiting_bytes == sum(map(len, messages))
    payloads = FrameReader(2 * BATCH_BYTES).feed(outbox.take())
    got = [value for payload in payloads for value in msgpack.unpackb(payload)]
    assert got == [bytes([index]) * size for index, size in enumerate(sizes)]
    assert outbox.take() == b""
    assert outbox.waiting_bytes == 0


def test_an_outbox_bounds_the_messages_of_a_frame() -> None:
    """No frame has more messages than its reader will unpack."""
    outbox = Outbox()
    for _ in range(BATCH_COUNT_MAX + 1):
        outbox.add(b"\x01")
    counts = [len(msgpack.unpackb(payload)) for payload in FrameReader(2 * BATCH_BYTES).feed(outbox.take())]
    assert counts == [BATCH_COUNT_MAX, 1]
