"""Whole files on disk, sealed against damage: sections with checksums, and a replace that never leaves half a file.

Problem: the ring file and the builder's memory are small files that must not be wrong. A truncated copy, a flipped bit or
a file of a later version has to be refused with what is wrong and where, not half believed.

Layout, all little-endian:

    header     magic (8) | version u16 | section count u16 | reserved u32 | epoch u64 | file bytes u64
    directory  per section: name (8, NUL-padded) | codec u8 | reserved (7) | stored bytes u64 | raw bytes u64 | xxh3_64 u64
    seal       xxh3_64 of header and directory
    sections   in the directory's order, without gaps

The header alone gives the epoch, so a node learns which of two files is the newer from 32 bytes. A section is deflated
(codec 1) where that saves a tenth or more; the checksum is that of the stored bytes, so damage is found before inflation.

Rejected: a gzip around everything, as Swift has it: it takes longer to inflate than all else in a load, and its CRC says
only that something is wrong somewhere.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

FILE_BYTES_MAX = 1 << 34
"""2**26 partitions of 64 replicas: beyond any ring."""
SECTION_COUNT_MAX = 1024
_HEADER = struct.Struct("<8sHHIQQ")
_ENTRY = struct.Struct("<8sB7xQQQ")
_SEAL = struct.Struct("<Q")
_CODEC_RAW = 0
_CODEC_DEFLATE = 1
_DEFLATE_LEVEL = 1
"""What is deflated is small, or as good as constant: higher levels take longer and gain little."""


class SealError(ValueError):
    """The file's: it is not what it should be. The message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a sealed file holds: its version, its epoch, and its sections by name."""

    version: int
    epoch: int
    sections: dict[str, bytes]


def seal(
    magic: bytes, version: int, epoch: int, sections: Mapping[str, bytes], raw: Collection[str] = frozenset()
) -> bytes:
    """The bytes of a sealed file. Section names are up to 8 ASCII characters; those in `raw` are not deflated."""
    assert len(magic) == 8
    assert len(sections) <= SECTION_COUNT_MAX
    directory = bytearray()
    bodies: list[bytes] = []
    for name, content in sections.items():
        codec, stored = (_CODEC_RAW, content) if name in raw else _pack(content)
        directory += _ENTRY.pack(name.encode(), codec, len(stored), len(content), xxhash.xxh3_64_intdigest(stored))
        bodies.append(stored)
    head_bytes = _HEADER.size + len(directory) + _SEAL.size
    file_bytes = head_bytes + sum(map(len, bodies))
    head = _HEADER.pack(magic, version, len(bodies), 0, epoch, file_bytes) + bytes(directory)
    return b"".join((head, _SEAL.pack(xxhash.xxh3_64_intdigest(head)), *bodies))


def unseal(data: bytes, magic: bytes, version_max: int) -> Sealed:
    """What the file holds, every byte of it checked. SealError says what is wrong, and where."""
    if len(data) < _HEADER.size:
        raise SealError(f"truncated: {len(data)} bytes are less than a header of {_HEADER.size}")
    found_magic, version, section_count, _, epoch, file_bytes = _HEADER.unpack_from(data)
    if found_magic != magic:
        raise SealError(f"it begins with {found_magic!r} and not with {magic!r}: another kind of file")
    if version > version_max:
        raise SealError(f"it has format version {version}, and this program knows up to {version_max}: use a newer one")
    if section_count > SECTION_COUNT_MAX:
        raise SealError(f"damaged in the header (bytes 0..{_HEADER.size}): {section_count} sections")
    seal_at = _HEADER.size + section_count * _ENTRY.size
    body_at = seal_at + _SEAL.size
    if len(data) < body_at:
        raise SealError(f"truncated: {len(data)} bytes end within the directory, which takes {body_at}")
    if xxhash.xxh3_64_intdigest(data[:seal_at]) != _SEAL.unpack_from(data, seal_at)[0]:
        raise SealError(f"damaged in the header or the directory (bytes 0..{body_at}): the checksum differs")
    if len(data) != file_bytes:
        what = "truncated" if len(data) < file_bytes else "too long"
        raise SealError(f"{what}: {len(data)} bytes instead of {file_bytes}")
    return Sealed(version, epoch, _sections(data, section_count, body_at))


def peek_epoch(head: bytes, magic: bytes) -> int:
    """The epoch of a sealed file from its first 32 bytes, not yet checked."""
    if len(head) < _HEADER.size or head[:8] != magic:
        raise SealError(f"it does not begin with {magic!r}: another kind of file")
    return int(_HEADER.unpack_from(head)[4])


def replace_file(path: Path, data: bytes) -> None:
    """Write the file whole and durably: after a crash at any moment there is the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            # The name that was meant, not that of the draft.
            error.filename, error.filename2 = str(path), None
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _pack(raw: bytes) -> tuple[int, bytes]:
    deflated = zlib.compress(raw, _DEFLATE_LEVEL)
    if len(deflated) * 10 < len(raw) * 9:
        return _CODEC_DEFLATE, deflated
    return _CODEC_RAW, raw


def _sections(data: bytes, section_count: int, body_at: int) -> dict[str, bytes]:
    sections: dict[str, bytes] = {}
    start = body_at
    for index in range(section_count):
        padded_name, codec, stored_bytes, raw_bytes, checksum = _ENTRY.unpack_from(
            data, _HEADER.size + index * _ENTRY.size
        )
        name = padded_name.rstrip(b"\x00").decode("ascii", "replace")
        stop = start + stored_bytes
        where = f"section {name!r} (bytes {start}..{stop})"
        stored = data[start:stop]
        if len(stored) != stored_bytes or xxhash.xxh3_64_intdigest(stored) != checksum:
            raise SealError(f"damaged in {where}: the checksum differs")
        sections[name] = _unpack(codec, stored, raw_bytes, where)
        start = stop
    if start != len(data):
        raise SealError(f"{len(data) - start} bytes after the last section, at byte {start}")
    return sections


def _unpack(codec: int, stored: bytes, raw_bytes: int, where: str) -> bytes:
    if codec == _CODEC_RAW and len(stored) == raw_bytes:
        return stored
    if codec != _CODEC_DEFLATE or raw_bytes > FILE_BYTES_MAX:
        raise SealError(f"damaged in {where}: codec {codec}, {raw_bytes} bytes")
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(stored, raw_bytes + 1)
    except zlib.error as error:
        raise SealError(f"damaged in {where}: {error}") from error
    if len(raw) != raw_bytes or not inflater.eof:
        raise SealError(f"damaged in {where}: it does not inflate to {raw_bytes} bytes")
    return raw
