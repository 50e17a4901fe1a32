"""Giving devices what they lack of one object.

Problem: a replica lacks a few bytes of metadata, a tombstone, a small object, or gigabytes; the source may turn out rotten
or die in the middle, and so may each target, while others are well.

Idea: what fits a frame is read from the first source that can give it and sent to all targets at once, in the very
operation with which a proxy would have written it, with the original timestamps; so whatever a device decides about it
(newest wins) it decides as ever. What is longer streams through, one piece in memory, from one source to all its targets.
If a source fails the next one is tried from the beginning; a target that fails is dropped and found again by the next
comparison.

Confirmed is only what was answered APPLIED, after the device synced it. NEWER is no confirmation: it may be about a lock.

Invariants: a copy has the source's bytes, checked where they were read and on the way, the newest metadata and both original
timestamps; nothing that was broken off becomes visible.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from replicator.peers import Peer, Peers
from replicator.throttle import Throttle
from replicator.versions import Copy, Lack, ObjectPlan
from storage_node.client import BulkFailed, BulkRead, BulkWrite, PutBlobHeader
from storage_node.device import ObjectReader
from storage_node.errors import CorruptData
from storage_node.operations import (
    SMALL_BYTES_MAX,
    DeleteObject,
    Entry,
    Found,
    GetObject,
    Operation,
    PutObject,
    Status,
    UpdateObject,
)

PIECE_BYTES: Final = 512 * 1024
OPERATION_BYTES: Final = 256
"""What an operation costs on the wire beside its key, data and metadata, about."""
_DONE: Final = (Status.APPLIED, Status.MISSING)
"""A tombstone is written where nothing was, too."""


@dataclass
class Moved:
    """What was moved, since the start."""

    objects: int = 0
    """Copies of data."""
    metadata: int = 0
    tombstones: int = 0
    rows: int = 0
    catalogs: int = 0
    bytes: int = 0
    """Of data, metadata and rows."""
    forgotten: int = 0
    """Handoffs' copies that were removed once everything was home."""
    failed: int = 0
    """Copies that did not come about."""
    corrupt_sources: int = 0
    """Sources whose bytes did not have their checksum."""


