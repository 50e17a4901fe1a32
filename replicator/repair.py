"""Repair: an object, catalog or row whose bytes on a local device are not what they should be gets right ones.

Problem: a replica that is rotten must be replaced, and a device takes no version twice: the rotten one has to be taken out
first. Taken out too early it is lost for good if the other replicas turn out rotten too, each somewhere else; and a second
look often shows that nothing was wrong.

Idea:
1. Look again. Compaction moves records under a reader, and memory lies too.
2. Put the whole object together before anything is removed: each piece from the first replica whose piece has its checksum,
   the rotten one's own sound pieces among them. An object that no single replica holds whole is so still saved.
3. Then, in one go, let the device forget its copy (exactly that version) and store the new one with the same times. If it
   dies in between, it lacks the object, which replication mends.

What the index knows whole (tombstones, catalogs, rows) is written anew from it: nothing has to be fetched.

If the object cannot be put together, nothing is touched: reads go on to combine what sound pieces there are.

Invariants: nothing is taken out for which a whole replacement is not at hand; a version is replaced by itself only.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import structlog
import trio

from replicator.listing import gather
from replicator.peers import Peer, Peers, submit_all
from replicator.throttle import Throttle
from storage_node.audit import Audited, AuditEntries, AuditRows, Finding
from storage_node.client import BulkFailed, BulkRead, PutBlobHeader
from storage_node.errors import CorruptData
from storage_node.operations import (
    SMALL_BYTES_MAX,
    Entry,
    ForgetObject,
    Found,
    GetObject,
    PutObject,
    RewriteRecord,
    Space,
    Status,
)

PIECE_BYTES: Final = 256 * 1024
"""A multiple of what has a checksum of its own: a rotten byte spoils no more than that."""

log = structlog.get_logger("replicator.repair")


class Verdict(Enum):
    """What came of a suspicion."""

    SOUND = "sound"
    """The second look found nothing wrong, or nothing at all."""
    MENDED = "mended"
    UNMENDED = "unmended"
    """Rotten, and not to be put together now: a replica is away, or they are rotten too. It stays as it is."""


class Repairer:
    """Mends what is rotten on the devices of this machine."""

    def __init__(self, peers: Peers, throttle: Throttle) -> None:
        self._peers = peers
        self._throttle = throttle

    async def mend(self, peer: Peer, finding: Finding) -> Verdict:
        """Look again at what an audit or a read found, and mend it. Does not raise for what devices do."""
        entry = await self._second_look(peer, finding)
        if entry is None:
            return Verdict.SOUND
        if finding.space != Space.OBJECT or (isinstance(entry, Entry) and entry.deleted):
            answer = await peer.client.call(RewriteRecord(finding.space, finding.hash, finding.name))
            verdict = Verdict.MENDED if answer.status == Status.APPLIED else Verdict.UNMENDED
        else:
            assert isinstance(entry, Entry)
            verdict = await self._mend_object(peer, finding.hash, finding.key, entry)
        log.warning(
            "rotten",
            device=peer.device.name,
            key=(finding.key + b" " + finding.name).decode("utf-8", "replace"),
            what=finding.what,
            verdict=verdict.value,
        )
        return verdict

    async def _second_look(self, peer: Peer, finding: Finding) -> object:
        """What is wrong in truth: its entry (or anything, of a row), or None if nothing is."""
        assert peer.reader is not None
        if finding.name:
            page = peer.reader.audit(AuditRows(finding.space, finding.hash, finding.name, 1))
            confirmed = isinstance(page, Audited) and any(f.name == finding.name for f in page.findings)
            return finding if confirmed else None
        page = peer.reader.audit(AuditEntries(finding.space, finding.hash, 1, 1))
        if not isinstance(page, Audited) or not page.entries or page.entries[0].hash != finding.hash:
            return None
        entry = page.entries[0].entry
        if page.findings:
            return entry
        if (
            page.files
            and isinstance(entry, Entry)
            and not await self.reads_whole(peer, finding.hash, finding.key, entry)
        ):
            return entry
        return None

    async def reads_whole(self, peer: Peer, hash_: bytes, key: bytes, entry: Entry) -> bool:
        """Whether every byte of an object in a file has its checksum. Paced; True if it is gone by now."""
        assert peer.reader is not None
        opened = peer.reader.open_read(hash_, key, entry.timestamp)
        if isinstance(opened, Status):
            return opened != Status.CORRUPT
        try:
            for start in range(0, entry.size_bytes, PIECE_BYTES):
                await self._throttle.take(peer.device.id, PIECE_BYTES)
                await trio.to_thread.run_sync(opened.read, start, min(start + PIECE_BYTES, entry.size_bytes))
        except (CorruptData, OSError):
            return False
        finally:
            opened.close()
        return True

    # ----------------------------------------------------------------------------------------------------------- objects

    async def _mend_object(self, peer: Peer, hash_: bytes, key: bytes, entry: Entry) -> Verdict:
        sources = await self._sources(peer, hash_, key, entry)
        if len(sources) < 2:
            return Verdict.UNMENDED
        forget = ForgetObject(hash_, key, entry.timestamp, entry.meta_timestamp)
        if entry.size_bytes <= SMALL_BYTES_MAX:
            data = await self._piece(sources, hash_, key, entry, 0, entry.size_bytes)
            if data is None:
                return Verdict.UNMENDED
            put = PutObject(
                hash_,
                key,
                entry.timestamp,
                entry.meta,
                bytes(data),
                entry.manifest,
                meta_timestamp=entry.meta_timestamp,
            )
            forgotten, written = await submit_all([(peer, forget), (peer, put)])
            done = forgotten.status == Status.APPLIED and written.status == Status.APPLIED
            return Verdict.MENDED if done else Verdict.UNMENDED
        return await self._mend_large(peer, sources, hash_, key, entry, forget)

    async def _sources(self, peer: Peer, hash_: bytes, key: bytes, entry: Entry) -> list[Peer]:
        """The devices that hold that version, the rotten one last."""
        others = [number for number in self._peers.members(hash_) if number != peer.device.id]
        answers = await gather(self._peers, others, GetObject(hash_, key, False))
        holders = [
            self._peers.by_id[device]
            for device, answer in answers.items()
            if isinstance(answer, Found)
            and answer.entry is not None
            and (answer.entry.timestamp, answer.entry.deleted) == (entry.timestamp, False)
        ]
        return [*holders, peer]

    async def _mend_large(
        self, peer: Peer, sources: Sequence[Peer], hash_: bytes, key: bytes, entry: Entry, forget: ForgetObject
    ) -> Verdict:
        try:
            write = await peer.client.open_write()
        except BulkFailed:
            return Verdict.UNMENDED
        try:
            for start in range(0, entry.size_bytes, PIECE_BYTES):
                stop = min(start + PIECE_BYTES, entry.size_bytes)
                piece = await self._piece(sources, hash_, key, entry, start, stop)
                if piece is None:
                    return Verdict.UNMENDED
                await self._throttle.take(peer.device.id, len(piece))
                await write.send(piece)
            forgotten = await peer.client.call(forget)
            if forgotten.status != Status.APPLIED:
                return Verdict.UNMENDED
            header = PutBlobHeader(
                hash_, key, entry.timestamp, entry.meta, entry.manifest, meta_timestamp=entry.meta_timestamp
            )
            written = await write.commit(header)
        except BulkFailed:
            return Verdict.UNMENDED
        finally:
            with trio.CancelScope(shield=True):
                await write.abort()
        return Verdict.MENDED if written.status == Status.APPLIED else Verdict.UNMENDED

    async def _piece(
        self, sources: Sequence[Peer], hash_: bytes, key: bytes, entry: Entry, start: int, stop: int
    ) -> bytes | memoryview | None:
        """Bytes start..stop of a version, from whichever device has them right; None if none has."""
        for source in sources:
            piece = await _read(source, hash_, key, entry.timestamp, start, stop)
            if piece is not None and len(piece) == stop - start:
                return piece
        return None


async def _read(
    source: Peer, hash_: bytes, key: bytes, timestamp: int, start: int, stop: int
) -> bytes | memoryview | None:
    """A piece of a version from one device, or None."""
    if source.reader is not None:
        opened = source.reader.open_read(hash_, key, timestamp)
        if not isinstance(opened, Status):
            try:
                return await trio.to_thread.run_sync(opened.read, start, stop)
            except (CorruptData, OSError):
                return None
            finally:
                opened.close()
        if opened != Status.UNREACHABLE:
            return None
    far = await source.client.open_read(hash_, key, timestamp, start, stop)
    if not isinstance(far, BulkRead):
        return None
    try:
        pieces = []
        while piece := await far.read():
            pieces.append(bytes(piece))
        return b"".join(pieces)
    except BulkFailed:
        return None
    finally:
        await far.aclose()
