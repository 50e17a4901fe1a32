"""Bulk connections: one transfer of object data at a time, the connection kept for the next. What both ends share.

Problem: a gigabyte a second must pass through without being copied more often than the kernel does, without holding more
of it than a chunk, and a transfer that breaks off must leave nothing behind.

The conversation, each line one frame (messages are `[transfer id, kind, fields]`, DATA is raw):

    write   client: BEGIN_WRITE, DATA..., COMMIT(PutBlobHeader)         server: WRITTEN(Written)
    read    client: READ(OpenRead)                                      server: OPENED(Found), DATA..., END(TransferEnd)

The etag is known only when all data was sent, so the header comes with COMMIT. A write that fails on the way (no room) is
answered WRITTEN early; the server then skips what still comes of it. To abort, the client closes the connection: nothing of
the object had a name yet. Transfer ids keep a late answer from being taken for the next transfer's.

Flow control is the socket's: each end stops reading when it cannot go on, and holds one chunk.

Each DATA frame carries its own checksum (frames.py), checked in transit at both ends, besides those that the device keeps
on disk: the two cover different ways of going wrong.

Rejected: bulk data multiplexed with requests (a slow client's transfer would hold up every other answer, or need windows of
its own); chunks that start where the last ended in one large buffer (a copy of each; `recvmsg` into the payload and the
next header behind it needs none).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from storage_node.codec import pack
from storage_node.fields import BeginWrite, OpenRead, PutBlobHeader, TransferEnd
from storage_node.frames import HEADER, HEADER_BYTES, RAW_FLAG, Buffer, ProtocolError, check_payload, frame, raw_header
from storage_node.operations import Found, Written
from storage_node.transport import Transport, receive_into

CHUNK_BYTES = 256 * 1024
"""Most that one DATA frame carries, and what each end holds of a transfer. No message is longer
but a Written with a replaced manifest, which its receiver reads by other means."""


class Kind(IntEnum):
    """What a message of a bulk connection says."""

    BEGIN_WRITE = 1
    COMMIT = 2
    READ = 3
    WRITTEN = 4
    OPENED = 5
    END = 6


REQUESTS: dict[int, type] = {Kind.BEGIN_WRITE: BeginWrite, Kind.COMMIT: PutBlobHeader, Kind.READ: OpenRead}
ANSWERS: dict[int, type] = {Kind.WRITTEN: Written, Kind.OPENED: Found, Kind.END: TransferEnd}


def message(transfer_id: int, kind: Kind, value: tuple[object, ...]) -> bytes:
    """A frame of one message."""
    return frame(pack((transfer_id, int(kind), value)))


class BulkReader:
    """Reads frames from a bulk connection, the payload straight to where it stays.

    With `keep`, each DATA payload gets memory of its own; without, it is valid until the next frame is read.
    """

    __slots__ = ("_buffer", "_header", "_header_bytes", "_keep", "_transport")

    def __init__(self, transport: Transport, keep: bool) -> None:
        self._transport = transport
        self._keep = keep
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._header_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing of a next frame has come."""
        return not self._header_bytes

    async def next(self) -> tuple[bool, memoryview] | None:
        """The next frame: (whether it is DATA, payload), verified; None if the stream ended in order before it.

        Raises OSError when the connection breaks, ProtocolError for what is no frame.
        """
        while self._header_bytes < HEADER_BYTES:
            count = await receive_into(self._transport, (self._header[self._header_bytes :],))
            if not count and not self._header_bytes:
                return None
            self._demand(count)
            self._header_bytes += count
        word, checksum = HEADER.unpack(self._header)
        self._header_bytes = 0
        is_data, length = bool(word & RAW_FLAG), word & ~RAW_FLAG
        if length > CHUNK_BYTES:
            raise ProtocolError(f"a frame of {length} bytes on a bulk connection; at most {CHUNK_BYTES} are allowed")
        payload = memoryview(bytearray(length)) if is_data and self._keep else self._buffer[:length]
        await self._fill(payload)
        check_payload(word, checksum, payload)
        return is_data, payload

    async def _fill(self, payload: memoryview) -> None:
        """Receive the payload, and in the same calls what has come of the header behind it."""
        have, length = 0, len(payload)
        while have < length:
            count = await receive_into(self._transport, (payload[have:], self._header))
            self._demand(count)
            have += count
            if have > length:
                self._header_bytes = have - length

    @staticmethod
    def _demand(count: int) -> None:
        if not count:
            raise ConnectionResetError("the peer closed the connection in the middle of a frame")


class Block(NamedTuple):
    """Object data ready to be sent, to one device or to several: checksummed once."""

    header: bytes
    data: memoryview
    """At most CHUNK_BYTES."""


def make_block(data: Buffer) -> Block:
    """`data` of at most CHUNK_BYTES as a block. It is not copied, and must not change until it is sent."""
    view = as_bytes_view(data)
    if len(view) > CHUNK_BYTES:
        raise ValueError(f"a block of {len(view)} bytes; at most {CHUNK_BYTES} go into a frame")
    return Block(raw_header(view), view)


def as_bytes_view(data: Buffer) -> memoryview:
    """A view of single bytes, whatever the buffer's items are."""
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
