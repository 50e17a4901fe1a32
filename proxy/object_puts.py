"""Objects as they are written: whole, in one piece or as a stream, or as a manifest of others.

Idea. A write goes to the object's replicas first and, once a majority has it, to the replicas of its container's row; then
it is acknowledged. The order matters: a row is never listed for data that was refused (a full disk, a failed condition),
and an object without a row, left by a proxy that died in between, is found by the auditor. Small bodies travel inside one
frame; large ones stream through `Upload`.

Invariants:
- Nothing is acknowledged that a majority of the object's and of the row's replicas do not have on stable storage.
- A body that ends early, has the wrong digest or is too long leaves nothing behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import trio

from proxy.cluster import Cluster
from proxy.entry import object_info, pack_manifest, pack_meta, row_payload
from proxy.expiry_queue import ExpiryQueue, delete_at_of
from proxy.late_rows import checksum_algorithm
from proxy.model import (
    BadDigest,
    BodySource,
    Conditions,
    Consistency,
    Manifest,
    NoSuchContainer,
    ObjectInfo,
    PutObjectRequest,
)
from proxy.names import ObjectName
from proxy.object_deletes import TOMBSTONE_SUCCESS, ObjectDeletes
from proxy.quorum import WriteResult, shortage, write_newest
from proxy.streams import BytesStream, StreamBody
from proxy.upload import Upload
from proxy.versions import find_version
from storage_node.client import PutBlobHeader
from storage_node.operations import SMALL_BYTES_MAX, DeleteObject, Entry, PutObject
from storage_node.timestamp import wall_clock_us

_HASH_IN_THREAD_BYTES = 64 * 1024
"""MD5 of less than this takes less time than handing it to a thread and back."""


class ObjectPuts(ObjectDeletes):
    """Objects of one cluster, to be read, written and deleted."""

    def __init__(self, cluster: Cluster, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(cluster, now_us)
        self.expiry_queue = ExpiryQueue(self)

    async def put_object(
        self, account: str, container: bytes, name: bytes, body: BodySource, request: PutObjectRequest
    ) -> ObjectInfo:
        """Store an object.

        Raises NoSuchContainer, BadDigest, EntityTooLarge, PreconditionFailed, NoSuchObject (If-Match on nothing),
        InsufficientStorage, Unavailable, and whatever the body raises.
        """
        await self.ensure_container(account, container)
        target = ObjectName(account, container, name)
        if request.conditions:
            await self.check_early(target, request.conditions)
        pieces, whole = await _read_small(body)
        if whole:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            return await self._put_small(target, data, request)
        return await self._put_large(target, pieces, body, request)

    async def put_manifest(
        self,
        account: str,
        container: bytes,
        name: bytes,
        manifest: Manifest,
        etag: str,
        size_bytes: int,
        request: PutObjectRequest,
    ) -> ObjectInfo:
        """Store an object that is made of others. `size_bytes` is what its GET gives. Raises as `put_object`."""
        await self.ensure_container(account, container)
        target = ObjectName(account, container, name)
        data = pack_manifest(manifest)
        meta = pack_meta(etag, request.content_type, size_bytes, request.metadata)
        await self.announce_end(target, delete_at_of(request.metadata))
        if len(data) <= SMALL_BYTES_MAX:
            timestamp, result = await self._commit_small(target, data, meta, request.conditions, manifest=True)
        else:
            timestamp, result = await self._commit_bytes(target, data, meta, request.conditions)
        return await self._finish_put(target, timestamp, result, etag, size_bytes, request.content_type, meta, manifest)

    # ---------------------------------------------------------------------------------------------------- inside a put

    async def _put_small(self, target: ObjectName, data: bytes, request: PutObjectRequest) -> ObjectInfo:
        if len(data) < _HASH_IN_THREAD_BYTES:
            md5 = hashlib.md5(data, usedforsecurity=False)
        else:
            md5 = await trio.to_thread.run_sync(_md5, data)
        etag, meta, due_s = self._seal(md5.digest(), len(data), request)
        await self.announce_end(target, due_s)
        timestamp, result = await self._commit_small(target, data, meta, request.conditions, manifest=False)
        return await self._finish_put(target, timestamp, result, etag, len(data), request.content_type, meta, None)

    async def _put_large(
        self, target: ObjectName, pieces: list[bytes], body: BodySource, request: PutObjectRequest
    ) -> ObjectInfo:
        upload = await self._upload(target)
        try:
            await upload.send(pieces, body)
            etag, meta, due_s = self._seal(upload.md5, upload.size_bytes, request)
            await self.announce_end(target, due_s)
            timestamp, result = await self._commit_upload(target, upload, meta, request.conditions, manifest=False)
        finally:
            await upload.abort()
        size_bytes = upload.size_bytes
        return await self._finish_put(target, timestamp, result, etag, size_bytes, request.content_type, meta, None)

    async def announce_end(self, target: ObjectName, due_s: int | None) -> None:
        """Before an object is written: note when it is to be deleted, if it is."""
        if due_s is not None:
            await self.expiry_queue.add(target.key, due_s)

    def _seal(self, md5: bytes, size_bytes: int, request: PutObjectRequest) -> tuple[str, bytes, int | None]:
        """The etag and packed metadata of a body that has arrived whole, and when it is to be deleted."""
        if request.expected_md5 is not None and request.expected_md5 != md5:
            raise BadDigest("the body's MD5 is not the one that was announced")
        metadata: Mapping[str, str] = request.metadata
        if request.late_metadata is not None:
            metadata = {**metadata, **request.late_metadata()}
        etag = md5.hex()
        return etag, pack_meta(etag, request.content_type, size_bytes, metadata), delete_at_of(metadata)

    async def _upload(self, target: ObjectName) -> Upload:
        """An upload to the target's devices, begun once this clock is past what they hold."""
        version = await find_version(self.cluster, target.key, data=False)
        if version.entry is not None:
            self.cluster.clock.observe(version.entry.timestamp)
        upload = Upload(self.cluster, version.placement)
        await upload.open()
        return upload

    async def _commit_small(
        self, target: ObjectName, data: bytes, meta: bytes, conditions: Conditions, *, manifest: bool
    ) -> tuple[int, WriteResult]:
        key = target.key
        if conditions:
            hold = await self.hold(target, conditions)
            stamp = hold.timestamp
            return stamp, await hold.commit(PutObject(hold.placement.hash, key, stamp, meta, data, manifest, stamp))
        placement = self.cluster.place(key)
        return await write_newest(
            self.cluster, placement, lambda stamp: PutObject(placement.hash, key, stamp, meta, data, manifest)
        )

    async def _commit_upload(
        self, target: ObjectName, upload: Upload, meta: bytes, conditions: Conditions, *, manifest: bool
    ) -> tuple[int, WriteResult]:
        key = target.key
        placement = self.cluster.place(key)
        hold = await self.hold(target, conditions) if conditions else None
        stamp = hold.timestamp if hold else self.cluster.clock.stamp()
        lock = stamp if hold else None
        result = await upload.commit(PutBlobHeader(placement.hash, key, stamp, meta, manifest, lock))
        if result.newest_timestamp:
            self.cluster.clock.observe(result.newest_timestamp)
        if result.applied < placement.need:
            if hold is not None:
                await hold.release()
            raise shortage(result.statuses, result.detail, result.applied, placement.need)
        if hold is not None:
            hold.settle()
        return stamp, result

    async def _commit_bytes(
        self, target: ObjectName, data: bytes, meta: bytes, conditions: Conditions
    ) -> tuple[int, WriteResult]:
        """Store a manifest that is too large for a frame."""
        upload = await self._upload(target)
        try:
            await upload.send([data], StreamBody(BytesStream(b""), 0))
            return await self._commit_upload(target, upload, meta, conditions, manifest=True)
        finally:
            await upload.abort()

    async def _finish_put(
        self,
        target: ObjectName,
        timestamp: int,
        result: WriteResult,
        etag: str,
        size_bytes: int,
        content_type: str,
        meta: bytes,
        manifest: Manifest | None,
    ) -> ObjectInfo:
        """List the object and forget what it replaced."""
        info = object_info(Entry(timestamp, timestamp, False, size_bytes, meta, manifest is not None))
        payload = row_payload(etag, content_type, checksum_algorithm(info.metadata))
        try:
            row_degraded = await self.late_rows.write(target, timestamp, 0, size_bytes, payload)
        except NoSuchContainer:
            placement = self.cluster.place(target.key)
            await write_newest(
                self.cluster,
                placement,
                lambda stamp: DeleteObject(placement.hash, target.key, stamp),
                TOMBSTONE_SUCCESS,
            )
            raise
        self.drop_replaced(result, keep=manifest)
        degraded = row_degraded or result.degraded
        if not degraded and manifest is None:
            return info
        entry = Entry(timestamp, timestamp, False, size_bytes, meta, manifest is not None)
        return object_info(entry, Consistency(degraded), manifest)


async def _read_small(body: BodySource) -> tuple[list[bytes], bool]:
    """What fits a frame, and whether that is all of the body."""
    length = body.length
    pieces: list[bytes] = []
    held = 0
    if length is not None and length > SMALL_BYTES_MAX:
        first = await body.read()
        return [first], False
    while held <= SMALL_BYTES_MAX:
        piece = await body.read()
        if not piece:
            return pieces or [b""], True
        pieces.append(piece)
        held += len(piece)
    return pieces, False


def _md5(data: bytes) -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)
