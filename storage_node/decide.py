"""Deciding writes: what each operation does to the state that the ones before it left, and what it is answered.

Problem: operations arrive in any order, twice, late, from writers that raced; replicas must end alike whatever the order.

Idea: newest wins, for everything, by the timestamps that the operations carry: an operation that is older than what is there
is answered NEWER and leaves no trace. What is decided here is pure but for lookups: records go to the batch, the device
writes them. Every check of an operation's shape is here too, for nothing in front of this is believed.

Rules that are not obvious:
- An equal timestamp is NEWER as well (with that timestamp): an exact repetition can be told from a conflict by it.
- A catalog is created once: of several creations while it lives the earliest stays its `created`, in whatever order they
  come; the latest is kept as `touched`, and a deletion before it is late, hence NEWER.
- A deletion of what was never here is recorded all the same, so that a creation that is older and comes later loses.
- Locks are memory only: a restart forgets them and the writer is told LOCK_LOST.
- New metadata waits for a lock (LOCKED) whatever its timestamp: the lock's holder may be deleting the data because of what
  the metadata said, and unlike a new object it can't come after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from storage_node.blob import BlobWriter, PutBlob
from storage_node.catalog import merge_items, pack_items, unpack_items
from storage_node.errors import CorruptData
from storage_node.index import ROW_TAGS, decode_entry, unpack_entry, unpack_row
from storage_node.install import Installer
from storage_node.log import PlaceGone
from storage_node.operations import (
    HASH_BYTES,
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    ROW_NAME_BYTES_MAX,
    SMALL_BYTES_MAX,
    DeleteCatalog,
    DeleteObject,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    JoinCatalog,
    Locked,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Space,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)
from storage_node.record import (
    BLOB,
    CATALOG,
    FLAG_DELETED,
    FLAG_MANIFEST,
    HEADER_BYTES,
    OBJECT,
    ROW,
    SPACE_SHIFT,
    TOMBSTONE,
    encode,
)
from storage_node.replica import ReplicaOperations
from storage_node.rows import PIECE_BYTES, row_base, row_key
from storage_node.timestamp import TIMESTAMP_MAX
from storage_node.view import COLLISION

if TYPE_CHECKING:
    from storage_node.index import IndexedEntry
    from storage_node.settings import DeviceSettings
    from storage_node.view import View

ROOM_FOR_NOTHING, ROOM_FOR_DELETES, ROOM_FOR_ALL = 0, 1, 2
COUNT_MAX = (1 << 63) - 1
BLOB_DATA_BYTES = 16

_APPLIED = Written(Status.APPLIED)
_MISSING = Written(Status.MISSING)
_FULL = Written(Status.FULL)


class Decider(Installer):
    """Decides operations one by one into `batch`."""

    def __init__(self, view: View, settings: DeviceSettings, now_ms: Callable[[], int]) -> None:
        super().__init__(view)
        self._settings = settings
        self._now_ms = now_ms
        self._locks: dict[bytes, tuple[int, int]] = {}
        """Hash -> (timestamp, when it expires in ms)."""
        replica = ReplicaOperations(self)
        self.handlers: dict[type, Callable[[Any], Written | Locked]] = {
            PutObject: self._put_object,
            DeleteObject: self._delete_object,
            UpdateObject: self._update_object,
            LockObject: self._lock_object,
            UnlockObject: self._unlock_object,
            PutCatalog: self._put_catalog,
            DeleteCatalog: self._delete_catalog,
            PutRow: self._put_row,
            PutBlob: self._put_blob,
            JoinCatalog: replica.join_catalog,
            ForgetObject: replica.forget_object,
            ForgetRow: replica.forget_row,
            ForgetCatalog: replica.forget_catalog,
            RewriteRecord: replica.rewrite_record,
        }

    def append(
        self,
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
    ) -> tuple[int, int, int]:
        """Add a record to the batch; gives its place."""
        batch = self.batch
        offset = batch.offset
        raw = encode(
            batch.seed,
            offset,
            batch.durable,
            kind,
            flags,
            hash_,
            timestamp,
            timestamp_2,
            size,
            extra,
            key,
            meta,
            data,
        )
        batch.records.append(raw)
        length = len(raw)
        batch.offset = offset + length
        return batch.segment, offset, length

    # ------------------------------------------------------------------------------------------------------------- locks

    def _held(self, hash_: bytes) -> int:
        """The timestamp of the lock on an object, 0 if there is none."""
        held = self._locks.get(hash_)
        if held is None:
            return 0
        if held[1] <= self._now_ms():
            del self._locks[hash_]
            return 0
        return held[0]

    def _lock_refuses(self, hash_: bytes, timestamp: int, lock: int | None) -> Written | None:
        """What a lock, or the lack of one, answers to a write."""
        held = self._held(hash_)
        if lock is not None:
            return None if held == lock else Written(Status.LOCK_LOST, held)
        return Written(Status.NEWER, held) if held > timestamp else None

    def _lock_object(self, operation: LockObject) -> Locked:
        hash_, key, timestamp, lease_ms = operation
        problem = _entry_problem(hash_, key, timestamp, b"")
        if problem:
            return Locked(Status.REFUSED, detail=problem)
        held = self._held(hash_)
        if held and held != timestamp:
            return Locked(Status.LOCKED, held)
        value = self.lookup(b"\x00" + hash_)
        entry = None
        if value is not None:
            item = decode_entry(value)
            if item.key != key:
                return Locked(Status.REFUSED, detail=COLLISION)
            entry = item.entry()
            if item.meta_timestamp >= timestamp:
                return Locked(Status.NEWER, item.meta_timestamp, entry)
        if not held and len(self._locks) >= self._settings.lock_count_max:
            self.expire_locks()
            if len(self._locks) >= self._settings.lock_count_max:
                return Locked(Status.BUSY, detail="too many locks")
        lease_ms = max(0, min(lease_ms, self._settings.lock_lease_ms_max))
        self._locks[hash_] = (timestamp, self._now_ms() + lease_ms)
        self.batch.locked.append(hash_)
        return Locked(Status.APPLIED, entry=entry)

    def _unlock_object(self, operation: UnlockObject) -> Written:
        held = self._locks.get(operation.hash)
        if held is not None and held[0] == operation.timestamp:
            del self._locks[operation.hash]
        return _APPLIED

    def expire_locks(self) -> None:
        """Forget the locks whose lease is over."""
        now = self._now_ms()
        self._locks = {hash_: held for hash_, held in self._locks.items() if held[1] > now}

    def drop_locks(self, hashes: list[bytes]) -> None:
        """Forget these locks: the batch that took them came to nothing."""
        for hash_ in hashes:
            self._locks.pop(hash_, None)

    # ----------------------------------------------------------------------------------------------------------- objects

    def _put_object(self, operation: PutObject) -> Written:
        hash_, key, timestamp, meta, data, manifest, lock, meta_timestamp = operation
        if len(data) > max(SMALL_BYTES_MAX, self._settings.inline_bytes_max):
            return Written(Status.REFUSED, detail=f"{len(data)} bytes of data in a PutObject")
        flags = FLAG_MANIFEST if manifest else 0
        return self._put(hash_, key, timestamp, meta_timestamp, meta, flags, lock, OBJECT, len(data), data, 0)

    def _put_blob(self, operation: PutBlob) -> Written:
        """Like PutObject, its data in a finished writer."""
        hash_, key, timestamp, meta, writer, manifest, lock, meta_timestamp = operation
        if not isinstance(writer, BlobWriter) or not writer.finished:
            return Written(Status.REFUSED, detail="the writer of a PutBlob is not finished")
        self.batch.writers.append(writer)
        flags = FLAG_MANIFEST if manifest else 0
        if writer.in_memory:
            data = writer.take_data()
            return self._put(hash_, key, timestamp, meta_timestamp, meta, flags, lock, OBJECT, len(data), data, 0)
        size, data, checksum = writer.size_bytes, writer.blob_id, writer.table_checksum
        return self._put(hash_, key, timestamp, meta_timestamp, meta, flags, lock, BLOB, size, data, checksum)

    def _put(
        self,
        hash_: bytes,
        key: bytes,
        timestamp: int,
        meta_timestamp: int,
        meta: bytes,
        flags: int,
        lock: int | None,
        kind: int,
        size: int,
        data: bytes,
        table_checksum: int,
    ) -> Written:
        problem = _entry_problem(hash_, key, timestamp, meta)
        if problem:
            return Written(Status.REFUSED, detail=problem)
        if self.batch.room < ROOM_FOR_ALL:
            return _FULL
        if lock is not None or self._locks:
            refused = self._lock_refuses(hash_, timestamp, lock)
            if refused is not None:
                return refused
        old = self.lookup(b"\x00" + hash_)
        answer = _APPLIED
        if old is not None:
            answer = self._replace(hash_, old, key, timestamp)
            if answer.status != Status.APPLIED:
                return answer
        # A copy of another replica's object comes with metadata that was updated since.
        meta_timestamp = meta_timestamp if meta_timestamp > timestamp else timestamp
        place = self.append(kind, flags, hash_, timestamp, meta_timestamp, size, table_checksum, key, meta, data)
        blob_id = data if kind == BLOB else b""
        self.install_entry(
            hash_, old, place, kind, flags, timestamp, meta_timestamp, size, key, meta, blob_id, table_checksum
        )
        if lock is not None:
            self._locks.pop(hash_, None)
        return answer

    def _replace(self, hash_: bytes, old: bytes, key: bytes, timestamp: int) -> Written:
        """Whether a write may take the place of `old`, and what it is told of it."""
        _, _, _, kind, flags, _, old_timestamp, _, _ = unpack_entry(old)
        item = decode_entry(old)
        if item.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if old_timestamp >= timestamp:
            return Written(Status.NEWER, old_timestamp)
        if kind == TOMBSTONE:
            return _APPLIED
        if not flags & FLAG_MANIFEST:
            return Written(Status.APPLIED, old_timestamp)
        try:
            return Written(Status.APPLIED, old_timestamp, "", self._data_of(hash_, item))
        except (CorruptData, PlaceGone, OSError) as error:
            # The write goes on; whoever would clean up behind the manifest is told that it can't be read.
            self.view.note_rot(hash_, key)
            return Written(Status.APPLIED, old_timestamp, f"the replaced manifest can't be read: {error}")

    def _data_of(self, hash_: bytes, item: IndexedEntry) -> bytes:
        """An entry's data, from this very batch if it is not written yet."""
        batch = self.batch
        if item.kind == OBJECT and item.segment == batch.segment and item.offset >= batch.start:
            at = batch.start
            for raw in batch.records:
                if at == item.offset:
                    return raw[len(raw) - item.size :]
                at += len(raw)
        return self.view.object_data(hash_, item)

    def _delete_object(self, operation: DeleteObject) -> Written:
        hash_, key, timestamp, lock = operation
        problem = _entry_problem(hash_, key, timestamp, b"")
        if problem:
            return Written(Status.REFUSED, detail=problem)
        if self.batch.room < ROOM_FOR_DELETES:
            return _FULL
        if lock is not None or self._locks:
            refused = self._lock_refuses(hash_, timestamp, lock)
            if refused is not None:
                return refused
        old = self.lookup(b"\x00" + hash_)
        answer = _MISSING
        if old is not None:
            answer = self._replace(hash_, old, key, timestamp)
            if answer.status != Status.APPLIED:
                return answer
            if answer.timestamp == 0:
                answer = _MISSING
        place = self.append(TOMBSTONE, FLAG_DELETED, hash_, timestamp, timestamp, 0, 0, key, b"", b"")
        self.install_entry(hash_, old, place, TOMBSTONE, FLAG_DELETED, timestamp, timestamp, 0, key, b"")
        if lock is not None:
            self._locks.pop(hash_, None)
        return answer

    def _update_object(self, operation: UpdateObject) -> Written:
        hash_, key, data_timestamp, timestamp, meta = operation
        problem = _entry_problem(hash_, key, timestamp, meta)
        if problem:
            return Written(Status.REFUSED, detail=problem)
        if self.batch.room < ROOM_FOR_ALL:
            return _FULL
        if self._locks and (held := self._held(hash_)):
            return Written(Status.LOCKED, held)
        old = self.lookup(b"\x00" + hash_)
        if old is None:
            return _MISSING
        item = decode_entry(old)
        if item.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if item.kind == TOMBSTONE or item.timestamp != data_timestamp:
            return Written(Status.MISSING, item.timestamp)
        if item.meta_timestamp >= timestamp:
            return Written(Status.NEWER, item.meta_timestamp)
        try:
            data = item.blob_id if item.kind == BLOB else self._data_of(hash_, item)
        except (CorruptData, PlaceGone, OSError) as error:
            self.view.note_rot(hash_, key)
            return Written(Status.CORRUPT, detail=str(error))
        fields = item.kind, item.flags
        place = self.append(*fields, hash_, item.timestamp, timestamp, item.size, item.blob_checksum, key, meta, data)
        self.install_entry(
            hash_,
            old,
            place,
            *fields,
            item.timestamp,
            timestamp,
            item.size,
            key,
            meta,
            item.blob_id,
            item.blob_checksum,
        )
        return Written(Status.APPLIED, item.timestamp)

    # ---------------------------------------------------------------------------------------------------------- catalogs

    def _put_catalog(self, operation: PutCatalog) -> Written:
        space, hash_, key, timestamp, changes, create = operation
        problem = _catalog_problem(space, hash_, key, timestamp) or _items_problem(changes)
        if problem:
            return Written(Status.REFUSED, detail=problem)
        if self.batch.room < ROOM_FOR_ALL:
            return _FULL
        loaded = self.load_catalog(space, hash_, key)
        if loaded is None:
            if not create:
                return _MISSING
            meta = pack_items(merge_items({}, changes, 0))
            if len(meta) > META_BYTES_MAX:
                return Written(Status.REFUSED, detail=f"{len(meta)} bytes of metadata")
            loaded = self.new_catalog(space, hash_, key)
            self._write_catalog(loaded, timestamp, 0, timestamp, meta)
            return _APPLIED
        found = loaded.catalog
        if found.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if not found.live and not create:
            return Written(Status.MISSING, found.deleted)
        if timestamp <= found.deleted:
            return Written(Status.NEWER, found.deleted)
        before = found.created if found.live else 0
        created = min(before or timestamp, timestamp) if create else before
        touched = max(found.touched, timestamp) if create else found.touched
        try:
            meta = pack_items(merge_items(unpack_items(found.meta), changes, found.deleted))
        except CorruptData as error:
            return Written(Status.CORRUPT, detail=str(error))
        if len(meta) > META_BYTES_MAX:
            return Written(Status.REFUSED, detail=f"{len(meta)} bytes of metadata")
        if (created, touched, meta) != (found.created, found.touched, found.meta):
            self._write_catalog(loaded, created, found.deleted, touched, meta)
        return Written(Status.APPLIED, before)

    def _delete_catalog(self, operation: DeleteCatalog) -> Written:
        space, hash_, key, timestamp = operation
        problem = _catalog_problem(space, hash_, key, timestamp)
        if problem:
            return Written(Status.REFUSED, detail=problem)
        if self.batch.room < ROOM_FOR_DELETES:
            return _FULL
        loaded = self.load_catalog(space, hash_, key)
        if loaded is None:
            self._write_catalog(self.new_catalog(space, hash_, key), 0, timestamp, 0, b"")
            return _MISSING
        found = loaded.catalog
        if found.key != key:
            return Written(Status.REFUSED, detail=COLLISION)
        if not found.live:
            if timestamp > found.deleted:
                self._write_catalog(loaded, found.created, timestamp, found.touched, b"")
            return _MISSING
        if timestamp <= max(found.created, found.touched):
            return Written(Status.NEWER, max(found.created, found.touched))
        if found.row_count:
            return Written(Status.NOT_EMPTY, found.created)
        answer = Written(Status.APPLIED, found.created)
        self._write_catalog(loaded, found.created, timestamp, found.touched, b"")
        return answer

    def _write_catalog(self, loaded: Any, created: int, deleted: int, touched: int, meta: bytes) -> None:
        flags = loaded.space << SPACE_SHIFT
        key = loaded.catalog.key
        place = self.append(CATALOG, flags, loaded.hash, created, deleted, touched, 0, key, meta, b"")
        self.install_catalog(loaded, place, created, deleted, touched, meta)

    # -------------------------------------------------------------------------------------------------------------- rows

    def _put_row(self, operation: PutRow) -> Written:
        space, hash_, name, timestamp, sub_timestamp, deleted, object_count, size_bytes, payload, replica = operation
        if not (
            (space == 1 or space == 2)
            and len(hash_) == HASH_BYTES
            and 0 < len(name) <= ROW_NAME_BYTES_MAX
            and 0 < timestamp <= TIMESTAMP_MAX
            and 0 <= sub_timestamp <= TIMESTAMP_MAX
            and 0 <= object_count <= COUNT_MAX
            and 0 <= size_bytes <= COUNT_MAX
            and len(payload) <= META_BYTES_MAX
        ):
            return Written(Status.REFUSED, detail="a row's space, name, timestamps, counts or payload are out of range")
        room = self.batch.room
        if room < ROOM_FOR_ALL and (room < ROOM_FOR_DELETES or not deleted):
            return _FULL
        loaded = self.load_catalog(space, hash_)
        if loaded is None:
            return Written(Status.NO_CATALOG)
        if loaded.catalog.created <= loaded.catalog.deleted and not (replica and deleted):
            return Written(Status.NO_CATALOG, loaded.catalog.deleted)
        if len(name) <= PIECE_BYTES:
            index_key = ROW_TAGS[space] + hash_ + name
        else:
            index_key = row_key(row_base(space, hash_), name)
        old = self.lookup(index_key)
        answer = _APPLIED
        if old is not None:
            _, _, _, old_flags, old_timestamp, old_sub, _, _ = unpack_row(old)
            if (old_timestamp, old_sub) >= (timestamp, sub_timestamp):
                return Written(Status.NEWER, old_timestamp)
            if not old_flags & FLAG_DELETED:
                answer = Written(Status.APPLIED, old_timestamp)
        flags = (FLAG_DELETED if deleted else 0) | space << SPACE_SHIFT
        place = self.append(ROW, flags, hash_, timestamp, sub_timestamp, size_bytes, object_count, name, payload, b"")
        self.install_row(
            loaded,
            index_key,
            old,
            place,
            flags & FLAG_DELETED,
            name,
            timestamp,
            sub_timestamp,
            object_count,
            size_bytes,
            payload,
        )
        return answer


