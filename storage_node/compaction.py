"""Compaction: copy what is live out of mostly dead segments, so that they can go.

Problem: the log grows for ever, and what is overwritten or deleted stays in it.

Idea: the device knows to the byte how much of each segment is live. A closed segment with less live than a threshold is read
from one end to the other; each record that the index still points at is queued, and goes out with a later batch as an
ordinary record in an ordinary segment. Whether the index still points at it is decided again in that batch, in order
with the writes around it (compare-and-swap): a write that came in between wins. Nothing is swapped or locked.

When nothing in the segment is live any more, the next checkpoint makes an index durable that does not refer to it, and
removes it. Until then a crash finds both copies, and either is right.

A live record that does not verify is left where it is and its segment with it: a reader is told CORRUPT, the auditor repairs
it from a replica, and then it is dead.

Pace: at most `compaction_bytes_per_s`, and never more in the queue than one slice. The space that it needs is what
DeviceSettings.free_bytes_min keeps from clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from storage_node.errors import CorruptData
from storage_node.index import PLACE
from storage_node.log import PlaceGone, Scan, open_segment
from storage_node.recovery import record_key
from storage_node.work import Progress, SteppedWork, Steps

if TYPE_CHECKING:
    from storage_node.disk import Disk
    from storage_node.record import Record
    from storage_node.view import View

RECORDS_A_STEP = 100


class Move(NamedTuple):
    """A record to copy, if the index still points at it when its turn comes."""

    index_key: bytes
    segment: int
    record: Record


class Pacer:
    """Lets so many bytes a second pass, in steps."""

    def __init__(self, bytes_per_s: int, now_ms: Callable[[], int]) -> None:
        self._bytes_per_s = bytes_per_s
        self._now_ms = now_ms
        self._free_at_ms = 0

    def ready(self) -> bool:
        """What passed before has been paid for."""
        return self._now_ms() >= self._free_at_ms

    def passed(self, length: int) -> None:
        """`length` bytes went through."""
        if self._bytes_per_s:
            self._free_at_ms = max(self._free_at_ms, self._now_ms()) + length * 1000 // self._bytes_per_s


class Compaction(SteppedWork):
    """Empties one segment."""

    name = "compaction"

    def __init__(
        self,
        disk: Disk,
        log_directory: str,
        uuid: bytes,
        segment: int,
        view: Callable[[], View],
        moves: list[Move],
        slice_bytes: int,
        pacer: Pacer,
        on_done: Callable[[int, list[str]], None],
    ) -> None:
        """`view` gives the published state, `moves` is the device's queue, `on_done` is told what could not be moved."""
        super().__init__()
        self._disk = disk
        self._log_directory = log_directory
        self._uuid = uuid
        self._segment = segment
        self._view = view
        self._moves = moves
        self._slice_bytes = slice_bytes
        self._pacer = pacer
        self._on_done = on_done
        self._problems: list[str] = []

    def _run(self) -> Steps:
        try:
            segment = open_segment(self._disk, self._log_directory, self._segment, self._uuid)
        except (CorruptData, PlaceGone, OSError) as error:
            self._on_done(self._segment, [f"segment {self._segment} can't be read: {error}"])
            return
        try:
            scan = Scan(self._disk, segment)
            while scan.position < scan.size:
                while self._moves or not self._pacer.ready():
                    yield Progress.WAIT
                if not self._some_records(scan):
                    self._skip_damage(scan)
                yield Progress.MORE
            while self._moves:
                yield Progress.WAIT
        except OSError as error:
            self._problems.append(f"segment {self._segment} can't be read at {scan.position}: {error}")
        finally:
            self._disk.close(segment.fd)
        self._on_done(self._segment, self._problems)

    def _some_records(self, scan: Scan) -> bool:
        """Queue the live ones of the next records; False where the next bytes are no record."""
        view = self._view()
        moved = seen = 0
        for record in scan.records():
            seen += 1
            index_key = record_key(record)
            value = view.value(index_key)
            if value is not None:
                segment, offset, _ = PLACE.unpack_from(value)
                if segment == self._segment and offset == record.offset:
                    self._moves.append(Move(index_key, segment, record))
                    moved += record.length
            if moved >= self._slice_bytes or seen >= RECORDS_A_STEP:
                break
        self._pacer.passed(moved)
        return seen > 0

    def _skip_damage(self, scan: Scan) -> None:
        start = scan.position
        following = scan.next_record()
        scan.position = scan.size if following is None else following.offset
        self._problems.append(f"segment {self._segment}, bytes {start}..{scan.position}: no record verifies")
