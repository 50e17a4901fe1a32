"""The desk of a storage process: fences what must be, and releases what an operator trusts again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio.testing

from ringstead.errors import RingsteadError
from ringstead.processes.control import Refused
from ringstead.services.storage.desk import GRACE_S, DeviceDesk
from storage_node.device import Device
from storage_node.disk import RealDisk
from storage_node.operations import PutObject, Status
from storage_node.suspects import Suspects
from tests.storage_node.devices import SMALL, hash_of


class FailingSyncs(RealDisk):
    """A disk whose syncs fail while they are told to."""

    failing = False

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        """See Disk."""
        if self.failing:
            raise OSError(errno.EIO, "the sync failed")
        os.fdatasync(fd)


class Process:
    """A storage process as the desk sees it: a table of devices, a server, and how to open one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = FailingSyncs()
        self.served: set[str] = set()
        self.devices: dict[str, Device] = {}
        Device.create(folder / "d", "d")
        self.devices["d"] = self.open("d")
        self.served.add("d")
        self.desk = DeviceDesk(self.devices, self, self.open)

    @property
    def device(self) -> Device:
        """The one there is."""
        return self.devices["d"]

    def open(self, name: str) -> Device:
        """Open a device, made if its folder is empty."""
        path = self.folder / name
        if not path.exists():
            raise RingsteadError(f"{path} is empty (not mounted?)")
        return Device.open(path, settings=SMALL, disk=self.disk)

    def add_device(self, name: str, device: Device) -> None:
        """See DeviceServer."""
        assert self.devices[name] is device
        self.served.add(name)

    async def remove_device(self, name: str) -> Device:
        """See DeviceServer."""
        self.served.remove(name)
        return self.devices[name]

    def put(self, number: int) -> Status:
        """Write an object; how that went."""
        (answer,) = self.device.apply([PutObject(hash_of(number), b"/a/c/%d" % number, 5, b"", b"data")])
        return Status(answer.status)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A process with one device."""
    made = Process(tmp_path)
    yield made
    for device in made.devices.values():
        device.close()


async def test_after_a_failed_sync_a_release_opens_the_device_anew(process: Process) -> None:
    """In place, with its log cut where it was certain: what was acknowledged is there, and it takes writes again."""
    assert process.put(1) == Status.APPLIED
    process.disk.failing = True
    assert process.put(2) == Status.FENCED
    before = process.device
    with pytest.raises(Refused, match=r"can.t be released: .*the sync failed"):
        await process.desk.release("d")
    assert process.device is before
    process.disk.failing = False
    assert "the sync failed" in process.desk.describe("d")["fenced"]
    described = await process.desk.release("d")
    assert described["fenced"] == ""
    assert process.device is not before
    assert process.served == {"d"}
    assert process.device.statistics().object_count == 1
    assert process.put(2) == Status.APPLIED
    assert process.device.check() == []


async def test_an_operator_fences_and_releases_without_opening_anew(process: Process) -> None:
    """Nothing is uncertain then."""
    before = process.device
    assert (await process.desk.fence("d", "the disk sounds odd"))["fenced"] == "the disk sounds odd"
    assert process.put(1) == Status.FENCED
    with pytest.raises(Refused, match="takes no writes already: the disk sounds odd"):
        await process.desk.fence("d", "")
    await process.desk.release("d")
    assert process.device is before
    assert process.put(1) == Status.APPLIED
    with pytest.raises(Refused, match="takes writes already"):
        await process.desk.release("d")
    with pytest.raises(Refused, match="serves no device 'x'; it serves d"):
        await process.desk.release("x")


async def test_a_disk_that_failed_a_read_is_fenced_once(
    process: Process, autojump_clock: trio.testing.MockClock
) -> None:
    """By whomever it was noted. After its release the auditor has some time to mend what can't be read."""
    noter = Suspects(RealDisk(), str(process.device.path))
    noter.note_disk_error("[Errno 5] Input/output error")
    process.desk.look("d", process.device)
    assert process.device.fenced == "the disk failed to read: [Errno 5] Input/output error"
    await process.desk.release("d")
    noter.note_disk_error("again")
    process.desk.look("d", process.device)
    assert process.device.fenced == ""
    await trio.sleep(GRACE_S + 1)
    process.desk.look("d", process.device)
    assert process.device.fenced == ""
    noter.note_disk_error("later")
    process.desk.look("d", process.device)
    assert "later" in process.device.fenced


async def test_a_directory_that_went_away_fences_its_device(process: Process) -> None:
    """It is not written to any more; released, what is at its path now is opened, and until something is, tried again."""
    process.desk.look("d", process.device)
    assert process.device.fenced == ""
    shutil.rmtree(process.folder / "d")
    process.desk.look("d", process.device)
    assert "no longer at" in process.device.fenced
    assert process.put(1) == Status.FENCED
    with pytest.raises(Refused, match="not mounted"):
        await process.desk.release("d")
    assert (process.devices, process.served) == ({}, set())
    with pytest.raises(Refused, match=r"d is not open: .*tried again by itself"):
        await process.desk.fence("d", "")
    Device.create(process.folder / "d", "d")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.desk.run)
        with trio.fail_after(10):
            while "d" not in process.devices:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert process.served == {"d"}
    assert process.put(1) == Status.APPLIED
