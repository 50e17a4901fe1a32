"""A device as a naive person would write it: dicts, no disk, no index. What the real one is held against."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from storage_node.device import DeviceWrite, PutBlob
from storage_node.operations import (
    CommonPrefix,
    DeleteCatalog,
    DeleteObject,
    ForgetCatalog,
    ForgetObject,
    ForgetRow,
    JoinCatalog,
    ListRows,
    Locked,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    RewriteRecord,
    Row,
    Status,
    UnlockObject,
    UpdateObject,
    Written,
)


@dataclass
class ModelObject:
    """An object's entry and data."""

    key: bytes
    timestamp: int
    meta_timestamp: int
    deleted: bool
    meta: bytes = b""
    data: bytes = b""
    manifest: bool = False


@dataclass
class ModelCatalog:
    """An account or container, its rows included."""

    key: bytes
    created: int = 0
    deleted: int = 0
    touched: int = 0
    meta: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    rows: dict[bytes, Row] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        """Created after it was deleted."""
        return self.created > self.deleted

    @property
    def live_rows(self) -> list[Row]:
        """Rows that are listed."""
        return [row for row in self.rows.values() if not row.deleted]


class Model:
    """Applies operations; gives the answers that a device must give."""

    def __init__(self) -> None:
        self.objects: dict[bytes, ModelObject] = {}
        self.catalogs: dict[tuple[int, bytes], ModelCatalog] = {}
        self.locks: dict[bytes, int] = {}

    def apply(self, operation: DeviceWrite, data: bytes = b"") -> Written | Locked:
        """Do one operation; `data` is a PutBlob's."""
        match operation:
            case PutObject():
                return self._put(operation, operation.data)
            case PutBlob():
                return self._put(operation, data)
            case DeleteObject():
                return self._delete(operation)
            case UpdateObject():
                return self._update(operation)
            case LockObject():
                return self._lock(operation)
            case UnlockObject():
                if self.locks.get(operation.hash) == operation.timestamp:
                    del self.locks[operation.hash]
                return Written(Status.APPLIED)
            case PutCatalog():
                return self._put_catalog(operation)
            case DeleteCatalog():
                return self._delete_catalog(operation)
            case PutRow():
                return self._put_row(operation)
            case JoinCatalog():
                return self._join(operation)
            case ForgetObject():
                return self._forget_object(operation)
            case ForgetRow():
                return self._forget_row(operation)
            case ForgetCatalog():
                return self._forget_catalog(operation)
            case RewriteRecord():
                return Written(Status.APPLIED)
            case _:
                raise NotImplementedError(type(operation).__name__)

    def copy(self) -> Model:
        """One that goes its own way from here."""
        return deepcopy(self)

    def _refused(self, hash_: bytes, timestamp: int, lock: int | None) -> Written | None:
        held = self.locks.get(hash_, 0)
        if lock is not None and held != lock:
            return Written(Status.LOCK_LOST, held)
        if lock is None and held > timestamp:
            return Written(Status.NEWER, held)
        return None

    def _replaced(self, old: ModelObject | None, timestamp: int) -> Written:
        if old is None:
            return Written(Status.APPLIED)
        if old.timestamp >= timestamp:
            return Written(Status.NEWER, old.timestamp)
        if old.deleted:
            return Written(Status.APPLIED)
        return Written(Status.APPLIED, old.timestamp, "", old.data if old.manifest else None)

    def _put(self, operation: PutObject | PutBlob, data: bytes) -> Written:
        refused = self._refused(operation.hash, operation.timestamp, operation.lock)
        if refused:
            return refused
        answer = self._replaced(self.objects.get(operation.hash), operation.timestamp)
        if answer.status == Status.APPLIED:
            self.objects[operation.hash] = ModelObject(
                operation.key,
                operation.timestamp,
                max(operation.timestamp, operation.meta_timestamp),
                False,
                operation.meta,
                data,
                operation.manifest,
            )
            if operation.lock is not None:
                del self.locks[operation.hash]
        return answer

    def _delete(self, operation: DeleteObject) -> Written:
        refused = self._refused(operation.hash, operation.timestamp, operation.lock)
        if refused:
            return refused
        answer = self._replaced(self.objects.get(operation.hash), operation.timestamp)
        if answer.status != Status.APPLIED:
            return answer
        self.objects[operation.hash] = ModelObject(operation.key, operation.timestamp, operation.timestamp, True)
        if operation.lock is not None:
            del self.locks[operation.hash]
        return answer if answer.timestamp else Written(Status.MISSING)

    def _update(self, operation: UpdateObject) -> Written:
        held = self.locks.get(operation.hash, 0)
        if held:
            return Written(Status.LOCKED, held)
        old = self.objects.get(operation.hash)
        if old is None:
            return Written(Status.MISSING)
        if old.deleted or old.timestamp != operation.data_timestamp:
            return Written(Status.MISSING, old.timestamp)
        if old.meta_timestamp >= operation.timestamp:
            return Written(Status.NEWER, old.meta_timestamp)
        old.meta, old.meta_timestamp = operation.meta, operation.timestamp
        return Written(Status.APPLIED, old.timestamp)

    def _lock(self, operation: LockObject) -> Locked:
        held = self.locks.get(operation.hash)
        if held and held != operation.timestamp:
            return Locked(Status.LOCKED, held)
        old = self.objects.get(operation.hash)
        if old is not None and old.meta_timestamp >= operation.timestamp:
            return Locked(Status.NEWER, old.meta_timestamp)
        self.locks[operation.hash] = operation.timestamp
        return Locked(Status.APPLIED)

    def _put_catalog(self, operation: PutCatalog) -> Written:
        place = (operation.space, operation.hash)
        found = self.catalogs.get(place)
        if found is None:
            if not operation.create:
                return Written(Status.MISSING)
            found = self.catalogs[place] = ModelCatalog(operation.key)
        if not found.live and not operation.create:
            return Written(Status.MISSING, found.deleted)
        if operation.timestamp <= found.deleted:
            return Written(Status.NEWER, found.deleted)
        before = found.created if found.live else 0
        if operation.create:
            found.created = min(before, operation.timestamp) if before else operation.timestamp
            found.touched = max(found.touched, operation.timestamp)
        found.meta = {name: item for name, item in found.meta.items() if item[1] > found.deleted}
        for name, (value, timestamp) in operation.meta.items():
            old_value, old_timestamp = found.meta.get(name, (b"", 0))
            if timestamp > found.deleted and (timestamp, value) > (old_timestamp, old_value):
                found.meta[name] = (value, timestamp)
        return Written(Status.APPLIED, before)

    def _delete_catalog(self, operation: DeleteCatalog) -> Written:
        place = (operation.space, operation.hash)
        found = self.catalogs.setdefault(place, ModelCatalog(operation.key))
        if not found.live:
            if operation.timestamp > found.deleted:
                found.deleted, found.meta = operation.timestamp, {}
            return Written(Status.MISSING)
        if operation.timestamp <= max(found.created, found.touched):
            return Written(Status.NEWER, max(found.created, found.touched))
        if found.live_rows:
            return Written(Status.NOT_EMPTY, found.created)
        found.deleted, found.meta = operation.timestamp, {}
        return Written(Status.APPLIED, found.created)

    def _put_row(self, operation: PutRow) -> Written:
        found = self.catalogs.get((operation.space, operation.hash))
        if found is None:
            return Written(Status.NO_CATALOG)
        if not found.live:
            return Written(Status.NO_CATALOG, found.deleted)
        old = found.rows.get(operation.name)
        version = (operation.timestamp, operation.sub_timestamp)
        if old is not None and (old.timestamp, old.sub_timestamp) >= version:
            return Written(Status.NEWER, old.timestamp)
        found.rows[operation.name] = Row(
            operation.name,
            *version,
            operation.deleted,
            operation.object_count,
            operation.size_bytes,
            operation.payload,
        )
        return Written(Status.APPLIED, 0 if old is None or old.deleted else old.timestamp)

    def _join(self, operation: JoinCatalog) -> Written:
        place = (operation.space, operation.hash)
        found = self.catalogs.setdefault(place, ModelCatalog(operation.key))
        lives = [(operation.created_timestamp, operation.deleted_timestamp, operation.touched_timestamp)]
        lives.append((found.created, found.deleted, found.touched))
        found.deleted = max(deleted for _, deleted, _ in lives)
        found.touched = max(max(created, touched) for created, _, touched in lives)
        later = [created for created, _, _ in lives if created > found.deleted]
        if found.touched > found.deleted:
            found.created = min(later, default=found.touched)
        else:
            found.created = max(created for created, _, _ in lives)
        items = {**found.meta}
        for name, (value, timestamp) in operation.meta.items():
            old_value, old_timestamp = items.get(name, (b"", 0))
            if (timestamp, value) > (old_timestamp, old_value):
                items[name] = (value, timestamp)
        found.meta = {name: item for name, item in items.items() if item[1] > found.deleted} if found.live else {}
        return Written(Status.APPLIED)

    def _forget_object(self, operation: ForgetObject) -> Written:
        old = self.objects.get(operation.hash)
        if old is None:
            return Written(Status.MISSING)
        if (old.timestamp, old.meta_timestamp) != (operation.timestamp, operation.meta_timestamp):
            return Written(Status.NEWER, old.timestamp)
        del self.objects[operation.hash]
        return Written(Status.APPLIED)

    def _forget_row(self, operation: ForgetRow) -> Written:
        found = self.catalogs.get((operation.space, operation.hash))
        row = found.rows.get(operation.name) if found is not None else None
        if found is None or row is None:
            return Written(Status.MISSING)
        if (row.timestamp, row.sub_timestamp) != (operation.timestamp, operation.sub_timestamp):
            return Written(Status.NEWER, row.timestamp)
        del found.rows[operation.name]
        return Written(Status.APPLIED)

    def _forget_catalog(self, operation: ForgetCatalog) -> Written:
        place = (operation.space, operation.hash)
        found = self.catalogs.get(place)
        if found is None:
            return Written(Status.MISSING)
        times = operation.created_timestamp, operation.deleted_timestamp, operation.touched_timestamp
        if ((found.created, found.deleted, found.touched), found.meta) != (times, operation.meta):
            return Written(Status.NEWER, max(found.created, found.deleted, found.touched))
        if found.rows:
            return Written(Status.NOT_EMPTY, found.created)
        del self.catalogs[place]
        return Written(Status.APPLIED)


def list_naively(rows: list[Row], query: ListRows) -> tuple[list[Row | CommonPrefix], bool]:
    """What a ListRows must give, by looking at every row."""
    found: list[Row | CommonPrefix] = []
    for row in sorted(rows, key=lambda row: row.name, reverse=query.reverse):
        name = row.name
        if name < query.start or (query.end is not None and name >= query.end) or not name.startswith(query.prefix):
            continue
        if row.deleted and not query.deleted:
            continue
        item: Row | CommonPrefix = row
        if query.delimiter:
            at = name.find(query.delimiter, len(query.prefix))
            if at >= 0:
                item = CommonPrefix(name[: at + len(query.delimiter)])
        if item not in found:
            found.append(item)
    return found[: query.limit], len(found) > query.limit
