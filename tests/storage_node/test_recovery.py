"""Recovery: what is torn is cut off, what is damaged is said and kept, what is gone is made again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from storage_node import recovery
from storage_node.device import Device
from storage_node.disk import RealDisk
from storage_node.errors import DeviceDamaged, DeviceInUse, NotADevice
from storage_node.identity import note_recent
from storage_node.log import SEGMENT_HEADER_BYTES, list_segments, open_segment
from storage_node.operations import Found, GetObject, PutCatalog, PutObject, PutRow, Status
from storage_node.record import OBJECT, encode
from storage_node.settings import KIB
from tests.storage_node.devices import ROOMY, SMALL, die, flip_byte, hash_of, make_device, open_device


class OtherBoot(RealDisk):
    """The real disk after the machine was started anew."""

    def boot_id(self) -> str:
        """Another one."""
        return "another boot"


def put(number: int, data: bytes = b"data", timestamp: int = 5) -> PutObject:
    """An object's write."""
    return PutObject(hash_of(number), b"/a/c/%d" % number, timestamp, b"meta", data)


def status_of(device: Device, number: int) -> Status:
    """How a read of an object ends."""
    answer = device.read(GetObject(hash_of(number), b"/a/c/%d" % number, True))
    assert isinstance(answer, Found)
    return Status(answer.status)


def segment_path(device: Device, number: int = 1) -> Path:
    """The file of a segment."""
    return device.path / "log" / f"{number:010d}.seg"


def offsets(device: Device, count: int) -> list[int]:
    """Writes objects 0..count-1, a batch each; gives where their records begin, and where the last one ends."""
    found = []
    for number in range(count):
        assert device.apply([put(number)])[0].status == Status.APPLIED
        found.append(device.position.offset)
    return [SEGMENT_HEADER_BYTES, *found]


def test_a_torn_end_is_cut_off(memory_path: Path) -> None:
    """Half a record that nothing vouches for was never acknowledged: it goes, the rest stays."""
    device = make_device(memory_path / "d")
    at = offsets(device, 3)
    die(device)
    os.truncate(segment_path(device), at[3] - 1)
    device = open_device(device.path, disk=OtherBoot())
    assert [status_of(device, number) for number in range(3)] == [Status.FOUND, Status.FOUND, Status.MISSING]
    assert "cut off" in device.notes[0]
    assert segment_path(device).stat().st_size == at[2]
    assert device.check() == []
    device.close()


def test_the_last_batch_is_only_torn_if_the_machine_went_down(memory_path: Path) -> None:
    """In the same boot `recent` knows how far the log was durable: what rots before that is damage."""
    device = make_device(memory_path / "d")
    at = offsets(device, 3)
    die(device)
    flip_byte(segment_path(device), at[2] + 90)
    device = open_device(device.path)
    assert device._parts.state.damage == [(1, at[2], at[3])]
    assert "do not verify" in device.notes[0]
    device.close()


def test_a_rotten_end_makes_a_device_that_may_lack_something(memory_path: Path) -> None:
    """After a loss of power, too: no unfinished write looks like that, so what it held may have been acknowledged."""
    device = make_device(memory_path / "d")
    at = offsets(device, 3)
    die(device)
    flip_byte(segment_path(device), at[2] + 20)
    device = open_device(device.path, disk=OtherBoot())
    assert device.filling
    assert device._parts.state.damage == [(1, at[2], at[3])]
    device.close()


def test_damage_in_the_middle_is_said_and_the_rest_is_kept(memory_path: Path) -> None:
    """A later record calls the broken one durable: what is behind it counts, and check() reports the range from then on."""
    device = make_device(memory_path / "d")
    at = offsets(device, 4)
    die(device)
    flip_byte(segment_path(device), at[1] + 90)
    device = open_device(device.path, disk=OtherBoot())
    found = [status_of(device, number) for number in range(4)]
    assert found == [Status.FOUND, Status.MISSING, Status.FOUND, Status.FOUND]
    assert device._parts.state.damage == [(1, at[1], at[2])]
    assert device.apply([put(1, timestamp=6)])[0].status == Status.APPLIED
    device.close()
    device = open_device(device.path)
    assert any("damaged" in problem for problem in device.check())
    assert len(device.check()) == 1
    assert status_of(device, 1) == Status.FOUND
    device.close()


