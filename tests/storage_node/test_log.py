"""Segments: written at one end, scanned from the other, and where a scan says that the log ends."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage_node.disk import RealDisk
from storage_node.errors import CorruptData
from storage_node.log import (
    SEGMENT_HEADER_BYTES,
    Gap,
    PlaceGone,
    Position,
    Scan,
    SegmentCache,
    list_segments,
    open_segment,
    pack_segment_header,
    segment_name,
    segment_number,
    unpack_segment_header,
)
from storage_node.log_writer import LogWriter
from storage_node.record import OBJECT, encode
from tests.storage_node.crash_disk import RecordingDisk

UUID = b"u" * 16
DISK = RealDisk()


def make_writer(path: Path, disk: RealDisk = DISK, segment_bytes: int = 4096, number: int = 1) -> LogWriter:
    """A writer into `path`."""
    return LogWriter(disk, str(path), UUID, segment_bytes, number)


def append(log: LogWriter, *sizes: int) -> list[int]:
    """One batch of records with so many bytes of data; gives their offsets."""
    log.prepare()
    offset, offsets, records = log.offset, [], []
    for size in sizes:
        raw = encode(log.seed, offset, log.durable, OBJECT, 0, b"h" * 16, 1, 1, size, 0, b"k", b"", bytes(size))
        records.append(raw)
        offsets.append(offset)
        offset += len(raw)
    log.append(records, offset - log.offset)
    os.fdatasync(log.fd)
    log.durable = log.offset
    return offsets


def scan_of(path: Path, number: int = 1) -> Scan:
    """A scan of a segment."""
    return Scan(DISK, open_segment(DISK, str(path), number, UUID))


def damage(path: Path, start: int, stop: int, number: int = 1, fill: bytes = b"\xee") -> None:
    """Let bytes of a segment be something else."""
    with (path / segment_name(number)).open("r+b") as file:
        file.seek(start)
        file.write(fill * (stop - start))


def test_what_is_appended_is_scanned(memory_path: Path) -> None:
    """Record for record, segment for segment; a segment is left once it is long enough."""
    log = make_writer(memory_path)
    assert log.position == Position(1, SEGMENT_HEADER_BYTES)
    offsets = append(log, 10, 2000) + append(log, 3000)
    assert log.number == 1
    append(log, 5)
    assert (log.number, log.position) == (2, Position(2, SEGMENT_HEADER_BYTES + 86))
    scan = scan_of(memory_path)
    assert [record.offset for record in scan.records()] == offsets
    assert scan.position == scan.size
    assert list_segments(DISK, str(memory_path)) == [1, 2]
    log.close()
    log.close()


def test_records_longer_than_the_window_are_scanned(memory_path: Path) -> None:
    """A scan reads a window at a time, or one record."""
    log = make_writer(memory_path, segment_bytes=1 << 26)
    offsets = append(log, 700_000, 3_000_000, 5, 400_000, 900_000)
    assert [record.offset for record in scan_of(memory_path).records()] == offsets
    log.close()


def test_a_torn_last_batch_is_where_the_log_ends(memory_path: Path) -> None:
    """Even if later records of that batch are whole: nothing says that the broken one was ever durable."""
    log = make_writer(memory_path)
    append(log, 10)
    first, second, _ = append(log, 1500, 100, 100)
    assert second > 512
    damage(memory_path, first, 512, fill=b"\0")
    scan = scan_of(memory_path)
    assert len(list(scan.records())) == 1
    assert scan.find_end() == Gap(first, scan.size, damaged=False)
    log.close()


def test_what_no_unfinished_write_leaves_is_damage(memory_path: Path) -> None:
    """Of a record that does not verify every sector is there: it was written to its end, and has rotted since."""
    log = make_writer(memory_path)
    append(log, 10)
    offset, data = log.offset, bytes(range(1, 251)) * 6
    raw = encode(log.seed, offset, log.durable, OBJECT, 0, b"h" * 16, 1, 1, len(data), 0, b"k", b"", data)
    log.append([raw], len(raw))
    path = memory_path / segment_name(1)
    whole = path.read_bytes()
    end = offset + len(raw)
    sectors = [offset, *range(512, end, 512), end]
    for at in range(offset, end - 1, 7):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 0x55,)) + whole[at + 1 :])
        scan = scan_of(memory_path)
        list(scan.records())
        # A length that has become a longer one may have been that of a longer write.
        assert scan.find_end() == Gap(offset, scan.size, damaged=not offset + 12 <= at < offset + 16)
    for start, stop in itertools.pairwise(sectors):
        path.write_bytes(whole[:start] + bytes(stop - start) + whole[stop:])
        scan = scan_of(memory_path)
        list(scan.records())
        assert scan.only_zeros_left() or scan.find_end() == Gap(offset, scan.size, damaged=False)
    for stop in range(offset + 1, end, 50):
        path.write_bytes(whole[:stop] + bytes(4096))
        scan = scan_of(memory_path)
        list(scan.records())
        assert scan.find_end() == Gap(offset, scan.size, damaged=False)
    log.close()


def test_what_a_later_batch_calls_durable_is_damage(memory_path: Path) -> None:
    """The gap reaches to the next record that verifies, though it may not be the one that gives the evidence."""
    log = make_writer(memory_path)
    first, second, _ = append(log, 100, 100, 100)
    append(log, 10)
    damage(memory_path, first + 5, second - 5)
    scan = scan_of(memory_path)
    assert list(scan.records()) == []
    assert scan.find_end() == Gap(first, second, damaged=True)
    log.close()


def test_evidence_is_looked_for_behind_a_second_break(memory_path: Path) -> None:
    """Two broken places of one batch, and the evidence behind both."""
    log = make_writer(memory_path)
    first, second, third, _ = append(log, 100, 100, 100, 100)
    append(log, 10)
    damage(memory_path, first + 5, second - 5)
    damage(memory_path, third + 5, third + 10)
    scan = scan_of(memory_path)
    assert scan.find_end() == Gap(first, second, damaged=True)
    log.close()


def test_what_is_known_to_have_been_synced_is_damage_with_nothing_behind_it(memory_path: Path) -> None:
    """Knowledge from elsewhere (`recent`, a later segment) counts like a later record's."""
    log = make_writer(memory_path)
    first, second = append(log, 100, 100)
    damage(memory_path, second + 5, second + 10)
    scan = scan_of(memory_path)
    assert len(list(scan.records())) == 1
    assert scan.find_end(durable=log.offset) == Gap(second, scan.size, damaged=True)
    assert scan.find_end(durable=second) == Gap(second, scan.size, damaged=False)
    assert first == SEGMENT_HEADER_BYTES
    log.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), min_size=1, max_size=5),
    start=st.integers(SEGMENT_HEADER_BYTES, 2500),
    length=st.integers(1, 200),
)
def test_a_scan_never_skips_what_was_durable_in_silence(
    memory_path: Path, batches: list[list[int]], start: int, length: int
) -> None:
    """Wherever bytes before the last batch are broken, it is damage; in the last batch, nothing before it is touched."""
    for file in memory_path.iterdir():
        file.unlink()
    log = make_writer(memory_path, segment_bytes=1 << 20)
    ends = [SEGMENT_HEADER_BYTES]
    for sizes in batches:
        append(log, *sizes)
        ends.append(log.offset)
    start = min(start, log.offset - 1)
    damage(memory_path, start, min(start + length, ends[-2] if start < ends[-2] else log.offset))
    scan = scan_of(memory_path)
    list(scan.records())
    if scan.position < scan.size:
        gap = scan.find_end()
        assert gap.start <= start
        assert gap.damaged or gap.start >= ends[-2]
    log.close()


