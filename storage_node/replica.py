"""What replicators ask of a device beside what proxies do: joining a catalog's state, and forgetting what has gone home.

Problem: a device decides operations in the order in which they arrive, and a replica that missed some cannot be brought to
the same state by any of them: a catalog that was deleted and made anew elsewhere, say. And what lies on a device that is not
its home must go without a trace that would travel: a tombstone would delete it everywhere.

Idea: JoinCatalog carries a replica's whole state of a catalog and joins it with the one here (join.py). Forgetting names
the exact version that its sender has seen confirmed elsewhere; anything else is left alone. It writes a FORGET record, since
the log is the truth: an index made again from the log must not bring back what was forgotten. The record says at which
position of the log it was first written, and nothing counts that was written under the name before; it stays live
(compaction moves it) as long as there is a segment that is so old.

Invariants: joining is idempotent and its order does not matter; a device never forgets a version that was not named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage_node.catalog import merge_items, pack_items, unpack_items
from storage_node.errors import CorruptData
from storage_node.index import ROW_TAGS, SPACE_TAGS, decode_entry, decode_row, unpack_row
from storage_node.join import Life, join_lives
from storage_node.log import log_position
from storage_node.operations import (
    META_BYTES_MAX,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    JoinCatalog,
    RewriteRecord,
    Space,
    Status,
    Written,
)
from storage_node.record import CATALOG, FLAG_ROW, FORGET, ROW, SPACE_SHIFT, TOMBSTONE
from storage_node.rows import PIECE_BYTES, row_base, row_key
from storage_node.view import COLLISION

if TYPE_CHECKING:
    from storage_node.decide import Decider

_APPLIED = Written(Status.APPLIED)
_MISSING = Written(Status.MISSING)
_FULL = Written(Status.FULL)
_ROOM_FOR_DELETES, _ROOM_FOR_ALL = 1, 2


class ReplicaOperations:
    """Handlers of a Decider's for the replicator's operations."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    def join_catalog(self, operation: JoinCatalog) -> Written:
        """See JoinCatalog."""
        space, hash_, key, created, deleted, touched, changes = operation
        decider = self._decider
        if decider.batch.room < (_ROOM_FOR_ALL if created > deleted else _ROOM_FOR_DELETES):
            return _FULL
        given = Life(created, deleted, max(created, touched))
        loaded = decider.load_catalog(space, hash_, key)
        if loaded is None:
            life, items = given, merge_items({}, changes, deleted)
            loaded = decider.new_catalog(space, hash_, key)
        else:
            found = loaded.catalog
            if found.key != key:
                return Written(Status.REFUSED, detail=COLLISION)
            life = join_lives((given, Life(found.created, found.deleted, found.touched)))
            if not life.live and found.live and found.row_count:
                return Written(Status.NOT_EMPTY, found.created)
            try:
                items = merge_items(unpack_items(found.meta), changes, life.deleted)
            except CorruptData as error:
                return Written(Status.CORRUPT, detail=str(error))
        meta = pack_items(items) if life.live else b""
        if len(meta) > META_BYTES_MAX:
            return Written(Status.REFUSED, detail=f"{len(meta)} bytes of metadata")
        found = loaded.catalog
        if not found.length or (life, meta) != (Life(found.created, found.deleted, found.touched), found.meta):
            place = decider.append(
                CATALOG, space << SPACE_SHIFT, hash_, life.created, life.deleted, life.touched, 0, key, meta, b""
            )
            decider.install_catalog(loaded, place, *life, meta)
        return _APPLIED

    def forget_object(self, operation: ForgetObject) -> Written:
        """See ForgetObject."""
        hash_, key, timestamp, meta_timestamp = operation
        decider = self._decider
        if decider.batch.room < _ROOM_FOR_DELETES:
            return _FULL
        index_key = SPACE_TAGS[Space.OBJECT] + hash_
        old = decider.lookup(index_key)
        if old is None:
            return _MISSING
        item = decode_entry(old)
        if item.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if (item.timestamp, item.meta_timestamp) != (timestamp, meta_timestamp):
            return Written(Status.NEWER, item.timestamp)
        decider.remove_entry(hash_, old)
        self._remember(index_key, 0, hash_, timestamp, meta_timestamp, 0, key)
        return _APPLIED

    def forget_row(self, operation: ForgetRow) -> Written:
        """See ForgetRow."""
        space, hash_, name, timestamp, sub_timestamp = operation
        decider = self._decider
        if decider.batch.room < _ROOM_FOR_DELETES:
            return _FULL
        loaded = decider.load_catalog(space, hash_)
        if loaded is None:
            return _MISSING
        short = len(name) <= PIECE_BYTES
        index_key = ROW_TAGS[space] + hash_ + name if short else row_key(row_base(space, hash_), name)
        old = decider.lookup(index_key)
        if old is None:
            return _MISSING
        _, _, _, _, old_timestamp, old_sub_timestamp, _, _ = unpack_row(old)
        if (old_timestamp, old_sub_timestamp) != (timestamp, sub_timestamp):
            return Written(Status.NEWER, old_timestamp)
        decider.remove_row(loaded, index_key, old, name)
        self._remember(index_key, FLAG_ROW | space << SPACE_SHIFT, hash_, timestamp, sub_timestamp, 0, name)
        return _APPLIED

    def forget_catalog(self, operation: ForgetCatalog) -> Written:
        """See ForgetCatalog."""
        space, hash_, key, created, deleted, touched, meta = operation
        decider = self._decider
        if decider.batch.room < _ROOM_FOR_DELETES:
            return _FULL
        loaded = decider.load_catalog(space, hash_, key)
        if loaded is None:
            return _MISSING
        found = loaded.catalog
        if found.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if (found.created, found.deleted, found.touched, found.meta) != (created, deleted, touched, pack_items(meta)):
            return Written(Status.NEWER, max(found.created, found.deleted, found.touched))
        if found.digest or found.row_count:
            return Written(Status.NOT_EMPTY, found.created)
        decider.remove_catalog(loaded)
        self._remember(loaded.index_key, space << SPACE_SHIFT, hash_, created, deleted, touched, key)
        return _APPLIED

    def rewrite_record(self, operation: RewriteRecord) -> Written:
        """See RewriteRecord."""
        space, hash_, name = operation
        decider = self._decider
        if decider.batch.room < _ROOM_FOR_DELETES:
            return _FULL
        if name:
            return self._rewrite_row(space, hash_, name)
        if space != Space.OBJECT:
            return self._rewrite_catalog(space, hash_)
        index_key = SPACE_TAGS[Space.OBJECT] + hash_
        old = decider.lookup(index_key)
        if old is None:
            return _MISSING
        item = decode_entry(old)
        if not item.deleted:
            return Written(Status.REFUSED, detail="an object's data is not in the index")
        times = item.timestamp, item.meta_timestamp
        place = decider.append(TOMBSTONE, item.flags, hash_, *times, item.size, 0, item.key, item.meta, b"")
        decider.install_copy(index_key, old, place)
        return _APPLIED

    def _rewrite_row(self, space: int, hash_: bytes, name: bytes) -> Written:
        decider = self._decider
        if space not in (Space.CONTAINER, Space.ACCOUNT):
            return Written(Status.REFUSED, detail=f"space {space} has no rows")
        index_key = row_key(row_base(space, hash_), name)
        old = decider.lookup(index_key)
        if old is None:
            return _MISSING
        row = decode_row(old)
        flags = row.deleted | space << SPACE_SHIFT
        times = row.timestamp, row.sub_timestamp
        place = decider.append(ROW, flags, hash_, *times, row.size_bytes, row.object_count, name, row.payload, b"")
        decider.install_copy(index_key, old, place)
        if len(name) > PIECE_BYTES:
            decider.write_pointers(space, hash_, name)
        return _APPLIED

    def _rewrite_catalog(self, space: int, hash_: bytes) -> Written:
        decider = self._decider
        loaded = decider.load_catalog(space, hash_)
        if loaded is None:
            return _MISSING
        found = loaded.catalog
        if not found.key:
            return Written(Status.REFUSED, detail="the catalog's name is lost: a replica has to bring it")
        life = found.created, found.deleted, found.touched
        flags = space << SPACE_SHIFT
        place = decider.append(CATALOG, flags, hash_, *life, 0, found.key, found.meta, b"")
        decider.install_catalog(loaded, place, *life, found.meta)
        return _APPLIED

    def _remember(
        self, index_key: bytes, flags: int, hash_: bytes, timestamp: int, timestamp_2: int, touched: int, key: bytes
    ) -> None:
        """Write the FORGET record."""
        decider = self._decider
        position = log_position(decider.batch.segment, decider.batch.offset)
        place = decider.append(FORGET, flags, hash_, timestamp, timestamp_2, touched, position, key, b"", b"")
        decider.install_forget(index_key, place, position)
