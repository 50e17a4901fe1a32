"""A batch: decided writes on their way from decide() to publish()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage_node.operations import Locked, Written
from storage_node.state import Counters

if TYPE_CHECKING:
    from storage_node.blob import BlobWriter
    from storage_node.index import IndexedCatalog


class LoadedCatalog:
    """A catalog that operations of this batch read or changed."""

    __slots__ = ("catalog", "changed", "digest_before", "hash", "index_key", "live_before", "space")

    def __init__(self, catalog: IndexedCatalog, space: int, hash_: bytes, index_key: bytes, digest: int) -> None:
        self.catalog = catalog
        self.space = space
        self.hash = hash_
        self.index_key = index_key
        self.digest_before = digest
        self.live_before = catalog.live
        self.changed = False


class Batch:
    """Opaque to callers but for `needs_sync`. What it holds becomes the device's state at publish(), or never."""

    __slots__ = (
        "answers",
        "catalogs",
        "counters",
        "durable",
        "failure",
        "fd",
        "freed_blobs",
        "live",
        "locked",
        "offset",
        "records",
        "room",
        "seed",
        "segment",
        "start",
        "synced",
        "toggles",
        "writers",
        "writes",
    )

    def __init__(self, room: int) -> None:
        self.answers: list[Written | Locked] = []
        self.writes: dict[bytes, bytes] = {}
        """Index keys and their new values."""
        self.records: list[bytes] = []
        self.catalogs: dict[bytes, LoadedCatalog] = {}
        self.room = room
        """ROOM_FOR_ALL, ROOM_FOR_DELETES or ROOM_FOR_NOTHING."""
        self.segment = -1
        """Where the records go; -1 until there is one."""
        self.fd = -1
        self.seed = 0
        self.start = 0
        self.offset = 0
        """Behind the last record so far."""
        self.durable = 0
        self.live: dict[int, int] = {}
        self.toggles: list[tuple[int, int, int]] = []
        """(space, bucket, digest) to XOR."""
        self.counters = Counters()
        self.freed_blobs: list[bytes] = []
        """Blobs that nothing names any more once this is published."""
        self.writers: list[BlobWriter] = []
        """Of the PutBlobs: used up, whatever became of them."""
        self.locked: list[bytes] = []
        """Hashes that operations of this batch locked."""
        self.synced = False
        self.failure: Written | None = None
        """Set where the batch could not be written or synced: what every operation of it is answered."""

    @property
    def needs_sync(self) -> bool:
        """False when nothing was appended (only locks, or all refused): sync() then returns at once."""
        return bool(self.records) and not self.synced
