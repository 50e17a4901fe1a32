"""The object store: the one door through which both dialects come.

Problem: put, get, describe, copy and delete objects such that what was acknowledged survives, is read by whoever asks
next, and stands in its container's listing.

Idea. A write goes to the object's replicas first and, once a majority has it, to the replicas of its container's row; then
it is acknowledged. The order matters: a row is never listed for data that was refused (a full disk, a failed condition),
and an object without a row, left by a proxy that died in between, is found by the auditor. Small bodies travel inside one
frame; large ones stream through `Upload`.

Conditional writes are prepared first: every primary is asked to hold the object for this write's timestamp and says what it
has. With a majority held, the condition is decided on the newest of what they have; then the write commits under the lock,
or the locks are let go and nothing has changed. Of two racing writers at most one holds a majority; who finds the other's
lock lets go, waits a random moment and tries again.

An object whose metadata names a prefix instead (a dynamic large object) is read as the manifest of what lies there.

Overwriting or deleting a multipart upload's manifest leaves parts that nobody can reach: the devices hand the replaced
manifest back and its segments are deleted behind the answer.

Invariants:
- Nothing is acknowledged that a majority of the object's and of the row's replicas do not have on stable storage.
- A body that ends early, has the wrong digest or is too long leaves nothing behind.
- Every error is one of `proxy.model`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import trio

from proxy.cluster import Cluster
from proxy.conditions import check_copy_source, check_read, check_write
from proxy.containers import ContainerStore, container_key, split_object_key
from proxy.dynamic import DLO, assembled
from proxy.entry import object_info, pack_manifest, pack_meta, row_payload, unpack_manifest
from proxy.expiry_queue import DELETE_AT, ExpiryQueue, delete_at_of
from proxy.late_rows import LateRows
from proxy.leavings import Leavings
from proxy.locking import Hold, hold_object
from proxy.model import (
    NO_CONDITIONS,
    BadDigest,
    BodySource,
    Conditions,
    Consistency,
    Manifest,
    Metadata,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    ObjectStream,
    Overwritten,
    PutObjectRequest,
    Segment,
    SegmentMissing,
    StoreError,
    Unavailable,
)
from proxy.quorum import WriteResult, shortage, write_newest
from proxy.streams import BytesStream, ManifestStream, StreamBody, VersionStream, looked_up_again
from proxy.upload import Upload
from proxy.versions import Version, find_version
from storage_node.client import PutBlobHeader
from storage_node.operations import (
    SMALL_BYTES_MAX,
    DeleteObject,
    Entry,
    PutObject,
    Status,
    UpdateObject,
)
from storage_node.timestamp import wall_clock_us

_DEGRADED = Consistency(degraded=True)
_TOMBSTONE_SUCCESS = frozenset((Status.APPLIED, Status.MISSING))
_HASH_IN_THREAD_BYTES = 64 * 1024
"""MD5 of less than this takes less time than handing it to a thread and back."""


class ObjectName(NamedTuple):
    """An object's full name."""

    account: str
    container: bytes
    name: bytes

    @property
    def key(self) -> bytes:
        """What places it."""
        return container_key(self.account, self.container) + b"/" + self.name


class OpenObject:
    """An object about to be read: what HEAD says, and streams of its bytes."""

    __slots__ = ("_store", "_version", "info", "small")

    def __init__(self, store: ObjectStore, version: Version, info: ObjectInfo, small: bytes | None) -> None:
        self._store = store
        self._version = version
        self.info = info
        self.small = small
        """All of its bytes, if they are at hand."""

    async def begin(self, start: int, stop: int) -> ObjectStream:
        """A stream whose first source is open, so that no writer takes its bytes away.

        Raises Overwritten if one was quicker: the object is to be opened anew (`looked_up_again`).
        """
        stream = self.stream(start, stop)
        try:
            await stream.begin()
        except SegmentMissing as error:
            manifest = self.info.manifest
            if manifest is None or not manifest.owned:
                raise
            # An upload's parts go only after its manifest has.
            raise Overwritten("the object is being overwritten all the time; retry") from error
        return stream

    def stream(self, start: int, stop: int) -> BytesStream | ManifestStream | VersionStream:
        """Bytes start up to, not including, stop, opened when they are read. May be called again for further ranges."""
        if self.small is not None:
            whole = start == 0 and stop >= len(self.small)
            return BytesStream(self.small if whole else memoryview(self.small)[start:stop])
        if self.info.manifest is not None:
            return ManifestStream(self.info.manifest.segments, start, stop, self._store.open_segment)
        version = self._version
        assert version.entry is not None
        return VersionStream(
            self._store.cluster,
            version.placement,
            version.key,
            version.entry.timestamp,
            version.sources,
            start,
            stop,
        )

    async def aclose(self) -> None:
        """Let go of it. Streams are closed by whoever reads them."""


