"""What is to be deleted when: a queue of rows in the order of their time, kept in the store itself.

Problem: of a billion objects a few expire in this second, and they must be found without looking at the others; the queue
must survive whatever the objects survive.

Idea: an object that is written with a time of its end gets, before that, a row in one of `SHARD_COUNT` internal containers,
named by that time and the object's key. A listing of a shard from its beginning is what is due, in order. The rows are
replicated, listed by majority and mended like those of any container; the name's hash spreads them over the shards, and the
ring spreads the shards over the devices.

The row comes first: a proxy that dies between the two leaves a row for an object that was never written, which costs one
look; the other order would leave an object that nobody ever deletes. A row is a hint and no more: whoever acts on it
(proxy.expiry) asks the object whether it still wants to go. So a changed time simply adds a row, and nothing is ever
removed with an object that is overwritten.

What is done leaves no tombstone: the row is forgotten (ForgetRow) on all devices that can be reached. One that was away
brings it back, and whoever finds it sees that there is nothing to do and takes it out again. Tombstones would have to be
read over at every look, and there would be as many as objects have expired in two weeks.

Rejected: one container a day (the times cluster: all rows of a nightly job in one container), an index of times in each
device (the metadata is opaque to devices, and rightly so), a look at every object by the auditor (a pass takes days).

Invariants:
- An acknowledged object with a time has a row of that time on a majority.
- A row is removed only as exactly the version that was read: one written again in the meantime stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from proxy.containers import ContainerStore
from proxy.model import ListQuery, Metadata, NoSuchContainer
from proxy.names import CONTAINER, container_key
from proxy.quorum import shortage, write
from storage_node.operations import ForgetRow, Row, Status
from storage_node.timestamp import microseconds

ACCOUNT: Final = ".ringstead"
SHARD_COUNT: Final = 32
DELETE_AT: Final = "delete-at"
_GONE: Final = frozenset((Status.APPLIED, Status.MISSING, Status.NEWER))
_DIGITS: Final = 11
_DUE_MAX: Final = 10**_DIGITS - 1


class QueuedExpiry(NamedTuple):
    """One row of the queue: an object, and when it is to go."""

    shard: int
    due_s: int
    """Seconds since 1970."""
    key: bytes
    name: bytes
    """The row's."""
    timestamp: int
    sub_timestamp: int

    @property
    def queued_us(self) -> int:
        """When it was put in the queue. Microseconds since 1970."""
        return microseconds(self.timestamp)


def delete_at_of(metadata: Metadata) -> int | None:
    """When an object with this metadata is to be deleted, in seconds since 1970; None if it stays."""
    value = metadata.get(DELETE_AT)
    if value is None or not value.isascii() or not value.isdecimal():
        return None
    return min(int(value[:20]), _DUE_MAX)


def shard_container(shard: int) -> bytes:
    """The internal container that holds a shard's rows."""
    return b"\x00expiring\x00%02x" % shard


def row_name(due_s: int, key: bytes) -> bytes:
    """The name of a row: in order of time."""
    return b"%011d" % due_s + key


def parse_row(shard: int, row: Row) -> QueuedExpiry | None:
    """A row of the queue taken apart; None for what is no such row."""
    digits, key = row.name[:_DIGITS], row.name[_DIGITS:]
    if not digits.isdigit() or not key.startswith(b"/"):
        return None
    return QueuedExpiry(shard, int(digits), key, row.name, row.timestamp, row.sub_timestamp)


class ExpiryQueue:
    """The queue of one cluster, as this process reaches it."""

    def __init__(self, store: ContainerStore) -> None:
        self._store = store

    def shard_of(self, key: bytes) -> int:
        """The shard that an object's row is in."""
        return self._store.cluster.ring.hash_key(key)[-1] % SHARD_COUNT

    async def add(self, key: bytes, due_s: int) -> None:
        """Note that the object with this key is to be deleted at `due_s`. Raises as `put_row`."""
        shard = self.shard_of(key)
        timestamp = self._store.cluster.clock.stamp()
        try:
            await self._put(shard, row_name(due_s, key), timestamp)
        except NoSuchContainer:
            await self._store.create_container(ACCOUNT, shard_container(shard), {})
            await self._put(shard, row_name(due_s, key), timestamp)

    async def due(self, shard: int, start_s: int, until_s: int, marker: bytes, limit: int) -> Sequence[QueuedExpiry]:
        """The first rows of start_s <= due <= until_s behind `marker`, in their order. Raises Unavailable."""
        container = shard_container(shard)
        end = row_name(until_s + 1, b"")
        query = ListQuery(marker=max(marker, row_name(start_s, b"")), end_marker=end, limit=limit)
        rows = await self._store.list_rows(CONTAINER, container_key(ACCOUNT, container), query)
        parsed = (parse_row(shard, row) for row in rows)
        return [item for item in parsed if item is not None]

    async def remove(self, item: QueuedExpiry) -> None:
        """Take a row out of the queue, unless it was written again since it was read. Raises Unavailable."""
        cluster = self._store.cluster
        placement = cluster.place(container_key(ACCOUNT, shard_container(item.shard)))
        forget = ForgetRow(CONTAINER, placement.hash, item.name, item.timestamp, item.sub_timestamp)
        result = await write(cluster, placement, forget, _GONE)
        if result.applied < placement.need:
            raise shortage(result.statuses, result.detail, result.applied, placement.need)

    def rank(self, shard: int) -> int | None:
        """How near a shard is to this machine: the place among its primaries of the first that is here; None: none is."""
        return rank_of(self._store, container_key(ACCOUNT, shard_container(shard)))

    async def _put(self, shard: int, name: bytes, timestamp: int) -> None:
        await self._store.put_row(ACCOUNT, shard_container(shard), name, timestamp, 0, 0, b"")


def rank_of(store: ContainerStore, key: bytes) -> int | None:
    """The place among the primaries of `key` of the first whose device is on this machine; None if none is."""
    for place, replica in enumerate(store.cluster.place(key).primaries):
        if replica.reader is not None:
            return place
    return None