def test_damage_to_what_the_index_knows_is_found_when_it_is_read(memory_path: Path) -> None:
    """After a checkpoint nothing is replayed: the read says CORRUPT, check() says where, a newer write mends it."""
    device = make_device(memory_path / "d")
    at = offsets(device, 2)
    device.close()
    flip_byte(segment_path(device), at[1] - 1)
    device = open_device(device.path)
    assert status_of(device, 0) == Status.CORRUPT
    assert device.statistics().corrupt == 1
    problems = device.check()
    assert any("no record verifies" in problem for problem in problems)
    assert any("wrong checksum" in problem for problem in problems)
    device.apply([put(0, timestamp=6)])
    assert status_of(device, 0) == Status.FOUND
    device.close()


def test_the_tail_of_a_segment_that_others_follow_is_damage(memory_path: Path) -> None:
    """A segment is begun only when the one before is synced to its end."""
    device = make_device(memory_path / "d", ROOMY)
    for number in range(3):
        device.apply([put(number, bytes(3 * KIB))])
    assert device.position.segment == 2
    die(device)
    end = segment_path(device, 1).stat().st_size
    flip_byte(segment_path(device, 1), end - 1)
    device = open_device(device.path, disk=OtherBoot())
    assert [status_of(device, number) for number in range(3)] == [Status.FOUND, Status.MISSING, Status.FOUND]
    assert [damage.segment for damage in device._parts.state.damage] == [1]
    device.close()


def test_a_missing_segment_is_said(memory_path: Path) -> None:
    """What the log has lost whole is reported, the segments around it are kept."""
    device = make_device(memory_path / "d", ROOMY)
    for number in range(6):
        device.apply([put(number, bytes(3 * KIB))])
    die(device)
    segment_path(device, 2).unlink()
    device = open_device(device.path, disk=OtherBoot())
    assert "segment 2" in device.notes[0]
    assert status_of(device, 0) == Status.FOUND
    assert status_of(device, 5) == Status.FOUND
    device.close()


def test_a_broken_segment_header_is_damage_where_records_follow_and_nothing_otherwise(memory_path: Path) -> None:
    """A last segment whose header never reached the disk cannot hold anything."""
    device = make_device(memory_path / "d", ROOMY)
    for number in range(3):
        device.apply([put(number, bytes(3 * KIB))])
    die(device)
    segment_path(device, 3).write_bytes(b"RINGS")
    device = open_device(device.path, disk=OtherBoot())
    assert device.notes == []
    assert not segment_path(device, 3).exists()
    die(device)
    flip_byte(segment_path(device, 1), 12)
    shutil.rmtree(device.path / "index")
    device = open_device(device.path, disk=OtherBoot())
    assert [damage.segment for damage in device._parts.state.damage] == [1]
    assert status_of(device, 2) == Status.FOUND
    device.close()


def test_a_rotten_header_of_the_last_segment_is_damage_after_a_loss_of_power_too(memory_path: Path) -> None:
    """It was whole once: what the segment holds may have been acknowledged, and stays."""
    device = make_device(memory_path / "d")
    at = offsets(device, 3)
    die(device)
    flip_byte(segment_path(device), 12)
    device = open_device(device.path, disk=OtherBoot())
    assert device.filling
    assert [damage.segment for damage in device._parts.state.damage] == [1]
    assert segment_path(device).stat().st_size >= at[3]
    assert device.apply([put(1, timestamp=6)])[0].status == Status.APPLIED
    device.close()
    device = open_device(device.path)
    assert status_of(device, 1) == Status.FOUND
    device.close()


