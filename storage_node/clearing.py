"""Clearing away: blob files that nothing names any more.

A replaced or deleted object's file goes once the change is published. What a crash kept from going, or what was finished but
never named, is an orphan: after each opening, every blob file without an entry in the index is removed, one directory a
step; not where the log is damaged, for then a lost record may have named it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from storage_node.blob import BLOB_ID_BYTES, blob_path
from storage_node.index import BLOB_TAG
from storage_node.work import Progress, SteppedWork, Steps

if TYPE_CHECKING:
    from storage_node.disk import Disk
    from storage_node.view import View

REMOVALS_A_BLOCK = 16


class RemoveBlobs(SteppedWork):
    """Unlinks queued blobs; a large file's takes milliseconds, so it blocks elsewhere."""

    name = "remove blobs"

    def __init__(self, disk: Disk, blobs: str, queue: list[bytes]) -> None:
        super().__init__()
        self._disk = disk
        self._blobs = blobs
        self._queue = queue

    def _run(self) -> Steps:
        while self._queue:
            some = self._queue[:REMOVALS_A_BLOCK]
            self._blocking = lambda some=some: self._unlink(some)
            yield Progress.BLOCK
            # In place, and only now: whoever clears the queue in between finds them still there.
            self._queue[:] = [blob_id for blob_id in self._queue if blob_id not in some]

    def _unlink(self, blob_ids: list[bytes]) -> None:
        for blob_id in blob_ids:
            # One that stays is found as an orphan when the device is opened the next time.
            with suppress(OSError):
                self._disk.unlink(blob_path(self._blobs, blob_id))


def blob_ids_in(disk: Disk, directory: str) -> list[bytes]:
    """The ids of the blob files in one of the 256 directories."""
    found = []
    for name in disk.listdir(directory):
        with suppress(ValueError):
            blob_id = bytes.fromhex(name)
            if len(blob_id) == BLOB_ID_BYTES:
                found.append(blob_id)
    return found


class SweepOrphans(SteppedWork):
    """Queues every blob that the index does not know for removal. Ids that end in `token` are of this opening: left."""

    name = "sweep orphans"

    def __init__(self, disk: Disk, blobs: str, token: bytes, view: Callable[[], View], queue: list[bytes]) -> None:
        super().__init__()
        self._disk = disk
        self._blobs = blobs
        self._token = token
        self._view = view
        self._queue = queue

    def _run(self) -> Steps:
        for number in range(256):
            try:
                found = blob_ids_in(self._disk, f"{self._blobs}/{number:02x}")
            except OSError:
                continue
            view = self._view()
            self._queue += [
                blob_id
                for blob_id in found
                if not blob_id.endswith(self._token) and view.value(BLOB_TAG + blob_id) is None
            ]
            yield Progress.MORE
