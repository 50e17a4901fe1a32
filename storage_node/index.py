"""The index: keys and values of the two LMDB environments, and how they are opened.

Problem: a lookup must cost a microsecond or two, a partition must be a range of keys whatever the ring's part power, and
one process may hold a device and several readers of it, while LMDB forbids opening an environment twice in a process.

Idea: one unnamed database for each environment, keys told apart by their first byte:

    00..02 hash                     an object, container or account (the byte is its Space)
    10..12 hash name                a row of that catalog (rows.py; 18..1a for names that do not fit a key)
    20 blob id                      -> hash of the object that owns the blob
    28 key of an entry, catalog or row      what was forgotten (replica.py): place of the FORGET record, position
    30 space chunk                  digests (index only)
    40                              the state that goes with a checkpoint (index only)
    41                              the log's position that all of this stands for
    42                              statistics (recent only)

Values of 00..12 begin with the place of the record that they were made of (segment, offset, length), so compaction can
replace a place without knowing what it is the place of; then a fixed struct, then key, metadata or payload. In `recent` an
empty value hides what the index has.

Values of `recent` are compared as bytes to learn whether they changed since a checkpoint's snapshot: equal bytes are equal
states, however often they changed between.

`recent` is a writable memory map (a commit then writes nothing: 2 us a key instead of 6), its file given real blocks first,
since a full disk would otherwise kill the process with SIGBUS. `index` is an ordinary copy-on-write map with fsync.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import lmdb

from storage_node.operations import Catalog, Entry
from storage_node.record import BLOB, FLAG_DELETED, FLAG_MANIFEST, TOMBSTONE

ROW_TAG = 0x10
LONG_ROW_TAG = 0x18
BLOB_TAG = b"\x20"
FORGET_TAG = b"\x28"
DIGEST_TAG = 0x30
STATE_KEY = b"\x40"
POSITION_KEY = b"\x41"
POSITION = Struct("<II")
"""Segment and offset."""
STATISTICS_KEY = b"\x42"
REMOVED = b""
"""In `recent`: the index's value is no more."""

SPACE_TAGS = (b"\x00", b"\x01", b"\x02")
ROW_TAGS = (b"\x10", b"\x11", b"\x12")

PLACE = Struct("<III")
"""Segment, offset, length of a record: the beginning of every value that was made of one."""
ENTRY = Struct("<IIIBBHQQQ")
ENTRY_BYTES = ENTRY.size
BLOB_REFERENCE = Struct("<16sQ")
"""Behind an entry's struct if its kind is BLOB: blob id and the checksum of its chunk table."""
ROW = Struct("<IIIBxxxQQQQ")
ROW_BYTES = ROW.size
CATALOG = Struct("<IIIHxxQQQQQQQ16s")
CATALOG_BYTES = CATALOG.size

assert ENTRY_BYTES == 40

FORGOTTEN = Struct("<IIIQ")
"""Place, and the log position (see `log_position`) before which nothing of the name counts."""

unpack_entry = ENTRY.unpack_from
pack_entry = ENTRY.pack
unpack_row = ROW.unpack_from
pack_row = ROW.pack


class IndexedEntry(NamedTuple):
    """An object's value, taken apart."""

    segment: int
    offset: int
    length: int
    kind: int
    flags: int
    timestamp: int
    meta_timestamp: int
    size: int
    key: bytes
    meta: bytes
    blob_id: bytes
    blob_checksum: int

    @property
    def deleted(self) -> bool:
        """It is a tombstone."""
        return self.kind == TOMBSTONE

    @property
    def manifest(self) -> bool:
        """Its data is a manifest."""
        return bool(self.flags & FLAG_MANIFEST)

    def entry(self) -> Entry:
        """What the outside is told of it."""
        return Entry(self.timestamp, self.meta_timestamp, self.kind == TOMBSTONE, self.size, self.meta, self.manifest)


