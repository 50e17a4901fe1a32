"""The daemons that work through the store: what the expirer, the reaper and the auditor see of it.

`replicator` knows no proxy and `proxy` no replicator; here the two meet. The store's errors, which mean "not now", become
the answers that the daemons understand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import structlog

from proxy.entry import CorruptEntry
from proxy.expiry import Expiry
from proxy.expiry_queue import SHARD_COUNT, QueuedExpiry
from proxy.model import StoreError
from proxy.reaping import Grave, Reaping
from proxy.store import ObjectStore
from storage_node.timestamp import wall_clock_us

LEAVINGS_PAGE: Final = 100

_NOT_NOW: Final = (StoreError, CorruptEntry)

log = structlog.get_logger("ringstead.store_daemons")

Take = Callable[[], Awaitable[None]]


class StoreQueue:
    """The queue of what expires (a `replicator.expirer.Queue`)."""

    shard_count = SHARD_COUNT

    def __init__(self, store: ObjectStore, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._store = store
        self._expiry = Expiry(store, now_us)
        self._now_us = now_us

    def rank(self, shard: int) -> int | None:
        """See Queue."""
        return self._store.expiry_queue.rank(shard)

    async def due(
        self, shard: int, start_s: int, until_s: int, marker: bytes, limit: int
    ) -> Sequence[QueuedExpiry] | None:
        """See Queue."""
        try:
            return await self._store.expiry_queue.due(shard, start_s, until_s, marker, limit)
        except _NOT_NOW:
            return None

    async def settle(self, row: QueuedExpiry, take: Take) -> Literal["deleted", "dropped", "early", "failed"]:
        """See Queue."""
        try:
            return await self._expiry.settle(row, take)
        except _NOT_NOW:
            return "failed"

    async def clear_leavings(self, take: Take) -> int:
        """See Queue."""
        leavings = self._store.leavings
        if leavings.rank() is None:
            return 0
        left = 0
        try:
            for leaving in await leavings.listed(LEAVINGS_PAGE):
                left += not await leavings.clear(leaving, take, self._now_us())
        except _NOT_NOW:
            return max(left, 1)
        return left


class StoreGraves:
    """The deleted accounts (a `replicator.reaper.Graves`)."""

    def __init__(self, store: ObjectStore, now_us: Callable[[], int] = wall_clock_us) -> None:
        self._reaping = Reaping(store, now_us)

    def rank(self) -> int | None:
        """See Graves."""
        return self._reaping.rank()

    async def graves(self) -> Sequence[Grave] | None:
        """See Graves."""
        try:
            return await self._reaping.graves()
        except _NOT_NOW:
            return None

    async def reap(self, grave: Grave, take: Take, note: Callable[[int, int], None]) -> bool:
        """See Graves."""
        try:
            return await self._reaping.reap(grave, take, note)
        except _NOT_NOW:
            return False


async def mend_row(store: ObjectStore, key: bytes) -> bool:
    """List an object that no listing shows, or the reverse (an auditor's `Relist`). Does not raise."""
    try:
        return await store.list_again(key)
    except _NOT_NOW as error:
        log.warning("a listing can't be mended now", key=key.decode("utf-8", "replace"), reason=str(error))
        return False
