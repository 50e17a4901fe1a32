"""The mark that a device is being filled: durable, told to whoever connects, gone only for the filling that it names."""

from __future__ import annotations

from pathlib import Path

from storage_node.device import Device
from storage_node.identity import UNREADABLE
from storage_node.operations import GetStatistics, MarkFilled, PutObject, Status
from storage_node.reader import CHECK_MS, LocalReader
from tests.storage_node.devices import SMALL, StillClock, die, flip_byte, hash_of, open_device


def filling_device(path: Path) -> Device:
    """Made in the place of another."""
    Device.create(path, "test", filling=True)
    return open_device(path)


def test_the_mark_outlives_the_process_and_goes_for_good(memory_path: Path) -> None:
    """A device is being filled until it is told otherwise, across restarts; then never again by itself."""
    device = filling_device(memory_path)
    filling = device.filling
    assert filling
    assert device.statistics().filling == filling
    die(device)
    device = open_device(memory_path)
    assert device.filling == filling
    assert [answer.status for answer in device.apply([MarkFilled("other")])] == [Status.NEWER]
    assert device.filling == filling
    assert [answer.status for answer in device.apply([MarkFilled(filling)])] == [Status.APPLIED]
    assert device.filling == ""
    die(device)
    device = open_device(memory_path)
    assert device.filling == ""
    assert [answer.status for answer in device.apply([MarkFilled(filling)])] == [Status.NEWER]
    device.close()


def test_a_device_of_an_older_release_is_filled(memory_path: Path) -> None:
    """No mark: it holds what it holds."""
    Device.create(memory_path, "test")
    device = open_device(memory_path)
    assert not device.filling
    device.close()


def test_a_mark_that_has_rotted_stands(memory_path: Path) -> None:
    """It can be ended all the same, by its own name."""
    filling_device(memory_path).close()
    flip_byte(memory_path / "filling.json", 5)
    device = open_device(memory_path)
    assert device.filling == UNREADABLE
    assert [answer.status for answer in device.apply([MarkFilled(UNREADABLE)])] == [Status.APPLIED]
    device.close()


def test_damage_found_at_opening_begins_a_filling_once(memory_path: Path) -> None:
    """Records that were acknowledged are lost: that is the same as being made anew. Known damage begins nothing."""
    Device.create(memory_path, "test")
    device = open_device(memory_path)
    for number in range(3):
        device.apply([PutObject(hash_of(number), b"/a/c/%d" % number, number + 1, b"", b"x" * 100)])
    at = device.position.offset
    die(device)
    flip_byte(next((memory_path / "log").glob("*.seg")), at // 2)
    device = open_device(memory_path)
    filling = device.filling
    assert filling
    device.apply([MarkFilled(filling)])
    device.close()
    device = open_device(memory_path)
    assert not device.filling
    device.close()


def test_a_reader_knows_from_its_first_answer_and_hears_of_the_end(memory_path: Path) -> None:
    """Whoever reads the directory itself looks at the mark when it opens it, and then every CHECK_MS."""
    device = filling_device(memory_path)
    clock = StillClock()
    reader = LocalReader(memory_path, settings=SMALL, now_ms=clock)
    reader.read(GetStatistics())
    assert reader.opened
    assert reader.filling
    device.apply([MarkFilled(device.filling)])
    clock.now += CHECK_MS
    reader.read(GetStatistics())
    assert not reader.filling
    reader.close()
    device.close()
