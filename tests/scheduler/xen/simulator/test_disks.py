"""Bytes of disks: sparse files, and images in VHD."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.xen.simulator.disks import GRAIN_BYTES, Disks
from scheduler.xen.simulator.failure import Failure
from scheduler.xen.simulator.vhd import BLOCK_BYTES, Plan, Reader

MIB = 1 << 20
UUID = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """A store of disks."""
    return Disks(tmp_path)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4 * MIB), st.integers(1, 3 * GRAIN_BYTES), st.integers(0, 1)), max_size=8),
)
def test_a_disk_holds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, int]]
) -> None:
    """Against a plain array of bytes: data, zeros, overlaps, and a copy of it all."""
    disks = Disks(tmp_path_factory.mktemp("disks"))
    size = 6 * MIB
    model = bytearray(size)
    disks.create("a", size)
    with disks.open("a", write=True) as disk:
        for start, length, byte in writes:
            data = bytes([byte * 0xAB]) * length
            disk.write(start, data)
            model[start : start + length] = data
        assert disk.read(0, size) == model
    disks.create("b", size)
    list(disks.copying("a", "b"))
    with disks.open("b") as disk:
        assert disk.read(0, size) == model


def test_zeros_cost_nothing(disks: Disks) -> None:
    """An image that is mostly empty stays so, however it is cut."""
    disks.create("a", 64 * MIB)
    with disks.open("a", write=True) as disk:
        disk.write(0, b"head")
        for start in range(4, 32 * MIB, 333_333):
            disk.write(start, bytes(333_333))
    assert disks.used_bytes("a") <= 2 * GRAIN_BYTES


def test_nothing_is_written_past_the_end(disks: Disks) -> None:
    """A disk has a size."""
    disks.create("a", 1024)
    with disks.open("a", write=True) as disk, pytest.raises(ValueError, match="past the end"):
        disk.write(1000, b"x" * 25)


def export(disks: Disks, key: str) -> bytes:
    """A disk as a VHD."""
    with disks.open(key) as disk:
        plan = Plan(disk.size_bytes, disks.extents(key), UUID)
        image = b"".join(plan.parts(disk.read))
    assert len(image) == plan.length_bytes
    return image


def load(disks: Disks, key: str, image: bytes, step: int) -> None:
    """Write an image into a disk, in pieces."""
    with disks.open(key, write=True) as disk:
        reader = Reader(disk.write, disk.size_bytes)
        for start in range(0, len(image), step):
            reader.feed(image[start : start + step])
        reader.end()


@pytest.mark.parametrize("step", [511, 65536, 10 * MIB])
def test_a_vhd_is_read_back(disks: Disks, step: int) -> None:
    """Only blocks with data are in the image, and the disk that it makes is the same."""
    size = 3 * BLOCK_BYTES + 5 * 512
    disks.create("a", size)
    with disks.open("a", write=True) as disk:
        disk.write(BLOCK_BYTES + 1000, b"middle")
        disk.write(size - 3, b"end")
    image = export(disks, "a")
    assert len(image) < 3 * BLOCK_BYTES
    disks.create("b", size)
    load(disks, "b", image, step)
    with disks.open("a") as one, disks.open("b") as other:
        assert one.read(0, size) == other.read(0, size)


@pytest.mark.parametrize("size", [512, 10240, 65536, 65536 + 512, 200_192])
def test_a_fixed_vhd_is_read(disks: Disks, size: int) -> None:
    """The disk's bytes and a footer after them."""
    data = (bytes(range(256)) * 1000)[:size]
    dynamic = Plan(len(data), [], UUID)
    footer = bytearray(list(dynamic.parts(lambda start, length: b""))[-1])
    footer[60:64] = (2).to_bytes(4, "big")
    footer[64:68] = bytes(4)
    footer[64:68] = (~sum(footer) & 0xFFFFFFFF).to_bytes(4, "big")
    disks.create("a", len(data))
    load(disks, "a", data + footer, 700)
    with disks.open("a") as disk:
        assert disk.read(0, len(data)) == data


@pytest.mark.parametrize("damage", ["short", "footer", "header", "table", "larger", "differencing", "nonsense"])
def test_a_damaged_vhd_is_refused(disks: Disks, damage: str) -> None:
    """With what is wrong, and without a write past what was announced."""
    disks.create("a", 2 * BLOCK_BYTES)
    with disks.open("a", write=True) as disk:
        disk.write(0, b"data")
    image = bytearray(export(disks, "a"))
    match damage:
        case "short":
            del image[len(image) // 2 :]
        case "footer":
            image[20] ^= 1
        case "header":
            image[512 + 30] ^= 1
        case "table":
            image[1536:1540] = (1).to_bytes(4, "big")
        case "differencing":
            image[60:64] = (4).to_bytes(4, "big")
            image[64:68] = bytes(4)
            image[64:68] = (~sum(image[:512]) & 0xFFFFFFFF).to_bytes(4, "big")
        case "nonsense":
            image[:] = b"no image at all" * 1000
    disks.create("b", BLOCK_BYTES if damage == "larger" else 2 * BLOCK_BYTES)
    with pytest.raises((Failure, ValueError), match=r"VHD|past the end"):
        load(disks, "b", bytes(image), 4096)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_qemu_reads_and_writes_the_same_images(disks: Disks, tmp_path: Path) -> None:
    """An image of ours as QEMU reads it, one of QEMU's as we do."""
    size = 8 * MIB
    disks.create("a", size)
    with disks.open("a", write=True) as disk:
        disk.write(3 * MIB + 7, b"payload")
    ours = tmp_path / "ours.vhd"
    ours.write_bytes(export(disks, "a"))
    raw = tmp_path / "ours.raw"
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", ours, raw], check=True)
    with disks.open("a") as disk:
        assert raw.read_bytes()[:size] == disk.read(0, size)
    theirs = tmp_path / "theirs.vhd"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size", raw, theirs]
    subprocess.run(command, check=True)
    disks.create("b", size)
    load(disks, "b", theirs.read_bytes(), 100_000)
    with disks.open("a") as one, disks.open("b") as other:
        assert one.read(0, size) == other.read(0, size)