class Transfer:
    """Copies of objects between the devices of `peers`."""

    def __init__(self, peers: Peers, throttle: Throttle, moved: Moved) -> None:
        self._peers = peers
        self._throttle = throttle
        self._moved = moved

    async def give(self, hash_: bytes, key: bytes, plan: ObjectPlan, copies: Sequence[Copy]) -> frozenset[int]:
        """Do these copies of the plan; the devices that have confirmed theirs."""
        newest = plan.newest
        confirmed: set[int] = set()
        wanting_data = [copy.target for copy in copies if copy.lack is Lack.DATA]
        quick: dict[int, Operation] = {}
        for copy in copies:
            if copy.lack is Lack.TOMBSTONE:
                quick[copy.target] = DeleteObject(hash_, key, newest.timestamp)
            elif copy.lack is Lack.METADATA:
                quick[copy.target] = UpdateObject(hash_, key, newest.timestamp, newest.meta_timestamp, newest.meta)
        if quick:
            done = await self._send(quick, len(key) + len(newest.meta) + OPERATION_BYTES)
            confirmed |= done
            self._moved.tombstones += len(done) if newest.deleted else 0
            self._moved.metadata += 0 if newest.deleted else len(done)
        if wanting_data:
            done = await self._give_data(hash_, key, newest, plan.sources, wanting_data)
            confirmed |= done
            self._moved.objects += len(done)
        self._moved.failed += len(copies) - len(confirmed)
        return frozenset(confirmed)

    async def _send(self, operations: dict[int, Operation], size_bytes: int) -> set[int]:
        """Send each device its operation; which have done it."""
        done: set[int] = set()

        async def send(device: int, operation: Operation) -> None:
            await self._throttle.take(device, size_bytes)
            answer = await self._peers.by_id[device].call(operation)
            if answer.status == Status.APPLIED or (answer.status in _DONE and isinstance(operation, DeleteObject)):
                self._moved.bytes += size_bytes
                done.add(device)

        async with trio.open_nursery() as nursery:
            for device, operation in operations.items():
                if device in self._peers.by_id:
                    nursery.start_soon(send, device, operation)
        return done

    async def _give_data(
        self, hash_: bytes, key: bytes, newest: Entry, sources: Sequence[int], targets: Sequence[int]
    ) -> set[int]:
        done: set[int] = set()
        for number in sources:
            source = self._peers.by_id.get(number)
            left = [device for device in targets if device not in done and device in self._peers.by_id]
            if source is None:
                continue
            if not left:
                break
            if newest.size_bytes <= SMALL_BYTES_MAX:
                done |= await self._copy_small(source, hash_, key, newest, left)
            else:
                done |= await self._copy_large(source, hash_, key, newest, left)
        return done

    async def _copy_small(
        self, source: Peer, hash_: bytes, key: bytes, newest: Entry, targets: Sequence[int]
    ) -> set[int]:
        found = await source.call(GetObject(hash_, key, True))
        if not isinstance(found, Found) or found.status != Status.FOUND or found.data is None:
            self._moved.corrupt_sources += found.status == Status.CORRUPT
            return set()
        if found.entry is None or found.entry.timestamp != newest.timestamp or found.entry.deleted:
            return set()
        put = PutObject(
            hash_,
            key,
            newest.timestamp,
            newest.meta,
            found.data,
            newest.manifest,
            meta_timestamp=newest.meta_timestamp,
        )
        size_bytes = len(key) + len(newest.meta) + len(found.data) + OPERATION_BYTES
        return await self._send(dict.fromkeys(targets, put), size_bytes)

    async def _copy_large(
        self, source: Peer, hash_: bytes, key: bytes, newest: Entry, targets: Sequence[int]
    ) -> set[int]:
        reading = await open_source(source, hash_, key, newest.timestamp)
        if isinstance(reading, Status):
            self._moved.corrupt_sources += reading == Status.CORRUPT
            return set()
        writes: dict[int, BulkWrite] = {}
        try:
            for device in targets:
                try:
                    writes[device] = await self._peers.by_id[device].client.open_write()
                except BulkFailed:
                    continue
            if not await self._stream(reading, writes):
                return set()
            header = PutBlobHeader(
                hash_,
                key,
                newest.timestamp,
                newest.meta,
                newest.manifest,
                meta_timestamp=newest.meta_timestamp,
            )
            return await _commit(writes, header)
        finally:
            with trio.CancelScope(shield=True):
                await reading.aclose()
                for write in writes.values():
                    await write.abort()

    async def _stream(self, reading: Source, writes: dict[int, BulkWrite]) -> bool:
        """Send everything to whoever takes it (the rest is dropped from `writes`); False: the source failed."""
        while writes:
            try:
                piece = await reading.read()
            except (CorruptData, BulkFailed, OSError) as error:
                self._moved.corrupt_sources += isinstance(error, CorruptData) or (
                    isinstance(error, BulkFailed) and error.status == Status.CORRUPT
                )
                return False
            if not piece:
                return True
            broken: list[int] = []
            async with trio.open_nursery() as nursery:
                for device, write in writes.items():
                    nursery.start_soon(self._send_piece, device, write, piece, broken)
            for device in broken:
                del writes[device]
        return False

    async def _send_piece(self, device: int, write: BulkWrite, piece: bytes | memoryview, broken: list[int]) -> None:
        await self._throttle.take(device, len(piece))
        try:
            await write.send(piece)
        except BulkFailed:
            broken.append(device)
        else:
            self._moved.bytes += len(piece)


async def _commit(writes: dict[int, BulkWrite], header: PutBlobHeader) -> set[int]:
    done: set[int] = set()

    async def commit(device: int, write: BulkWrite) -> None:
        try:
            written = await write.commit(header)
        except BulkFailed:
            return
        if written.status == Status.APPLIED:
            done.add(device)

    async with trio.open_nursery() as nursery:
        for device, write in writes.items():
            nursery.start_soon(commit, device, write)
    return done


class Source:
    """One version of an object being read, from a disk of this machine or from afar."""

    def __init__(
        self, read: Callable[[], Awaitable[bytes | memoryview]], aclose: Callable[[], Awaitable[None]], entry: Entry
    ) -> None:
        self.read = read
        """The next bytes; empty at the end. Raises CorruptData, BulkFailed, OSError."""
        self.aclose = aclose
        self.entry = entry


async def open_source(peer: Peer, hash_: bytes, key: bytes, timestamp: int) -> Source | Status:
    """Open one version for reading, directly where the device is on this machine; or why it cannot be."""
    if peer.reader is not None:
        opened = peer.reader.open_read(hash_, key, timestamp)
        if not isinstance(opened, Status):
            return _local_source(opened)
        if opened != Status.UNREACHABLE:
            return opened
    far = await peer.client.open_read(hash_, key, timestamp)
    return Source(far.read, far.aclose, far.entry) if isinstance(far, BulkRead) else far


def _local_source(reader: ObjectReader) -> Source:
    position = 0

    async def read() -> bytes | memoryview:
        nonlocal position
        stop = min(position + PIECE_BYTES, reader.entry.size_bytes)
        if position == stop:
            return b""
        piece = reader.try_read(position, stop)
        if piece is None:
            piece = await trio.to_thread.run_sync(reader.read, position, stop)
        position = stop
        return piece

    async def aclose() -> None:
        reader.close()

    return Source(read, aclose, reader.entry)
