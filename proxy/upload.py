"""A large object on its way in: one body to several devices at once, and its MD5 beside it.

Problem: a body of any size must reach three devices with bounded memory; one that stalls must not hold up the others for
ever, and the MD5 (the slowest part: about 0.7 GB/s a core) must not wait for the network nor the network for it.

Idea: the body is taken in rounds of about 1 MiB. Each round is put into the upload's window (storage_node/window.py):
devices on this machine take it from there, those elsewhere are sent it, and the MD5 is made of it (in a thread: hashlib
lets go of the interpreter), while the next round is read. The frames' checksums are made once for all devices. A device
that fails or stalls is dropped; while a majority is left the upload goes on. Nothing is visible before `commit`, which
sends each device the metadata: it then syncs the file and logs it.

Rejected: stopping at the first failed device (a retry of 5 GiB costs more than a copy that the replicator makes later);
chaining devices (latency adds up, and one slow device stops all behind it); a first round of what has come by then (a
body of 1 MiB then takes two rounds, and each wakes every device).

Invariants: at most two rounds in memory; what was not committed leaves nothing on any device; whatever the body raises
aborts the upload and is raised to the caller as it is; nothing is put into the window while anybody still takes from it, but
those who were dropped, who check what they took.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import OBJECT_SIZE_BYTES_MAX, BodySource, EntityTooLarge, Unavailable
from proxy.quorum import Waiter, WriteResult, shortage
from storage_node.bulk import Block
from storage_node.client import BulkFailed, BulkWrite, PutBlobHeader
from storage_node.operations import Status, Written
from storage_node.window import Window

ROUND_BYTES = 1024 * 1024
STALL_S = 10.0
"""A device that takes no byte for this long is dropped from the upload."""
COMMIT_TIMEOUT_S = 30.0
"""Syncing gigabytes takes a slow disk its time."""


class _Target:
    __slots__ = ("primary", "replica", "votes", "write")

    def __init__(self, replica: Replica, write: BulkWrite, primary: bool, votes: int) -> None:
        self.replica = replica
        self.write: BulkWrite | None = write
        self.primary = primary
        self.votes = votes
        """Its own, or those of the primary in whose place it stands."""


class Upload:
    """One large object being sent to the devices of its placement."""

    def __init__(self, cluster: Cluster, placement: Placement) -> None:
        self._cluster = cluster
        self._placement = placement
        self._changes = cluster.changes
        self._targets: list[_Target] = []
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._failures: list[int] = []
        self._window: Window | None = None
        self.size_bytes = 0

    @property
    def md5(self) -> bytes:
        """Of what was sent so far."""
        return self._md5.digest()

    async def open(self) -> None:
        """Open a bulk transfer to each primary, or a handoff in its place. Raises Unavailable below a majority."""
        handoffs = self._placement.handoffs()
        window = self._window = self._cluster.windows.take()

        async def open_one(primary: Replica) -> None:
            replica: Replica | None = primary
            while replica is not None:
                try:
                    write = await replica.client.open_write(window)
                except BulkFailed as error:
                    self._failed(error)
                    replica = next((r for r in handoffs if r.reachable), None)
                else:
                    votes = self._placement.votes(primary)
                    self._targets.append(_Target(replica, write, replica is primary, votes))
                    return

        try:
            async with trio.open_nursery() as nursery:
                for replica in self._placement.primaries:
                    nursery.start_soon(open_one, replica)
            self._check()
        except BaseException:
            await self.abort()
            raise

    async def send(self, first: Sequence[bytes], body: BodySource) -> None:
        """Send what was read of the body already, then the rest of it.

        Raises what the body raises, EntityTooLarge, Unavailable.
        """
        assert self._window is not None
        pieces = deque(memoryview(piece) for piece in first if piece)
        pieces += await _read_round(body, sum(map(len, pieces)))
        while pieces:
            _fill(self._window, pieces)
            self.size_bytes += self._window.length
            if self.size_bytes > OBJECT_SIZE_BYTES_MAX:
                raise EntityTooLarge(f"one upload holds at most {OBJECT_SIZE_BYTES_MAX} bytes; use several parts")
            pieces += await self._send_window(self._window, None if pieces else body)
        if not self._failures:
            # Every device has taken all of it.
            self._cluster.windows.give_back(self._window)
            self._window = None

    async def _send_window(self, window: Window, body: BodySource | None) -> list[memoryview]:
        """Send what the window holds to all devices, and read the next round of the body meanwhile, if it is given."""
        upcoming: list[memoryview] = []
        raised: list[BaseException] = []

        async def read_round(body: BodySource) -> None:
            nonlocal upcoming
            try:
                upcoming = await _read_round(body, 0)
            except (trio.Cancelled, KeyboardInterrupt):
                raise
            except Exception as error:
                raised.append(error)

        blocks = window.blocks()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hash, window)
            for target in self._targets:
                nursery.start_soon(self._send_round, target, blocks)
            if body is not None:
                nursery.start_soon(read_round, body)
        if raised:
            raise raised[0]
        self._targets = [target for target in self._targets if target.write is not None]
        self._check()
        return upcoming

    async def commit(self, header: PutBlobHeader) -> WriteResult:
        """Make it the object on every device; returns once a majority of primaries has, or no primary is left."""
        waiter = Waiter()
        result = WriteResult()
        targets, self._targets = self._targets, []
        pending = len(targets)
        pending_primaries = sum(target.primary for target in targets)
        need = self._placement.need
        taken, home = self._placement.tally(), self._placement.tally()
        holders: list[Replica] = []

        async def commit_one(target: _Target) -> None:
            nonlocal pending, pending_primaries
            assert target.write is not None
            answer = Written(Status.UNREACHABLE)
            with trio.move_on_after(COMMIT_TIMEOUT_S):
                try:
                    answer = await target.write.commit(header)
                except BulkFailed as error:
                    answer = Written(error.status, 0, str(error))
            pending -= 1
            pending_primaries -= target.primary
            if answer.status == Status.APPLIED:
                holders.append(target.replica)
                taken.add(target.votes)
                home.add(target.votes if target.primary else 0)
                result.applied = max(0, need - taken.lacking)
                result.applied_primaries = max(0, need - home.lacking)
                result.replaced_timestamp = max(result.replaced_timestamp, answer.timestamp)
                result.replaced_manifest = answer.replaced_manifest or result.replaced_manifest
            else:
                result.statuses = (*result.statuses, answer.status)
                result.detail = answer.detail
                if answer.status in (Status.NEWER, Status.LOCKED):
                    result.newest_timestamp = max(result.newest_timestamp, answer.timestamp)
            if result.applied_primaries >= need or not pending or (not pending_primaries and result.applied >= need):
                waiter.decide()

        for target in targets:
            self._cluster.start_soon(commit_one, target)
        await waiter.wait()
        result.degraded = result.applied_primaries < need or self._moved_away(header.key, holders)
        return result

    def _moved_away(self, key: bytes, holders: Sequence[Replica]) -> bool:
        """Whether the rings changed so much during the upload that those who have it are as good as handoffs."""
        return self._cluster.changes != self._changes and not self._cluster.place(key).suffices(holders)

    async def abort(self) -> None:
        """Discard what was sent. Nothing of it was visible."""
        if self._window is not None:
            self._window.close()
            self._window = None
        targets, self._targets = self._targets, []
        with trio.move_on_after(1) as scope:
            scope.shield = True
            for target in targets:
                if target.write is not None:
                    await target.write.abort()

    def _check(self) -> None:
        tally, need = self._placement.tally(), self._placement.need
        for target in self._targets:
            tally.add(target.votes)
        if tally.lacking:
            takers = max(0, need - tally.lacking)
            if Status.FULL in self._failures:
                raise shortage(self._failures, "", takers, need)
            raise Unavailable(f"{takers} of the {need} devices that are needed take the upload; retry")

    def _failed(self, error: BulkFailed) -> None:
        self._failures.append(error.status)
        self._cluster.note_failure()

    async def _hash(self, window: Window) -> None:
        await trio.to_thread.run_sync(self._md5.update, window.view[: window.length])

    async def _send_round(self, target: _Target, blocks: Sequence[Block]) -> None:
        assert target.write is not None
        try:
            with trio.fail_after(STALL_S):
                if target.write.shares:
                    await target.write.send_window(blocks)
                else:
                    for block in blocks:
                        await target.write.send_block(block)
        except BulkFailed as error:
            self._failed(error)
            target.write = None
        except trio.TooSlowError:
            self._failures.append(Status.UNREACHABLE)
            self._cluster.note_failure()
            stalled, target.write = target.write, None
            await stalled.abort()


async def _read_round(body: BodySource, held: int) -> list[memoryview]:
    """The body's next pieces, until with the `held` bytes there are about ROUND_BYTES; none at its end."""
    pieces: list[memoryview] = []
    while held < ROUND_BYTES:
        piece = await body.read()
        if not piece:
            break
        pieces.append(memoryview(piece))
        held += len(piece)
    return pieces


def _fill(window: Window, pieces: deque[memoryview]) -> None:
    """Put into the window, instead of what it held, as much of the pieces as fits, and leave the rest."""
    window.length = 0
    while pieces and window.room_bytes:
        piece = pieces.popleft()
        if len(piece) > window.room_bytes:
            pieces.appendleft(piece[window.room_bytes :])
            piece = piece[: window.room_bytes]
        window.add(piece)
