"""The parts of an open device, and how they come to be open: lock, identity, recovery, then everything else.

Order matters. The lock first: nothing is touched before this process is the only writer. Recovery writes the index, then
`recent` is emptied: a reader in another process that looks into the old `recent` meanwhile sees what was, and what it
holds is never newer than the index.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from storage_node.identity import (
    FILLING_BYTES,
    Fence,
    Layout,
    note_recent,
    read_fence,
    read_filling,
    read_identity,
    recent_is_believable,
    remove_fence,
    remove_filling,
    take_lock,
    write_fence,
    write_filling,
)
from storage_node.index import POSITION, POSITION_KEY, OpenEnvironment, open_index, reserve
from storage_node.log import Position, SegmentCache
from storage_node.log_writer import LogWriter
from storage_node.recovery import Recovered, Recovery
from storage_node.view import View

if TYPE_CHECKING:
    from storage_node.disk import Disk
    from storage_node.settings import DeviceSettings


RECENT_GROWTH_MAX = 8


class Parts:
    """What an open device consists of."""

    def __init__(
        self,
        path: str,
        disk: Disk,
        settings: DeviceSettings,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Opens and recovers. Raises NotADevice, DeviceInUse, DeviceDamaged, OSError, lmdb.Error."""
        self.disk = disk
        self.settings = settings
        self.layout = Layout(path)
        self.identity = read_identity(disk, path)
        with ExitStack() as undo:
            self._lock_fd = take_lock(disk, path)
            undo.callback(disk.close, self._lock_fd)
            self.fence = read_fence(disk, path)
            self.opened_fenced = self.fence is not None
            """The fence stood before this opening: the log has been cut at its position."""
            self.filling = read_filling(disk, path)
            """What this filling is called; empty while the device lacks nothing that it acknowledged."""
            self._random_bytes = random_bytes
            self._empty_incoming()
            self.segments = SegmentCache(disk, self.layout.log, self.identity.uuid, settings.open_segments_max)
            self.view = View(disk, self.segments, self.layout.blobs)
            recovered = self._recover()
            self.index_env = recovered.index_env
            undo.callback(self.index_env.close)
            self.state = recovered.state
            self.notes = recovered.notes
            self.recent_env = self._fresh_recent()
            undo.callback(self.recent_env.close)
            self.log = LogWriter(
                disk,
                self.layout.log,
                self.identity.uuid,
                settings.segment_bytes,
                recovered.next_segment,
                random_bytes,
                settings.zero_ahead_bytes,
            )
            undo.pop_all()
        self._view_recent = self._view_index = False

    def _empty_incoming(self) -> None:
        for name in self.disk.listdir(self.layout.incoming):
            self.disk.unlink(f"{self.layout.incoming}/{name}")

    def _recover(self) -> Recovered:
        recovery = Recovery(self.disk, self.layout, self.identity.uuid, self.settings, self.view, self._begin_filling)
        return recovery.run(self._durable_position(), self.fence.position if self.fence else None)

    def _durable_position(self) -> Position | None:
        """How far the log was synced, if `recent` is there to tell."""
        if not recent_is_believable(self.disk, self.layout.root):
            return None
        with suppress(lmdb.Error):
            env = open_index(self.layout.recent_env, self.settings.recent_map_bytes, writable=True, durable=False)
            try:
                with env.env.begin() as txn:
                    found = txn.get(POSITION_KEY)
                    return Position(*POSITION.unpack(found)) if found else None
            finally:
                env.close()
        return None

    def _fresh_recent(self) -> OpenEnvironment:
        """`recent`, holding nothing but the position."""
        path = self.layout.recent_env
        env: OpenEnvironment | None = None
        if recent_is_believable(self.disk, self.layout.root):
            with suppress(lmdb.Error):
                env = open_index(path, self.settings.recent_map_bytes, writable=True, durable=False)
        if env is None:
            shutil.rmtree(path, ignore_errors=True)
            Path(path).mkdir(mode=0o700)
            env = open_index(path, self.settings.recent_map_bytes, writable=True, durable=False)
            note_recent(self.disk, self.layout.root)
        try:
            env.env.reader_check()
            with env.env.begin(write=True) as txn:
                txn.drop(env.env.open_db(None, txn=txn), delete=False)
                txn.put(POSITION_KEY, POSITION.pack(*self.state.position))
        except BaseException:
            env.close()
            raise
        return env

    def grow_recent(self) -> None:
        """Twice the room for `recent`, up to RECENT_GROWTH_MAX times the setting. Raises OSError, lmdb.Error."""
        env = self.recent_env.env
        size = env.info()["map_size"] * 2
        if size > self.settings.recent_map_bytes * RECENT_GROWTH_MAX:
            raise lmdb.MapFullError(f"`recent` is at its limit of {size // 2} bytes")
        self.let_go_of_recent()
        reserve(f"{self.layout.recent_env}/data.mdb", size)
        env.set_mapsize(size)

    # ---------------------------------------------------------------------------------------------------------- the view

    def fresh_view(self) -> View:
        """The view of what is published now."""
        view = self.view
        if not self._view_recent:
            view.recent = self.recent_env.env.begin()
            self._view_recent = True
            if not self._view_index:
                view.index = self.index_env.env.begin()
                self._view_index = True
        return view

    def let_go_of_recent(self) -> None:
        """`recent` is about to change, or has: the view is of the past."""
        if self._view_recent:
            self.view.recent.abort()
            self._view_recent = False

    def let_go_of_index(self) -> None:
        """The same of `index`."""
        self.let_go_of_recent()
        if self._view_index:
            self.view.index.abort()
            self._view_index = False

    # --------------------------------------------------------------------------------------------------------- the fence

    def put_up_fence(self, fence: Fence) -> None:
        """Take no more writes, across restarts if the disk still takes that one."""
        if self.fence is None:
            self.fence = fence
            with suppress(OSError):
                write_fence(self.disk, self.layout.root, fence)

    def take_down_fence(self) -> None:
        """Raises OSError."""
        remove_fence(self.disk, self.layout.root)
        self.fence = None

    # ----------------------------------------------------------------------------------------------------------- filling

    def _begin_filling(self) -> None:
        """Something that was acknowledged may be lost. Another filling than one that was under way: that proved less."""
        self.filling = self._random_bytes(FILLING_BYTES).hex()
        with suppress(OSError):
            write_filling(self.disk, self.layout.root, self.filling)

    def end_filling(self) -> None:
        """Everything is there again. Raises OSError; it is still being filled then."""
        remove_filling(self.disk, self.layout.root)
        self.filling = ""

    def close(self) -> None:
        """Let go of everything."""
        self.let_go_of_index()
        self.segments.close()
        self.log.close()
        self.recent_env.close()
        self.index_env.close()
        self.disk.close(self._lock_fd)
