"""What clients send and get: bodies in pieces, bytes that say whose they are, and what the model is told of them."""

from __future__ import annotations

from hashlib import shake_128

import trio

from proxy.model import ObjectInfo
from proxy.object_reads import OpenObject
from tests.sim.model import Seen

PIECE_BYTES = 48 * 1024


class Body:
    """A body that comes in pieces, some time apart: a BodySource."""

    def __init__(self, data: bytes, announced: bool) -> None:
        self._data = data
        self._at = 0
        self._announced = announced

    @property
    def length(self) -> int | None:
        """See BodySource."""
        return len(self._data) if self._announced else None

    async def read(self) -> bytes:
        """See BodySource."""
        if self._at:
            await trio.sleep(0.001)
        piece = self._data[self._at : self._at + PIECE_BYTES]
        self._at += len(piece)
        return piece


def content(key: str, number: int, size_bytes: int) -> bytes:
    """Bytes that say whose they are, of any length from some dozens."""
    head = f"{key} {number};".encode()
    return head + shake_128(head).digest(max(0, size_bytes - len(head)))


def seen(info: ObjectInfo, value: bytes) -> Seen:
    """What the model is told of a read."""
    number, update = info.metadata.get("meta:n"), info.metadata.get("meta:u")
    return Seen(
        value,
        info.timestamp,
        None if number is None else int(number),
        None if update is None else int(update),
        info.meta_timestamp,
    )


async def read_all(opened: OpenObject) -> bytes:
    stream = opened.stream(0, opened.info.size_bytes)
    try:
        pieces = []
        while piece := await stream.read():
            pieces.append(bytes(piece))
        return b"".join(pieces)
    finally:
        await stream.aclose()
