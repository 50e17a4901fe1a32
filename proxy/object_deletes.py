"""Objects as they are deleted, and what a write under a condition asks for first.

Idea. A tombstone goes to the object's replicas and, once a majority has it, to the replicas of its container's row. Who
finds an object deleted already writes its row again: whoever deleted it may have died in between.

Conditional writes are prepared: every primary is asked to hold the object for this write's timestamp and says what it has.
With a majority held, the condition is decided on the newest of what they have; then the write commits under the lock, or the
locks are let go and nothing has changed. Of two racing writers at most one holds a majority; who finds the other's lock
lets go, waits a random moment and tries again.

Overwriting or deleting a multipart upload's manifest leaves parts that nobody can reach: the devices hand the replaced
manifest back and its segments are deleted behind the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.cluster import Cluster
from proxy.conditions import check_write
from proxy.entry import object_info, unpack_manifest
from proxy.late_rows import LateRows
from proxy.locking import Hold, hold_object
from proxy.model import DEGRADED, NO_CONDITIONS, Conditions, Manifest, NoSuchContainer, ObjectInfo, Segment, StoreError
from proxy.names import ObjectName
from proxy.object_reads import ObjectReads
from proxy.quorum import WriteResult, write_newest
from proxy.versions import find_version
from storage_node.operations import DeleteObject, Entry, Status
from storage_node.timestamp import wall_clock_us

TOMBSTONE_SUCCESS = frozenset((Status.APPLIED, Status.MISSING))


class ObjectDeletes(ObjectReads):
    """Objects of one cluster, to be read and deleted."""

    def __init__(self, cluster: Cluster, now_us: Callable[[], int] = wall_clock_us) -> None:
        super().__init__(cluster, now_us)
        self.late_rows = LateRows(self)

    async def delete_object(
        self, account: str, container: bytes, name: bytes, conditions: Conditions = NO_CONDITIONS
    ) -> ObjectInfo:
        """Delete an object; what it was, and how sure it is that it is gone (and from its listing).

        Raises NoSuchObject, NoSuchContainer, PreconditionFailed, Unavailable.
        """
        target = ObjectName(account, container, name)
        cluster = self.cluster
        version = await find_version(cluster, target.key, data=False)
        if version.entry is not None and version.entry.deleted:
            # Whoever deleted it may have died before the listing heard of it: this is the retry that mends that.
            await self.late_rows.write(target, version.entry.timestamp, 0, 0, b"", deleted=True)
        info = await self.describe(account, container, version, raw_manifest=True)
        assert version.entry is not None
        cluster.clock.observe(version.entry.timestamp)
        placement = version.placement
        if conditions:
            hold = await self.hold(target, conditions)
            timestamp = hold.timestamp
            result = await hold.commit(
                DeleteObject(placement.hash, target.key, timestamp, timestamp), TOMBSTONE_SUCCESS
            )
        else:
            timestamp, result = await write_newest(
                cluster,
                placement,
                lambda stamp: DeleteObject(placement.hash, target.key, stamp),
                TOMBSTONE_SUCCESS,
            )
        try:
            row_degraded = await self.late_rows.write(target, timestamp, 0, 0, b"", deleted=True)
        except NoSuchContainer:
            # The object is gone all the same. Its row may yet come home with a container that handoffs took, and goes then.
            row_degraded = True
        self.drop_replaced(result)
        return replace(info, consistency=DEGRADED) if row_degraded or result.degraded else info

    async def check_early(self, target: ObjectName, conditions: Conditions) -> None:
        """Refuse what is certain to fail before its body is read; what passes is decided again under locks."""
        version = await find_version(self.cluster, target.key, data=False)
        if not version.degraded:
            check_write(conditions, self._info_or_none(version.entry))

    async def hold(self, target: ObjectName, conditions: Conditions) -> Hold:
        """Hold the object on a majority for a write whose conditions are met by what is there now."""

        def check(entry: Entry | None) -> None:
            check_write(conditions, self._info_or_none(entry))

        return await hold_object(self.cluster, target.key, check)

    @staticmethod
    def _info_or_none(entry: Entry | None) -> ObjectInfo | None:
        return None if entry is None or entry.deleted else object_info(entry)

    def drop_replaced(self, result: WriteResult, keep: Manifest | None = None) -> None:
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
