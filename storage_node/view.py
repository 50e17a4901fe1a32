"""Reading: every answer to a read operation, from one snapshot of the two environments and the files they point into.

Problem: the device and the readers in other processes must give the same answers, so there must be one piece of code; and it
is the hottest there is: a GET of a small object is one pass through `get_object`.

Idea: a View holds a read transaction of `recent` and one of `index` and knows nothing of where they come from; whoever owns
it renews them, `recent` first: what a checkpoint moved from one to the other is then seen at least once. Within a view,
`recent` wins.

A file that the index names may be gone when it is opened (compacted, replaced): PlaceGone; the owner renews and asks again.
Nothing that is read is given out before its checksum was compared.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest

from storage_node import rows
from storage_node.blob import BlobReader, InlineReader, ObjectReader, blob_path
from storage_node.catalog import unpack_items
from storage_node.digest import BUCKET_BITS, DIGEST_BYTES, catalog_digest, entry_digest
from storage_node.disk import Disk
from storage_node.errors import CorruptData
from storage_node.index import (
    BLOB_REFERENCE,
    ENTRY_BYTES,
    ROW_BYTES,
    SPACE_TAGS,
    IndexedCatalog,
    IndexedEntry,
    decode_catalog,
    decode_entry,
    decode_row,
    public_catalog,
    unpack_entry,
    unpack_row,
)
from storage_node.log import SegmentCache
from storage_node.operations import (
    HASH_BYTES,
    LIST_ROWS_MAX,
    SMALL_BYTES_MAX,
    Answer,
    CommonPrefix,
    Entry,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRows,
    GetCatalog,
    GetDigests,
    GetObject,
    ListedEntry,
    ListEntries,
    ListRows,
    Row,
    Space,
    Status,
)
from storage_node.record import BLOB, FLAG_MANIFEST, HEADER_BYTES, MAGIC, OBJECT, PREFIX, TOMBSTONE
from storage_node.stored_rows import Pair, StoredRows, live_pairs
from storage_node.suspects import Suspects

if TYPE_CHECKING:
    import lmdb

FAN_OUT_BITS_MAX = 16
COLLISION = "hash collision: another name has this hash"
_STRETCH_ROWS_MIN = 256
"""Taken at once where a page of few names goes on behind rows of what is deleted."""
_FOUND = int(Status.FOUND)
_MISSING = Found(Status.MISSING)
_unpack_prefix = PREFIX.unpack_from


class View:
    """The reading side. Set `recent` and `index` before each use, in this order; leave them unset between."""

    __slots__ = (
        "_answers",
        "_blobs",
        "_disk",
        "_pread",
        "_segments",
        "_suspects",
        "corrupt",
        "index",
        "reads",
        "recent",
    )

    recent: lmdb.Transaction[bytes]
    index: lmdb.Transaction[bytes]

    def __init__(self, disk: Disk, segments: SegmentCache, blobs: str) -> None:
        self._disk = disk
        self._pread = disk.pread
        self._segments = segments
        self._blobs = blobs
        self._suspects = Suspects(disk, os.path.dirname(blobs))
        self.reads = 0
        self.corrupt = 0
        """Reads that met a wrong checksum or an error of the disk."""
        self._answers: dict[type, Callable[[Any], Answer]] = {
            GetObject: self.get_object,
            GetCatalog: self.get_catalog,
            ListRows: self.list_rows,
            ListEntries: self.list_entries,
            GetDigests: self.get_digests,
        }

    def read(self, operation: Any) -> Answer:
        """The answer to a read that needs nothing but this snapshot. Raises PlaceGone."""
        self.reads += 1
        return self._answers[type(operation)](operation)

    def value(self, key: bytes) -> bytes | None:
        """What is kept under an index key; None if nothing."""
        found = self.recent.get(key)
        if found is None:
            found = self.index.get(key)
        return found or None

    # ----------------------------------------------------------------------------------------------------------- objects

    def get_object(self, operation: GetObject) -> Found:
        """See GetObject."""
        hash_, key, with_data = operation
        index_key = b"\x00" + hash_
        value = self.recent.get(index_key)
        if value is None:
            value = self.index.get(index_key)
        if not value:
            return _MISSING if len(hash_) == HASH_BYTES else Found(Status.REFUSED, detail="a hash has 16 bytes")
        segment, offset, length, kind, flags, key_bytes, timestamp, meta_timestamp, size = unpack_entry(value)
        start = ENTRY_BYTES if kind != BLOB else ENTRY_BYTES + BLOB_REFERENCE.size
        meta_start = start + key_bytes
        if value[start:meta_start] != key:
            return Found(Status.REFUSED, detail=COLLISION)
        entry = Entry(
            timestamp, meta_timestamp, kind == TOMBSTONE, size, value[meta_start:], flags & FLAG_MANIFEST != 0
        )
        if not with_data or kind == TOMBSTONE or size > SMALL_BYTES_MAX:
            return Found(_FOUND, entry)
        try:
            if kind == OBJECT:
                return Found(_FOUND, entry, self.record(segment, offset, length)[length - size :])
            reader = self.open_blob(hash_, decode_entry(value))
            try:
                return Found(_FOUND, entry, bytes(reader.read(0, size)))
            finally:
                reader.close()
        except (CorruptData, OSError) as error:
            self.note_rot(hash_, key)
            return Found(Status.CORRUPT, entry, detail=str(error))

    def note_rot(self, hash_: bytes, key: bytes, error: OSError | None = None) -> None:
        """An object can't be read right: count it, and write it down for the auditor. From any thread."""
        self.corrupt += 1
        self._suspects.note(hash_, key)
        if error is not None:
            self.note_error(error)

    def note_error(self, error: OSError) -> None:
        """Reading failed: if that is the disk's doing, write it down for the device's own process. From any thread."""
        if error.errno == errno.EIO:
            self._suspects.note_disk_error(str(error))

    def record(self, segment: int, offset: int, length: int) -> bytes:
        """The verified bytes of one record. Raises PlaceGone, CorruptData, OSError."""
        opened = self._segments.latest
        try:
            if opened.number != segment:
                opened = self._segments.get(segment)
            raw = self._pread(opened.fd, length, offset)
        except OSError as error:
            self.note_error(error)
            raise
        if len(raw) != length or length < HEADER_BYTES:
            raise CorruptData(f"segment {segment} ends in the record at {offset}")
        magic, checksum = _unpack_prefix(raw)
        if (
            magic != MAGIC
            or xxh3_64_intdigest(memoryview(raw)[12:], opened.seed) != checksum
            or int.from_bytes(raw[12:16], "little") != length
            or int.from_bytes(raw[16:20], "little") != offset
        ):
            raise CorruptData(f"segment {segment}: the record at {offset} has a wrong checksum")
        return raw

    def open_blob(self, hash_: bytes, item: IndexedEntry) -> BlobReader:
        """Open a large object. Raises PlaceGone, CorruptData, OSError."""
        path, on_rot = blob_path(self._blobs, item.blob_id), partial(self.note_rot, hash_, item.key)
        try:
            return BlobReader(self._disk, path, item.blob_id, item.blob_checksum, item.entry(), on_rot)
        except OSError as error:
            self.note_error(error)
            raise

    def object_data(self, hash_: bytes, item: IndexedEntry) -> bytes:
        """The whole data of an entry. Raises PlaceGone, CorruptData, OSError."""
        if item.kind == OBJECT:
            return self.record(item.segment, item.offset, item.length)[item.length - item.size :]
        reader = self.open_blob(hash_, item)
        try:
            steps = range(0, item.size, 1 << 20)
            return b"".join(reader.read(at, min(at + (1 << 20), item.size)) for at in steps)
        finally:
            reader.close()

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None) -> ObjectReader | Status:
        """Open an object's data. Raises PlaceGone."""
        self.reads += 1
        value = self.value(b"\x00" + hash_)
        if value is None:
            return Status.MISSING
        item = decode_entry(value)
        if item.key != key:
            return Status.REFUSED
        if item.kind == TOMBSTONE or timestamp not in (None, item.timestamp):
            return Status.MISSING
        try:
            if item.kind == BLOB:
                return self.open_blob(hash_, item)
            return InlineReader(item.entry(), self.object_data(hash_, item))
        except (CorruptData, OSError):
            self.note_rot(hash_, key)
            return Status.CORRUPT

    # ---------------------------------------------------------------------------------------------------------- catalogs

    def _catalog(self, space: int, hash_: bytes, key: bytes) -> IndexedCatalog | tuple[Status, str]:
        if space not in (Space.CONTAINER, Space.ACCOUNT):
            return Status.REFUSED, f"space {space} has no catalogs"
        value = self.value(SPACE_TAGS[space] + hash_)
        if value is None:
            return Status.MISSING, ""
        found = decode_catalog(value)
        if not found.length:
            return Status.MISSING, ""
        return found if found.key == key else (Status.REFUSED, COLLISION)

    def get_catalog(self, operation: GetCatalog) -> FoundCatalog:
        """See GetCatalog."""
        found = self._catalog(operation.space, operation.hash, operation.key)
        if isinstance(found, tuple):
            return FoundCatalog(found[0], detail=found[1])
        try:
            return FoundCatalog(_FOUND, public_catalog(found, unpack_items(found.meta)))
        except CorruptData as error:
            self.corrupt += 1
            return FoundCatalog(Status.CORRUPT, detail=str(error))

    def list_rows(self, operation: ListRows) -> FoundRows:
        """See ListRows."""
        found = self.stored_rows(operation)
        return found._replace(items=found.items.rows()) if isinstance(found.items, StoredRows) else found

    def stored_rows(self, operation: ListRows) -> FoundRows:
        """See ListRows; where it can be, the rows are as they are stored."""
        found = self._catalog(operation.space, operation.hash, operation.key)
        if isinstance(found, tuple):
            return FoundRows(found[0], detail=found[1])
        if operation.delimiter and operation.deleted:
            return FoundRows(Status.REFUSED, detail="tombstone rows are not rolled up")
        if not 0 <= operation.limit <= LIST_ROWS_MAX:
            return FoundRows(Status.REFUSED, detail=f"limit {operation.limit} is outside 0..{LIST_ROWS_MAX}")
        try:
            catalog = public_catalog(found, unpack_items(found.meta))
        except CorruptData as error:
            self.corrupt += 1
            return FoundRows(Status.CORRUPT, detail=str(error))
        if not (operation.deleted or operation.reverse or operation.delimiter):
            page = self._plain_page(operation)
            if page is not None:
                return FoundRows(_FOUND, catalog, *page)
        walked = self._page_rolled_up if operation.delimiter else self._page
        items, truncated = walked(operation)
        return FoundRows(_FOUND, catalog, tuple(items), truncated)

    def _page(self, operation: ListRows) -> tuple[list[Row | CommonPrefix], bool]:
        """A page without a delimiter, by one walk."""
        limit, deleted = operation.limit, operation.deleted
        items: list[Row | CommonPrefix] = []
        start, end = _bounds(operation)
        make, add = Row._make, items.append
        for name, value in self._walk(rows.row_base(operation.space, operation.hash), start, end, operation.reverse):
            _, _, _, flags, timestamp, sub_timestamp, object_count, size_bytes = unpack_row(value)
            dead = flags & 1 != 0
            if dead and not deleted:
                continue
            if len(items) == limit:
                return items, True
            add(make((name, timestamp, sub_timestamp, dead, object_count, size_bytes, value[ROW_BYTES:])))
        return items, False

    def _plain_page(self, operation: ListRows) -> tuple[StoredRows, bool] | None:
        """A page of live rows in ascending order; None where long names are among them."""
        limit = operation.limit
        base = rows.row_base(operation.space, operation.hash)
        start, end = _bounds(operation)
        live: list[Pair] = []
        count = limit + 1
        while end is None or start < end:
            newer = rows.stretch(self.recent, base, start, end, count)
            older = rows.stretch(self.index, base, start, end, count)
            if newer is None or older is None:
                return None
            found = rows.united(newer, older, count)
            live += live_pairs(found)
            if len(live) > limit:
                return StoredRows(live[:limit]), True
            if len(found) < count:
                break
            start = found[-1][0][rows.BASE_BYTES :] + b"\x00"
            count = max(limit + 1 - len(live), _STRETCH_ROWS_MIN)
        return StoredRows(live), False

    def _page_rolled_up(self, operation: ListRows) -> tuple[list[Row | CommonPrefix], bool]:
        """A page with a delimiter: a new walk behind each common prefix."""
        prefix_bytes, delimiter, reverse = len(operation.prefix), operation.delimiter, operation.reverse
        items: list[Row | CommonPrefix] = []
        base = rows.row_base(operation.space, operation.hash)
        start: bytes | None
        start, end = _bounds(operation)
        while start is not None:
            for name, value in self._walk(base, start, end, reverse):
                row = decode_row(value)
                if row.deleted:
                    continue
                if len(items) == operation.limit:
                    return items, True
                at = name.find(delimiter, prefix_bytes)
                if at >= 0:
                    common = name[: at + len(delimiter)]
                    items.append(CommonPrefix(common))
                    break
                items.append(
                    Row(name, row.timestamp, row.sub_timestamp, False, row.object_count, row.size_bytes, row.payload)
                )
            else:
                return items, False
            # Seek to the other side of the common prefix; nothing of it is read.
            if reverse:
                end = common
            else:
                start = rows.successor(common)
        return items, False

    def _walk(self, base: bytes, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= name < end, in either direction, newest values, tombstone rows included."""
        if end is not None and end <= start:
            return iter(())
        if reverse:
            newer, older = rows.backward(self.recent, base, end), rows.backward(self.index, base, end)
            found = rows.merged(newer, older, True)
            return _while_not_below(found, start) if start else found
        newer, older = rows.forward(self.recent, base, start), rows.forward(self.index, base, start)
        found = rows.merged(newer, older, False)
        return found if end is None else _while_below(found, end)

    # ------------------------------------------------------------------------------------------------------- replication

    def entries(self, space: int, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """(hash, value) of all that is kept in a space, in the order of the hashes, in start <= hash < end."""
        tag = SPACE_TAGS[space]
        walks = _entries_of(self.recent, tag, start), _entries_of(self.index, tag, start)
        for key, value in rows.merged(*walks, False):
            if end is not None and key >= end:
                return
            yield key, value

    def list_entries(self, operation: ListEntries) -> FoundEntries:
        """See ListEntries."""
        space, start, end, limit = operation
        if space not in (0, 1, 2) or not 0 <= limit <= LIST_ROWS_MAX or len(start) > HASH_BYTES:
            return FoundEntries(Status.REFUSED, detail=f"space {space}, limit {limit}")
        found: list[ListedEntry] = []
        try:
            for hash_, value in self.entries(space, start, end):
                if len(found) == limit:
                    return FoundEntries(_FOUND, tuple(found), True)
                if space == Space.OBJECT:
                    item = decode_entry(value)
                    found.append(ListedEntry(hash_, item.key, item.entry()))
                else:
                    catalog = decode_catalog(value)
                    found.append(ListedEntry(hash_, catalog.key, public_catalog(catalog, unpack_items(catalog.meta))))
        except CorruptData as error:
            self.corrupt += 1
            return FoundEntries(Status.CORRUPT, detail=str(error))
        return FoundEntries(_FOUND, tuple(found), False)

    def get_digests(self, operation: GetDigests) -> FoundDigests:
        """See GetDigests: by reading the range, at whatever depth. The device answers coarse ones from its buckets."""
        space, bits, prefix, fan_out_bits = operation
        problem = digests_refused(operation)
        if problem:
            return FoundDigests(Status.REFUSED, detail=problem)
        depth = bits + fan_out_bits
        shift = 8 * HASH_BYTES - depth
        start = prefix << 8 * HASH_BYTES - bits
        stop = prefix + 1 << 8 * HASH_BYTES - bits
        end = stop.to_bytes(HASH_BYTES, "big") if stop < 1 << 8 * HASH_BYTES else None
        found = [0] * (1 << fan_out_bits)
        first = prefix << fan_out_bits
        for hash_, value in self.entries(space, start.to_bytes(HASH_BYTES, "big"), end):
            found[(int.from_bytes(hash_, "big") >> shift) - first] ^= value_digest(space, hash_, value)
        return FoundDigests(_FOUND, tuple(digest.to_bytes(DIGEST_BYTES, "big") for digest in found))


def _while_below(found: Iterator[tuple[bytes, bytes]], end: bytes) -> Iterator[tuple[bytes, bytes]]:
    for item in found:
        if item[0] >= end:
            return
        yield item


def _while_not_below(found: Iterator[tuple[bytes, bytes]], start: bytes) -> Iterator[tuple[bytes, bytes]]:
    for item in found:
        if item[0] < start:
            return
        yield item


def _entries_of(txn: lmdb.Transaction[bytes], tag: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    if cursor.set_range(tag + start):
        for key, value in cursor.iternext():
            if key[:1] != tag:
                return
            yield key[1:], value


def value_digest(space: int, hash_: bytes, value: bytes) -> int:
    """What an index value of 00..02 contributes to the digests."""
    if space == Space.OBJECT:
        _, _, _, kind, _, _, timestamp, meta_timestamp, _ = unpack_entry(value)
        return entry_digest(hash_, timestamp, meta_timestamp, kind == TOMBSTONE)
    found = decode_catalog(value)
    return catalog_digest(hash_, found.created, found.deleted, found.digest, found.meta)


def digests_refused(operation: GetDigests) -> str:
    """Why a GetDigests is refused; empty if it is not."""
    space, bits, prefix, fan_out_bits = operation
    if space not in (0, 1, 2):
        return f"space {space}"
    if not 0 <= bits <= 8 * HASH_BYTES or not 0 <= fan_out_bits <= min(FAN_OUT_BITS_MAX, 8 * HASH_BYTES - bits):
        return f"a prefix of {bits} bits with a fan-out of {fan_out_bits}"
    if not 0 <= prefix < 1 << bits:
        return f"prefix {prefix} does not fit {bits} bits"
    return ""


def is_coarse(operation: GetDigests) -> bool:
    """Whether the device's buckets alone can answer."""
    return operation.bits + operation.fan_out_bits <= BUCKET_BITS


def _bounds(operation: ListRows) -> tuple[bytes, bytes | None]:
    """The range of names that start, end and prefix leave: start <= name < end."""
    start, end, prefix = operation.start, operation.end, operation.prefix
    if not prefix:
        return start, end
    behind = rows.successor(prefix)
    if end is None or (behind is not None and behind < end):
        end = behind
    return max(start, prefix), end
