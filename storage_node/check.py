"""check(): a device's structures held against each other.

Problem: the log, the blobs, the index, the digests and the totals each say what the others say in another form; if two
disagree, something is broken that no single checksum shows.

Idea: walk each of them once and derive what the others must be:

    log -> index      each record that verifies is what the index points at, or is older than that
    index -> log      each value's record verifies and says the same
    index -> blobs    each blob is there, with its table (and with `deep`, every byte of it)
    blobs -> index    no file that nothing names
    index -> digests, counters, live bytes of segments, totals of catalogs: counted anew, compared

A finding is a sentence and says where. Nothing is mended here: what is wrong on one device is right on its peers.

Cost: one read of the log, one random read per entry, one look at each blob. Memory: a few hundred bytes a segment, and the
1 MiB of digests of a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from storage_node import rows
from storage_node.audit import same_catalog, same_entry, same_row
from storage_node.blob import BLOB_ID_BYTES, READ_BYTES_MAX, BlobReader, blob_path
from storage_node.catalog import unpack_items
from storage_node.clearing import blob_ids_in
from storage_node.digest import BUCKET_COUNT, DigestTable, bucket_of, catalog_digest, entry_digest, row_digest
from storage_node.errors import CorruptData
from storage_node.index import (
    BLOB_TAG,
    FORGET_TAG,
    FORGOTTEN,
    PLACE,
    ROW_TAGS,
    STATE_KEY,
    IndexedCatalog,
    IndexedEntry,
    decode_catalog,
    decode_entry,
    decode_row,
)
from storage_node.log import PlaceGone, Scan, list_segments, log_position, open_segment
from storage_node.operations import Space
from storage_node.record import CATALOG, FORGET, ROW, TOMBSTONE, Record, decode
from storage_node.recovery import record_key
from storage_node.state import SPACES, Counters

if TYPE_CHECKING:
    import lmdb

    from storage_node.parts import Parts
    from storage_node.view import View

FINDINGS_MAX = 1_000
"""After so many the rest is the same fault again."""


class Finding(NamedTuple):
    """Something that is not as it must be."""

    part: str
    """log, index, blobs, digests, totals."""
    what: str


class Checker:
    """One check of one device; `run` once, with no batch under way."""

    def __init__(self, parts: Parts, token: bytes = b"", deep: bool = False) -> None:
        """Blobs whose ids end in `token` may be on their way in. `deep` reads every byte of every blob."""
        self._parts = parts
        self._token = token
        self._deep = deep
        self._live: dict[int, int] = {}
        self._counters = Counters()
        self._digests = {space: DigestTable() for space in SPACES}
        self._blob_ids: set[bytes] = set()
        self._rows_walked = 0
        self._unknown: dict[bytes, tuple[int, str]] = {}
        """Names of which the log has more than the index, until a FORGET record says why."""
        self.records = 0
        """Records of the log that verified."""
        self.entries = 0
        """Values of the index that were compared."""

    def run(self) -> list[Finding]:
        """All findings, at most FINDINGS_MAX."""
        found: list[Finding] = []
        view = self._parts.fresh_view()
        for part, check in (
            ("log", self._check_log),
            ("index", self._check_objects),
            ("index", self._check_catalogs),
            ("index", self._check_row_keys),
            ("index", self._check_forgotten),
            ("blobs", self._check_blobs),
            ("digests", self._check_digests),
            ("totals", self._check_figures),
        ):
            for what in check(view):
                found.append(Finding(part, what))
                if len(found) >= FINDINGS_MAX:
                    return found
        return found

    # -------------------------------------------------------------------------------------------------------------- log

    def _check_log(self, view: View) -> Iterator[str]:
        parts = self._parts
        for damage in parts.state.damage:
            yield f"segment {damage.segment}, bytes {damage.start}..{damage.stop}: damaged, found when it was opened"
        known = {(damage.segment, damage.start) for damage in parts.state.damage}
        for number in list_segments(parts.disk, parts.layout.log):
            size = parts.state.size.get(number)
            if size is None:
                continue  # made ahead, and still empty; or about to be removed
            try:
                segment = open_segment(parts.disk, parts.layout.log, number, parts.identity.uuid)
            except (CorruptData, PlaceGone, OSError) as error:
                yield f"segment {number} can't be read: {error}"
                continue
            try:
                scan = Scan(parts.disk, segment)
                if scan.size < size:
                    yield f"segment {number}: {scan.size} bytes long, {size} were written"
                while scan.position < size:
                    for record in scan.records():
                        self.records += 1
                        self._check_record(view, number, record)
                    if scan.position < size:
                        following = scan.next_record()
                        stop = size if following is None else following.offset
                        if (number, scan.position) not in known:
                            yield f"segment {number}, bytes {scan.position}..{stop}: no record verifies"
                        scan.position = stop
            finally:
                parts.disk.close(segment.fd)
        for _, what in self._unknown.values():
            yield what

    def _check_record(self, view: View, number: int, record: Record) -> None:
        """A record that the index does not point at must have been replaced by a newer one."""
        key = record_key(record)
        value = view.value(key)
        where = f"segment {number}, record at {record.offset}"
        if record.kind == FORGET:
            # It stands behind what it forgets, and explains why the index does not know that.
            if self._unknown.get(key[1:], (record.extra, ""))[0] < record.extra:
                del self._unknown[key[1:]]
            return
        position = log_position(number, record.offset)
        forgotten = view.value(FORGET_TAG + key)
        if forgotten is not None and position < FORGOTTEN.unpack(forgotten)[3]:
            return
        if value is None:
            if len(self._unknown) < FINDINGS_MAX:
                self._unknown[key] = (position, f"{where}: the index knows nothing of {record.key!r}")
            return
        if PLACE.unpack_from(value) == (number, record.offset, record.length):
            return
        if record.kind == ROW:
            row = decode_row(value)
            stale = (row.timestamp, row.sub_timestamp) < (record.timestamp, record.timestamp_2)
        elif record.kind == CATALOG:
            catalog = decode_catalog(value)
            held = (catalog.touched, catalog.deleted)
            stale = held[0] < record.size or held[1] < record.timestamp_2
        else:
            entry = decode_entry(value)
            stale = (entry.timestamp, entry.meta_timestamp) < (record.timestamp, record.timestamp_2)
        if stale and len(self._unknown) < FINDINGS_MAX:
            self._unknown[key] = (position, f"{where}: the index has an older version of {record.key!r}")

    def _record_of(self, view: View, value: bytes) -> Record:
        """The record that a value was made of. Raises CorruptData, PlaceGone, OSError."""
        segment, offset, length = PLACE.unpack_from(value)
        self._live[segment] = self._live.get(segment, 0) + length
        self.entries += 1
        record = decode(view.record(segment, offset, length))
        if record is None:
            raise CorruptData(f"segment {segment}: the record at {offset} makes no sense")
        return record

    # ---------------------------------------------------------------------------------------------------------- objects

    def _check_objects(self, view: View) -> Iterator[str]:
        counters, table = self._counters, self._digests[Space.OBJECT]
        for hash_, value in view.entries(Space.OBJECT, b"", None):
            item = decode_entry(value)
            table.toggle(
                bucket_of(hash_), entry_digest(hash_, item.timestamp, item.meta_timestamp, item.kind == TOMBSTONE)
            )
            if item.kind == TOMBSTONE:
                counters.tombstones += 1
            else:
                counters.objects += 1
            try:
                record = self._record_of(view, value)
            except (CorruptData, PlaceGone, OSError) as error:
                yield f"object {item.key!r}: {error}"
                continue
            if not same_entry(item, hash_, record):
                yield f"object {item.key!r}: its record says something else"
            if item.blob_id:
                yield from self._check_blob(view, hash_, item)

    def _check_blob(self, view: View, hash_: bytes, item: IndexedEntry) -> Iterator[str]:
        self._counters.blobs += 1
        self._counters.blob_bytes += item.size
        self._blob_ids.add(item.blob_id)
        if view.value(BLOB_TAG + item.blob_id) != hash_:
            yield f"object {item.key!r}: its blob is listed as another's"
        try:
            path = blob_path(self._parts.layout.blobs, item.blob_id)
            reader = BlobReader(self._parts.disk, path, item.blob_id, item.blob_checksum, item.entry())
            with closing(reader):
                for at in range(0, item.size if self._deep else 0, READ_BYTES_MAX):
                    reader.read(at, min(at + READ_BYTES_MAX, item.size))
        except PlaceGone:
            yield f"object {item.key!r}: its blob {item.blob_id.hex()} is missing"
        except (CorruptData, OSError) as error:
            yield f"object {item.key!r}: {error}"

    def _check_blobs(self, view: View) -> Iterator[str]:
        for key, _ in _raw(view, BLOB_TAG, BLOB_TAG[0]):
            blob_id = key[1:]
            if len(blob_id) != BLOB_ID_BYTES or blob_id not in self._blob_ids:
                yield f"blob {blob_id.hex()} is listed, and no object has it"
        root = self._parts.layout.blobs
        for number in range(256):
            for blob_id in blob_ids_in(self._parts.disk, f"{root}/{number:02x}"):
                on_its_way = bool(self._token) and blob_id.endswith(self._token)
                if blob_id not in self._blob_ids and not on_its_way:
                    yield f"blob {blob_id.hex()} is a file that nothing names"

    # --------------------------------------------------------------------------------------------------------- catalogs

    def _check_catalogs(self, view: View) -> Iterator[str]:
        for space in (Space.CONTAINER, Space.ACCOUNT):
            for hash_, value in view.entries(space, b"", None):
                found = decode_catalog(value)
                digest = catalog_digest(hash_, found.created, found.deleted, found.digest, found.meta)
                self._digests[space].toggle(bucket_of(hash_), digest)
                if space == Space.CONTAINER:
                    self._counters.containers += found.live
                else:
                    self._counters.accounts += found.live
                yield from self._check_catalog_record(view, hash_, value, found)
                yield from self._check_rows(view, space, hash_, found)

    def _check_catalog_record(self, view: View, hash_: bytes, value: bytes, found: IndexedCatalog) -> Iterator[str]:
        if not found.length:
            yield f"catalog {hash_.hex()}: it has rows, and no record of its own"
            return
        try:
            unpack_items(found.meta)
            record = self._record_of(view, value)
        except (CorruptData, PlaceGone, OSError) as error:
            yield f"catalog {found.key!r}: {error}"
            return
        if record.hash != hash_ or not same_catalog(found, record):
            yield f"catalog {found.key!r}: its record says something else"

    def _check_rows(self, view: View, space: int, hash_: bytes, found: IndexedCatalog) -> Iterator[str]:
        count = objects = size = digest = newest = 0
        base = rows.row_base(space, hash_)
        for name, value in rows.merged(
            rows.forward(view.recent, base, b""), rows.forward(view.index, base, b""), False
        ):
            self._rows_walked += 1
            row = decode_row(value)
            digest ^= row_digest(name, row.timestamp, row.sub_timestamp, row.deleted)
            newest = max(newest, row.timestamp, row.sub_timestamp)
            if not row.deleted:
                count += 1
                objects += row.object_count
                size += row.size_bytes
            try:
                record = self._record_of(view, value)
            except (CorruptData, PlaceGone, OSError) as error:
                yield f"row {name!r} of catalog {found.key!r}: {error}"
                continue
            if not same_row(row, space, hash_, name, record):
                yield f"row {name!r} of catalog {found.key!r}: its record says something else"
        self._counters.rows += count
        counted = (count, objects, size, digest)
        stated = (found.row_count, found.object_count, found.size_bytes, found.digest)
        if counted != stated:
            yield f"catalog {found.key!r}: its totals are {stated}, its rows make {counted}"
        if newest > found.newest_row:
            yield f"catalog {found.key!r}: its newest row is of {newest}, not {found.newest_row}"

    def _check_row_keys(self, view: View) -> Iterator[str]:
        """Each row key was met by walking from its catalog."""
        count = 0
        for key, _ in _raw(view, ROW_TAGS[0], STATE_KEY[0]):
            if key[0] >= BLOB_TAG[0]:
                break
            count += len(key) != rows.POINTER_KEY_BYTES
        if count != self._rows_walked:
            yield f"{count} rows are kept, {self._rows_walked} can be reached from their catalogs"

    def _check_forgotten(self, view: View) -> Iterator[str]:
        for key, value in _raw(view, FORGET_TAG, FORGET_TAG[0]):
            self._counters.forgotten += 1
            try:
                record = self._record_of(view, value)
            except (CorruptData, PlaceGone, OSError) as error:
                yield f"a forgotten name {key[1:].hex()}: {error}"
                continue
            if record.kind != FORGET or record_key(record) != key:
                yield f"a forgotten name {key[1:].hex()}: its record says something else"
            there = view.value(key[1:])
            if there is not None and log_position(*PLACE.unpack_from(there)[:2]) < FORGOTTEN.unpack(value)[3]:
                yield f"{record.key!r} is forgotten, and there"

    # ---------------------------------------------------------------------------------------------------------- figures

    def _check_digests(self, _: View) -> Iterator[str]:
        for space in SPACES:
            kept, counted = self._parts.state.digests[space].words, self._digests[space].words
            if kept == counted:
                continue
            wrong = [
                bucket
                for bucket in range(BUCKET_COUNT)
                if kept[2 * bucket : 2 * bucket + 2] != counted[2 * bucket : 2 * bucket + 2]
            ]
            yield f"{len(wrong)} digests of space {space} are wrong, bucket {wrong[0]:04x} the first"

    def _check_figures(self, _: View) -> Iterator[str]:
        state = self._parts.state
        if state.counters != self._counters:
            yield f"the counters say {state.counters}, counted are {self._counters}"
        kept = {number: live for number, live in state.live.items() if live}
        for number in sorted(kept.keys() | self._live.keys()):
            if kept.get(number, 0) != self._live.get(number, 0):
                yield f"segment {number}: {kept.get(number, 0)} bytes counted as live, {self._live.get(number, 0)} are"


def _raw(view: View, start: bytes, last_tag: int) -> Iterator[tuple[bytes, bytes]]:
    """All (key, value) from `start` on, up to tag `last_tag`, of both environments."""
    return rows.merged(_from(view.recent, start, last_tag), _from(view.index, start, last_tag), False)


def _from(txn: lmdb.Transaction[bytes], start: bytes, last_tag: int) -> Iterator[tuple[bytes, bytes]]:
    cursor = txn.cursor()
    if cursor.set_range(start):
        for key, value in cursor.iternext():
            if key[0] > last_tag:
                return
            yield key, value