def encode_entry(item: IndexedEntry) -> bytes:
    """The value of an object."""
    head = pack_entry(
        item.segment,
        item.offset,
        item.length,
        item.kind,
        item.flags,
        len(item.key),
        item.timestamp,
        item.meta_timestamp,
        item.size,
    )
    if item.kind == BLOB:
        head += BLOB_REFERENCE.pack(item.blob_id, item.blob_checksum)
    return head + item.key + item.meta


def decode_entry(value: bytes) -> IndexedEntry:
    """Take apart the value of an object."""
    segment, offset, length, kind, flags, key_bytes, timestamp, meta_timestamp, size = unpack_entry(value)
    at = ENTRY_BYTES
    blob_id, blob_checksum = b"", 0
    if kind == BLOB:
        blob_id, blob_checksum = BLOB_REFERENCE.unpack_from(value, at)
        at += BLOB_REFERENCE.size
    stop = at + key_bytes
    return IndexedEntry(
        segment,
        offset,
        length,
        kind,
        flags,
        timestamp,
        meta_timestamp,
        size,
        value[at:stop],
        value[stop:],
        blob_id,
        blob_checksum,
    )


class IndexedRow(NamedTuple):
    """A row's value, taken apart. Its name is in its key."""

    segment: int
    offset: int
    length: int
    flags: int
    timestamp: int
    sub_timestamp: int
    object_count: int
    size_bytes: int
    payload: bytes

    @property
    def deleted(self) -> int:
        """1 for a tombstone row, 0 for a live one."""
        return self.flags & FLAG_DELETED


def decode_row(value: bytes) -> IndexedRow:
    """Take apart the value of a row."""
    segment, offset, length, flags, timestamp, sub_timestamp, object_count, size_bytes = unpack_row(value)
    return IndexedRow(
        segment, offset, length, flags, timestamp, sub_timestamp, object_count, size_bytes, value[ROW_BYTES:]
    )


class IndexedCatalog:
    """A catalog's value, taken apart: the one kind that is changed in place, by each row of a batch."""

    __slots__ = (
        "created",
        "deleted",
        "digest",
        "key",
        "length",
        "meta",
        "newest_row",
        "object_count",
        "offset",
        "row_count",
        "segment",
        "size_bytes",
        "touched",
    )

    def __init__(self, key: bytes) -> None:
        self.segment = self.offset = self.length = 0
        """Of the record; a length of 0: none yet (rows that were replayed before their catalog)."""
        self.key = key
        self.created = self.deleted = 0
        self.touched = 0
        """The latest PutCatalog: a deletion before it is late."""
        self.row_count = self.object_count = self.size_bytes = self.newest_row = 0
        self.digest = 0
        self.meta = b""
        """Items, packed by catalog_meta."""

    @property
    def live(self) -> bool:
        """It exists for clients."""
        return self.created > self.deleted

    def encode(self) -> bytes:
        """The value of a catalog."""
        return (
            CATALOG.pack(
                self.segment,
                self.offset,
                self.length,
                len(self.key),
                self.created,
                self.deleted,
                self.touched,
                self.row_count,
                self.object_count,
                self.size_bytes,
                self.newest_row,
                self.digest.to_bytes(16, "big"),
            )
            + self.key
            + self.meta
        )


def decode_catalog(value: bytes) -> IndexedCatalog:
    """Take apart the value of a catalog."""
    found = IndexedCatalog(b"")
    (
        found.segment,
        found.offset,
        found.length,
        key_bytes,
        found.created,
        found.deleted,
        found.touched,
        found.row_count,
        found.object_count,
        found.size_bytes,
        found.newest_row,
        digest,
    ) = CATALOG.unpack_from(value)
    found.digest = int.from_bytes(digest, "big")
    found.key = value[CATALOG_BYTES : CATALOG_BYTES + key_bytes]
    found.meta = value[CATALOG_BYTES + key_bytes :]
    return found


