"""What a read finds rotten is written down, by whichever process met it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage_node.device import Device, PutBlob
from storage_node.disk import RealDisk
from storage_node.errors import CorruptData
from storage_node.operations import GetObject, PutObject, Status
from storage_node.reader import LocalReader
from storage_node.suspects import FILE_NAME, Suspect, Suspects, forget_suspects, take_disk_error, take_suspects
from tests.storage_node.devices import SMALL, hash_of, make_device

HASH, KEY = hash_of(1), b"/a/c/o"
DATA = b"the bytes that will rot" * 20


def rot(root: Path, data: bytes) -> None:
    """Change one byte of a device's files."""
    for path in [*(root / "log").iterdir(), *(root / "blobs").rglob("*")]:
        if path.is_file() and (where := path.read_bytes().find(data)) >= 0:
            with path.open("r+b") as file:
                file.seek(where)
                file.write(bytes((data[0] ^ 1,)))


class FailingReads(RealDisk):
    """A disk that can no longer be read."""

    error = 0
    """What reads fail with, once it is not 0."""

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:  # type: ignore[override]
        """See Disk."""
        if self.error:
            raise OSError(self.error, "no more reads")
        return os.pread(fd, length, offset)

    def pread_cached(self, fd: int, buffer: bytearray, offset: int) -> int:
        """See Disk."""
        return -1


def with_object(root: Path, size: int = len(DATA)) -> Device:
    """A device with one object, a file if it is long."""
    device = make_device(root)
    data = (DATA * (size // len(DATA) + 1))[:size]
    if size <= SMALL.inline_bytes_max:
        device.apply([PutObject(HASH, KEY, 5, b"", data)])
    else:
        writer = device.open_write()
        writer.write(data)
        writer.finish()
        device.apply([PutBlob(HASH, KEY, 5, b"", writer)])
    return device


@pytest.mark.parametrize("size", [len(DATA), 600_000], ids=["a record", "a file"])
def test_the_device_and_readers_note_what_is_rotten(tmp_path: Path, size: int):
    """Once each, with hash and key."""
    device = with_object(tmp_path / "d", size)
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    rot(tmp_path / "d", DATA)
    for side in (device, reader):
        for _ in range(3):
            opened = side.open_read(HASH, KEY)
            if not isinstance(opened, Status):
                with pytest.raises(CorruptData):
                    opened.read(0, 1000)
                opened.close()
    assert take_suspects(str(tmp_path / "d")) == [Suspect(HASH, KEY)]
    assert device.statistics().corrupt == 3
    reader.close()
    device.close()


def test_a_small_read_notes_it_too(tmp_path: Path):
    """GetObject with data."""
    device = with_object(tmp_path / "d")
    rot(tmp_path / "d", DATA)
    assert device.read(GetObject(HASH, KEY, True)).status == Status.CORRUPT
    assert take_suspects(str(tmp_path / "d")) == [Suspect(HASH, KEY)]
    device.close()


def test_a_lost_file_is_noted(tmp_path: Path):
    """A blob that is not there any more."""
    device = with_object(tmp_path / "d", 600_000)
    reader = LocalReader(tmp_path / "d", settings=SMALL)
    next(path for path in (tmp_path / "d" / "blobs").rglob("*") if path.is_file()).unlink()
    assert reader.open_read(HASH, KEY) == Status.CORRUPT
    assert take_suspects(str(tmp_path / "d")) == [Suspect(HASH, KEY)]
    reader.close()
    device.close()


def test_suspects_are_taken_until_they_are_forgotten(tmp_path: Path):
    """An auditor that dies in between finds them again, and those that were noted meanwhile."""
    noter = Suspects(RealDisk(), str(tmp_path))
    noter.note(HASH, KEY)
    assert take_suspects(str(tmp_path)) == [Suspect(HASH, KEY)]
    Suspects(RealDisk(), str(tmp_path)).note(hash_of(2), b"/b")
    assert take_suspects(str(tmp_path)) == [Suspect(HASH, KEY), Suspect(hash_of(2), b"/b")]
    forget_suspects(str(tmp_path))
    assert take_suspects(str(tmp_path)) == []


def test_rubbish_and_half_lines_are_passed_over(tmp_path: Path):
    """Whoever wrote them."""
    noter = Suspects(RealDisk(), str(tmp_path))
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.write(b"\xff\xfe\n00 00\nnothing\n" + HASH.hex().encode() + b"\n")
    noter.note(HASH, KEY)
    assert take_suspects(str(tmp_path)) == [Suspect(HASH, KEY)]


def test_noting_never_fails(tmp_path: Path):
    """Not in a directory that is gone."""
    Suspects(RealDisk(), str(tmp_path / "gone")).note(HASH, KEY)


@pytest.mark.parametrize("size", [len(DATA), 600_000], ids=["a record", "a file"])
def test_a_disk_that_fails_to_read_is_noted_for_its_own_process(tmp_path: Path, size: int):
    """By a reader of another process: the object for the auditor, the error for whoever can fence the device; once."""
    root = str(tmp_path / "d")
    with_object(tmp_path / "d", size).close()
    disk = FailingReads()
    reader = LocalReader(root, disk=disk, settings=SMALL)
    assert reader.open_read(hash_of(9), b"/x") == Status.MISSING
    disk.error = errno.EIO
    assert reader.open_read(HASH, KEY) == Status.CORRUPT
    assert take_suspects(root) == [Suspect(HASH, KEY)]
    assert "no more reads" in take_disk_error(root)
    assert take_disk_error(root) == ""
    reader.close()


def test_other_errors_are_no_fault_of_the_disk(tmp_path: Path):
    """Too many open files, for one."""
    root = str(tmp_path / "d")
    with_object(tmp_path / "d").close()
    disk = FailingReads()
    reader = LocalReader(root, disk=disk, settings=SMALL)
    assert reader.open_read(hash_of(9), b"/x") == Status.MISSING
    disk.error = errno.EMFILE
    assert reader.open_read(HASH, KEY) == Status.CORRUPT
    assert take_disk_error(root) == ""
    reader.close()
