"""Digests: how two devices learn in a few bytes whether they hold the same.

Problem: a million objects that agree must be recognised as such in less than a second, and one that differs must be found
without comparing the rest.

Idea: XOR of a 128-bit hash of (name's hash, versions) over all entries of a range. XOR can be kept current with each write
(take the old version out, put the new one in), needs no order, and the digest of a range is the XOR of those of its parts.
The device keeps one digest for each value of the first 16 bits of the hash, for each space: three arrays of 1 MiB. Coarser
prefixes are XORs over buckets, finer ones are read from the index's range, a few entries each.

Rejected: Merkle trees on disk (each write would change a path of nodes), sums (no faster, and no easier to undo).
XOR of a non-cryptographic hash is no proof against an adversary who chooses names and versions; the peers are ours.

What counts as a version: an object's two timestamps and whether it is deleted; a catalog's two timestamps, its metadata and
its rows' own digest; a row's two timestamps and whether it is deleted.
"""

from __future__ import annotations

from array import array
from struct import Struct
from sys import byteorder

from xxhash import xxh3_128_intdigest

BUCKET_BITS = 16
BUCKET_COUNT = 1 << BUCKET_BITS
DIGEST_BYTES = 16
CHUNK_BUCKETS = 64
"""Buckets that are stored as one value in the index: 1 KiB."""
CHUNK_COUNT = BUCKET_COUNT // CHUNK_BUCKETS
FOLDS_MAX = 16
"""Answers that are kept until the next change."""
_CHUNK_WORDS = CHUNK_BUCKETS * 2
_MASK = (1 << 64) - 1

_pack_versions = Struct("<QQB").pack
_pack_catalog = Struct("<QQ16s").pack


def entry_digest(hash_: bytes, timestamp: int, meta_timestamp: int, deleted: int) -> int:
    """The digest of one object's entry, as an integer of 128 bits."""
    return int(xxh3_128_intdigest(hash_ + _pack_versions(timestamp, meta_timestamp, deleted)))


def row_digest(name: bytes, timestamp: int, sub_timestamp: int, deleted: int) -> int:
    """The digest of one row."""
    return int(xxh3_128_intdigest(_pack_versions(timestamp, sub_timestamp, deleted) + name))


def catalog_digest(hash_: bytes, created: int, deleted: int, rows: int, meta: bytes) -> int:
    """The digest of one catalog; `rows` is the XOR of its rows' digests, `meta` its packed metadata."""
    return int(xxh3_128_intdigest(hash_ + _pack_catalog(created, deleted, rows.to_bytes(DIGEST_BYTES, "big")) + meta))


class DigestTable:
    """The buckets of one space, and which chunks of them changed since `clean()`."""

    __slots__ = ("_folds", "changed", "words")

    def __init__(self) -> None:
        self.words = array("Q", bytes(BUCKET_COUNT * DIGEST_BYTES))
        self.changed: set[int] = set()
        self._folds: dict[tuple[int, int, int], tuple[bytes, ...]] = {}
        """What was folded since the last change: every replicator of a cluster asks for the same."""

    def toggle(self, bucket: int, digest: int) -> None:
        """XOR `digest` into a bucket: both how an entry goes in and how it goes out."""
        index = bucket << 1
        words = self.words
        words[index] ^= digest >> 64
        words[index + 1] ^= digest & _MASK
        if self._folds:
            self._folds.clear()
        self.changed.add(bucket >> 6)

    def load_chunk(self, chunk: int, stored: bytes) -> None:
        """Take over a chunk as `chunk_bytes` made it."""
        if not 0 <= chunk < CHUNK_COUNT or len(stored) != CHUNK_BUCKETS * DIGEST_BYTES:
            raise ValueError(f"digest chunk {chunk} of {len(stored)} bytes")
        self.words[chunk * _CHUNK_WORDS : (chunk + 1) * _CHUNK_WORDS] = array("Q", stored)
        self._folds.clear()

    def snapshot(self) -> list[tuple[int, bytes]]:
        """The chunks that changed since the last snapshot, as they are now."""
        found = [
            (chunk, self.words[chunk * _CHUNK_WORDS : (chunk + 1) * _CHUNK_WORDS].tobytes())
            for chunk in sorted(self.changed)
        ]
        self.changed.clear()
        return found

    def fold(self, bits: int, prefix: int, fan_out_bits: int) -> tuple[bytes, ...]:
        """One digest for each continuation by `fan_out_bits` of a prefix; both together are at most BUCKET_BITS."""
        asked = (bits, prefix, fan_out_bits)
        known = self._folds.get(asked)
        if known is not None:
            return known
        below = BUCKET_BITS - bits
        part = memoryview(self.words).cast("B")[prefix << below << 4 : (prefix + 1) << below << 4]
        length = len(part) >> fan_out_bits
        found = tuple(_xor_all(part[at : at + length]) for at in range(0, len(part), length))
        if len(self._folds) < FOLDS_MAX:
            self._folds[asked] = found
        return found


def _xor_all(buckets: memoryview) -> bytes:
    """The XOR of a run of buckets, by folding it in half until one is left: a long integer's XOR is a loop in C."""
    bits = len(buckets) * 8
    folded = int.from_bytes(buckets, byteorder)
    while bits > DIGEST_BYTES * 8:
        bits >>= 1
        folded = folded >> bits ^ folded & (1 << bits) - 1
    high, low = (folded & _MASK, folded >> 64) if byteorder == "little" else (folded >> 64, folded & _MASK)
    return (high << 64 | low).to_bytes(DIGEST_BYTES, "big")


def bucket_of(hash_: bytes) -> int:
    """The bucket that a hash falls into."""
    return hash_[0] << 8 | hash_[1]