def _entry_problem(hash_: bytes, key: bytes, timestamp: int, meta: bytes) -> str:
    """What is wrong with an object operation; empty if nothing is."""
    if len(hash_) == HASH_BYTES and 0 < len(key) <= KEY_BYTES_MAX and 0 < timestamp <= TIMESTAMP_MAX:
        return "" if len(meta) <= META_BYTES_MAX else f"{len(meta)} bytes of metadata"
    return f"a hash of {len(hash_)} bytes, a key of {len(key)}, timestamp {timestamp}"


def _catalog_problem(space: int, hash_: bytes, key: bytes, timestamp: int) -> str:
    if space not in (Space.CONTAINER, Space.ACCOUNT):
        return f"space {space} has no catalogs"
    return _entry_problem(hash_, key, timestamp, b"")


def _items_problem(changes: dict[bytes, tuple[bytes, int]]) -> str:
    for name, (value, timestamp) in changes.items():
        if not isinstance(name, bytes) or not isinstance(value, bytes) or not 0 < timestamp <= TIMESTAMP_MAX:
            return "metadata items are bytes to (bytes, timestamp)"
    return ""


assert HEADER_BYTES + KEY_BYTES_MAX + META_BYTES_MAX + 16 * 1024 * 1024 < 24 * 1024 * 1024
