"""A disk that fails: a sync, a write, a full file system; and what the device tells whom."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storage_node.device import Device, PutBlob
from storage_node.errors import DeviceFenced, DeviceFull
from storage_node.operations import (
    DeleteObject,
    Found,
    FoundStatistics,
    GetObject,
    GetStatistics,
    Locked,
    LockObject,
    PutCatalog,
    PutObject,
    PutRow,
    Status,
    Written,
)
from storage_node.reader import LocalReader
from storage_node.settings import KIB, MIB, DeviceSettings
from tests.storage_node.crash_disk import RecordingDisk
from tests.storage_node.devices import SMALL, StillClock, die, drive_all, hash_of, make_device, open_device


def put(number: int, timestamp: int = 5, data: bytes = b"data") -> PutObject:
    """An object's write."""
    return PutObject(hash_of(number), b"/a/c/%d" % number, timestamp, b"meta", data)


def status_of(device: Device, number: int) -> Status:
    """How a read of an object ends."""
    answer = device.read(GetObject(hash_of(number), b"/a/c/%d" % number, True))
    assert isinstance(answer, Found)
    return Status(answer.status)


def failing(kind: str, code: int, where: str = "") -> Callable[[str, str], None]:
    """Lets calls of one kind, on paths that contain `where`, fail."""

    def on_call(call: str, path: str) -> None:
        if call == kind and where in path:
            raise OSError(code, os.strerror(code))

    return on_call


class PartialDisk(RecordingDisk):
    """Once `room` is set, takes so many bytes more and then says that it is full."""

    room = 1 << 60
    free = 1 << 40

    def pwritev(  # type: ignore[override]
        self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int, /
    ) -> int:
        """See Disk."""
        whole = b"".join(buffers)
        if self.room == 0 and whole:
            raise OSError(errno.ENOSPC, "no room")
        part = whole[: self.room]
        self.room -= len(part)
        return super().pwritev(fd, [part], offset)

    def free_bytes(self, path: str) -> tuple[int, int]:
        """See Disk."""
        return 1 << 40, self.free


def test_a_failed_sync_fences_and_is_never_retried(memory_path: Path) -> None:
    """Nobody is told that it is done; nothing of it is visible, then or later; the fence outlives the process."""
    path = memory_path / "d"
    disk = RecordingDisk(str(path))
    device = make_device(path, disk=disk)
    device.apply([put(1)])
    disk.on_call = failing("sync", errno.EIO, "/log/")
    answers = device.apply([put(2), LockObject(hash_of(3), b"/a/c/3", 9, 1000), put(1, 4)])
    assert [answer.status for answer in answers] == [Status.FENCED] * 3
    assert isinstance(answers[1], Locked)
    disk.on_call = lambda kind, path: None
    syncs = sum(event.kind == "sync" and "log" in event.path for event in disk.events)
    assert device.apply([put(4)])[0].status == Status.FENCED
    assert sum(event.kind == "sync" and "log" in event.path for event in disk.events) == syncs
    assert "fdatasync" in device.fenced
    assert device.statistics().fenced
    assert (status_of(device, 1), status_of(device, 2)) == (Status.FOUND, Status.MISSING)
    with pytest.raises(DeviceFenced):
        device.open_write()
    with pytest.raises(DeviceFenced, match="anew"):
        device.release_fence()
    device.close()
    device = open_device(path, disk=disk)
    assert "fdatasync" in device.fenced
    assert device.apply([put(4)])[0].status == Status.FENCED
    assert (status_of(device, 1), status_of(device, 2)) == (Status.FOUND, Status.MISSING)
    assert device.check() == []
    device.release_fence()
    assert device.apply([put(2)])[0].status == Status.APPLIED
    device.close()
    device = open_device(path, disk=disk)
    assert device.fenced == ""
    assert status_of(device, 2) == Status.FOUND
    device.close()


def test_an_operator_may_fence_and_release(memory_path: Path) -> None:
    """Without a failed sync the fence can go at once."""
    device = make_device(memory_path / "d")
    device.fence("being moved")
    assert device.apply([put(1)]) == [Written(Status.FENCED, detail="being moved")]
    die(device)
    device = open_device(memory_path / "d")
    assert device.fenced == "being moved"
    device.release_fence()
    device.release_fence()
    assert device.apply([put(1)])[0].status == Status.APPLIED
    device.close()


@pytest.mark.parametrize("room", [0, 1, 100, 170])
def test_a_full_disk_leaves_no_half_batch(memory_path: Path, room: int) -> None:
    """ENOSPC in the middle of an append: FULL, and what follows stands where the batch would have stood."""
    path = memory_path / "d"
    disk = PartialDisk(str(path))
    device = make_device(path, disk=disk)
    device.apply([put(1)])
    end = device.position.offset
    disk.room = room
    lock = LockObject(hash_of(8), b"/a/c/8", 9, 1000)
    assert [answer.status for answer in device.apply([put(2), put(3), lock])] == [Status.FULL] * 3
    assert (path / "log" / "0000000001.seg").stat().st_size == end
    disk.room = 1 << 60
    assert device.fenced == ""
    assert device.statistics().full.startswith("it turned writes away")
    assert status_of(device, 2) == Status.MISSING
    assert device.apply([put(3), LockObject(hash_of(8), b"/a/c/8", 7, 1000)])[1].status == Status.APPLIED
    die(device)
    device = open_device(path)
    assert device.notes == []
    assert (status_of(device, 1), status_of(device, 3)) == (Status.FOUND, Status.FOUND)
    assert device.check() == []
    device.close()


