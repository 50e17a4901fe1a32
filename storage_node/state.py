"""What a device knows of itself in memory: counters, digests, and how much of each segment is live.

These change with every write, and a value of LMDB for each would double its work. So they live in memory, change when a
batch is published, are written to the index at each checkpoint together with the log position that they belong to, and are
brought up to date by replaying the log from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from storage_node.digest import CHUNK_COUNT, DigestTable
from storage_node.errors import DeviceDamaged
from storage_node.index import STATE_KEY, digest_key
from storage_node.log import Position

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lmdb

    from storage_node.batch import Batch

STATE_VERSION = 1
SPACES = (0, 1, 2)


@dataclass(slots=True)
class Counters:
    """How much there is. A batch has one too, of changes."""

    objects: int = 0
    tombstones: int = 0
    containers: int = 0
    """Live ones."""
    accounts: int = 0
    rows: int = 0
    """Live rows of live and deleted catalogs."""
    blobs: int = 0
    blob_bytes: int = 0
    forgotten: int = 0
    """Names of which the log holds a version that must not come back."""

    def add(self, other: Counters) -> None:
        """Add each figure."""
        self.objects += other.objects
        self.tombstones += other.tombstones
        self.containers += other.containers
        self.accounts += other.accounts
        self.rows += other.rows
        self.blobs += other.blobs
        self.blob_bytes += other.blob_bytes
        self.forgotten += other.forgotten

    def values(self) -> list[int]:
        """The figures in the order of their declaration."""
        return [getattr(self, item.name) for item in fields(self)]


class Damage(NamedTuple):
    """A range of the log that was durable once and does not verify: kept as it is, reported, repaired from peers."""

    segment: int
    start: int
    stop: int


@dataclass(slots=True)
class State:
    """The figures at one position of the log."""

    position: Position = field(default_factory=lambda: Position(0, 0))
    counters: Counters = field(default_factory=Counters)
    live: dict[int, int] = field(default_factory=dict)
    """Segment -> bytes of records that the index points at."""
    size: dict[int, int] = field(default_factory=dict)
    """Segment -> bytes of it that were written."""
    damage: list[Damage] = field(default_factory=list)
    digests: tuple[DigestTable, DigestTable, DigestTable] = field(
        default_factory=lambda: (DigestTable(), DigestTable(), DigestTable())
    )

    def apply(self, batch: Batch) -> None:
        """Take over what a batch changed."""
        self.counters.add(batch.counters)
        live = self.live
        for segment, change in batch.live.items():
            live[segment] = live.get(segment, 0) + change
        if batch.segment >= 0:
            self.size[batch.segment] = batch.offset
            self.position = Position(batch.segment, batch.offset)
        digests = self.digests
        for space, bucket, digest in batch.toggles:
            digests[space].toggle(bucket, digest)

    def changed_all(self) -> None:
        """The last snapshot came to nothing: the next one must hold all digests."""
        for table in self.digests:
            table.changed.update(range(CHUNK_COUNT))

    def pack(self) -> bytes:
        """The value of STATE_KEY: all but the digests."""
        return bytes(
            msgpack.packb(
                (
                    STATE_VERSION,
                    self.position,
                    self.counters.values(),
                    [(number, self.live.get(number, 0), size) for number, size in sorted(self.size.items())],
                    self.damage,
                )
            )
        )

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """What a checkpoint writes to the index: this state, and the digests that changed since the last snapshot."""
        found = [(STATE_KEY, self.pack())]
        for space in SPACES:
            found += [(digest_key(space, chunk), value) for chunk, value in self.digests[space].snapshot()]
        return found


def load_state(txn: lmdb.Transaction[bytes]) -> State | None:
    """The state of an index's last checkpoint; None in an index that never had one. Raises DeviceDamaged."""
    packed = txn.get(STATE_KEY)
    if packed is None:
        return None
    try:
        version, position, counters, segments, damage = msgpack.unpackb(packed)
        if version != STATE_VERSION:
            raise DeviceDamaged(f"the index is of version {version}, this is {STATE_VERSION}")
        state = State(
            Position(*position),
            Counters(*counters),
            {number: live for number, live, _ in segments},
            {number: size for number, _, size in segments},
            [Damage(*item) for item in damage],
        )
        for space, chunk, value in _stored_digests(txn):
            state.digests[space].load_chunk(chunk, value)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DeviceDamaged(f"the index's state can't be read: {error}") from error
    return state


def _stored_digests(txn: lmdb.Transaction[bytes]) -> Iterator[tuple[int, int, bytes]]:
    for space in SPACES:
        for chunk in range(CHUNK_COUNT):
            value = txn.get(digest_key(space, chunk))
            if value is not None:
                yield space, chunk, value
