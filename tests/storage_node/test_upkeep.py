"""Background work: checkpoints, compaction, clearing away; when it is due and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread, current_thread

import pytest

from storage_node.compaction import Pacer
from storage_node.device import Device, PutBlob
from storage_node.operations import (
    DeleteObject,
    Found,
    FoundRows,
    GetObject,
    ListRows,
    PutCatalog,
    PutObject,
    PutRow,
    Status,
)
from storage_node.settings import KIB, DeviceSettings
from storage_node.work import Progress, SteppedWork, Steps, Work, Worker, drive
from tests.storage_node.devices import SMALL, StillClock, die, drive_all, flip_byte, hash_of, make_device, open_device

PLACE = (1, hash_of(500), b"/a/c")


@pytest.fixture
def clock() -> StillClock:
    """The device's."""
    return StillClock()


@pytest.fixture
def device(memory_path: Path, clock: StillClock) -> Iterator[Device]:
    """An empty one."""
    made = make_device(memory_path / "d", now=clock)
    yield made
    made.close()


def put(number: int, timestamp: int = 5, size: int = 1000) -> PutObject:
    """A write of one of many objects."""
    return PutObject(hash_of(number), b"/a/c/%d" % number, timestamp, b"meta", bytes(size))


def found(device: Device, number: int) -> bool:
    """Whether it reads back."""
    answer = device.read(GetObject(hash_of(number), b"/a/c/%d" % number, True))
    assert isinstance(answer, Found)
    return answer.status == Status.FOUND and answer.data is not None


def next_of(device: Device, name: str) -> Work | None:
    """The next work, after everything that is more urgent."""
    while (work := device.next_work()) is not None and work.name != name:
        drive(work)
    return work


def segments(device: Device) -> list[int]:
    """Numbers of the segment files."""
    return sorted(int(path.name[:10]) for path in (device.path / "log").iterdir())


def test_a_checkpoint_empties_recent_and_keeps_what_came_meanwhile(device: Device, clock: StillClock) -> None:
    """At each step of it, writes go on and every read is right; afterwards only what is newer is left in `recent`."""
    device.apply([PutCatalog(*PLACE, 1, {})])
    for number in range(30):
        device.apply([put(number), PutRow(1, PLACE[1], b"row-%02d" % number, 5, 0, False, 1, 1, b"")])
    clock.now += SMALL.checkpoint_interval_ms
    work = next_of(device, "checkpoint")
    assert work is not None
    step = 0
    while (progress := work.step()) is not Progress.DONE:
        if progress is Progress.BLOCK:
            work.block()
        device.apply([put(step % 40, 100 + step), PutRow(1, PLACE[1], b"new-%02d" % step, 5, 0, False, 1, 1, b"")])
        step += 1
        assert all(found(device, number) for number in range(30))
        rows = device.read(ListRows(*PLACE))
        assert isinstance(rows, FoundRows)
        assert len(rows.items) == 30 + step
    assert step > 20
    before = device.statistics().recent_count
    assert before < 2 * step + 6
    assert device.checkpoint()
    assert device.statistics().recent_count <= 3
    assert device.check() == []


def test_a_checkpoint_is_due_by_size_by_count_and_by_age(memory_path: Path, clock: StillClock) -> None:
    """Log bytes, entries, the oldest change; and not when nothing changed."""
    settings = replace(SMALL, checkpoint_log_bytes=10_000, checkpoint_entries=8)
    device = make_device(memory_path / "d", settings, now=clock)
    clock.now += 10 * settings.checkpoint_interval_ms
    assert next_of(device, "checkpoint") is None
    device.apply([put(1, 5, 1900)])
    assert next_of(device, "checkpoint") is None
    clock.now += settings.checkpoint_interval_ms
    assert next_of(device, "checkpoint") is not None
    drive_all(device)
    for timestamp in range(6, 12):
        device.apply([put(1, timestamp, 1900)])
    assert next_of(device, "checkpoint") is not None
    drive_all(device)
    assert next_of(device, "checkpoint") is None
    device.apply([put(number, 20, 0) for number in range(6)])
    assert next_of(device, "checkpoint") is not None
    device.close()


