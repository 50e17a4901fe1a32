"""The object store: the one door through which both dialects come.

Problem: put, get, describe, copy and delete objects such that what was acknowledged survives, is read by whoever asks
next, and stands in its container's listing.

Idea: each floor has one subject and knows those below it alone: catalogs, containers, accounts, then objects as they are
read, deleted and written. Here stands what takes an object as it is and writes it again, its metadata or its bytes, and
what works through the store behind the answers: rows that are late, the queue of what expires, segments that are to go.

Invariants:
- Nothing is acknowledged that a majority of the object's and of the row's replicas do not have on stable storage.
- Every error is one of `proxy.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.cluster import Cluster
from proxy.conditions import check_copy_source
from proxy.dynamic import DLO
from proxy.entry import object_info, pack_meta, row_payload
from proxy.expiry_queue import delete_at_of
from proxy.late_rows import checksum_algorithm, list_again
from proxy.leavings import Leavings
from proxy.model import (
    DEGRADED,
    Conditions,
    Consistency,
    Metadata,
    ObjectInfo,
    ObjectStream,
    PutObjectRequest,
    Unavailable,
)
from proxy.names import ObjectName
from proxy.object_puts import ObjectPuts
from proxy.quorum import write_newest
from proxy.streams import StreamBody, looked_up_again
from proxy.versions import find_version
from storage_node.operations import Entry, Status, UpdateObject
from storage_node.timestamp import wall_clock_us


class ObjectStore(ObjectPuts):
    """Accounts, containers and objects of one cluster. `now_us` is the wall clock, in microseconds."""

    def __init__(self, cluster: Cluster, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(cluster, now_us)
        self.leavings = Leavings(self)

    async def update_object(
        self, account: str, container: bytes, name: bytes, metadata: Metadata, content_type: str | None
    ) -> ObjectInfo:
        """Replace an object's metadata (all of it), and its content type if one is given. Raises NoSuchObject."""
        target = ObjectName(account, container, name)
        await self.announce_end(target, delete_at_of(metadata))
        for _ in range(4):
            version = await find_version(self.cluster, target.key, data=False)
            info = await self.describe(account, container, version, raw_manifest=True)
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
            algorithm = checksum_algorithm(metadata)
            degraded = await self.late_rows.write(
                target,
                data_timestamp,
                timestamp,
                info.size_bytes,
                row_payload(info.etag, kind, algorithm),
            )
            entry = Entry(data_timestamp, timestamp, False, info.size_bytes, meta, version.entry.manifest)
            return object_info(entry, DEGRADED if degraded or result.degraded else Consistency())
        raise Unavailable("the object is being written by others all the time; retry")

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
            copied = await self.put_object(*target, StreamBody(stream, info.size_bytes), request)
        finally:
            await stream.aclose()
        # What was copied may be older than what its name has.
        return replace(copied, consistency=DEGRADED) if info.consistency.degraded else copied

    async def list_again(self, key: bytes) -> bool:
        """See `late_rows.list_again`."""
        return await list_again(self, key)
