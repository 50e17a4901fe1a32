"""An object's bytes on their way out.

Problem: bytes come from a file on this machine or over a bulk connection; a disk may turn out rotten or a device die when
half of them are sent; a manifest's bytes come from thousands of objects. The client sees one stream.

Idea: `VersionStream` reads one version (hash, key, timestamp) from the first of its sources that can give it, and goes on
from the next at the same offset when one fails. Each piece was verified against its checksum by whoever read the disk.
`ManifestStream` opens one segment after another. Both read only when asked, so a slow client holds one piece, not more.

Between the look-up and the first byte a writer may replace the version, and its bytes go. Nothing is sent by then: `begin`
opens the first source and raises `Overwritten`, and `looked_up_again` begins anew with the look-up. Once open, a source is
kept by its reader whatever is written.

Invariants: no byte is sent twice or left out; every piece is of the same version; when no source can go on the stream
raises, and the connection is cut rather than ended as if complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import ObjectStream, Overwritten, Segment, SegmentMissing, Unavailable
from storage_node.client import BulkFailed, BulkRead
from storage_node.device import ObjectReader
from storage_node.errors import CorruptData
from storage_node.operations import Status

Result = TypeVar("Result")
PIECE_BYTES = 512 * 1024
"""What one read() gives at most: large enough that the cost of a piece does not show, small enough to hold for a slow
client."""
LOOK_UPS = 8
"""How often an object that is overwritten all the time is looked up before its reader is told to come again."""


async def looked_up_again(attempt: Callable[[], Awaitable[Result]]) -> Result:
    """What `attempt`, a look-up and the beginning of a stream, gives once no writer comes between the two."""
    for _ in range(LOOK_UPS - 1):
        try:
            return await attempt()
        except Overwritten:
            continue
    return await attempt()


class BytesStream:
    """A stream over bytes that are at hand."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._data: bytes | memoryview = data

    async def begin(self) -> None:
        """All is at hand."""

    async def read(self) -> bytes | memoryview:
        """All of it; then nothing."""
        data, self._data = self._data, b""
        return data

    async def aclose(self) -> None:
        """Nothing to let go of."""


class VersionStream:
    """Bytes start..stop of one version of an object, from whichever of its replicas can give them."""

    __slots__ = ("_bulk", "_cluster", "_key", "_placement", "_position", "_reader", "_sources", "_stop", "_timestamp")

    def __init__(
        self,
        cluster: Cluster,
        placement: Placement,
        key: bytes,
        timestamp: int,
        sources: Sequence[Replica],
        start: int,
        stop: int,
    ) -> None:
        self._cluster = cluster
        self._placement = placement
        self._key = key
        self._timestamp = timestamp
        self._sources = list(sources)
        self._position = start
        self._stop = stop
        self._reader: ObjectReader | None = None
        self._bulk: BulkRead | None = None

    async def begin(self) -> None:
        """Open the first source. Raises Overwritten where the version is gone, Unavailable where nobody answers."""
        if self._position < self._stop:
            await self._open_next()

    async def read(self) -> bytes | memoryview:
        """The next piece, verified; empty at the end. Raises Unavailable when no replica can go on."""
        if self._position >= self._stop:
            return b""
        while True:
            if self._reader is None and self._bulk is None:
                await self._open_next()
            piece = await self._read_open()
            if piece:
                self._position += len(piece)
                return piece
            await self._close_source()

    async def _open_next(self) -> None:
        gone = False
        while self._sources:
            replica = self._sources.pop(0)
            if replica.reader is not None:
                opened = replica.reader.open_read(self._placement.hash, self._key, self._timestamp)
                if not isinstance(opened, Status):
                    self._reader = opened
                    return
            far = await replica.client.open_read(
                self._placement.hash, self._key, self._timestamp, self._position, self._stop
            )
            if isinstance(far, BulkRead):
                self._bulk = far
                return
            gone = gone or far is Status.MISSING
        if gone:
            raise Overwritten("the object is being overwritten all the time; retry")
        self._cluster.note_failure()
        raise Unavailable("no replica can give the rest of this object; retry")

    async def _read_open(self) -> bytes | memoryview:
        """A piece from the open source; empty if it cannot give one."""
        stop = min(self._stop, self._position + PIECE_BYTES)
        if self._reader is not None:
            try:
                piece = self._reader.try_read(self._position, stop)
                if piece is None:
                    return await trio.to_thread.run_sync(self._reader.read, self._position, stop)
                return piece
            except (CorruptData, OSError):
                return b""
        assert self._bulk is not None
        try:
            return await self._bulk.read()
        except BulkFailed:
            return b""

    async def _close_source(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        bulk, self._bulk = self._bulk, None
        if bulk is not None:
            await bulk.aclose()

    async def aclose(self) -> None:
        """Let go of the open source."""
        self._sources.clear()
        self._position = self._stop
        await self._close_source()


class ManifestStream:
    """Bytes start..stop of an object that is made of others."""

    __slots__ = ("_current", "_open_segment", "_pending")

    def __init__(
        self,
        segments: Sequence[Segment],
        start: int,
        stop: int,
        open_segment: Callable[[Segment, int, int], Awaitable[ObjectStream]],
    ) -> None:
        self._open_segment = open_segment
        self._pending: list[tuple[Segment, int, int]] = []
        self._current: ObjectStream | None = None
        offset = 0
        for segment in segments:
            first, last = max(start - offset, 0), min(stop - offset, segment.size_bytes)
            if first < last:
                self._pending.append((segment, first, last))
            offset += segment.size_bytes
        self._pending.reverse()

    async def begin(self) -> None:
        """Open the first segment. Raises SegmentMissing where it is gone or is not what the manifest says."""
        if self._pending and self._current is None:
            segment, first, last = self._pending.pop()
            self._current = await self._open_segment(segment, first, last)

    async def read(self) -> bytes | memoryview:
        """The next piece. Raises SegmentMissing where a segment is gone or is not what the manifest says."""
        while True:
            if self._current is None:
                await self.begin()
                if self._current is None:
                    return b""
            piece = await self._current.read()
            if piece:
                return piece
            await self._current.aclose()
            self._current = None

    async def aclose(self) -> None:
        """Let go of the segment that is open."""
        self._pending.clear()
        current, self._current = self._current, None
        if current is not None:
            await current.aclose()


class StreamBody:
    """A stream as the body of a write (copies)."""

    def __init__(self, stream: ObjectStream, length: int) -> None:
        self._stream = stream
        self._length = length
        self._left = length

    @property
    def length(self) -> int | None:
        """Bytes in all."""
        return self._length

    async def read(self) -> bytes:
        """The next piece; b"" at the end. Raises SegmentMissing if the stream ends early."""
        piece = await self._stream.read()
        self._left -= len(piece)
        if not piece and self._left:
            raise SegmentMissing(f"the source ended {self._left} bytes early")
        return bytes(piece)
