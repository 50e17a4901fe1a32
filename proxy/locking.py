"""Holding an object on a majority of its replicas for one conditional write.

Problem: of two clients who write "only if absent" at the same time exactly one must succeed, its write must be the one read
afterwards, and the loser must leave no trace. A check before the write does not do that: both would pass it.

Idea: two steps. `hold_object` asks every primary to lock the object for a timestamp and to tell what it has; with a
majority locked the condition is decided on the newest of that. `Hold.commit` then writes under the lock. A second writer
finds a lock on at least one replica of any majority. Locks are leases in the devices' memory: a proxy that dies holds
nobody up for longer than `LEASE_MS`, and a device that restarts refuses the write of a lock that it does not know
(LOCK_LOST).

Who has a majority waits for the other primaries for `SPARE_S` and no longer: a device that is frozen would cost every
conditional write its whole timeout. One that locks after all is let go, or writes, with the others, since a device does what
it is told in the order in which it is told.

A write without conditions does not wait for locks; a device tells one that is stamped before the lock's timestamp to stamp
again, so that it comes after the conditional write instead of vanishing beneath it.

Rejected: deciding at each replica on its own (a replica that missed the last write decides wrongly); consensus (the store
has none, and a lease is enough for one object at a time).

A device that is being filled (majority.py) is locked as any other; what it says does not count for the decision.

Invariants: a hold is always committed or released; handoffs never hold (a majority of *primaries* decides, or the write is
`Unavailable`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import PreconditionFailed, Unavailable
from proxy.quorum import WRITE_TIMEOUT_S, WriteResult, shortage, write
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
SPARE_S = 0.1
"""How long primaries are still waited for once it is decided what comes of a hold: well ones have answered by then."""

_APPLIED = frozenset((Status.APPLIED,))


class Hold:
    """An object held on a majority of its primaries."""

    __slots__ = ("_cluster", "_holders", "_unheard", "placement", "timestamp")

    def __init__(
        self, cluster: Cluster, placement: Placement, timestamp: int, holders: list[Replica], unheard: list[Replica]
    ) -> None:
        self._cluster = cluster
        self.placement = placement
        self.timestamp = timestamp
        """Of the lock, and so of the write."""
        self._holders, self._unheard = holders, unheard

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

    def settle(self) -> None:
        """It was written under the lock by other ways than `commit`: primaries that lock only now are let go."""
        release(self.placement, self.timestamp, self._unheard)

    async def release(self) -> None:
        """Let go. Does not wait for the devices: a lock that is not released runs out by itself."""
        release(self.placement, self.timestamp, [*self._holders, *self._unheard])


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
        locks = _Locks(placement)
        try:
            await locks.ask(LockObject(placement.hash, key, timestamp, LEASE_MS))
            if locks.sufficient:
                check(locks.newest)
                return Hold(cluster, placement, timestamp, locks.holders, locks.unheard)
        except BaseException:
            release(placement, timestamp, [*locks.holders, *locks.unheard])
            raise
        release(placement, timestamp, [*locks.holders, *locks.unheard])
        cluster.clock.observe(locks.newest_timestamp)
        if not locks.contended:
            raise Unavailable("a conditional write needs a majority of the object's own devices; retry")
        await trio.sleep(delay_s * draw())
        delay_s = min(2 * delay_s, RETRY_MAX_S)
    raise PreconditionFailed("another conditional write of this object is under way", "If-None-Match", racing=True)


class _Locks:
    """The answers of an object's primaries to a lock, as they come."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._decided, self._complete = trio.Event(), trio.Event()
        self.holders: list[Replica] = []
        """Those that are locked."""
        self.filling: list[Replica] = []
        """Those of them that may have forgotten what they had: the lock holds there, what they say does not decide."""
        self.unheard = list(placement.primaries)
        """Those that have not answered."""
        self.newest: Entry | None = None
        """Of what the holders have."""
        self.newest_timestamp = 0
        """Of what stands in the way at the others."""

    @property
    def sufficient(self) -> bool:
        """Whether a majority is locked, and what it says of the object covers every acknowledged write."""
        return self._placement.suffices(self.holders) and self._placement.informed(self.holders, self.filling)

    @property
    def contended(self) -> bool:
        """Whether somebody else's lock or write stands in the way."""
        return self.newest_timestamp > 0

    async def ask(self, lock: LockObject) -> None:
        """Lock; returns when all have answered, or a little after it is decided what comes of it."""
        for replica in self._placement.primaries:
            replica.client.submit(lock, partial(self._answered, replica), WRITE_TIMEOUT_S)
        await self._decided.wait()
        with trio.move_on_after(SPARE_S):
            await self._complete.wait()

    def _answered(self, replica: Replica, answer: Answer) -> None:
        self.unheard.remove(replica)
        if isinstance(answer, Locked):
            if answer.status == Status.APPLIED:
                self.holders.append(replica)
                if not replica.client.filled:
                    self.filling.append(replica)
                entry = answer.entry
                if entry is not None and (self.newest is None or version_of(entry) > version_of(self.newest)):
                    self.newest = entry
            elif answer.status in (Status.LOCKED, Status.NEWER):
                self.newest_timestamp = max(self.newest_timestamp, answer.timestamp, 1)
        if not self.unheard:
            self._complete.set()
        if not self.unheard or self.contended or self.sufficient:
            self._decided.set()


def version_of(entry: Entry) -> tuple[int, bool, int]:
    """What decides which of two entries is the newer."""
    return entry.timestamp, entry.deleted, entry.meta_timestamp


def _ignore(_: Answer) -> None:
    """The answer to an unlock changes nothing."""
