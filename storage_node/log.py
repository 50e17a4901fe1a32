"""The log: numbered segment files, written at one end, read anywhere.

Problem: one fdatasync must cover all that arrived together, a crash may leave any part of what was not yet synced, and a
reader in another process must find a record by its place while segments come and go.

Idea: `log/<number>.seg`, numbers only ever rise. A segment begins with a header of its own (magic, number, the device's
uuid, the seed of its records' checksums). The writer appends whole batches; a batch lies in one segment; the segment
is left once it is longer than `segment_bytes`. Records say how much of the segment was durable when they were written (see
record.py), so whoever scans a segment can tell a torn end from damage.

What stops a scan, and what it means (`Scan.find_end`):
- zeros up to the end of the file, or the end itself: the log ends here (the writer fills the file with zeros ahead of it,
  and cuts them off before it begins the next segment).
- bytes that do not verify, and nothing behind them that verifies and calls them durable: a write that never finished,
  whole or in part; nobody was told that it was done. It is cut off.
- bytes that do not verify, but a later record (of this segment, or of a later one: a segment is begun only when the one
  before is synced to its end) shows that they were durable once: damage. The range is reported and kept as it is; what
  verifies behind it counts.
- bytes that do not verify, that nothing vouches for, and that no unfinished write leaves: damage as well. Of a write that
  was cut short each sector is as it was before, zeros, or as it was to be; and one whose bytes ran out ends in zeros. A
  record that has neither was written to its end, and has rotted since.
What can't be told: the very last batch rots before anything is written behind it, to a whole sector of zeros, in its last
byte to zero, or in its length to a larger one, and power is lost before the next checkpoint. It looks torn and is cut; the
replicas hold it. (To say of each torn end that something may be lost would be safe, too; but then no device that lost
power at work counts until all its peers are back, and they lost it with it.)

Rejected: one file for ever with a moving start (hole punching; a reader can't tell gone from zero), a checksummed batch
frame around records (a record must verify alone anyway), appending after a torn end (a cut must never be undone by what
comes later, so the writer goes on in a new segment).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from storage_node.disk import READ, Disk
from storage_node.errors import CorruptData
from storage_node.record import HEADER_BYTES, MAGIC, Record, decode, stated_length, verified

SEGMENT_MAGIC = b"RINGSEG\x01"
SEGMENT_HEADER = Struct("<8sQ16sQ")
SEGMENT_HEADER_BYTES = 64
"""Header, checksum and reserved zeros; the first record stands here."""
SECTOR_BYTES = 512
"""A disk writes so many bytes wholly or not at all. Where it can't, a torn end may be taken for damage, not the reverse."""
WINDOW_BYTES = 1 << 20
"""A scan reads this much at once, or one record."""
SEGMENT_NUMBER_MAX = (1 << 32) - 1


class PlaceGone(Exception):
    """The file was removed since the index was read (compacted, or replaced): look it up again."""


class Position(NamedTuple):
    """A point in the log: everything before it, in this segment and all of lower number."""

    segment: int
    offset: int


def log_position(segment: int, offset: int) -> int:
    """A Position as one number, in the order of the log."""
    return segment << 32 | offset


def segment_name(number: int) -> str:
    """The file name of a segment; names sort as numbers do."""
    return f"{number:010d}.seg"


def segment_number(name: str) -> int | None:
    """The number of a segment file, None for any other file."""
    stem = name[:-4]
    return int(stem) if name.endswith(".seg") and len(stem) == 10 and stem.isascii() and stem.isdigit() else None


def list_segments(disk: Disk, directory: str) -> list[int]:
    """The numbers of all segment files, in order."""
    found = (segment_number(name) for name in disk.listdir(directory))
    return sorted(number for number in found if number is not None)


def pack_segment_header(number: int, uuid: bytes, seed: int) -> bytes:
    """The first SEGMENT_HEADER_BYTES of a segment."""
    head = SEGMENT_HEADER.pack(SEGMENT_MAGIC, number, uuid, seed)
    head += xxh3_64_intdigest(head).to_bytes(8, "little")
    return head.ljust(SEGMENT_HEADER_BYTES, b"\0")