def test_zeros_behind_the_last_record_are_its_end(memory_path: Path) -> None:
    """A file system may have given the file its new length and not its content."""
    device = make_device(memory_path / "d")
    at = offsets(device, 2)
    die(device)
    with segment_path(device).open("ab") as file:
        file.write(bytes(100_000))
    device = open_device(device.path, disk=OtherBoot())
    assert device.notes == []
    assert segment_path(device).stat().st_size == at[2]
    device.close()


def test_a_record_inside_an_object_is_not_believed(memory_path: Path) -> None:
    """Whoever uploads what looks like a record writes none: not even with the right offset, for the seed is secret."""
    device = make_device(memory_path / "d")
    device.apply([put(0)])
    inside = device.position.offset + 80 + len(b"/a/c/1") + len(b"meta")
    false = encode(0, inside, inside, OBJECT, 0, hash_of(7), 9, 9, 3, 0, b"/a/c/7", b"", b"bad")
    device.apply([put(1, false + b"rest")])
    die(device)
    os.truncate(segment_path(device), inside + len(false))
    device = open_device(device.path, disk=OtherBoot())
    assert status_of(device, 7) == Status.MISSING
    assert device._parts.state.damage == []
    device.close()


def test_a_record_of_another_segment_is_not_believed(memory_path: Path) -> None:
    """Blocks that the disk puts in the wrong file do not verify there."""
    device = make_device(memory_path / "d", ROOMY)
    for number in range(4):
        device.apply([put(number, bytes(3 * KIB))])
    device.close()
    first, second = segment_path(device, 1), segment_path(device, 2)
    records = second.read_bytes()[SEGMENT_HEADER_BYTES:]
    first.write_bytes(first.read_bytes()[:SEGMENT_HEADER_BYTES] + records)
    device = open_device(device.path)
    assert status_of(device, 0) == Status.CORRUPT
    assert status_of(device, 2) == Status.FOUND
    device.close()


@pytest.mark.parametrize("how", ["gone", "garbage"])
def test_an_index_that_cannot_be_opened_is_made_again(memory_path: Path, how: str) -> None:
    """The log is the truth: everything comes back, totals and digests included."""
    device = make_device(memory_path / "d")
    offsets(device, 3)
    device.apply([PutCatalog(1, hash_of(50), b"/a/c", 1, {b"x": (b"y", 1)})])
    device.apply([PutRow(1, hash_of(50), b"row-%d" % number, 5, 0, False, 1, 10, b"") for number in range(30)])
    before = device.statistics()
    device.close()
    if how == "gone":
        shutil.rmtree(device.path / "index")
    else:
        (device.path / "index" / "data.mdb").write_bytes(os.urandom(50_000))
    device = open_device(device.path)
    after = device.statistics()
    assert (after.object_count, after.row_count, after.container_count) == (3, 30, 1)
    assert after.log_live_bytes == before.log_live_bytes
    assert device.check() == []
    device.close()


def test_recent_of_another_boot_is_not_opened(memory_path: Path) -> None:
    """After a power cut its content may be anything: it is made anew before LMDB looks at it."""
    device = make_device(memory_path / "d")
    offsets(device, 2)
    die(device)
    (device.path / "recent" / "data.mdb").write_bytes(os.urandom(30_000))
    device = open_device(device.path, disk=OtherBoot())
    assert status_of(device, 1) == Status.FOUND
    device.close()
    assert json.loads((device.path / "recent.json").read_text())["boot_id"] == "another boot"


def test_recent_that_is_broken_in_the_same_boot_is_made_anew(memory_path: Path) -> None:
    """Even where its note says that it can be believed."""
    device = make_device(memory_path / "d")
    offsets(device, 2)
    die(device)
    (device.path / "recent" / "data.mdb").write_bytes(b"no database" * 1000)
    note_recent(RealDisk(), str(device.path))
    device = open_device(device.path)
    assert status_of(device, 1) == Status.FOUND
    device.close()