def test_a_segment_made_ahead_is_used_or_removed(memory_path: Path) -> None:
    """Whichever comes first; numbers only rise."""
    log = make_writer(memory_path)
    append(log, 2100)
    wanted = [log.wants_ahead()]
    log.prepare_ahead()
    wanted.append(log.wants_ahead())
    assert wanted == [True, False]
    append(log, 2500)
    append(log, 1)
    assert log.number == 2
    append(log, 2100)
    log.prepare_ahead()
    log.close()
    assert list_segments(DISK, str(memory_path)) == [1, 2]


def test_a_segment_that_cannot_be_made_leaves_nothing(memory_path: Path) -> None:
    """And the writer is as it was."""
    disk = RecordingDisk(str(memory_path))
    log = make_writer(memory_path, disk)
    append(log, 4096)

    def no_room(kind: str, path: str) -> None:
        if kind == "write":
            raise OSError(errno.ENOSPC, "no room")

    disk.on_call = no_room
    with pytest.raises(OSError, match="no room"):
        log.prepare()
    assert list_segments(DISK, str(memory_path)) == [1]
    disk.on_call = lambda kind, path: None
    append(log, 1)
    assert log.number == 2
    log.close()


def test_a_header_is_believed_for_its_own_segment_alone() -> None:
    """Cut short, changed, of another number or device: CorruptData."""
    head = pack_segment_header(7, UUID, 42)
    assert unpack_segment_header(head, 7, UUID) == 42
    for raw, number, owner in [
        (head[:-1], 7, UUID),
        (b"X" + head[1:], 7, UUID),
        (head, 8, UUID),
        (head, 7, b"v" * 16),
    ]:
        with pytest.raises(CorruptData):
            unpack_segment_header(raw, number, owner)


