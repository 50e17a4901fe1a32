"""What the device tests share: small settings, clocks that stand still, and how to die without closing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from storage_node.device import Device
from storage_node.disk import Disk
from storage_node.settings import KIB, MIB, DeviceSettings
from storage_node.work import Progress

SMALL = DeviceSettings(
    segment_bytes=4 * KIB,
    zero_ahead_bytes=3 * KIB,
    inline_bytes_max=2 * KIB,
    fallocate_bytes=64 * KIB,
    free_bytes_min=0,
    free_bytes_min_delete=0,
    slice_entries=3,
    compaction_live_ratio=0.9,
    compaction_slice_bytes=4 * KIB,
    compaction_bytes_per_s=0,
    index_map_bytes=64 * MIB,
    recent_map_bytes=2 * MIB,
)
"""Everything happens early."""


ROOMY = replace(SMALL, inline_bytes_max=8 * KIB)
"""The same, but records of more than a segment."""


class StillClock:
    """Milliseconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def make_device(path: Path, settings: DeviceSettings = SMALL, disk: Disk | None = None, now: object = None) -> Device:
    """Create and open a device."""
    Device.create(path, "test", disk=disk)
    return open_device(path, settings, disk, now)


def open_device(path: Path, settings: DeviceSettings = SMALL, disk: Disk | None = None, now: object = None) -> Device:
    """Open a device that is there."""
    clock = now if now is not None else StillClock()
    assert callable(clock)
    return Device.open(path, settings=settings, disk=disk, now_ms=clock)


def die(device: Device) -> None:
    """Leave a device as a killed process does: nothing written that was not, files and locks let go of by the kernel."""
    device._upkeep.cancel()
    device._closed = True
    device._parts.close()


def hash_of(number: int) -> bytes:
    """A hash; consecutive numbers fall into few partitions and some share digest buckets."""
    return bytes((number % 3, 0)) + number.to_bytes(14, "big")


def flip_byte(path: Path, offset: int) -> None:
    """Let a byte of a file rot."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x55
    path.write_bytes(content)


def drive_all(device: Device) -> None:
    """Do all background work that is due."""
    while (work := device.next_work()) is not None:
        while (progress := work.step()) is not Progress.DONE:
            if progress is Progress.BLOCK:
                work.block()
            elif progress is Progress.WAIT:
                device.apply([])