def unpack_segment_header(head: bytes, number: int, uuid: bytes) -> int:
    """The seed of a segment; raises CorruptData if this is not the header of that segment of that device."""
    if len(head) < SEGMENT_HEADER_BYTES:
        raise CorruptData(f"segment {number}: the header is cut short at {len(head)} bytes")
    checksum = int.from_bytes(head[SEGMENT_HEADER.size : SEGMENT_HEADER.size + 8], "little")
    if checksum != xxh3_64_intdigest(head[: SEGMENT_HEADER.size]):
        raise CorruptData(f"segment {number}: the header's checksum is wrong")
    magic, stated, owner, seed = SEGMENT_HEADER.unpack_from(head)
    if magic != SEGMENT_MAGIC or stated != number or owner != uuid:
        raise CorruptData(f"segment {number}: the header is segment {stated}'s of device {owner.hex()}")
    return int(seed)


def header_reached_the_disk(disk: Disk, directory: str, number: int) -> bool:
    """Whether a header that does not verify was whole once: it lies in one sector, and a write cut short ends in zeros."""
    fd = disk.open(f"{directory}/{segment_name(number)}", READ)
    try:
        return any(disk.pread(fd, SEGMENT_HEADER_BYTES, 0)[SEGMENT_HEADER.size :])
    finally:
        disk.close(fd)


class OpenSegment(NamedTuple):
    """A segment open for reading."""

    number: int
    fd: int
    seed: int


def open_segment(disk: Disk, directory: str, number: int, uuid: bytes) -> OpenSegment:
    """Open and verify a segment. Raises PlaceGone, CorruptData, OSError."""
    try:
        fd = disk.open(f"{directory}/{segment_name(number)}", READ)
    except FileNotFoundError:
        raise PlaceGone(number) from None
    try:
        return OpenSegment(number, fd, unpack_segment_header(disk.pread(fd, SEGMENT_HEADER_BYTES, 0), number, uuid))
    except BaseException:
        disk.close(fd)
        raise


class SegmentCache:
    """Segments open for reading, the least lately used closed first."""

    def __init__(self, disk: Disk, directory: str, uuid: bytes, count_max: int) -> None:
        self._disk = disk
        self._directory = directory
        self._uuid = uuid
        self._count_max = count_max
        self._open: OrderedDict[int, OpenSegment] = OrderedDict()
        self.latest = OpenSegment(-1, -1, 0)
        """The one asked for last: most reads are of what was written lately, and compare one number."""

    def get(self, number: int) -> OpenSegment:
        """An open segment. Raises PlaceGone, CorruptData, OSError."""
        found = self._open.get(number)
        if found is None:
            found = open_segment(self._disk, self._directory, number, self._uuid)
            self._open[number] = found
            if len(self._open) > self._count_max:
                _, oldest = self._open.popitem(last=False)
                self._disk.close(oldest.fd)
        else:
            self._open.move_to_end(number)
        self.latest = found
        return found

    def drop(self, number: int) -> None:
        """Forget a segment that is about to be removed."""
        found = self._open.pop(number, None)
        if found is not None:
            self._disk.close(found.fd)
        self.latest = OpenSegment(-1, -1, 0)

    def close(self) -> None:
        """Close them all. Idempotent."""
        for found in self._open.values():
            self._disk.close(found.fd)
        self._open.clear()
        self.latest = OpenSegment(-1, -1, 0)