def test_a_checkpoint_that_is_left_off_changes_nothing(memory_path: Path, clock: StillClock) -> None:
    """Closed in the middle: the next opening has everything, and digests are written whole."""
    for steps in range(0, 24, 3):
        device = make_device(memory_path / f"d{steps}", now=clock)
        for number in range(20):
            device.apply([put(number)])
        clock.now += SMALL.checkpoint_interval_ms
        work = next_of(device, "checkpoint")
        assert work is not None
        for _ in range(steps):
            if work.step() is Progress.BLOCK and steps % 2:
                work.block()
        if steps % 4:
            device.close()
        else:
            die(device)
        device = open_device(memory_path / f"d{steps}", now=clock)
        assert all(found(device, number) for number in range(20))
        assert device.check() == []
        device.close()


def test_one_piece_of_work_at_a_time(device: Device, clock: StillClock) -> None:
    """What was begun is handed out again until it is done."""
    device.apply([put(number) for number in range(20)])
    clock.now += SMALL.checkpoint_interval_ms
    work = next_of(device, "checkpoint")
    assert work is not None
    work.step()
    assert device.next_work() is work
    drive(work)
    assert device.next_work() is not work


def test_compaction_gives_the_space_of_the_dead_back(device: Device) -> None:
    """What is live is moved, the rest goes with its segments; readers notice nothing."""
    for timestamp in range(1, 30):
        device.apply([put(number, timestamp) for number in range(4)])
        device.apply([put(100 + timestamp)])
    device.apply([DeleteObject(hash_of(0), b"/a/c/0", 99)])
    before = segments(device)
    for _ in range(6):
        device.checkpoint()
        drive_all(device)
    after = segments(device)
    assert len(after) * 2 < len(before)
    assert min(after) > min(before)
    assert all(found(device, number) for number in [1, 2, 3, *range(101, 130)])
    assert device.check() == []
    statistics = device.statistics()
    assert statistics.log_live_bytes > statistics.log_bytes * 0.6


def test_compaction_moves_every_kind_of_record(device: Device) -> None:
    """Inline and large objects, tombstones, catalogs, rows, and rows with long names."""
    writer = device.open_write()
    writer.write(bytes(10 * KIB))
    writer.finish()
    names = [b"short", b"n" * 460, b"n" * 461, b"n" * 1500]
    device.apply([put(50, 1, 800)])
    device.apply([PutCatalog(*PLACE, 1, {b"a": (b"b", 1)}), put(1), DeleteObject(hash_of(2), b"/a/c/2", 5)])
    device.apply([PutRow(1, PLACE[1], name, 5, 0, False, 1, 7, b"p") for name in names])
    device.apply([PutBlob(hash_of(3), b"/a/c/3", 5, b"m", writer)])
    first = segments(device)
    for timestamp in range(2, 20):
        device.apply([put(50, timestamp, 1500)])
    for _ in range(5):
        device.checkpoint()
        drive_all(device)
    assert not set(first) & set(segments(device))
    assert found(device, 1)
    assert found(device, 3)
    rows = device.read(ListRows(*PLACE))
    assert isinstance(rows, FoundRows)
    assert [row[0] for row in rows.items] == sorted(names)
    assert rows.catalog is not None
    assert (rows.catalog.row_count, rows.catalog.size_bytes) == (4, 28)
    assert device.check() == []
    die(device)
    device = open_device(device.path)
    assert device.check() == []
    device.close()


def test_a_write_between_choosing_and_copying_wins(device: Device) -> None:
    """Whether the index still points at the record is decided in the batch that would copy it."""
    device.apply([put(number) for number in range(3)])
    for timestamp in range(1, 12):
        device.apply([put(50, timestamp, 1900)])
    device.checkpoint()
    work = next_of(device, "compaction")
    assert work is not None
    while not device.wants_commit:
        work.step()
    device.apply([put(0, 9, 10), DeleteObject(hash_of(1), b"/a/c/1", 9)])
    assert device._upkeep.moves == []
    drive_all(device)
    answer = device.read(GetObject(hash_of(0), b"/a/c/0", True))
    assert isinstance(answer, Found)
    assert answer.data == bytes(10)
    assert not found(device, 1)
    assert found(device, 2)
    assert device.check() == []


def test_what_compaction_queued_waits_while_a_batch_would_come_to_nothing(device: Device) -> None:
    """A device that takes no writes asks for no commits: whoever commits as long as one is wanted would never rest."""
    device.apply([put(number) for number in range(3)])
    for timestamp in range(1, 12):
        device.apply([put(50, timestamp, 1900)])
    device.checkpoint()
    work = next_of(device, "compaction")
    assert work is not None
    while not device.wants_commit:
        work.step()
    device.fence("for a test")
    assert not device.wants_commit
    device.apply([])
    device.release_fence()
    assert device.wants_commit
    drive_all(device)
    assert device.check() == []


