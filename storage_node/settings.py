"""The settings of one device: every default is good enough to start with."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """How a device lays out and paces its work. None of them changes the format of what is already on the disk."""

    segment_bytes: int = 64 * MIB
    """A log segment is left for the next one once it is at least this long (it may be longer by one batch)."""
    zero_ahead_bytes: int = 16 * MIB
    """The log's file is filled with zeros so far ahead of the writer, which halves what a sync takes. 0: not at all."""
    inline_bytes_max: int = 512 * KIB
    """Objects up to this size are log records; longer ones are files of their own."""
    fallocate_bytes: int = 8 * MIB
    """Long blob files are given room on the disk in steps of this, so that they lie in few pieces."""

    free_bytes_min: int = 512 * MIB
    """Below this much free space objects, rows and catalogs are refused as FULL."""
    free_bytes_min_delete: int = 256 * MIB
    """Below this much, deletions are refused too: what is left belongs to compaction and the index."""
    free_part_max: float = 0.1
    """On a small file system both are scaled down together, so that no more than this part of it is kept back."""

    checkpoint_log_bytes: int = 128 * MIB
    """Log written since the last checkpoint that makes the next one due."""
    checkpoint_entries: int = 50_000
    """Entries in the `recent` environment that make a checkpoint due."""
    checkpoint_interval_ms: int = 60_000
    """Age of the oldest change not in the index that makes a checkpoint due."""
    slice_entries: int = 200
    """Entries that one step of background work handles: about a millisecond."""

    compaction_live_ratio: float = 0.5
    """A closed segment with less than this part of it live is compacted."""
    compaction_live_ratio_full: float = 0.9
    """The same while the device is short of room."""
    compaction_slice_bytes: int = 1 * MIB
    """Log bytes that one step of compaction moves at most (or one record, if that is longer)."""

    compaction_bytes_per_s: int = 64 * MIB
    """Live log bytes that compaction moves in a second; 0: as fast as it can."""

    lock_lease_ms_max: int = 60_000
    """Longest lease that a LockObject is given."""
    lock_count_max: int = 100_000
    """Locks held at once."""

    index_map_bytes: int = 256 * GIB
    """Address space (not memory, not disk) for the index: the most that it can grow to."""
    recent_map_bytes: int = 64 * MIB
    """Disk space set aside for what is newer than the index; a checkpoint is due when an eighth of it is used."""
    open_segments_max: int = 256
    """Segment files kept open for reading."""

    def kept_back_bytes(self, total_bytes: int) -> tuple[int, int]:
        """Free bytes below which writes, and below which deletions too, are refused on a file system of that size."""
        kept_back = min(self.free_bytes_min, int(total_bytes * self.free_part_max))
        if not self.free_bytes_min:
            return 0, 0
        return kept_back, kept_back * self.free_bytes_min_delete // self.free_bytes_min

    def __post_init__(self) -> None:
        if not 4 * KIB <= self.segment_bytes <= GIB:
            raise ValueError(f"segment_bytes {self.segment_bytes} is outside 4 KiB..1 GiB")
        if not 0 <= self.inline_bytes_max <= 16 * MIB:
            raise ValueError(f"inline_bytes_max {self.inline_bytes_max} is outside 0..16 MiB")
        if self.free_bytes_min_delete > self.free_bytes_min:
            raise ValueError("free_bytes_min_delete must not be above free_bytes_min")