def test_half_a_batch_that_cannot_be_cut_off_fences(memory_path: Path) -> None:
    """Nothing may be appended behind bytes that recovery might misunderstand."""
    path = memory_path / "d"
    disk = PartialDisk(str(path))
    device = make_device(path, disk=disk)
    device.apply([put(1)])
    disk.room = 50
    disk.on_call = failing("truncate", errno.EIO)
    assert device.apply([put(2)])[0].status == Status.FENCED
    assert "cut off" in device.fenced
    device.close()
    device = open_device(path)
    assert status_of(device, 1) == Status.FOUND
    assert device.check() == []
    device.close()


def test_a_write_error_fences(memory_path: Path) -> None:
    """EIO is no want of room."""
    path = memory_path / "d"
    disk = RecordingDisk(str(path))
    device = make_device(path, disk=disk)
    device.apply([put(1)])
    disk.on_call = failing("write", errno.EIO)
    assert device.apply([put(2)])[0].status == Status.FENCED
    assert status_of(device, 1) == Status.FOUND
    device.close()


def test_no_new_segment_for_want_of_room_is_full(memory_path: Path) -> None:
    """The batch that needs the segment is refused, and leaves no file behind; later there is room again."""
    path = memory_path / "d"
    disk = PartialDisk(str(path))
    device = make_device(path, disk=disk)
    disk.room = 10
    assert device.apply([put(1), DeleteObject(hash_of(1), b"/a/c/1", 9)])[1].status == Status.FULL
    assert list((path / "log").iterdir()) == []
    disk.room = 1 << 60
    assert device.apply([put(1)])[0].status == Status.APPLIED
    device.close()


def test_what_is_kept_back_is_for_deletions_then_for_nobody(memory_path: Path) -> None:
    """Below the first limit objects, rows and catalogs are refused, below the second deletions too."""
    path = memory_path / "d"
    disk = PartialDisk(str(path))
    settings = replace(SMALL, free_bytes_min=100 * MIB, free_bytes_min_delete=50 * MIB)
    device = make_device(path, settings, disk)
    catalog = (1, hash_of(9), b"/a/c")
    row = PutRow(1, hash_of(9), b"row", 5, 0, False, 1, 1, b"")
    device.apply([put(1), PutCatalog(*catalog, 1, {}), row])
    assert device.statistics().full == ""
    disk.free = 80 * MIB
    assert device.statistics().full.startswith("it takes no data")
    device._room_at_ms -= 1000
    statuses = [answer.status for answer in device.apply([put(2), row, PutCatalog(*catalog, 2, {})])]
    assert statuses == [Status.FULL] * 3
    with pytest.raises(DeviceFull):
        device.open_write()
    gone = row._replace(timestamp=6, deleted=True)
    assert [answer.status for answer in device.apply([DeleteObject(*put(1)[:2], 6), gone])] == [Status.APPLIED] * 2
    disk.free = 40 * MIB
    assert device.statistics().full.startswith("it takes neither data nor deletions")
    device._room_at_ms -= 1000
    assert device.apply([DeleteObject(*put(1)[:2], 7)])[0].status == Status.FULL
    device.close()


def test_a_device_that_turned_a_blob_away_is_full_until_there_is_room_for_it(memory_path: Path) -> None:
    """Also while nobody writes; where the figure says nothing (a quota), for a minute."""
    disk, clock = PartialDisk(str(memory_path / "d")), StillClock()
    settings = replace(SMALL, free_bytes_min=10 * MIB, free_bytes_min_delete=5 * MIB, inline_bytes_max=KIB)
    device = make_device(memory_path / "d", settings, disk, clock)
    disk.free = 20 * MIB

    def turn_away(size_bytes: int) -> None:
        with pytest.raises(DeviceFull):
            device.open_write().write(bytes(size_bytes))

    def full_after(ms: int) -> str:
        clock.now += ms
        device.next_work()
        reader = LocalReader(memory_path / "d")
        stored = reader.read(GetStatistics())
        reader.close()
        assert isinstance(stored, FoundStatistics)
        assert stored.statistics is not None
        assert stored.statistics.full == device.statistics().full
        return stored.statistics.full

    turn_away(15 * MIB)
    assert "turned writes away" in full_after(30_000)
    disk.free = 26 * MIB
    assert full_after(1_000) == ""
    turn_away(17 * MIB)
    assert "turned writes away" in full_after(59_000)
    assert full_after(2_000) == ""
    device.close()


