"""Frames: how a stream of bytes is cut into pieces that can be believed.

Problem: TCP delivers bytes in whatever portions it likes, and its 16-bit checksum lets a flipped bit through now and then.
Thirty thousand messages a second must be cut out of that stream for a few hundred nanoseconds each.

Idea: a frame is a fixed header, then a payload:

    u32 little-endian   payload length in its low 31 bits; the top bit says that the payload is raw object data
    u64 little-endian   xxh3_64 of the payload, seeded with the word above (so length and kind are covered as well)

A payload that is not raw is msgpack. One frame carries all the messages that waited for the connection (an array of them:
one checksum, one unpack call and one send for the lot), which is what makes a message cheap.

Rejected: a frame for each message (the checksum and the two Python calls cost as much as the message); msgpack's own
streaming Unpacker without frames (no checksum, and a broken length is found only when memory is full); CRC-32C (no faster
here, and weaker).

Sans I/O: bytes in, payloads out, errors raised; nothing here knows of sockets.

Invariants: no payload is handed on before its checksum was found right; no frame longer than the reader's limit is ever
waited for; after an error the reader gives nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TypeAlias

from xxhash import xxh3_64_intdigest

Buffer: TypeAlias = bytes | bytearray | memoryview

HEADER = Struct("<IQ")
HEADER_BYTES = HEADER.size
RAW_FLAG = 1 << 31
"""Set in the length word of a frame that carries object data."""

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""The longest message there is: a page of rows with long names."""
REQUEST_FRAME_BYTES_MAX = 1024 * 1024
"""Payload of a frame that a client may send: small objects, rows, a batch of them. Bounds a server's memory."""
ANSWER_FRAME_BYTES_MAX = MESSAGE_BYTES_MAX + 64
"""Payload of a frame that a server may send."""
BATCH_BYTES = 256 * 1024
"""What waits for a connection is cut into frames of about this size (longer only where a single message is)."""
BATCH_COUNT_MAX = 4096
"""Messages in one frame. Small, since it is also what an array in a request may claim to hold before it is read."""

_ARRAY_32 = b"\xdd"


class ProtocolError(Exception):
    """What came over the wire breaks the protocol. The peer's fault, or the network's: the connection is closed."""


class FrameReader:
    """Cuts a stream into verified payloads."""

    __slots__ = ("_held", "_need_bytes", "payload_bytes_max", "raw_allowed")

    def __init__(self, payload_bytes_max: int, raw_allowed: bool = False) -> None:
        self.payload_bytes_max = payload_bytes_max
        self.raw_allowed = raw_allowed
        self._held = bytearray()
        self._need_bytes = HEADER_BYTES

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that has not come whole."""
        return len(self._held)

    def feed(self, data: Buffer) -> list[memoryview]:
        """The payloads that are complete with `data`. They may share memory with it.

        Raises ProtocolError for a frame that is too long, is raw where none is allowed, or has a wrong checksum.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._need_bytes:
                return []
            data, self._held = self._held, bytearray()
        view = memoryview(data)
        payloads: list[memoryview] = []
        position, end = 0, len(view)
        while end - position >= HEADER_BYTES:
            word, checksum = HEADER.unpack_from(view, position)
            start = position + HEADER_BYTES
            stop = start + self._payload_bytes(word)
            if stop > end:
                self._need_bytes = stop - position
                break
            payload = view[start:stop]
            if xxh3_64_intdigest(payload, word) != checksum:
                raise ProtocolError(f"wrong checksum on a frame of {len(payload)} bytes")
            payloads.append(payload)
            position = stop
        else:
            self._need_bytes = HEADER_BYTES
        if position < end:
            self._held += view[position:]
        return payloads

    def _payload_bytes(self, word: int) -> int:
        if word & RAW_FLAG and not self.raw_allowed:
            raise ProtocolError("object data on a connection that carries messages")
        length = word & ~RAW_FLAG
        if length > self.payload_bytes_max:
            raise ProtocolError(f"a frame of {length} bytes; at most {self.payload_bytes_max} are allowed here")
        return length


def frame(payload: Buffer) -> bytes:
    """A frame of one msgpack payload."""
    word = len(payload)
    return HEADER.pack(word, xxh3_64_intdigest(payload, word)) + payload


def raw_header(data: Buffer) -> bytes:
    """The header of a frame of object data; the data itself follows it uncopied. `data` is of single bytes."""
    word = len(data) | RAW_FLAG
    return HEADER.pack(word, xxh3_64_intdigest(data, word))


def check_payload(word: int, checksum: int, payload: Buffer) -> None:
    """Raise ProtocolError unless the payload is what its header says."""
    if xxh3_64_intdigest(payload, word) != checksum:
        raise ProtocolError(f"wrong checksum on a frame of {len(payload)} bytes")


def batch_frame(messages: Sequence[bytes]) -> bytes:
    """One frame of packed messages, as an array of them."""
    payload = b"".join((_ARRAY_32, len(messages).to_bytes(4, "big"), *messages))
    word = len(payload)
    return HEADER.pack(word, xxh3_64_intdigest(payload, word)) + payload


class Outbox:
    """Packed messages that wait for a connection."""

    __slots__ = ("_messages", "waiting_bytes")

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self.waiting_bytes = 0

    def add(self, message: bytes) -> None:
        """Queue one packed message, of at most MESSAGE_BYTES_MAX (the caller sees to it)."""
        self._messages.append(message)
        self.waiting_bytes += len(message)

    def take(self) -> bytes:
        """All that waits, as frames ready to send; b"" if nothing does."""
        messages = self._messages
        if not messages:
            return b""
        self._messages = []
        total_bytes, self.waiting_bytes = self.waiting_bytes, 0
        if total_bytes <= BATCH_BYTES and len(messages) <= BATCH_COUNT_MAX:
            return batch_frame(messages)
        return b"".join(_cut(messages))


def _cut(messages: list[bytes]) -> list[bytes]:
    frames: list[bytes] = []
    batch: list[bytes] = []
    batch_bytes = 0
    for message in messages:
        if batch and (batch_bytes + len(message) > BATCH_BYTES or len(batch) >= BATCH_COUNT_MAX):
            frames.append(batch_frame(batch))
            batch, batch_bytes = [], 0
        batch.append(message)
        batch_bytes += len(message)
    frames.append(batch_frame(batch))
    return frames
