"""What an image's first bytes say. Pure.

An image that is not in the format that it claims makes a disk that no guest starts from, found out an hour later by a
user. So its head is looked at before anything is made: a dynamic VHD (the kind that pools import and export) begins
with a copy of its footer, which also says how large the disk is; a raw disk is anything, but not the head of another
known format.

VHD: Microsoft, "Virtual Hard Disk Image Format Specification", 1.0 (2006).
"""

from __future__ import annotations

from scheduler.hypervisor import ImageFormat, Refused

HEAD_BYTES = 512
_VHD_COOKIE = b"conectix"
_VHD_SIZE_AT = 48
_OTHERS = {
    b"QFI\xfb": "a qcow2 image",
    _VHD_COOKIE: "a VHD",
    b"vhdxfile": "a VHDX",
    b"KDMV": "a VMDK",
    b"# Disk DescriptorFile": "a VMDK",
    b"\x1f\x8b": "compressed with gzip",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip file",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
}


def disk_bytes(head: bytes, size_bytes: int, image_format: ImageFormat) -> int:
    """The size of the disk in an image, from its first HEAD_BYTES and its size. Raises Refused if it is none of its
    format."""
    if image_format == "vhd":
        if not head.startswith(_VHD_COOKIE) or len(head) < HEAD_BYTES:
            raise Refused("the image is no dynamic VHD; convert it: qemu-img convert -O vpc IMAGE IMAGE.vhd")
        return int.from_bytes(head[_VHD_SIZE_AT : _VHD_SIZE_AT + 8], "big")
    if size_bytes < 1:
        raise Refused("the image is empty")
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise Refused(f"the image is {what}, not a raw disk; say so, or convert it: qemu-img convert -O raw")
    return size_bytes