def test_other_files_are_no_segments() -> None:
    """Names are ten digits and an ending."""
    assert segment_number(segment_name(12)) == 12
    assert [segment_number(name) for name in ("12.seg", "000000000x.seg", "0000000001.tmp", ".seg")] == [None] * 4


def test_the_cache_closes_the_least_lately_used(memory_path: Path) -> None:
    """As many files as allowed are open, and a removed segment is gone."""
    log = make_writer(memory_path, segment_bytes=4096)
    for _ in range(4):
        append(log, 4096)
    cache = SegmentCache(DISK, str(memory_path), UUID, 2)
    fds = {number: cache.get(number).fd for number in (1, 2)}
    cache.get(1)
    cache.get(3)
    assert cache.get(1).fd == fds[1]
    with pytest.raises(PlaceGone):
        cache.get(9)
    cache.drop(1)
    cache.drop(1)
    (memory_path / segment_name(1)).unlink()
    with pytest.raises(PlaceGone):
        cache.get(1)
    cache.close()
    log.close()


def test_a_writer_finds_zeros_ahead_of_it_and_leaves_none_behind(memory_path: Path) -> None:
    """Batches overwrite them, or reach beyond them; a segment that is left has its own length."""
    log = LogWriter(DISK, str(memory_path), UUID, 8192, 1, zero_ahead_bytes=4096)
    offsets = append(log, 10)
    while log.wants_ahead(low=False):
        log.prepare_ahead()
    size = (memory_path / segment_name(1)).stat().st_size
    assert size == log.offset + 4096
    for data in (100, 2000, 3000):
        offsets += append(log, data)
    scan = scan_of(memory_path)
    assert [record.offset for record in scan.records()] == offsets
    assert scan.only_zeros_left()
    while log.wants_ahead(low=False):
        log.prepare_ahead()
    append(log, 4000)
    end = log.offset
    append(log, 5)
    assert log.number == 2
    assert (memory_path / segment_name(1)).stat().st_size == end
    assert (memory_path / segment_name(2)).stat().st_size == 4096
    log.close()
    assert (memory_path / segment_name(2)).stat().st_size == log.offset


def test_zeros_never_meet_a_batch(memory_path: Path) -> None:
    """A thread that fills in zeros as fast as it can, beside a writer that runs ahead of it."""
    log = LogWriter(DISK, str(memory_path), UUID, 1 << 20, 1, zero_ahead_bytes=1 << 16)
    wanted = append(log, 10)
    stop = threading.Event()

    def fill() -> None:
        while not stop.is_set():
            log.prepare_ahead()

    thread = threading.Thread(target=fill)
    thread.start()
    for number in range(400):
        wanted += append(log, number % 300, 50_000 if number % 50 == 0 else 5)
    stop.set()
    thread.join()
    assert log.number == 1
    assert [record.offset for record in scan_of(memory_path).records()] == wanted
    log.close()
