"""A large object on its way in: one body to several devices at once, and its MD5 beside it.

Problem: a body of any size must reach three devices with bounded memory; one that stalls must not hold up the others for
ever, and the MD5 (the slowest part: about 0.7 GB/s a core) must not wait for the network nor the network for it.

Idea: the body is taken in rounds of about 1 MiB. In each round the last round's bytes go to all devices and into the MD5
(in a thread: hashlib lets go of the interpreter) while the next round is read. What came in small pieces is put together
first, since a copy in memory costs less than a frame for each piece to each device; the frames' checksums are made once for
all devices. A device that fails or stalls is dropped; while a majority is left the upload goes on. Nothing is visible before
`commit`, which sends each device the metadata: it then syncs the file and logs it.

Rejected: stopping at the first failed device (a retry of 5 GiB costs more than a copy that the replicator makes later);
chaining devices (latency adds up, and one slow device stops all behind it).

Invariants: at most two rounds in memory; what was not committed leaves nothing on any device; whatever the body raises
aborts the upload and is raised to the caller as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import trio

from proxy.cluster import Cluster, Placement, Replica
from proxy.model import OBJECT_SIZE_BYTES_MAX, BodySource, EntityTooLarge, Unavailable
from proxy.quorum import Waiter, WriteResult, shortage
from storage_node.bulk import CHUNK_BYTES, Block, make_block
from storage_node.client import BulkFailed, BulkWrite, PutBlobHeader
from storage_node.operations import Status, Written

ROUND_BYTES = 1024 * 1024
SMALL_BYTES = 64 * 1024
"""Pieces of less are put together before they are sent."""
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
        self.size_bytes = 0

    @property
    def md5(self) -> bytes:
        """Of what was sent so far."""
        return self._md5.digest()

    async def open(self) -> None:
        """Open a bulk transfer to each primary, or a handoff in its place. Raises Unavailable below a majority."""
        handoffs = self._placement.handoffs()

        async def open_one(primary: Replica) -> None:
            replica: Replica | None = primary
            while replica is not None:
                try:
                    write = await replica.client.open_write()
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
        pieces = _joined(first)
        upcoming: list[bytes] = []
        raised: list[BaseException] = []

        async def read_round() -> None:
            nonlocal upcoming
            try:
                upcoming = await _read_round(body)
            except (trio.Cancelled, KeyboardInterrupt):
                raise
            except Exception as error:
                raised.append(error)

        while pieces:
            self.size_bytes += sum(map(len, pieces))
            if self.size_bytes > OBJECT_SIZE_BYTES_MAX:
                raise EntityTooLarge(f"one upload holds at most {OBJECT_SIZE_BYTES_MAX} bytes; use several parts")
            upcoming = []
            blocks = [block for piece in pieces for block in _blocks(piece)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hash, pieces)
                for target in self._targets:
                    nursery.start_soon(self._send_round, target, blocks)
                nursery.start_soon(read_round)
            if raised:
                raise raised[0]
            self._targets = [target for target in self._targets if target.write is not None]
            self._check()
            pieces = upcoming

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

    async def _hash(self, pieces: Sequence[bytes]) -> None:
        await trio.to_thread.run_sync(_update, self._md5, pieces)

    async def _send_round(self, target: _Target, blocks: Sequence[Block]) -> None:
        assert target.write is not None
        try:
            with trio.fail_after(STALL_S):
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


async def _read_round(body: BodySource) -> list[bytes]:
    """About ROUND_BYTES of the body, small pieces put together; empty at its end."""
    pieces: list[bytes] = []
    held = 0
    while held < ROUND_BYTES:
        piece = await body.read()
        if not piece:
            break
        pieces.append(piece)
        held += len(piece)
    return _joined(pieces)


def _joined(pieces: Sequence[bytes]) -> list[bytes]:
    """The same bytes, in pieces of SMALL_BYTES or more (but for the last): large ones as they are."""
    joined: list[bytes] = []
    small: list[bytes] = []
    held = 0
    for piece in pieces:
        if not small and len(piece) >= SMALL_BYTES:
            joined.append(piece)
            continue
        small.append(piece)
        held += len(piece)
        if held >= SMALL_BYTES:
            joined.append(b"".join(small))
            small, held = [], 0
    if held:
        joined.append(b"".join(small))
    return joined


def _blocks(piece: bytes) -> Iterator[Block]:
    """A piece as frames of the wire."""
    view = memoryview(piece)
    for start in range(0, len(view), CHUNK_BYTES):
        yield make_block(view[start : start + CHUNK_BYTES])


def _update(md5: hashlib._Hash, pieces: Sequence[bytes]) -> None:
    for piece in pieces:
        md5.update(piece)