def test_what_is_kept_back_is_not_for_the_log_ahead_of_its_need(memory_path: Path) -> None:
    """Zeros for speed never take what deletions need, and are not asked for again and again; with room they go on."""
    disk, clock = PartialDisk(str(memory_path / "d")), StillClock()
    settings = replace(
        SMALL, segment_bytes=MIB, zero_ahead_bytes=MIB, free_bytes_min=8 * MIB, free_bytes_min_delete=MIB
    )
    device = make_device(memory_path / "d", settings, disk, clock)
    drive_all(device)
    device.apply([put(1)])
    disk.free = 8 * MIB
    size = sum(path.stat().st_size for path in (memory_path / "d" / "log").iterdir())
    drive_all(device)
    assert sum(path.stat().st_size for path in (memory_path / "d" / "log").iterdir()) == size
    disk.free, clock.now = 80 * MIB, clock.now + 2_000
    drive_all(device)
    assert sum(path.stat().st_size for path in (memory_path / "d" / "log").iterdir()) > size
    device.close()


def test_a_blob_that_does_not_fit_is_refused_and_leaves_nothing(memory_path: Path) -> None:
    """DeviceFull from write() or finish(); after abort() neither directory holds a file of it."""
    path = memory_path / "d"
    disk = PartialDisk(str(path))
    device = make_device(path, disk=disk)
    for room in (5_000, 20_000 + 10):
        writer = device.open_write()
        disk.room = room
        with pytest.raises(DeviceFull):  # noqa: PT012  (either of the two)
            writer.write(bytes(20_000))
            writer.finish()
        writer.abort()
        disk.room = 1 << 60
    assert list((path / "incoming").iterdir()) == []
    assert not [file for file in (path / "blobs").rglob("*") if file.is_file()]
    assert device.fenced == ""
    device.close()


@pytest.mark.parametrize(("kind", "where"), [("sync", "incoming"), ("rename", "incoming"), ("syncdir", "blobs")])
def test_a_blob_that_cannot_be_made_durable_fences(memory_path: Path, kind: str, where: str) -> None:
    """The writer is told; the object is not there."""
    path = memory_path / "d"
    disk = RecordingDisk(str(path))
    device = make_device(path, disk=disk)
    writer = device.open_write()
    writer.write(bytes(20 * KIB))
    disk.on_call = failing(kind, errno.EIO, where)
    with pytest.raises(DeviceFenced):
        writer.finish()
    writer.abort()
    disk.on_call = lambda kind, path: None
    operation = PutBlob(hash_of(1), b"/a/c/1", 5, b"", writer)
    assert device.apply([operation])[0].status == Status.FENCED
    device.close()


def test_an_index_that_is_full_ends_in_a_fence_not_in_a_loss(memory_path: Path) -> None:
    """When neither index nor `recent` can take more, nothing is acknowledged that readers would not see."""
    settings = replace(SMALL, index_map_bytes=512 * KIB, recent_map_bytes=256 * KIB)
    device = make_device(memory_path / "d", settings)
    acknowledged = []
    for number in range(10_000):
        status = device.apply([PutObject(hash_of(number), b"/a/c/%d" % number, 5, bytes(300), b"")])[0].status
        if status != Status.APPLIED:
            break
        acknowledged.append(number)
        while (work := device.next_work()) is not None and work.name == "checkpoint":
            while work.step().value != "done":
                work.block()
    assert status == Status.FENCED
    assert len(acknowledged) > 500
    assert all(status_of(device, number) == Status.FOUND for number in acknowledged)
    device.close()
    device = open_device(memory_path / "d", replace(SMALL, index_map_bytes=64 * MIB))
    device.release_fence()
    assert all(status_of(device, number) == Status.FOUND for number in acknowledged)
    assert device.check() == []
    device.close()


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "ringstead-test", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_small_file_system_fills_up_is_emptied_and_used_again(small_file_system: Path) -> None:
    """Writes until FULL, deletes all, lets upkeep do its work, and there is room again: what is kept back suffices."""
    settings = DeviceSettings(
        segment_bytes=MIB,
        recent_map_bytes=8 * MIB,
        free_bytes_min=12 * MIB,
        free_bytes_min_delete=8 * MIB,
        free_part_max=1.0,
        compaction_bytes_per_s=0,
    )
    clock = StillClock()
    device = make_device(small_file_system / "d", settings, now=clock)
    for round_number in range(3):
        stored = fill(device, clock, timestamp=10 * round_number + 5)
        assert stored > 200
        assert device.fenced == ""
        for number in range(stored):
            clock.now += 300
            deletion = DeleteObject(hash_of(number), b"/a/c/%d" % number, 10 * round_number + 6)
            assert device.apply([deletion])[0].status == Status.APPLIED
        for _ in range(3):
            clock.now += settings.checkpoint_interval_ms
            drive_all(device)
    assert device.check() == []
    device.close()


def fill(device: Device, clock: StillClock, timestamp: int) -> int:
    """Puts objects until there is no more room; how many."""
    for number in range(10_000):
        clock.now += 300
        answer = device.apply([put(number, timestamp, bytes(100 * KIB))])[0]
        if answer.status == Status.FULL:
            return number
        assert answer.status == Status.APPLIED
        drive_all(device)
    raise AssertionError("it never fills up")