def test_only_one_writer(memory_path: Path) -> None:
    """The second one is told so and touches nothing."""
    device = make_device(memory_path / "d")
    with pytest.raises(DeviceInUse, match="in use"):
        open_device(device.path)
    device.apply([put(1)])
    assert status_of(device, 1) == Status.FOUND
    device.close()


def test_what_is_no_device_is_not_opened(memory_path: Path) -> None:
    """Nothing there, something else there, or an identity that was tampered with."""
    with pytest.raises(NotADevice):
        open_device(memory_path / "nothing")
    with pytest.raises(NotADevice):
        open_device(memory_path)
    (memory_path / "file").write_text("")
    with pytest.raises(NotADevice):
        Device.create(memory_path, "over other files")
    device = make_device(memory_path / "d")
    device.close()
    identity = device.path / "device.json"
    content = json.loads(identity.read_text())
    identity.write_text(json.dumps({**content, "name": "somebody else"}))
    with pytest.raises(DeviceDamaged, match="checksum"):
        open_device(device.path)
    identity.write_text("{")
    with pytest.raises(DeviceDamaged):
        open_device(device.path)


def test_segments_of_another_device_are_not_believed(memory_path: Path) -> None:
    """Each segment's header names its owner."""
    device, other = make_device(memory_path / "d"), make_device(memory_path / "e")
    device.apply([put(1)])
    other.apply([put(2)])
    die(device)
    die(other)
    shutil.copy(segment_path(other), segment_path(device))
    device = open_device(device.path)
    assert status_of(device, 2) == Status.MISSING
    assert device._parts.state.damage != []
    device.close()


def test_opening_leaves_nothing_behind(memory_path: Path) -> None:
    """A hundred restarts without a write make no segments, and no checkpoint either."""
    device = make_device(memory_path / "d")
    device.apply([put(1)])
    for _ in range(5):
        die(device)
        device = open_device(device.path)
        device.close()
        device = open_device(device.path)
    assert list_segments(RealDisk(), str(device.path / "log")) == [1]
    assert open_segment(RealDisk(), str(device.path / "log"), 1, device.uuid).seed != 0
    device.close()
    assert SMALL.segment_bytes < 64 * KIB


class FailingReads(RealDisk):
    """Reads fail once `reads_left` of them are done."""

    def __init__(self) -> None:
        self.reads_left = 1 << 30

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """See Disk."""
        self.reads_left -= 1
        if self.reads_left < 0:
            raise OSError(errno.EIO, "no more reads")
        return os.pread(fd, length, offset)


def test_a_rebuild_that_is_cut_short_begins_again(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a half-made index holds, the next opening counts every record once."""
    monkeypatch.setattr(recovery, "PIECE_RECORDS", 2)
    device = make_device(memory_path / "d")
    for number in range(20):
        device.apply([put(number, bytes(1500))])
    device.close()
    shutil.rmtree(device.path / "index")
    disk = FailingReads()
    disk.reads_left = 30
    with pytest.raises(OSError, match="no more reads"):
        open_device(device.path, disk=disk)
    device = open_device(device.path)
    assert device.check() == []
    assert device.statistics().object_count == 20
    device.close()


def test_a_replay_that_is_cut_short_goes_on_where_its_last_piece_ended(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Totals come out exact, however often that happens."""
    monkeypatch.setattr(recovery, "PIECE_RECORDS", 2)
    device = make_device(memory_path / "d")
    device.apply([PutCatalog(1, hash_of(50), b"/a/c", 1, {})])
    for number in range(40):
        device.apply([PutRow(1, hash_of(50), b"row-%d" % (number % 7), number + 1, 0, False, 1, 900, bytes(300))])
    die(device)
    disk = FailingReads()
    failures = 0
    while True:
        disk.reads_left = 8 + failures
        try:
            device = open_device(device.path, disk=disk)
            break
        except OSError:
            failures += 1
    assert failures > 3
    disk.reads_left = 1 << 30
    assert device.check() == []
    assert device.statistics().row_count == 7
    device.close()
