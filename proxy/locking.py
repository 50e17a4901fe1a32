"""Holding an object on a majority of its replicas for one conditional write.

Problem: of two clients who write "only if absent" at the same time exactly one must succeed, its write must be the one read
afterwards, and the loser must leave no trace. A check before the write does not do that: both would pass it.

Idea: two steps. `hold_object` asks every primary to lock the object for a timestamp and to tell what it has; with a
majority locked the condition is decided on the newest of that. `Hold.commit` then writes under the lock. A second writer
finds a lock on at least one replica of any majority. Locks are leases in the devices' memory: a proxy that dies holds
nobody up for longer than `LEASE_MS`, and a device that restarts refuses the write of a lock that it does not know
(LOCK_LOST).

A write without conditions does not wait for locks; a device tells one that is stamped before the lock's timestamp to stamp
again, so that it comes after the conditional write instead of vanishing beneath it.

Rejected: deciding at each replica on its own (a replica that missed the last write decides wrongly); consensus (the store
has none, and a lease is enough for one object at a time).

Invariants: a hold is always committed or released; handoffs never hold (a majority of *primaries* decides, or the write is
`Unavailable`).
"""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import PreconditionFailed, Unavailable
from proxy.quorum import WRITE_TIMEOUT_S, Gather, WriteResult, shortage, write
from storage_node.operations import (
    Answer,
    DeleteObject,
    Entry,
    Locked,
    LockObject,
    PutObject,
    Status,
    UnlockObject,
    WriteOperation,
)

LEASE_MS = 15_000
HOLD_ATTEMPTS = 12
RETRY_BASE_S = 0.004
"""Waits between attempts grow from this, doubled each time up to RETRY_MAX_S, and are drawn at random below it."""
RETRY_MAX_S = 0.25

_APPLIED = frozenset((Status.APPLIED,))


class Hold:
    """An object held on a majority of its primaries."""

    __slots__ = ("_cluster", "_holders", "placement", "timestamp")

    def __init__(self, cluster: Cluster, placement: Placement, timestamp: int, holders: list[Replica]) -> None:
        self._cluster = cluster
        self.placement = placement
        self.timestamp = timestamp
        """Of the lock, and so of the write."""
        self._holders = holders

    async def commit(self, operation: WriteOperation, success: frozenset[Status] = _APPLIED) -> WriteResult:
        """Write under the lock. Raises Unavailable if no majority took it: whether it stands is then not known."""
        result = await write(self._cluster, self.placement, operation, success, use_handoffs=False)
        if result.applied >= self.placement.need:
            self._spread(operation)
            return result
        await self.release()
        raise shortage(result.statuses, result.detail, result.applied, self.placement.need)

    def _spread(self, operation: WriteOperation) -> None:
        """The write is decided: primaries that could not be locked take it as any other."""
        if isinstance(operation, (PutObject, DeleteObject)):
            unlocked = operation._replace(lock=None)
            for replica in self.placement.primaries:
                if replica not in self._holders:
                    replica.client.submit(unlocked, _ignore, WRITE_TIMEOUT_S)

    async def release(self) -> None:
        """Let go. Does not wait for the devices: a lock that is not released runs out by itself."""
        release(self.placement, self.timestamp, self._holders)


def release(placement: Placement, timestamp: int, holders: list[Replica]) -> None:
    """Let go of locks; answers are not waited for."""
    unlock = UnlockObject(placement.hash, timestamp)
    for replica in holders:
        replica.client.submit(unlock, _ignore, WRITE_TIMEOUT_S)


async def hold_object(
    cluster: Cluster,
    key: bytes,
    check: Callable[[Entry | None], None],
    draw: Callable[[], float] = random.random,
) -> Hold:
    """Hold the object with this key, if `check` (of the newest entry, None for none) raises nothing.

    Raises what `check` raises, PreconditionFailed(racing) when others hold it all the time, Unavailable.
    """
    placement = cluster.place(key)
    delay_s = RETRY_BASE_S
    for _ in range(HOLD_ATTEMPTS):
        timestamp = cluster.clock.stamp()
        gather = Gather(len(placement.primaries) + 1)
        lock = LockObject(placement.hash, key, timestamp, LEASE_MS)
        for replica in placement.primaries:
            gather.ask(replica, lock, WRITE_TIMEOUT_S)
        await gather.wait()
        holders: list[Replica] = []
        newest: Entry | None = None
        contended = False
        for replica, answer in gather.answers:
            if not isinstance(answer, Locked):
                continue
            if answer.status == Status.APPLIED:
                holders.append(replica)
                entry = answer.entry
                if entry is not None and (newest is None or version_of(entry) > version_of(newest)):
                    newest = entry
            elif answer.status in (Status.LOCKED, Status.NEWER):
                contended = True
                cluster.clock.observe(answer.timestamp)
        if placement.suffices(holders):
            try:
                check(newest)
            except BaseException:
                release(placement, timestamp, holders)
                raise
            return Hold(cluster, placement, timestamp, holders)
        release(placement, timestamp, holders)
        if not contended:
            raise Unavailable("a conditional write needs a majority of the object's own devices; retry")
        await trio.sleep(delay_s * draw())
        delay_s = min(2 * delay_s, RETRY_MAX_S)
    raise PreconditionFailed("another conditional write of this object is under way", "If-None-Match", racing=True)


def version_of(entry: Entry) -> tuple[int, bool, int]:
    """What decides which of two entries is the newer."""
    return entry.timestamp, entry.deleted, entry.meta_timestamp


def _ignore(_: Answer) -> None:
    """The answer to an unlock changes nothing."""