class ObjectStore(ContainerStore):
    """Accounts, containers and objects of one cluster. `now_us` is the wall clock, in microseconds."""

    def __init__(self, cluster: Cluster, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(cluster)
        self._now_us = now_us
        self.expiry_queue = ExpiryQueue(self)
        self.late_rows = LateRows(self)
        self.leavings = Leavings(self)

    # ---------------------------------------------------------------------------------------------------------- reads

    async def head_object(
        self,
        account: str,
        container: bytes,
        name: bytes,
        conditions: Conditions = NO_CONDITIONS,
        newest: bool = False,
        raw_manifest: bool = False,
    ) -> ObjectInfo:
        """What there is. Raises NoSuchObject, NoSuchContainer, NotModified, PreconditionFailed, Unavailable."""
        version = await find_version(self.cluster, ObjectName(account, container, name).key, data=False, newest=newest)
        info = await self._describe(account, container, version, raw_manifest)
        self._check_time(info)
        if conditions:
            check_read(conditions, info)
        return info

    async def open_object(
        self,
        account: str,
        container: bytes,
        name: bytes,
        conditions: Conditions = NO_CONDITIONS,
        newest: bool = False,
        raw_manifest: bool = False,
    ) -> OpenObject:
        """An object to be read; with `raw_manifest` the packed manifest itself. Raises as `head_object`."""
        version = await find_version(self.cluster, ObjectName(account, container, name).key, data=True, newest=newest)
        info = await self._describe(account, container, version, raw_manifest)
        self._check_time(info)
        if conditions:
            check_read(conditions, info)
        assert version.entry is not None
        small = version.data if info.manifest is None else None
        return OpenObject(self, version, info, small)

    def _check_time(self, info: ObjectInfo) -> None:
        """Raise NoSuchObject for what has expired: the expirer may not have been there yet."""
        if DELETE_AT in info.metadata:
            due_s = delete_at_of(info.metadata)
            if due_s is not None and due_s * 1_000_000 <= self._now_us():
                raise NoSuchObject("the object has expired")

    async def _describe(self, account: str, container: bytes, version: Version, raw_manifest: bool) -> ObjectInfo:
        entry = version.entry
        if entry is None or entry.deleted:
            await self.head_container(account, container)
            if version.degraded:
                # A client takes "there is none" for the end of the matter: a minority's word is not enough for that.
                raise Unavailable("too few devices that should have this object answer; retry")
            raise NoSuchObject("the object does not exist", entry.timestamp if entry else 0)
        consistency = _DEGRADED if version.degraded else Consistency()
        if not entry.manifest or raw_manifest:
            info = object_info(entry, consistency)
            if DLO in info.metadata and not raw_manifest:
                return await assembled(self, account, version.key, info)
            return info
        manifest = unpack_manifest(await self.read_version(version))
        return object_info(entry, consistency, manifest)

    async def find(self, target: ObjectName) -> Version:
        """The newest version of an object on any device that can be reached, a tombstone perhaps. Raises Unavailable."""
        return await find_version(self.cluster, target.key, data=True, newest=True)

    async def read_version(self, version: Version) -> bytes:
        """All bytes of one version, which is a manifest. Raises Unavailable."""
        if version.data is not None:
            return version.data
        assert version.entry is not None
        stream = VersionStream(
            self.cluster,
            version.placement,
            version.key,
            version.entry.timestamp,
            version.sources,
            0,
            version.entry.size_bytes,
        )
        try:
            pieces = []
            while piece := await stream.read():
                pieces.append(bytes(piece))
            return b"".join(pieces)
        finally:
            await stream.aclose()

    async def open_segment(self, segment: Segment, first: int, last: int) -> ObjectStream:
        """A stream of a segment's bytes first..last. Raises SegmentMissing if it is gone or has changed."""

        async def attempt() -> ObjectStream:
            try:
                opened = await self.open_object(segment.account, segment.container, segment.name)
            except (NoSuchObject, NoSuchContainer) as error:
                raise SegmentMissing("a segment of this object is gone") from error
            info = opened.info
            if info.etag != segment.etag or segment.start + segment.size_bytes > info.size_bytes:
                raise SegmentMissing("a segment of this object has changed since it was put together")
            return await opened.begin(segment.start + first, segment.start + last)

        return await looked_up_again(attempt)

    # --------------------------------------------------------------------------------------------------------- writes

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
            await self._check_early(target, request.conditions)
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
        await self._announce_end(target, delete_at_of(request.metadata))
        if len(data) <= SMALL_BYTES_MAX:
            timestamp, result = await self._commit_small(target, data, meta, request.conditions, manifest=True)
        else:
            timestamp, result = await self._commit_bytes(target, data, meta, request.conditions)
        return await self._finish_put(target, timestamp, result, etag, size_bytes, request.content_type, meta, manifest)

    async def update_object(
        self, account: str, container: bytes, name: bytes, metadata: Metadata, content_type: str | None
    ) -> ObjectInfo:
        """Replace an object's metadata (all of it), and its content type if one is given. Raises NoSuchObject."""
        target = ObjectName(account, container, name)
        await self._announce_end(target, delete_at_of(metadata))
        for _ in range(4):
            version = await find_version(self.cluster, target.key, data=False)
            info = await self._describe(account, container, version, raw_manifest=True)
            assert version.entry is not None
            data_timestamp = version.entry.timestamp
            kind = info.content_type if content_type is None else content_type
            meta = pack_meta(info.etag, kind, info.size_bytes, metadata)
            self.cluster.clock.observe(version.entry.meta_timestamp)
            timestamp, result = await write_newest(
                self.cluster,
                version.placement,
                lambda stamp, v=version, d=data_timestamp, m=meta: UpdateObject(  # type: ignore[misc]
                    v.placement.hash, v.key, d, stamp, m
                ),
                also_final=frozenset((Status.MISSING,)),
            )
            if result.applied < version.placement.need:
                continue
            algorithm = _checksum_algorithm(metadata)
            degraded = await self._list(
                target,
                data_timestamp,
                timestamp,
                info.size_bytes,
                row_payload(info.etag, kind, algorithm),
            )
            entry = Entry(data_timestamp, timestamp, False, info.size_bytes, meta, version.entry.manifest)
            return object_info(entry, _DEGRADED if degraded or result.degraded else Consistency())
        raise Unavailable("the object is being written by others all the time; retry")

    async def delete_object(
        self, account: str, container: bytes, name: bytes, conditions: Conditions = NO_CONDITIONS
    ) -> ObjectInfo:
        """Delete an object; what it was, and how sure it is that it is gone.

        Raises NoSuchObject, NoSuchContainer, PreconditionFailed, Unavailable.
        """
        target = ObjectName(account, container, name)
        cluster = self.cluster
        version = await find_version(cluster, target.key, data=False)
        if version.entry is not None and version.entry.deleted:
            # Whoever deleted it may have died before the listing heard of it: this is the retry that mends that.
            await self._list(target, version.entry.timestamp, 0, 0, b"", deleted=True)
        info = await self._describe(account, container, version, raw_manifest=True)
        assert version.entry is not None
        cluster.clock.observe(version.entry.timestamp)
        placement = version.placement
        if conditions:
            hold = await self._hold(target, conditions)
            timestamp = hold.timestamp
            result = await hold.commit(
                DeleteObject(placement.hash, target.key, timestamp, timestamp), _TOMBSTONE_SUCCESS
            )
        else:
            timestamp, result = await write_newest(
                cluster,
                placement,
                lambda stamp: DeleteObject(placement.hash, target.key, stamp),
                _TOMBSTONE_SUCCESS,
            )
        row_degraded = await self._list(target, timestamp, 0, 0, b"", deleted=True)
        self._drop_replaced(result)
        return replace(info, consistency=_DEGRADED) if row_degraded or result.degraded else info

    async def copy_object(
        self,
        source: ObjectName,
        source_conditions: Conditions,
        target: ObjectName,
        request: PutObjectRequest | None = None,
    ) -> ObjectInfo:
        """Copy an object's bytes, with the source's metadata unless `request` brings other. Raises as get and put."""

        async def attempt() -> tuple[ObjectInfo, ObjectStream]:
            opened = await self.open_object(*source)
            if source_conditions:
                check_copy_source(source_conditions, opened.info)
            return opened.info, await opened.begin(0, opened.info.size_bytes)

        info, stream = await looked_up_again(attempt)
        if request is None:
            own = {name: value for name, value in info.metadata.items() if name != DLO}
            request = PutObjectRequest(info.content_type, own)
        try:
            return await self.put_object(*target, StreamBody(stream, info.size_bytes), request)
        finally:
            await stream.aclose()

    async def _list(
        self,
        target: ObjectName,
        timestamp: int,
        changed: int,
        size_bytes: int,
        payload: bytes,
        *,
        deleted: bool = False,
    ) -> bool:
        """The row of what has just been written, whatever becomes of the request; raises as `put_row`.

        One that can't be written now is tried again behind the answer.
        """
        degraded = False
        with trio.CancelScope(shield=True):
            try:
                degraded = await self.put_row(*target, timestamp, changed, size_bytes, payload, deleted=deleted)
            except NoSuchContainer:
                raise
            except StoreError:
                self.late_rows.add(target.key)
                raise
        return degraded

    async def list_again(self, key: bytes) -> bool:
        """Let its container's listing say of the object with that key what is so; whether anything was done.

        For the auditor: a proxy died between the object and its row, or between the tombstone and the row's. Nothing is done
        for what is not there, or not in a live container. Raises Unavailable.
        """
        target = ObjectName(*split_object_key(key))
        version = await find_version(self.cluster, key, data=False, newest=True)
        entry = version.entry
        if entry is None or version.degraded:
            return False
        try:
            await self.head_container(target.account, target.container)
            if entry.deleted:
                await self.put_row(*target, entry.timestamp, 0, 0, b"", deleted=True)
                return True
            info = object_info(entry)
            payload = row_payload(info.etag, info.content_type, _checksum_algorithm(info.metadata))
            changed = entry.meta_timestamp if entry.meta_timestamp > entry.timestamp else 0
            await self.put_row(*target, entry.timestamp, changed, info.size_bytes, payload)
        except NoSuchContainer:
            return False
        return True

    # ---------------------------------------------------------------------------------------------------- inside a put

    async def _put_small(self, target: ObjectName, data: bytes, request: PutObjectRequest) -> ObjectInfo:
        if len(data) < _HASH_IN_THREAD_BYTES:
            md5 = hashlib.md5(data, usedforsecurity=False)
        else:
            md5 = await trio.to_thread.run_sync(_md5, data)
        etag, meta, due_s = self._seal(md5.digest(), len(data), request)
        await self._announce_end(target, due_s)
        timestamp, result = await self._commit_small(target, data, meta, request.conditions, manifest=False)
        return await self._finish_put(target, timestamp, result, etag, len(data), request.content_type, meta, None)

    async def _put_large(
        self, target: ObjectName, pieces: list[bytes], body: BodySource, request: PutObjectRequest
    ) -> ObjectInfo:
        upload = await self._upload(target)
        try:
            await upload.send(pieces, body)
            etag, meta, due_s = self._seal(upload.md5, upload.size_bytes, request)
            await self._announce_end(target, due_s)
            timestamp, result = await self._commit_upload(target, upload, meta, request.conditions, manifest=False)
        finally:
            await upload.abort()
        size_bytes = upload.size_bytes
        return await self._finish_put(target, timestamp, result, etag, size_bytes, request.content_type, meta, None)

    async def _announce_end(self, target: ObjectName, due_s: int | None) -> None:
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
            hold = await self._hold(target, conditions)
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
        hold = await self._hold(target, conditions) if conditions else None
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
        payload = row_payload(etag, content_type, _checksum_algorithm(info.metadata))
        try:
            row_degraded = await self._list(target, timestamp, 0, size_bytes, payload)
        except NoSuchContainer:
            placement = self.cluster.place(target.key)
            await write_newest(
                self.cluster,
                placement,
                lambda stamp: DeleteObject(placement.hash, target.key, stamp),
                _TOMBSTONE_SUCCESS,
            )
            raise
        self._drop_replaced(result, keep=manifest)
        degraded = row_degraded or result.degraded
        if not degraded and manifest is None:
            return info
        entry = Entry(timestamp, timestamp, False, size_bytes, meta, manifest is not None)
        return object_info(entry, Consistency(degraded), manifest)

    # ---------------------------------------------------------------------------------------------- conditional writes

    async def _check_early(self, target: ObjectName, conditions: Conditions) -> None:
        """Refuse what is certain to fail before its body is read; what passes is decided again under locks."""
        version = await find_version(self.cluster, target.key, data=False)
        check_write(conditions, self._info_or_none(version.entry))

    async def _hold(self, target: ObjectName, conditions: Conditions) -> Hold:
        """Hold the object on a majority for a write whose conditions are met by what is there now."""

        def check(entry: Entry | None) -> None:
            check_write(conditions, self._info_or_none(entry))

        return await hold_object(self.cluster, target.key, check)

    @staticmethod
    def _info_or_none(entry: Entry | None) -> ObjectInfo | None:
        return None if entry is None or entry.deleted else object_info(entry)

    # -------------------------------------------------------------------------------------------- replaced manifests

    def _drop_replaced(self, result: WriteResult, keep: Manifest | None = None) -> None:
        """Delete, behind the answer, the segments of a multipart upload that was replaced or deleted."""
        if result.replaced_manifest is None:
            return
        replaced = unpack_manifest(result.replaced_manifest)
        if not replaced.owned:
            return
        kept = set(keep.segments) if keep is not None else set()
        segments = [segment for segment in replaced.segments if segment not in kept]
        if segments:
            self.cluster.start_soon(self._delete_segments, segments)

    async def _delete_segments(self, segments: list[Segment]) -> None:
        for segment in segments:
            try:
                await self.delete_object(segment.account, segment.container, segment.name)
            except StoreError:
                continue


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


def _checksum_algorithm(metadata: Metadata) -> str:
    for name in metadata:
        if name.startswith("checksum:") and name != "checksum:type":
            return name[9:].upper()
    return ""
