"""Log records: what every change of a device's state becomes, and how one is known to be whole.

Problem: the log is the truth, so a record must say all that the index knows of it, and bytes on a disk must be told from
bytes that were meant: torn by a power cut, rotten, misplaced by the disk, or put there by a client inside an object that
contains what looks like a record.

Idea: one fixed header for all kinds, then key, metadata and data. The checksum covers everything behind it and is seeded
with a number that each segment draws at random and keeps in its own header: nothing that a client uploads, and nothing
copied from another segment, verifies by itself. Each record also states its own offset, so a block that the disk put in the
wrong place is noticed, and how much of the segment was on stable storage when it was written (`durable`): a broken record
that a later one calls durable is damage; one that nothing vouches for is the tail of a write that never finished.

    0  magic 4 (its last byte is the version)   8-byte checksum: xxh3_64(bytes 12.., seed)
    12 length 4  offset 4  durable 4  kind 1  flags 1  key length 2  meta length 4
    32 timestamp 8  timestamp_2 8  size 8  extra 8  hash 16  | key | meta | data

    kind       hash     timestamp  timestamp_2   size     extra         key   meta      data
    OBJECT     object's data's     metadata's    bytes    0             name  opaque    the object's bytes
    BLOB       object's data's     metadata's    bytes    table's hash  name  opaque    blob id
    TOMBSTONE  object's deletion's deletion's    0        0             name  -         -
    CATALOG    catalog's created   deleted       touched  0             name  item map  -
    ROW        catalog's row's     sub_timestamp bytes    object count  row   payload   -
    FORGET     its       its       its           touched  position      its   -         -      (see replica.py)

Rejected: msgpack for the header (three times slower to write and to check), a length-prefixed stream without magic (one bad
length loses the rest of a segment), padding records to sectors (a row would take 4 KiB; a disk that tears a sector which it
rewrites with the same bytes loses at most records that replicas hold).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

MAGIC = b"RSR\x01"
PREFIX = Struct("<4sQ")
BODY = Struct("<IIIBBHIQQQQ16s")
HEADER_BYTES = PREFIX.size + BODY.size
RECORD_BYTES_MAX = 24 * 1024 * 1024
"""More than any record that is written: a longer length is not believed."""

OBJECT, BLOB, TOMBSTONE, CATALOG, ROW, FORGET = 1, 2, 3, 4, 5, 6

FLAG_DELETED = 1
FLAG_MANIFEST = 2
FLAG_ROW = 4
"""Of a FORGET: it is a row that is forgotten; without it, the space tells an object (0) from a catalog."""
SPACE_SHIFT = 4
"""Bits 4 and 5: the catalog's space, for CATALOG and ROW."""

assert HEADER_BYTES == 80

_pack_prefix, _pack_body = PREFIX.pack, BODY.pack


class Record(NamedTuple):
    """One verified record."""

    offset: int
    length: int
    durable: int
    kind: int
    flags: int
    timestamp: int
    timestamp_2: int
    size: int
    extra: int
    hash: bytes
    key: bytes
    meta: bytes
    data: bytes

    @property
    def space(self) -> int:
        """Of a CATALOG or ROW."""
        return self.flags >> SPACE_SHIFT & 3


def encode(
    seed: int,
    offset: int,
    durable: int,
    kind: int,
    flags: int,
    hash_: bytes,
    timestamp: int,
    timestamp_2: int,
    size: int,
    extra: int,
    key: bytes,
    meta: bytes,
    data: bytes,
) -> bytes:
    """The bytes of one record that will stand at `offset` of the segment with `seed`."""
    length = HEADER_BYTES + len(key) + len(meta) + len(data)
    body = (
        _pack_body(
            length, offset, durable, kind, flags, len(key), len(meta), timestamp, timestamp_2, size, extra, hash_
        )
        + key
        + meta
        + data
    )
    return _pack_prefix(MAGIC, xxh3_64_intdigest(body, seed)) + body


def stated_length(header: bytes) -> int:
    """The whole record's length as its first bytes state it, 0 when they are no record's (or too few)."""
    if len(header) < HEADER_BYTES or header[:4] != MAGIC:
        return 0
    length = int.from_bytes(header[12:16], "little")
    return length if HEADER_BYTES <= length <= RECORD_BYTES_MAX else 0


def verified(raw: bytes, seed: int, offset: int) -> bool:
    """Whether `raw` is exactly one whole record, that was written at `offset` of the segment with `seed`."""
    return (
        len(raw) >= HEADER_BYTES
        and raw[:4] == MAGIC
        and int.from_bytes(raw[12:16], "little") == len(raw)
        and int.from_bytes(raw[16:20], "little") == offset
        and int.from_bytes(raw[4:12], "little") == xxh3_64_intdigest(memoryview(raw)[12:], seed)
    )


def decode(raw: bytes) -> Record | None:
    """Take apart a verified record; None if its lengths contradict each other or its kind is unknown."""
    length, offset, durable, kind, flags, key_bytes, meta_bytes, timestamp, timestamp_2, size, extra, hash_ = (
        BODY.unpack_from(raw, PREFIX.size)
    )
    meta_start = HEADER_BYTES + key_bytes
    data_start = meta_start + meta_bytes
    if data_start > length or not OBJECT <= kind <= FORGET:
        return None
    return Record(
        offset,
        length,
        durable,
        kind,
        flags,
        timestamp,
        timestamp_2,
        size,
        extra,
        hash_,
        raw[HEADER_BYTES:meta_start],
        raw[meta_start:data_start],
        raw[data_start:],
    )


def moved(record: Record, seed: int, offset: int, durable: int) -> bytes:
    """The same record, to stand elsewhere."""
    return encode(
        seed,
        offset,
        durable,
        record.kind,
        record.flags,
        record.hash,
        record.timestamp,
        record.timestamp_2,
        record.size,
        record.extra,
        record.key,
        record.meta,
        record.data,
    )
