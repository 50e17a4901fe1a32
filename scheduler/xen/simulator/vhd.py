"""Virtual hard disk images (VHD), read and written as streams.

Source: Microsoft's Virtual Hard Disk Image Format Specification 1.0. Read are fixed and dynamic images whose
metadata precede their blocks, as every tool writes them that streams; written are dynamic ones with 2 MiB blocks, of which
only those that hold data. Differencing images, which name a parent, are refused: alone they are no disk.

A reader is fed bytes as they come and holds at most one block. What the image says of itself is checked before it is
believed: checksums, sizes, offsets that go backwards.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

from scheduler.xen.simulator.failure import Failure

SECTOR: Final = 512
BLOCK_BYTES: Final = 2 << 20
_UNUSED: Final = 0xFFFFFFFF
_FOOTER: Final = struct.Struct(">8sIIQI4sIIQQHBBII16sB427x")
_HEADER: Final = struct.Struct(">8sQQIIII16sII512s192s256x")
_FIXED, _DYNAMIC = 2, 3
_CREATOR: Final = b"tap\0"
"""As the tools of real pools write it: readers then take the size itself, not the geometry, which cannot say every size."""
_NOWHERE: Final = 0xFFFFFFFFFFFFFFFF
_BLOCK_MAX_BYTES: Final = 32 << 20
_PIECE_BYTES: Final = 64 << 10

Write = Callable[[int, bytes], None]
Steps = Generator[int, bytes, None]
"""Yields how many bytes are wanted next, and is sent them."""


def _bad(what: str) -> Failure:
    return Failure("VDI_IO_ERROR", f"the image is no VHD that can be read: {what}")


def _checksum(data: bytes, at: int) -> int:
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


_FOOTER_SUM_AT: Final = 64
_HEADER_SUM_AT: Final = 36


class Reader:
    """Writes the disk that an image describes, as the image comes."""

    def __init__(self, write: Write, disk_bytes: int) -> None:
        self._write = write
        self._disk_bytes = disk_bytes
        self._buffer = bytearray()
        self._position = 0
        """Where in the image the buffer begins."""
        self._steps = self._read()
        self._wanted = next(self._steps)
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises Failure VDI_IO_ERROR."""
        self._buffer += data
        while not self._ended and len(self._buffer) >= self._wanted:
            part = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            self._position += len(part)
            self._advance(part)
        if self._ended:
            self._position += len(self._buffer)
            self._buffer.clear()

    def _advance(self, part: bytes) -> None:
        try:
            self._wanted = self._steps.send(part)
        except StopIteration:
            self._ended = True

    def end(self) -> None:
        """No more comes. Raises Failure VDI_IO_ERROR when something is missing."""
        if self._fixed_tail is not None:
            self._end_fixed(self._fixed_tail)
        elif not self._ended:
            raise _bad(f"it ends after {self._position + len(self._buffer)} bytes")

    _fixed_tail: bytes | None = None

    def _end_fixed(self, tail: bytes) -> None:
        last = tail + bytes(self._buffer)
        kind, size_bytes, _offset = _read_footer(last[-SECTOR:])
        start = self._position - len(tail)
        if kind != _FIXED or start + len(last) - SECTOR != size_bytes:
            raise _bad("the footer of a fixed image does not fit it")
        if len(last) > SECTOR:
            self._write(start, last[:-SECTOR])

    def _read(self) -> Steps:
        first = yield SECTOR
        if not first.startswith(b"conectix"):
            yield from self._read_fixed(first)
        kind, size_bytes, offset = _read_footer(first)
        if kind == _FIXED:
            yield from self._read_fixed(first)
        if kind != _DYNAMIC:
            raise _bad("it is a differencing image, which needs its parent")
        if size_bytes > self._disk_bytes:
            raise _bad(f"it holds a disk of {size_bytes} bytes, the VDI has {self._disk_bytes}")
        yield from self._skip_to(offset)
        header = yield _HEADER.size
        table_offset, entries, block_bytes = _read_header(header)
        if entries * block_bytes < size_bytes or entries > (size_bytes // block_bytes + 1) + 1024:
            raise _bad("its table does not fit its size")
        yield from self._skip_to(table_offset)
        table = yield entries * 4
        blocks = sorted(
            (sector * SECTOR, index)
            for index, (sector,) in enumerate(struct.iter_unpack(">I", table))
            if sector != _UNUSED
        )
        for place, index in blocks:
            yield from self._skip_to(place)
            yield from self._read_block(index * block_bytes, block_bytes, size_bytes)

    def _skip_to(self, place: int) -> Steps:
        if place < self._position:
            raise _bad(f"something at {place} lies before what it needs")
        while self._position < place:
            yield min(place - self._position, 1 << 20)

    def _read_block(self, start: int, block_bytes: int, size_bytes: int) -> Steps:
        sectors = block_bytes // SECTOR
        bitmap = yield -(-sectors // 8 // SECTOR) * SECTOR
        data = yield block_bytes
        length = min(block_bytes, size_bytes - start)
        if length <= 0:
            raise _bad("a block lies past the end of the disk")
        for begin, end in _runs(bitmap, sectors):
            if begin * SECTOR < length:
                self._write(start + begin * SECTOR, data[begin * SECTOR : min(end * SECTOR, length)])

    def _read_fixed(self, first: bytes) -> Steps:
        """All but the footer at the end is the disk; the last piece is always held back."""
        self._fixed_tail = first
        while True:
            part = yield _PIECE_BYTES
            self._write(self._position - len(part) - len(self._fixed_tail), self._fixed_tail)
            self._fixed_tail = part


def _runs(bitmap: bytes, sectors: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of sectors that a bitmap marks."""
    if bitmap[: sectors // 8] == b"\xff" * (sectors // 8):
        yield 0, sectors
        return
    begin = None
    for sector in range(sectors):
        marked = bitmap[sector // 8] & (0x80 >> sector % 8)
        if marked and begin is None:
            begin = sector
        elif not marked and begin is not None:
            yield begin, sector
            begin = None
    if begin is not None:
        yield begin, sectors


def _read_footer(data: bytes) -> tuple[int, int, int]:
    """(kind, size in bytes, offset of the header)."""
    if len(data) != SECTOR:
        raise _bad("it has no footer")
    fields = _FOOTER.unpack(data)
    if fields[0] != b"conectix" or fields[14] != _checksum(data, _FOOTER_SUM_AT):
        raise _bad("its footer is damaged")
    return fields[13], fields[9], fields[3]


def _read_header(data: bytes) -> tuple[int, int, int]:
    """(offset of the table, entries, bytes of a block)."""
    fields = _HEADER.unpack(data)
    if fields[0] != b"cxsparse" or fields[6] != _checksum(data, _HEADER_SUM_AT):
        raise _bad("its header is damaged")
    block_bytes = fields[5]
    if block_bytes < 8 * SECTOR or block_bytes > _BLOCK_MAX_BYTES or block_bytes & (block_bytes - 1):
        raise _bad(f"blocks of {block_bytes} bytes")
    return fields[2], fields[4], block_bytes


class Plan:
    """A dynamic image of a disk, of which only blocks with data are written."""

    def __init__(self, size_bytes: int, extents: Sequence[tuple[int, int]], disk_uuid: str) -> None:
        self._size_bytes = size_bytes
        used: dict[int, None] = {}
        for start, end in extents:
            used.update(dict.fromkeys(range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))))
        self._blocks = sorted(used)
        self._entries = -(-size_bytes // BLOCK_BYTES)
        self._table_bytes = -(-self._entries * 4 // SECTOR) * SECTOR
        self._bitmap_bytes = BLOCK_BYTES // SECTOR // 8
        self._footer = _footer(size_bytes, disk_uuid)

    @property
    def length_bytes(self) -> int:
        """Length of the image."""
        head = SECTOR + _HEADER.size + self._table_bytes
        return head + len(self._blocks) * (self._bitmap_bytes + BLOCK_BYTES) + SECTOR

    def parts(self, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
        """The image, part by part; `read(start, length)` gives the disk's bytes."""
        first_block = SECTOR + _HEADER.size + self._table_bytes
        table = [_UNUSED] * self._entries
        for order, block in enumerate(self._blocks):
            table[block] = (first_block + order * (self._bitmap_bytes + BLOCK_BYTES)) // SECTOR
        packed = struct.pack(f">{len(table)}I", *table)
        yield self._footer + _header(self._entries) + packed.ljust(self._table_bytes, b"\xff")
        for block in self._blocks:
            yield b"\xff" * self._bitmap_bytes + read(block * BLOCK_BYTES, BLOCK_BYTES).ljust(BLOCK_BYTES, b"\0")
        yield self._footer


def _footer(size_bytes: int, disk_uuid: str) -> bytes:
    cylinders, heads, sectors = _geometry(size_bytes)
    identity = uuid.UUID(disk_uuid).bytes
    fields = [b"conectix", 2, 0x10000, SECTOR, 0, _CREATOR, 0x10000, 0, size_bytes, size_bytes]
    fields += [cylinders, heads, sectors, _DYNAMIC]
    unsigned = _FOOTER.pack(*fields, 0, identity, 0)
    return _FOOTER.pack(*fields, _checksum(unsigned, _FOOTER_SUM_AT), identity, 0)


def _header(entries: int) -> bytes:
    fields = [b"cxsparse", _NOWHERE, SECTOR + _HEADER.size, 0x10000, entries, BLOCK_BYTES]
    rest = [bytes(16), 0, 0, bytes(512), bytes(192)]
    unsigned = _HEADER.pack(*fields, 0, *rest)
    return _HEADER.pack(*fields, _checksum(unsigned, _HEADER_SUM_AT), *rest)


def _geometry(size_bytes: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors, by the specification's own algorithm (its appendix)."""
    total = min(size_bytes // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        sectors, heads = 255, 16
        return total // sectors // heads, heads, sectors
    sectors = 17
    cylinder_heads = total // sectors
    heads = max(4, (cylinder_heads + 1023) // 1024)
    if cylinder_heads >= heads * 1024 or heads > 16:
        sectors, heads = 31, 16
        cylinder_heads = total // sectors
    if cylinder_heads >= heads * 1024:
        sectors, heads = 63, 16
        cylinder_heads = total // sectors
    return cylinder_heads // heads, heads, sectors
