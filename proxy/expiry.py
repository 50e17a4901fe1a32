"""Deleting what has expired: one object at a time, and exactly what expired.

Problem: between the moment at which someone finds that an object's time is over and the moment at which it is gone, a client
may overwrite it, or give it more time. Neither must be lost, whatever is down, slow, or asked twice.

Idea, in two parts. The object is held on a majority of its primaries (proxy.locking), and goes only if the newest of what
they have is the very version, metadata included, whose time is over; while it is held its metadata can't be changed. And
the tombstone is stamped one step behind that version rather than with the present: an overwrite that this majority has not
heard of (it lies on handoffs, or on devices that are away) is later, and wins wherever the two meet.

The order is: a note of the segments that go too (proxy.leavings), the tombstone, the listing's row, the segments, the row of
the queue. Whoever finds the queue's row again after a crash finds the object gone and does the rest again.

The step is one unit of a timestamp, which is the number of the next writer: its write of the same object in the same
microsecond would compare equal. A majority that has heard of such a write does not let the object go.

Invariants:
- Nothing is deleted but a version that says itself that its time is over by this clock.
- A row leaves the queue only when there is nothing left that it could mean, on the word of a majority of the object's own
  devices: that no device at hand has the object says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from proxy.entry import object_info, unpack_manifest
from proxy.expiry_queue import QueuedExpiry, delete_at_of
from proxy.leavings import Leaving, Take
from proxy.locking import hold_object, version_of
from proxy.model import NoSuchContainer, PreconditionFailed
from proxy.names import split_object_key
from proxy.store import ObjectStore
from proxy.versions import Version, find_certainly
from storage_node.operations import DeleteObject, Entry, Status
from storage_node.timestamp import wall_clock_us

SETTLE_US: Final = 600_000_000
"""A row without its object stays so long: the object's writer may be about to write it, by a clock that is behind."""
_SUCCESS: Final = frozenset((Status.APPLIED, Status.MISSING))

Settled: TypeAlias = Literal["deleted", "dropped", "early"]
"""What became of a row: its object is deleted; it meant nothing any more; it is too early to tell."""


class Expiry:
    """Settles rows of the queue. `now_us` is the wall clock, in microseconds."""

    def __init__(self, store: ObjectStore, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._store = store
        self._now_us = now_us

    async def settle(self, row: QueuedExpiry, take: Take) -> Settled:
        """Do what a row asks for. Raises StoreError where it must be tried again.

        `take` is waited for before each segment is deleted.
        """
        store = self._store
        version = await find_certainly(store.cluster, row.key)
        entry = version.entry
        if entry is not None and not entry.deleted:
            due_s = delete_at_of(object_info(entry).metadata)
            if due_s == row.due_s:
                if due_s * 1_000_000 > self._now_us():
                    return "early"
                await self._delete(version, entry, take)
                await store.expiry_queue.remove(row)
                return "deleted"
        elif entry is not None:
            await self._unlist(row.key, entry.timestamp)
        if self._now_us() - row.queued_us < SETTLE_US:
            return "early"
        await store.expiry_queue.remove(row)
        return "dropped"

    async def _delete(self, version: Version, entry: Entry, take: Take) -> None:
        """Delete this very version. Raises PreconditionFailed where it is not what a majority has."""
        store = self._store
        leaving = await self._note_segments(version, entry)

        def check(newest: Entry | None) -> None:
            if newest is None or version_of(newest) != version_of(entry):
                raise PreconditionFailed("the object has changed", "X-Delete-At", racing=True)

        store.cluster.clock.observe(max(entry.timestamp, entry.meta_timestamp))
        hold = await hold_object(store.cluster, version.key, check)
        deletion = DeleteObject(hold.placement.hash, version.key, entry.timestamp + 1, hold.timestamp)
        await hold.commit(deletion, _SUCCESS)
        await self._unlist(version.key, entry.timestamp + 1)
        if leaving is not None:
            await store.leavings.clear(leaving, take, self._now_us())

    async def _note_segments(self, version: Version, entry: Entry) -> Leaving | None:
        if not entry.manifest:
            return None
        manifest = await self._store.read_version(version)
        if not unpack_manifest(manifest).owned:
            return None
        leaving = Leaving(version.key, entry.timestamp)
        await self._store.leavings.note(leaving, manifest)
        return leaving

    async def _unlist(self, key: bytes, timestamp: int) -> None:
        account, container, name = split_object_key(key)
        try:
            await self._store.put_row(account, container, name, timestamp, 0, 0, b"", deleted=True)
        except NoSuchContainer:
            return