def test_a_live_record_that_is_broken_keeps_its_segment(device: Device) -> None:
    """It is neither copied nor dropped, and compaction does not come back to it."""
    device.apply([put(1), put(2)])
    for timestamp in range(1, 12):
        device.apply([put(50, timestamp, 1900)])
    device.checkpoint()
    flip_byte(device.path / "log" / "0000000001.seg", 200)
    for _ in range(4):
        device.checkpoint()
        drive_all(device)
    assert segments(device)[0] == 1
    assert device._upkeep.problems
    assert not found(device, 1)
    assert found(device, 2)
    device.apply([put(1, 9)])
    device.checkpoint()
    assert segments(device)[0] > 1
    assert device.check() == []


def test_compaction_keeps_its_pace() -> None:
    """So many bytes a second, and no limit where none is set."""
    clock = StillClock()
    pacer = Pacer(1000, clock)
    assert pacer.ready()
    pacer.passed(500)
    assert not pacer.ready()
    clock.now += 499
    assert not pacer.ready()
    clock.now += 1
    assert pacer.ready()
    pacer.passed(100)
    pacer.passed(100)
    clock.now += 199
    assert not pacer.ready()
    unlimited = Pacer(0, clock)
    unlimited.passed(1 << 60)
    assert unlimited.ready()


def test_replaced_blobs_are_removed_and_orphans_swept(device: Device, memory_path: Path) -> None:
    """After the change is published; after a crash by the sweep, but for what a damaged log may have named."""

    def blobs() -> int:
        return sum(path.is_file() for path in (memory_path / "d" / "blobs").rglob("*"))

    for timestamp in (5, 6, 4):
        writer = device.open_write()
        writer.write(bytes(10 * KIB))
        writer.finish()
        device.apply([PutBlob(hash_of(1), b"/a/c/1", timestamp, b"", writer)])
    assert blobs() == 3
    drive_all(device)
    assert blobs() == 1
    writer = device.open_write()
    writer.write(bytes(10 * KIB))
    writer.finish()
    unfinished = device.open_write()
    unfinished.write(bytes(10 * KIB))
    device._upkeep._swept = False
    drive_all(device)
    assert blobs() == 2
    die(device)
    again = open_device(memory_path / "d")
    assert list((memory_path / "d" / "incoming").iterdir()) == []
    drive_all(again)
    assert blobs() == 1
    assert again.check() == []
    again.close()


def test_a_fenced_device_does_no_work_that_writes(device: Device, clock: StillClock) -> None:
    """It only clears away."""
    device.apply([put(number) for number in range(10)])
    clock.now += SMALL.checkpoint_interval_ms
    device.fence("for a test")
    assert device.next_work() is None
    assert not device.checkpoint()


def test_a_worker_does_as_it_is_told_in_its_own_thread() -> None:
    """Results and exceptions come back to the caller."""
    worker = Worker("test")
    threads: list[Thread] = [worker.call(current_thread) for _ in range(2)]
    assert threads[0] is threads[1] is not current_thread()
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0)
    assert worker.call(lambda: None) is None
    worker.close()


def test_stepped_work_says_when_it_is_done() -> None:
    """And stays done; cancelled work runs its clean-up."""
    happened: list[str] = []

    class Two(SteppedWork):
        """Two steps, one of which blocks."""

        def _run(self) -> Steps:
            try:
                yield Progress.MORE
                self._blocking = lambda: happened.append("blocked")
                yield Progress.BLOCK
            finally:
                happened.append("cleaned up")

    work = Two()
    drive(work)
    assert happened == ["blocked", "cleaned up"]
    assert work.done
    assert work.step() is Progress.DONE
    work.block()
    other = Two()
    other.step()
    other.cancel()
    assert other.done
    assert happened[2:] == ["cleaned up"]


def test_settings_that_make_no_sense_are_refused() -> None:
    """When they are made, not when they matter."""
    for wrong in ({"segment_bytes": 100}, {"inline_bytes_max": 1 << 30}, {"free_bytes_min_delete": 1 << 40}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DeviceSettings(**wrong)
