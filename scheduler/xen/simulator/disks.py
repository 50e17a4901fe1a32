"""The bytes of VDIs: one sparse file each.

A disk of a terabyte costs what is written to it. Copies walk the data and skip the holes, and writes of zeros where there
is a hole are skipped, so an image that is mostly empty stays so. What a disk costs its SR is what its file occupies.

Rejected: disks in memory (an image is gigabytes); copy-on-write chains as VHD has them (a simulator gains nothing from
sharing, and a chain has to be coalesced).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20
GRAIN_BYTES: Final = 64 << 10
"""Aligned pieces in which zeros are told from data."""
_ZEROS: Final = bytes(GRAIN_BYTES)


class Disks:
    """The disks of one pool, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.raw"

    def create(self, key: str, size_bytes: int) -> None:
        """An empty disk."""
        with self._path(key).open("xb") as file:
            file.truncate(size_bytes)

    def remove(self, key: str) -> None:
        """Forget a disk; one that is not there is forgotten already."""
        self._path(key).unlink(missing_ok=True)

    def resize(self, key: str, size_bytes: int) -> None:
        """Make a disk larger or smaller."""
        os.truncate(self._path(key), size_bytes)

    def size_bytes(self, key: str) -> int:
        """How large a disk is for its VM."""
        return self._path(key).stat().st_size

    def used_bytes(self, key: str) -> int:
        """What a disk occupies."""
        try:
            return self._path(key).stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def stored(self) -> list[str]:
        """All disks."""
        return sorted(path.stem for path in self._folder.glob("*.raw"))

    def copying(self, source: str, target: str) -> Iterator[int]:
        """Fill an existing disk, at least as large, with what another holds; yields the bytes of each step."""
        with self._path(source).open("rb") as reader, self._path(target).open("r+b") as writer:
            for start, end in _extents(reader.fileno()):
                position = start
                while position < end:
                    block = os.pread(reader.fileno(), min(CHUNK_BYTES, end - position), position)
                    os.pwrite(writer.fileno(), block, position)
                    position += len(block)
                    yield len(block)

    @contextlib.contextmanager
    def open(self, key: str, *, write: bool = False) -> Iterator[OpenDisk]:
        """A disk to read, or to write."""
        descriptor = os.open(self._path(key), os.O_RDWR if write else os.O_RDONLY)
        try:
            yield OpenDisk(descriptor)
        finally:
            os.close(descriptor)

    def extents(self, key: str) -> list[tuple[int, int]]:
        """(start, end) of what is not a hole, ascending."""
        with self._path(key).open("rb") as reader:
            return list(_extents(reader.fileno()))


class OpenDisk:
    """A disk's bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    @property
    def used_bytes(self) -> int:
        """What it occupies now."""
        return os.fstat(self._descriptor).st_blocks * 512

    def read(self, start: int, length: int) -> bytes:
        """Bytes from a place; fewer only at the end."""
        return os.pread(self._descriptor, length, start)

    def write(self, start: int, data: bytes | bytearray | memoryview) -> None:
        """Write at a place; zeros onto a hole stay a hole. Raises ValueError past the end."""
        if start < 0 or start + len(data) > self.size_bytes:
            raise ValueError("past the end of the disk")
        view = memoryview(data)
        offset = 0
        while offset < len(view):
            part = view[offset : offset + GRAIN_BYTES - (start + offset) % GRAIN_BYTES]
            if part == memoryview(_ZEROS)[: len(part)] and self._is_hole(start + offset, len(part)):
                offset += len(part)
                continue
            written = 0
            while written < len(part):
                written += os.pwrite(self._descriptor, part[written:], start + offset + written)
            offset += len(part)

    def _is_hole(self, start: int, length: int) -> bool:
        try:
            return os.lseek(self._descriptor, start, os.SEEK_DATA) >= start + length
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
            raise


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    position = 0
    while True:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
        position = end
