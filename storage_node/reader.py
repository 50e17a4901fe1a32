"""Another process's read-only view of a device that lives.

Problem: a proxy on the same machine should read a device without a hop to its server: two LMDB look-ups and a pread. But the
device is another process's: it restarts, checkpoints, compacts, and its directory may be wiped and made anew, at any moment.

Idea: the same View as the device's own, over transactions that are begun for each operation (0.2 us each: LMDB keeps
the reader's slot) and let go right after, so that a reader at rest pins no page. `recent` first, then `index`. What can
happen in between, and what is done:

- a file is gone that the index named: it was compacted or replaced; look again.
- LMDB says that the map grew: take the new size, look again.
- another device lies in the directory (the inodes of device.json and of the two environments are compared every
  CHECK_MS): close everything, open anew.
- the device is being filled (identity.py): `filling` says so, which is looked up with the inodes.
- there is no device, or it is just being made: UNREACHABLE; try again at the next read.

A listing must be of one snapshot: it is only taken if the index does not stand for a later position than `recent` says,
which a checkpoint in just that moment can cause.

What a reader sees is what the device published; if the device is down, what it had published last. Who needs the newest asks
a majority of the replicas, as always.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb
import msgpack

from storage_node.audit import Audited, AuditEntries, AuditRows, audit_entries, audit_rows
from storage_node.blob import ObjectReader
from storage_node.disk import Disk, RealDisk
from storage_node.errors import DeviceError
from storage_node.identity import Layout, read_filling, read_identity
from storage_node.index import (
    POSITION_KEY,
    STATISTICS_KEY,
    OpenEnvironment,
    open_index,
)
from storage_node.log import PlaceGone, SegmentCache
from storage_node.operations import (
    Answer,
    Found,
    FoundCatalog,
    FoundDigests,
    FoundEntries,
    FoundRows,
    FoundStatistics,
    GetCatalog,
    GetDigests,
    GetObject,
    GetStatistics,
    ListEntries,
    ListRows,
    ReadOperation,
    Statistics,
    Status,
)
from storage_node.settings import DeviceSettings
from storage_node.view import View, is_coarse

CHECK_MS = 1_000
TRIES_MAX = 5
_ANSWERS: dict[type, type[Found | FoundCatalog | FoundRows | FoundEntries | FoundDigests | FoundStatistics]] = {
    GetObject: Found,
    GetCatalog: FoundCatalog,
    ListRows: FoundRows,
    ListEntries: FoundEntries,
    GetDigests: FoundDigests,
    GetStatistics: FoundStatistics,
}
T = TypeVar("T")


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Parts(NamedTuple):
    """An open device, as a reader has it."""

    view: View
    segments: SegmentCache
    recent_env: OpenEnvironment
    index_env: OpenEnvironment
    files: tuple[tuple[int, int], ...]
    """What tells this device from the next one in the same directory."""


class LocalReader:
    """Reads a device of this machine without its server: the very same code as Device.read.

    Several readers and a Device of one directory may live in one process. One thread at a time, and that of the Device.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        disk: Disk | None = None,
        settings: DeviceSettings | None = None,
        now_ms: Callable[[], int] = _monotonic_ms,
    ) -> None:
        """Opens lazily: raises nothing, whatever is or is not at `path`."""
        self._layout = Layout(str(path))
        self._disk = disk or RealDisk()
        self._settings = settings or DeviceSettings()
        self._now_ms = now_ms
        self._parts: _Parts | None = None
        self._check_at_ms = 0
        self.filling = False
        """The device that was read last is being filled: what it does not have may be there all the same."""

    def read(self, operation: ReadOperation) -> Answer:
        """Answer as the device would; UNREACHABLE when there is no readable device (made, wiped or being re-created).

        Coarse GetDigests are REFUSED here: only the device keeps them current. Ask its server.
        """
        kind = type(operation)
        if kind is GetObject:
            answer = self._attempt(View.get_object, operation)  # type: ignore[arg-type]  # chosen by type
            if answer is Status.CORRUPT:
                self._note_lost(operation.hash, operation.key)  # type: ignore[union-attr]  # it is one
        elif kind is ListRows:
            answer = self._attempt(_list_rows, operation)  # type: ignore[arg-type]  # chosen by type
        elif kind is GetStatistics:
            answer = self._attempt(self._statistics, operation)
        elif kind is GetDigests and is_coarse(operation):  # type: ignore[arg-type]  # it is one
            return FoundDigests(Status.REFUSED, detail="only the device keeps these digests: ask its server")
        else:
            answer = self._attempt(View.read, operation)
        return _ANSWERS[kind](answer) if isinstance(answer, Status) else answer

    def open_read(self, hash_: bytes, key: bytes, timestamp: int | None = None) -> ObjectReader | Status:
        """As Device.open_read; Status.UNREACHABLE as in read()."""
        found: ObjectReader | Status = self._attempt(_open_read, (hash_, key, timestamp))
        if found is Status.CORRUPT:
            self._note_lost(hash_, key)
        return found

    def audit(self, operation: AuditEntries | AuditRows) -> Audited | Status:
        """A page of an audit of this device; UNREACHABLE as in read()."""
        found: Audited | Status = self._attempt(_audit, operation)
        return found

    def _note_lost(self, hash_: bytes, key: bytes) -> None:
        """The file that should hold an object is not there, or what is in it is wrong."""
        if self._parts is not None:
            self._parts.view.note_rot(hash_, key)

    @property
    def opened(self) -> bool:
        """Whether there is a device to be read, as far as is known."""
        return self._parts is not None

    def close(self) -> None:
        """Idempotent."""
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.segments.close()
            parts.recent_env.close()
            parts.index_env.close()

    def _statistics(self, view: View, _: ReadOperation) -> Answer | Status:
        packed = view.recent.get(STATISTICS_KEY)
        if packed is None:
            return Status.UNREACHABLE
        try:
            found = Statistics(*msgpack.unpackb(packed))
        except (ValueError, TypeError, msgpack.UnpackException):
            return Status.CORRUPT
        try:
            total, free = self._disk.free_bytes(self._layout.root)
        except OSError:
            return Status.UNREACHABLE
        return FoundStatistics(Status.FOUND, found._replace(total_bytes=total, free_bytes=free))

    # ------------------------------------------------------------------------------------------------ opening, again

    def _attempt(self, read: Callable[[View, T], Answer | ObjectReader | Audited | Status], argument: T) -> Any:
        """Read on one pair of snapshots, and again where the device moved under it."""
        if self._now_ms() >= self._check_at_ms:
            self._check_at_ms = self._now_ms() + CHECK_MS
            self._close_if_replaced()
        for _ in range(TRIES_MAX):
            parts = self._parts or self._open()
            if parts is None:
                return Status.UNREACHABLE
            view = parts.view
            try:
                recent = view.recent = parts.recent_env.env.begin()
                index = view.index = parts.index_env.env.begin()
                try:
                    return read(view, argument)
                finally:
                    recent.abort()
                    index.abort()
            except PlaceGone:
                continue
            except lmdb.MapResizedError:
                with suppress(lmdb.Error):
                    parts.recent_env.env.set_mapsize(0)
                    parts.index_env.env.set_mapsize(0)
            except lmdb.Error:
                # Its environment is not what it was: a writer of this process took over, or the files are others.
                self.close()
        # A file that stays away is not being moved: it is lost.
        return Status.CORRUPT

    def _open(self) -> _Parts | None:
        layout = self._layout
        files = self._files()
        if files is None:
            return None
        recent: OpenEnvironment | None = None
        try:
            identity = read_identity(self._disk, layout.root)
            self.filling = bool(read_filling(self._disk, layout.root))
            recent = open_index(layout.recent_env, self._settings.recent_map_bytes, writable=False, durable=False)
            index = open_index(layout.index_env, self._settings.index_map_bytes, writable=False, durable=True)
        except (DeviceError, OSError, lmdb.Error):
            if recent is not None:
                recent.close()
            return None
        segments = SegmentCache(self._disk, layout.log, identity.uuid, self._settings.open_segments_max)
        self._parts = _Parts(View(self._disk, segments, layout.blobs), segments, recent, index, files)
        return self._parts

    def _files(self) -> tuple[tuple[int, int], ...] | None:
        """The identities of the files that make the device; None while one is missing."""
        root = self._layout.root
        try:
            found = [os.stat(f"{root}/{name}") for name in ("device.json", "recent/data.mdb", "index/data.mdb")]
        except OSError:
            return None
        return tuple((item.st_dev, item.st_ino) for item in found)

    def _close_if_replaced(self) -> None:
        if self._parts is None:
            return
        if self._files() != self._parts.files:
            self.close()
        else:
            self.filling = os.path.exists(f"{self._layout.root}/filling.json")


def _list_rows(view: View, operation: ListRows) -> FoundRows:
    if _is_mixed(view.recent, view.index):
        raise PlaceGone("a checkpoint came between the two snapshots")
    return view.stored_rows(operation)


def _open_read(view: View, asked: tuple[bytes, bytes, int | None]) -> ObjectReader | Status:
    return view.open_read(*asked)


def _audit(view: View, operation: AuditEntries | AuditRows) -> Audited | Status:
    return audit_rows(view, operation) if isinstance(operation, AuditRows) else audit_entries(view, operation)


def _is_mixed(recent: lmdb.Transaction[bytes], index: lmdb.Transaction[bytes]) -> bool:
    """The index stands for more than `recent` knows of: it was checkpointed between the two."""
    ours, theirs = recent.get(POSITION_KEY), index.get(POSITION_KEY)
    if ours is None or theirs is None:
        return False
    return _position(theirs) > _position(ours)


def _position(packed: bytes) -> tuple[int, int]:
    return int.from_bytes(packed[:4], "little"), int.from_bytes(packed[4:], "little")
