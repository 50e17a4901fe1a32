"""Putting a record's state in place of the one before: shared by live operations, replay and compaction.

Problem: counters, digests, totals and live bytes must come out exactly the same whether an operation is decided live or its
record is replayed after a crash. Two pieces of code for that would drift apart.

Idea: whatever makes a record (or reads one from the log) calls `install_entry`, `install_row` or changes a loaded catalog.
They compute what the old state contributed, take it out, and put the new one in; all of it goes to a Batch.

Invariants: a lookup sees the batch's own writes, then `recent`, then `index`.
Each of 00..02 and 10..1a has one record; its length counts as live in its segment, nothing else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage_node import rows
from storage_node.batch import Batch, LoadedCatalog
from storage_node.digest import catalog_digest, entry_digest, row_digest
from storage_node.index import (
    BLOB_REFERENCE,
    BLOB_TAG,
    ENTRY_BYTES,
    FORGET_TAG,
    FORGOTTEN,
    PLACE,
    REMOVED,
    SPACE_TAGS,
    IndexedCatalog,
    decode_catalog,
    pack_entry,
    pack_row,
    unpack_entry,
    unpack_row,
)
from storage_node.operations import Space
from storage_node.record import BLOB, TOMBSTONE

if TYPE_CHECKING:
    from storage_node.view import View

_unpack_place = PLACE.unpack_from
_pack_place = PLACE.pack


class Installer:
    """Changes of state, gathered in `batch`."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.batch = Batch(0)

    def lookup(self, key: bytes) -> bytes | None:
        """The newest value of an index key, None if there is none."""
        value = self.batch.writes.get(key)
        if value is None:
            view = self.view
            value = view.recent.get(key)
            if value is None:
                value = view.index.get(key)
        return value or None

    def count_live(self, segment: int, length: int) -> None:
        """`length` more live bytes in a segment (fewer, if negative)."""
        live = self.batch.live
        live[segment] = live.get(segment, 0) + length

    # ----------------------------------------------------------------------------------------------------------- objects

    def install_entry(
        self,
        hash_: bytes,
        old: bytes | None,
        place: tuple[int, int, int],
        kind: int,
        flags: int,
        timestamp: int,
        meta_timestamp: int,
        size: int,
        key: bytes,
        meta: bytes,
        blob_id: bytes = b"",
        blob_checksum: int = 0,
    ) -> None:
        """Let an object's entry be this. `old` is its value before, or None."""
        batch = self.batch
        counters = batch.counters
        segment, offset, length = place
        digest = entry_digest(hash_, timestamp, meta_timestamp, kind == TOMBSTONE)
        if old is not None:
            old_segment, _, old_length, old_kind, _, _, old_timestamp, old_meta_timestamp, old_size = unpack_entry(old)
            self.count_live(old_segment, -old_length)
            digest ^= entry_digest(hash_, old_timestamp, old_meta_timestamp, old_kind == TOMBSTONE)
            if old_kind == TOMBSTONE:
                counters.tombstones -= 1
            else:
                counters.objects -= 1
                if old_kind == BLOB:
                    self._free_blob(old[ENTRY_BYTES : ENTRY_BYTES + 16], old_size, blob_id)
        self.count_live(segment, length)
        value = pack_entry(segment, offset, length, kind, flags, len(key), timestamp, meta_timestamp, size)
        if kind == TOMBSTONE:
            counters.tombstones += 1
        else:
            counters.objects += 1
            if kind == BLOB:
                counters.blobs += 1
                counters.blob_bytes += size
                value += BLOB_REFERENCE.pack(blob_id, blob_checksum)
                batch.writes[BLOB_TAG + blob_id] = hash_
        batch.toggles.append((0, hash_[0] << 8 | hash_[1], digest))
        batch.writes[b"\x00" + hash_] = value + key + meta

    def _free_blob(self, blob_id: bytes, size: int, kept: bytes) -> None:
        self.batch.counters.blobs -= 1
        self.batch.counters.blob_bytes -= size
        if blob_id != kept:
            self.batch.writes[BLOB_TAG + blob_id] = REMOVED
            self.batch.freed_blobs.append(blob_id)

    # ---------------------------------------------------------------------------------------------------------- catalogs

    def load_catalog(self, space: int, hash_: bytes, key: bytes = b"") -> LoadedCatalog | None:
        """The catalog as this batch has it so far; None if there is none.

        One that was made by replayed rows alone, its own record lost, has no key yet and takes `key`.
        """
        index_key = SPACE_TAGS[space] + hash_
        loaded = self.batch.catalogs.get(index_key)
        if loaded is None:
            value = self.lookup(index_key)
            if value is None:
                return None
            found = decode_catalog(value)
            digest = catalog_digest(hash_, found.created, found.deleted, found.digest, found.meta)
            loaded = LoadedCatalog(found, space, hash_, index_key, digest)
            self.batch.catalogs[index_key] = loaded
        if not loaded.catalog.key:
            loaded.catalog.key = key
        return loaded

    def new_catalog(self, space: int, hash_: bytes, key: bytes) -> LoadedCatalog:
        """A catalog that was not there before, still without state."""
        index_key = SPACE_TAGS[space] + hash_
        loaded = LoadedCatalog(IndexedCatalog(key), space, hash_, index_key, 0)
        self.batch.catalogs[index_key] = loaded
        return loaded

    def install_catalog(
        self, loaded: LoadedCatalog, place: tuple[int, int, int], created: int, deleted: int, touched: int, meta: bytes
    ) -> None:
        """Let a catalog's own state be this; its totals stay."""
        found = loaded.catalog
        if found.length:
            self.count_live(found.segment, -found.length)
        found.segment, found.offset, found.length = place
        self.count_live(found.segment, found.length)
        found.created, found.deleted, found.touched, found.meta = created, deleted, touched, meta
        loaded.changed = True

    def finish_catalogs(self) -> None:
        """Write the changed catalogs of the batch: once, however many rows they were given."""
        batch = self.batch
        for loaded in batch.catalogs.values():
            if not loaded.changed:
                continue
            found = loaded.catalog
            digest = catalog_digest(loaded.hash, found.created, found.deleted, found.digest, found.meta)
            batch.toggles.append((loaded.space, loaded.hash[0] << 8 | loaded.hash[1], digest ^ loaded.digest_before))
            batch.writes[loaded.index_key] = found.encode()
            change = found.live - loaded.live_before
            if loaded.space == Space.CONTAINER:
                batch.counters.containers += change
            else:
                batch.counters.accounts += change
        batch.catalogs = {}

    # -------------------------------------------------------------------------------------------------------------- rows

    def install_row(
        self,
        loaded: LoadedCatalog,
        index_key: bytes,
        old: bytes | None,
        place: tuple[int, int, int],
        deleted: int,
        name: bytes,
        timestamp: int,
        sub_timestamp: int,
        object_count: int,
        size_bytes: int,
        payload: bytes,
    ) -> None:
        """Let a row be this, and its catalog's totals accordingly."""
        batch = self.batch
        found = loaded.catalog
        loaded.changed = True
        segment, offset, length = place
        digest = row_digest(name, timestamp, sub_timestamp, deleted)
        if old is not None:
            old_segment, _, old_length, old_flags, old_timestamp, old_sub, old_count, old_size = unpack_row(old)
            self.count_live(old_segment, -old_length)
            digest ^= row_digest(name, old_timestamp, old_sub, old_flags & 1)
            if not old_flags & 1:
                found.row_count -= 1
                found.object_count -= old_count
                found.size_bytes -= old_size
                batch.counters.rows -= 1
        if len(name) > rows.PIECE_BYTES:
            self.write_pointers(loaded.space, loaded.hash, name)
        self.count_live(segment, length)
        if not deleted:
            found.row_count += 1
            found.object_count += object_count
            found.size_bytes += size_bytes
            batch.counters.rows += 1
        found.digest ^= digest
        found.newest_row = max(found.newest_row, timestamp, sub_timestamp)
        batch.writes[index_key] = (
            pack_row(segment, offset, length, deleted, timestamp, sub_timestamp, object_count, size_bytes) + payload
        )

    def write_pointers(self, space: int, hash_: bytes, name: bytes) -> None:
        """Lead to a long name in the environment that it is now written to, whether or not the other one does already.

        The value says in which batch: one that changed since a checkpoint's snapshot must not be trimmed with it, since
        what it leads to changed as well.
        """
        value = _pack_place(max(self.batch.segment, 0), self.batch.start, 0)
        for pointer in rows.pointer_keys(rows.row_base(space, hash_), name):
            self.batch.writes[pointer] = value

    # -------------------------------------------------------------------------------------------------------- forgetting

    def remove_entry(self, hash_: bytes, old: bytes) -> None:
        """Let there be no entry; `old` is its value."""
        batch = self.batch
        segment, _, length, kind, _, _, timestamp, meta_timestamp, size = unpack_entry(old)
        self.count_live(segment, -length)
        if kind == TOMBSTONE:
            batch.counters.tombstones -= 1
        else:
            batch.counters.objects -= 1
            if kind == BLOB:
                self._free_blob(old[ENTRY_BYTES : ENTRY_BYTES + 16], size, b"")
        digest = entry_digest(hash_, timestamp, meta_timestamp, kind == TOMBSTONE)
        batch.toggles.append((0, hash_[0] << 8 | hash_[1], digest))
        batch.writes[b"\x00" + hash_] = REMOVED

    def remove_row(self, loaded: LoadedCatalog, index_key: bytes, old: bytes, name: bytes) -> None:
        """Let there be no such row; `old` is its value."""
        found = loaded.catalog
        loaded.changed = True
        segment, _, length, flags, timestamp, sub_timestamp, object_count, size_bytes = unpack_row(old)
        self.count_live(segment, -length)
        if not flags & 1:
            found.row_count -= 1
            found.object_count -= object_count
            found.size_bytes -= size_bytes
            self.batch.counters.rows -= 1
        found.digest ^= row_digest(name, timestamp, sub_timestamp, flags & 1)
        if len(name) > rows.PIECE_BYTES:
            self.write_pointers(loaded.space, loaded.hash, name)
        self.batch.writes[index_key] = REMOVED

    def remove_catalog(self, loaded: LoadedCatalog) -> None:
        """Let there be no such catalog; it has no rows."""
        batch = self.batch
        found = loaded.catalog
        if found.length:
            self.count_live(found.segment, -found.length)
        batch.toggles.append((loaded.space, loaded.hash[0] << 8 | loaded.hash[1], loaded.digest_before))
        if loaded.space == Space.CONTAINER:
            batch.counters.containers -= loaded.live_before
        else:
            batch.counters.accounts -= loaded.live_before
        batch.writes[loaded.index_key] = REMOVED
        del batch.catalogs[loaded.index_key]

    def install_forget(self, index_key: bytes, place: tuple[int, int, int], position: int) -> None:
        """Remember that nothing counts that was kept under a key before a position of the log."""
        self.drop_forget(index_key)
        self.count_live(place[0], place[2])
        self.batch.counters.forgotten += 1
        self.batch.writes[FORGET_TAG + index_key] = FORGOTTEN.pack(*place, position)

    def drop_forget(self, index_key: bytes) -> None:
        """Remember it no longer, if it was: the log holds nothing from before."""
        value = self.lookup(FORGET_TAG + index_key)
        if value is not None:
            segment, _, length = _unpack_place(value)
            self.count_live(segment, -length)
            self.batch.counters.forgotten -= 1
            self.batch.writes[FORGET_TAG + index_key] = REMOVED

    # -------------------------------------------------------------------------------------------------------- compaction

    def install_copy(self, index_key: bytes, old: bytes, place: tuple[int, int, int]) -> None:
        """Let a value point at a copy of its record."""
        segment, _, length = _unpack_place(old)
        self.count_live(segment, -length)
        self.count_live(place[0], place[2])
        self.batch.writes[index_key] = _pack_place(*place) + old[PLACE.size :]
