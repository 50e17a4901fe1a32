"""Upkeep: which background work of a device is due, and what follows when it is done.

One piece at a time, most urgent first: a checkpoint (recovery time and `recent` are bounded by it), room for the log
(so that no batch waits for it), blobs to unlink, the sweep for orphans after opening, compaction of the segment with the
least live part.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import lmdb

from storage_node.checkpoint import Checkpoint
from storage_node.clearing import RemoveBlobs, SweepOrphans
from storage_node.compaction import Compaction, Move, Pacer
from storage_node.decide import ROOM_FOR_ALL
from storage_node.identity import Fence
from storage_node.log import Position, segment_name
from storage_node.log_writer import ZERO_STEP_BYTES
from storage_node.work import Progress, SteppedWork, Steps, Work, drive

if TYPE_CHECKING:
    from storage_node.index import OpenEnvironment
    from storage_node.parts import Parts
    from storage_node.state import State

CHECKPOINT_RETRY_MS = 5_000
PREPARE_RETRY_MS = 1_000


class Upkeep:
    """Chooses and owns a device's background work."""

    def __init__(self, parts: Parts, now_ms: Callable[[], int], room: Callable[[], int], token: bytes) -> None:
        self._parts = parts
        self._now_ms = now_ms
        self._room = room
        self._token = token
        self._work: SteppedWork | None = None
        self._swept = bool(parts.state.damage)
        self._stuck: set[int] = set()
        """Segments that hold live records which can't be moved."""
        self._retry_at_ms = 0
        self._prepare_at_ms = 0
        """Not before then is room for the log made ahead: there was none."""
        self._pacer = Pacer(parts.settings.compaction_bytes_per_s, now_ms)
        self.moves: list[Move] = []
        """Records that compaction wants copied by the next batch."""
        self.removals: list[bytes] = []
        """Blobs to unlink."""
        self.problems: list[str] = []
        """What compaction met."""
        self.log_bytes = 0
        """Written to the log since the last checkpoint began."""
        self.recent_bytes = 0
        """Written to `recent` since the last checkpoint began."""
        self.changed_at_ms = 0
        """When the oldest change that no checkpoint covers was published; 0: there is none."""

    @property
    def recent_env(self) -> OpenEnvironment:
        """See CheckpointOwner."""
        return self._parts.recent_env

    @property
    def index_env(self) -> OpenEnvironment:
        """See CheckpointOwner."""
        return self._parts.index_env

    @property
    def state(self) -> State:
        """See CheckpointOwner."""
        return self._parts.state

    # ------------------------------------------------------------------------------------------------------ what is due

    def next_work(self) -> Work | None:
        """What is due; what was begun and not finished first."""
        if self._work is not None and not self._work.done:
            return self._work
        self._work = self._choose()
        return self._work

    def _choose(self) -> SteppedWork | None:
        parts = self._parts
        if self.removals:
            return RemoveBlobs(parts.disk, parts.layout.blobs, self.removals)
        if parts.fence is not None:
            return None
        if self._checkpoint_due():
            return self._new_checkpoint()
        if parts.log.wants_ahead() and self._now_ms() >= self._prepare_at_ms and self._room() == ROOM_FOR_ALL:
            return PrepareLog(parts, self._not_prepared)
        if not self._swept:
            self._swept = True
            return SweepOrphans(parts.disk, parts.layout.blobs, self._token, parts.fresh_view, self.removals)
        victim = self._victim()
        if victim is None:
            return None
        return Compaction(
            parts.disk,
            parts.layout.log,
            parts.identity.uuid,
            victim,
            parts.fresh_view,
            self.moves,
            parts.settings.compaction_slice_bytes,
            self._pacer,
            self._compacted,
        )

    def _checkpoint_due(self) -> bool:
        settings = self._parts.settings
        now = self._now_ms()
        if not self.changed_at_ms or now < self._retry_at_ms:
            return False
        if (
            self.log_bytes >= settings.checkpoint_log_bytes
            or self.recent_bytes >= self.recent_env.env.info()["map_size"] // 8
            or now - self.changed_at_ms >= settings.checkpoint_interval_ms
            or self.recent_env.env.stat()["entries"] >= settings.checkpoint_entries
        ):
            return True
        # Short of room, what compaction emptied should go now rather than later.
        return self._room() < ROOM_FOR_ALL and any(self._dead_segments())

    def _dead_segments(self) -> list[int]:
        state = self.state
        return [number for number in state.size if number < state.position.segment and not state.live.get(number, 0)]

    def _victim(self) -> int | None:
        """The closed segment with the least live part, if that is little enough."""
        state, settings = self.state, self._parts.settings
        short = self._room() < ROOM_FOR_ALL
        limit = settings.compaction_live_ratio_full if short else settings.compaction_live_ratio
        damaged = {damage.segment for damage in state.damage}
        best, best_ratio = None, limit
        for number, size in state.size.items():
            live = state.live.get(number, 0)
            if number >= state.position.segment or not live or number in self._stuck or number in damaged:
                continue
            ratio = live / size
            if ratio < best_ratio:
                best, best_ratio = number, ratio
        return best

    def _not_prepared(self) -> None:
        self._prepare_at_ms = self._now_ms() + PREPARE_RETRY_MS

    def _compacted(self, segment: int, problems: list[str]) -> None:
        self.problems += problems
        if self.state.live.get(segment, 0):
            self._stuck.add(segment)

    # ------------------------------------------------------------------------------------------------------- checkpoints

    def _new_checkpoint(self, at_once: bool = False) -> Checkpoint:
        self.log_bytes = self.recent_bytes = self.changed_at_ms = 0
        return Checkpoint(self, self._parts.settings.slice_entries, at_once)

    def checkpoint_now(self) -> bool:
        """Bring the index up to date in one blocking call; whether that went well."""
        work = self._work
        if isinstance(work, Checkpoint) and not work.done:
            drive(work)
        self._retry_at_ms = 0
        drive(self._new_checkpoint(at_once=True))
        return not self._retry_at_ms and self._parts.fence is None

    def checkpoint_committed(self, position: Position, dead_segments: list[int]) -> None:
        """See CheckpointOwner."""
        parts = self._parts
        parts.let_go_of_index()
        damaged = {damage.segment for damage in parts.state.damage}
        for number in dead_segments:
            if number in damaged:
                continue
            parts.segments.drop(number)
            with suppress(FileNotFoundError):
                parts.disk.unlink(f"{parts.layout.log}/{segment_name(number)}")
            parts.state.size.pop(number, None)
            parts.state.live.pop(number, None)
        parts.recent_env.env.reader_check()

    def checkpoint_failed(self, error: Exception) -> None:
        """See CheckpointOwner. Without room it is tried again; anything else is the disk's end."""
        self.changed_at_ms = self.changed_at_ms or self._now_ms()
        self._retry_at_ms = self._now_ms() + CHECKPOINT_RETRY_MS
        if not isinstance(error, lmdb.MapFullError) and "No space left" not in str(error):
            self._parts.put_up_fence(Fence(f"the index can't be written: {error}", None))

    def clear_away(self) -> None:
        """Remove the blobs that nothing names, here and now."""
        parts = self._parts
        if isinstance(self._work, SweepOrphans) and not self._work.done:
            drive(self._work)
        if not self._swept:
            self._swept = True
            drive(SweepOrphans(parts.disk, parts.layout.blobs, self._token, parts.fresh_view, self.removals))
        drive(RemoveBlobs(parts.disk, parts.layout.blobs, self.removals))

    def cancel(self) -> None:
        """Leave off whatever is under way."""
        if self._work is not None and not self._work.done:
            self._work.cancel()
        self.moves.clear()


class PrepareLog(SteppedWork):
    """Makes room for the log ahead of its need, but not of what is kept back: that is for deletions and for the index."""

    name = "prepare log"

    def __init__(self, parts: Parts, on_failure: Callable[[], None]) -> None:
        super().__init__()
        self._parts = parts
        self._on_failure = on_failure
        self._failed = False

    def _run(self) -> Steps:
        while not self._failed and self._parts.log.wants_ahead(low=False):
            self._blocking = self._prepare
            yield Progress.BLOCK
        if self._failed:
            self._on_failure()

    def _prepare(self) -> None:
        parts = self._parts
        try:
            total, free = parts.disk.free_bytes(parts.layout.root)
            if free - ZERO_STEP_BYTES < parts.settings.kept_back_bytes(total)[0]:
                self._failed = True
            else:
                parts.log.prepare_ahead()
        except OSError:
            # Without room the batch that needs the segment finds out, and is refused; what is the disk's fault it finds too.
            self._failed = True