def public_catalog(found: IndexedCatalog, meta: dict[bytes, tuple[bytes, int]]) -> Catalog:
    """What the outside is told of a catalog."""
    return Catalog(
        found.created,
        found.deleted,
        meta,
        found.row_count,
        found.object_count,
        found.size_bytes,
        found.digest.to_bytes(16, "big"),
        found.newest_row,
        found.touched,
    )


def digest_key(space: int, chunk: int) -> bytes:
    """Where a chunk of a space's digests is kept."""
    return bytes((DIGEST_TAG, space)) + chunk.to_bytes(2, "big")


# ---------------------------------------------------------------------------------------------------------- environments

READERS_MAX = 1024
RECENT_MAP_BYTES_MIN = 1 << 20
_registry: dict[tuple[int, int], OpenEnvironment] = {}
_registry_lock = threading.Lock()


class OpenEnvironment:
    """One LMDB environment of this process, shared by all who opened it here; `env` may be replaced by a writable one."""

    __slots__ = ("_holders", "_identity", "env", "path", "writable")

    def __init__(self, path: str, env: lmdb.Environment, identity: tuple[int, int], writable: bool) -> None:
        self.path = path
        self.env = env
        self.writable = writable
        self._identity = identity
        self._holders = 1

    def hold(self) -> OpenEnvironment:
        """One more who uses it."""
        self._holders += 1
        return self

    def close(self) -> None:
        """One less; the last one closes it."""
        with _registry_lock:
            self._holders -= 1
            if self._holders == 0:
                _registry.pop(self._identity, None)
                self.env.close()


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(f"{path}/data.mdb")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_index(path: str, map_bytes: int, *, writable: bool, durable: bool) -> OpenEnvironment:
    """Open (writable: or make) an environment. `durable`: commits sync; else it is a writable memory map.

    Raises lmdb.Error, OSError.
    """
    with _registry_lock:
        identity = _identity_of(path)
        found = _registry.get(identity) if identity is not None else None
        if found is not None:
            if writable and not found.writable:
                # A reader of this process was here first. It begins its transactions anew, on whatever `env` is then.
                found.env.close()
                found.env = _open(path, map_bytes, writable, durable)
                found.writable = True
            return found.hold()
        env = _open(path, map_bytes, writable, durable)
        identity = _identity_of(path)
        assert identity is not None
        opened = OpenEnvironment(path, env, identity, writable)
        _registry[identity] = opened
        return opened


def _open(path: str, map_bytes: int, writable: bool, durable: bool) -> lmdb.Environment:
    """Open an environment.

    Without readahead: keys are hashes, so the page next to one that was asked for is not what is asked for next. With an
    index three times as large as the memory for it, the kernel read 300 KiB for each request and 209 GETs a second were
    answered; without, 4 KiB a page, and 4,639.
    """
    if not writable:
        # A missing lock file would make LMDB read without a lock, and the writer reuse pages under it.
        if not Path(path, "lock.mdb").exists():
            raise lmdb.NotFoundError(path)
        return lmdb.open(
            path,
            map_size=map_bytes,
            readonly=True,
            create=False,
            readahead=False,
            max_readers=READERS_MAX,
            max_spare_txns=8,
        )
    while True:
        env = lmdb.open(
            path,
            map_size=map_bytes,
            sync=durable,
            metasync=durable,
            writemap=not durable,
            readahead=False,
            max_readers=READERS_MAX,
            max_spare_txns=8,
            mode=0o600,
        )
        if durable:
            return env
        try:
            reserve(f"{path}/data.mdb", map_bytes)
            return env
        except OSError as error:
            env.close()
            if error.errno != errno.ENOSPC or map_bytes <= RECENT_MAP_BYTES_MIN:
                raise
        # A full disk must not keep a device from being opened and read, nor from being emptied.
        os.unlink(f"{path}/data.mdb")
        map_bytes = max(map_bytes // 2, RECENT_MAP_BYTES_MIN)


def reserve(path: str, length: int) -> None:
    """Give a file real blocks up to `length`: a map of it can then not meet a full disk. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, length)
    finally:
        os.close(fd)
