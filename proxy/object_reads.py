"""Objects as they are read: what HEAD says, and streams of their bytes.

Problem: a read gives the newest version that was acknowledged, whole or not at all, whatever an object is made of.

Idea: the newest of a majority (proxy.versions) is described from its metadata; one whose metadata names a prefix instead (a
dynamic large object) is read as the manifest of what lies there, and a manifest as its segments one after the other. A
small object's bytes come with its version; all else is a stream, opened when it is read.

Invariants:
- "There is none" is said on a majority's word only.
- Every error is one of `proxy.model`.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.accounts import AccountStore
from proxy.cluster import Cluster
from proxy.conditions import check_read
from proxy.dynamic import DLO, assembled
from proxy.entry import object_info, unpack_manifest
from proxy.expiry_queue import DELETE_AT, delete_at_of
from proxy.model import (
    DEGRADED,
    NO_CONDITIONS,
    Conditions,
    Consistency,
    NoSuchContainer,
    NoSuchObject,
    ObjectInfo,
    ObjectStream,
    Overwritten,
    Segment,
    SegmentMissing,
    StoreError,
    Unavailable,
)
from proxy.names import ObjectName
from proxy.streams import BytesStream, ManifestStream, VersionStream, looked_up_again
from proxy.versions import Version, find_version
from storage_node.timestamp import wall_clock_us


class OpenObject:
    """An object about to be read: what HEAD says, and streams of its bytes."""

    __slots__ = ("_store", "_version", "info", "small")

    def __init__(self, store: ObjectReads, version: Version, info: ObjectInfo, small: bytes | None) -> None:
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


def ended(info: ObjectInfo) -> StoreError:
    """What is said of an object whose time is over.

    Where only a minority of its devices has answered another may have been put in its place: then nothing is known.
    """
    if info.consistency.degraded:
        return Unavailable("too few devices that should have this object answer; retry")
    return NoSuchObject("the object has expired")


class ObjectReads(AccountStore):
    """Accounts, containers and objects of one cluster, to be read. `now_us` is the wall clock, in microseconds."""

    def __init__(self, cluster: Cluster, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(cluster)
        self._now_us = now_us

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
        info = await self.describe(account, container, version, raw_manifest)
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
        info = await self.describe(account, container, version, raw_manifest)
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
                raise ended(info)

    async def describe(self, account: str, container: bytes, version: Version, raw_manifest: bool) -> ObjectInfo:
        entry = version.entry
        if entry is None or entry.deleted:
            await self.head_container(account, container)
            if version.degraded:
                # A client takes "there is none" for the end of the matter: a minority's word is not enough for that.
                raise Unavailable("too few devices that should have this object answer; retry")
            raise NoSuchObject("the object does not exist", entry.timestamp if entry else 0)
        consistency = DEGRADED if version.degraded else Consistency()
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