class Scan:
    """Reads a segment's records one after the other."""

    def __init__(self, disk: Disk, segment: OpenSegment, start: int = SEGMENT_HEADER_BYTES) -> None:
        self._disk = disk
        self._segment = segment
        self.size = disk.size(segment.fd)
        self.position = start
        """The first byte that no verified record covers."""
        self._window = b""
        self._window_start = 0

    def _bytes(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`, fewer at the file's end."""
        at = offset - self._window_start
        if at < 0 or at + length > len(self._window):
            self._window = self._disk.pread(self._segment.fd, max(WINDOW_BYTES, length), offset)
            self._window_start, at = offset, 0
        return self._window[at : at + length]

    def record_at(self, offset: int) -> Record | None:
        """The verified record at `offset`, or None."""
        header = self._bytes(offset, HEADER_BYTES)
        length = stated_length(header)
        # What states another offset is not read whole: an object may hold a great many false headers.
        if not length or offset + length > self.size or int.from_bytes(header[16:20], "little") != offset:
            return None
        raw = self._bytes(offset, length)
        return decode(raw) if verified(raw, self._segment.seed, offset) else None

    def records(self) -> Iterator[Record]:
        """Records from `position` up to the first byte that does not verify; `position` follows."""
        while (record := self.record_at(self.position)) is not None:
            self.position += record.length
            yield record

    def next_record(self) -> Record | None:
        """The next verified record somewhere behind `position`, which does not verify; None if there is none."""
        offset = self.position + 1
        while offset < self.size:
            window = self._bytes(offset, min(WINDOW_BYTES, self.size - offset))
            at = window.find(MAGIC)
            if at < 0:
                offset += max(1, len(window) - len(MAGIC) + 1)
                if len(window) < len(MAGIC):
                    return None
                continue
            record = self.record_at(offset + at)
            if record is not None:
                return record
            offset += at + 1
        return None

    def only_zeros_left(self) -> bool:
        """Whether nothing but zeros stands from `position` to the end of the file."""
        offset = self.position
        while offset < self.size:
            window = self._bytes(offset, min(WINDOW_BYTES, self.size - offset))
            if window.count(0) != len(window):
                return False
            offset += len(window)
        return True

    def find_end(self, durable: int = 0) -> Gap:
        """What stands at `position`, where records() stopped. `durable`: bytes known from elsewhere to have been synced."""
        start = self.position
        behind = self.next_record()
        if behind is not None and behind.durable > start:
            return Gap(start, behind.offset, damaged=True)
        if durable > start:
            # Something was here for certain, and nothing that follows tells where it ended.
            return Gap(start, self.size if behind is None else behind.offset, damaged=True)
        if not self._may_be_torn(start):
            return Gap(start, self.size if behind is None else behind.offset, damaged=True)
        # Nothing vouches for it. What verifies behind it is of the same torn write, and was never acknowledged.
        if behind is not None:
            return self._later_evidence(start, behind)
        return Gap(start, self.size, damaged=False)

    def _may_be_torn(self, offset: int) -> bool:
        """Whether an unfinished write may have left what stands where a record should begin, and does not verify."""
        header = self._bytes(offset, HEADER_BYTES)
        if _unfinished(header, offset, HEADER_BYTES):
            return True
        length = stated_length(header)
        if not length or int.from_bytes(header[16:20], "little") != offset:
            return False
        return offset + length > self.size or _unfinished(self._bytes(offset, length), offset, length)

    def _later_evidence(self, start: int, behind: Record) -> Gap:
        """Whether a record further on calls `start` durable: a batch may be broken in more than one place."""
        first = behind
        scan = Scan(self._disk, self._segment, behind.offset)
        while True:
            for record in scan.records():
                if record.durable > start:
                    return Gap(start, first.offset, damaged=True)
            following = scan.next_record()
            if following is None:
                return Gap(start, self.size, damaged=False)
            scan.position = following.offset


def _unfinished(raw: bytes, offset: int, length: int) -> bool:
    """Whether of `length` bytes at `offset` something is as it was before: a sector's part, or the end."""
    if len(raw) < length or not raw[-1]:
        return True
    bounds = [0, *range(SECTOR_BYTES - offset % SECTOR_BYTES, length, SECTOR_BYTES), length]
    return any(raw.count(0, start, stop) == stop - start for start, stop in pairwise(bounds))


class Gap(NamedTuple):
    """A stretch of a segment that holds no records."""

    start: int
    stop: int
    damaged: bool
    """It was durable once. False: the log ends at `start`."""
