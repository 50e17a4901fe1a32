"""Giving devices what they lack.

Problem: a replica lacks a few bytes of metadata, a tombstone, a small object, or gigabytes; the source may turn out rotten
or die in the middle, and so may each target, while others are well. A device that lost everything lacks millions of small
objects: what each of them costs decides how long the cluster is short of a replica.

Idea: what fits a frame is read from the first source that can give it and sent to its targets in the very operation with
which a proxy would have written it, with the original timestamps; so whatever a device decides about it (newest wins) it
decides as ever. Many such objects go together: all are read, then all are sent, and a device commits them with one sync.
What is longer streams through, one piece in memory, from one source to all its targets. If a source fails the next one
is tried; a target that fails is dropped and found again by the next comparison.

Confirmed is only what was answered APPLIED, after the device synced it. NEWER is no confirmation: it may be about a lock.

Invariants: a copy has the source's bytes, checked where they were read and on the way, the newest metadata and both original
timestamps; nothing that was broken off becomes visible; memory is bounded by GROUP_BYTES and a few pieces.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from replicator.peers import Peer, Peers, submit_all
from replicator.throttle import Throttle
from replicator.versions import Copy, Lack, ObjectPlan
from storage_node.client import BulkFailed, BulkRead, BulkWrite, PutBlobHeader
from storage_node.device import ObjectReader
from storage_node.errors import CorruptData
from storage_node.operations import (
    SMALL_BYTES_MAX,
    Answer,
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
GROUP_BYTES: Final = 4 * 1024 * 1024
GROUP_COUNT: Final = 512
"""Small objects that are read and sent together: so many, or so many bytes."""
STREAMS_MAX: Final = 4
"""Large objects that stream at a time."""
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


class Errand(NamedTuple):
    """The copies of one object that are to be made."""

    hash: bytes
    key: bytes
    plan: ObjectPlan
    copies: tuple[Copy, ...]

    @property
    def size_bytes(self) -> int:
        """What one copy of the data takes on the wire, about."""
        newest = self.plan.newest
        return len(self.key) + len(newest.meta) + newest.size_bytes + OPERATION_BYTES

    @property
    def streams(self) -> bool:
        """Whether data has to be copied that does not fit a frame."""
        return self.plan.newest.size_bytes > SMALL_BYTES_MAX and any(c.lack is Lack.DATA for c in self.copies)


class Transfer:
    """Copies of objects between the devices of `peers`."""

    def __init__(self, peers: Peers, throttle: Throttle, moved: Moved) -> None:
        self._peers = peers
        self._throttle = throttle
        self._moved = moved
        self._streams = trio.CapacityLimiter(STREAMS_MAX)

    async def give(self, errands: Sequence[Errand]) -> list[set[int]]:
        """Make the copies; for each errand the devices that have confirmed theirs."""
        confirmed: list[set[int]] = [set() for _ in errands]
        group: list[int] = []
        size_bytes = 0
        for index, errand in enumerate(errands):
            group.append(index)
            size_bytes += errand.size_bytes if not errand.streams else 0
            if size_bytes >= GROUP_BYTES or len(group) >= GROUP_COUNT:
                await self._give_group(errands, group, confirmed)
                group, size_bytes = [], 0
        await self._give_group(errands, group, confirmed)
        async with trio.open_nursery() as nursery:
            for errand, done in zip(errands, confirmed, strict=True):
                if errand.streams:
                    nursery.start_soon(self._give_stream, errand, done)
        for errand, done in zip(errands, confirmed, strict=True):
            self._moved.failed += len(errand.copies) - len(done)
        return confirmed

    # ------------------------------------------------------------------------------------------------ what fits a frame

    async def _give_group(self, errands: Sequence[Errand], group: Sequence[int], confirmed: list[set[int]]) -> None:
        """All small copies of a group of errands, together."""
        found = await self._read_group([errands[index] for index in group if not errands[index].streams])
        sends: list[tuple[int, Copy, Operation]] = []
        for index in group:
            errand = errands[index]
            data = found.get(errand.hash)
            for copy in errand.copies:
                operation = _operation(errand, copy, data)
                if operation is not None and copy.target in self._peers.by_id:
                    await self._throttle.take(copy.target, _size_bytes(errand, copy))
                    sends.append((index, copy, operation))
        answers = await submit_all([(self._peers.by_id[copy.target], operation) for _, copy, operation in sends])
        for (index, copy, _), answer in zip(sends, answers, strict=True):
            if answer.status == Status.APPLIED or (answer.status in _DONE and copy.lack is Lack.TOMBSTONE):
                confirmed[index].add(copy.target)
                self._note(errands[index], copy)

    def _note(self, errand: Errand, copy: Copy) -> None:
        moved = self._moved
        moved.objects += copy.lack is Lack.DATA
        moved.metadata += copy.lack is Lack.METADATA
        moved.tombstones += copy.lack is Lack.TOMBSTONE
        moved.bytes += _size_bytes(errand, copy)

    async def _read_group(self, errands: Sequence[Errand]) -> dict[bytes, bytes]:
        """The data of the objects that are to be copied, by hash; those that no source can give are left out."""
        found: dict[bytes, bytes] = {}
        wanted = [errand for errand in errands if any(copy.lack is Lack.DATA for copy in errand.copies)]
        attempt = 0
        while wanted:
            requests = [
                (errand, self._peers.by_id[errand.plan.sources[attempt]])
                for errand in wanted
                if attempt < len(errand.plan.sources) and errand.plan.sources[attempt] in self._peers.by_id
            ]
            answers = await submit_all([(peer, GetObject(errand.hash, errand.key, True)) for errand, peer in requests])
            for (errand, _), answer in zip(requests, answers, strict=True):
                data = _data_of(answer, errand.plan.newest)
                if data is not None:
                    found[errand.hash] = data
                else:
                    self._moved.corrupt_sources += answer.status == Status.CORRUPT
            attempt += 1
            wanted = [errand for errand in wanted if errand.hash not in found and attempt < len(errand.plan.sources)]
        return found

    # ------------------------------------------------------------------------------------------------------ what streams

    async def _give_stream(self, errand: Errand, done: set[int]) -> None:
        async with self._streams:
            targets = [copy.target for copy in errand.copies if copy.lack is Lack.DATA]
            for number in errand.plan.sources:
                source = self._peers.by_id.get(number)
                left = [device for device in targets if device not in done and device in self._peers.by_id]
                if source is not None and left:
                    done |= await self._copy_large(source, errand.hash, errand.key, errand.plan.newest, left)
        self._moved.objects += len(done.intersection(targets))

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


def _operation(errand: Errand, copy: Copy, data: bytes | None) -> Operation | None:
    """What a copy is sent as; None if its data is not at hand."""
    hash_, key, newest = errand.hash, errand.key, errand.plan.newest
    if copy.lack is Lack.TOMBSTONE:
        return DeleteObject(hash_, key, newest.timestamp)
    if copy.lack is Lack.METADATA:
        return UpdateObject(hash_, key, newest.timestamp, newest.meta_timestamp, newest.meta)
    if data is None:
        return None
    return PutObject(
        hash_, key, newest.timestamp, newest.meta, data, newest.manifest, meta_timestamp=newest.meta_timestamp
    )


def _size_bytes(errand: Errand, copy: Copy) -> int:
    return errand.size_bytes if copy.lack is Lack.DATA else errand.size_bytes - errand.plan.newest.size_bytes


def _data_of(answer: Answer, newest: Entry) -> bytes | None:
    """The data that a source gave, if it is still of the version that was planned."""
    if not isinstance(answer, Found) or answer.status != Status.FOUND or answer.entry is None or answer.entry.deleted:
        return None
    return answer.data if answer.entry.timestamp == newest.timestamp else None


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
