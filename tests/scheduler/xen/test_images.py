"""What an image's first bytes say."""

from __future__ import annotations

import pytest

from scheduler.hypervisor import Refused
from scheduler.xen.images import disk_bytes


def vhd_head(size_bytes: int) -> bytes:
    """The copy of the footer that a dynamic VHD begins with."""
    return (b"conectix" + bytes(40) + size_bytes.to_bytes(8, "big")).ljust(512, b"\0")


def test_a_raw_image_is_as_large_as_its_file() -> None:
    """Raw means raw."""
    assert disk_bytes(b"\xeb\x63\x90", 12345, "raw") == 12345


def test_a_vhd_says_how_large_its_disk_is() -> None:
    """However small the file."""
    assert disk_bytes(vhd_head(10 << 30), 77_000, "vhd") == 10 << 30


@pytest.mark.parametrize(
    ("head", "size", "image_format"),
    [
        (b"", 0, "raw"),
        (b"QFI\xfb" + bytes(508), 1 << 20, "raw"),
        (vhd_head(1 << 30), 1 << 20, "raw"),
        (b"<!DOCTYPE html>", 400, "raw"),
        (b"\x1f\x8b" + bytes(510), 1 << 20, "raw"),
        (bytes(512), 1 << 20, "vhd"),
        (vhd_head(1 << 30)[:100], 100, "vhd"),
    ],
)
def test_what_is_no_image_is_refused_before_anything_is_made(head: bytes, size: int, image_format: str) -> None:
    """Not after an upload of an hour, by a guest that does not start."""
    with pytest.raises(Refused):
        disk_bytes(head, size, image_format)  # type: ignore[arg-type]
