"""Blobs: large objects, a file each, with a checksum for every chunk.

Problem: an object of gigabytes must be taken in while it arrives, be durable before the log names it, be readable from any
byte without reading the rest, and never show a wrong byte.

Idea: the data stands from the file's first byte, so ranges are plain preads; behind it a table with the xxh3_64 of each
256 KiB chunk, then a footer. The log record that names the blob holds the checksum of table and footer: what that record
vouches for vouches for every byte. A reader reads whole chunks and compares them before it gives out a byte of them.

    data | xxh3_64 of each chunk, 8 bytes each | magic 8, chunk size 4, reserved 4, size 8, blob id 16, table checksum 8

A file is written in incoming/, fdatasynced, renamed to blobs/<2 hex>/<id> and the directory synced, all before the log names
it. Nothing in incoming/ survives the opening of a device. A small object never becomes a file: while all fits the log, it
stays in memory.

Rejected: a checksum tree (a range of one chunk then still takes the path of the tree; the table of 5 GiB is 160 KiB),
checksums between the chunks (ranges then cross them), O_DIRECT (the next reader wants it in the page cache).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple, NoReturn, Protocol

from xxhash import xxh3_64, xxh3_64_intdigest

from storage_node.disk import READ, WRITE_NEW, Disk, write_all
from storage_node.errors import CorruptData, DeviceFull
from storage_node.log import PlaceGone
from storage_node.operations import Entry

CHUNK_BYTES = 256 * 1024
READ_BYTES_MAX = 1024 * 1024
"""Most bytes that one ObjectReader.read gives."""
BLOB_ID_BYTES = 16
BLOB_BYTES_MAX = 1 << 43
MAGIC = b"RINGBLB\x01"
FOOTER = Struct("<8sIIQ16s")
FOOTER_BYTES = FOOTER.size + 8
FALLOCATE_FIRST_BYTES = 1024 * 1024
"""Reserved at first; the file doubles, up to steps of the setting `fallocate_bytes`."""
WRITEBACK_BYTES = 8 * 1024 * 1024
"""The kernel is asked to begin writing whenever this much more has come."""


def blob_path(root: str, blob_id: bytes) -> str:
    """Where a blob lies, below the device's blobs directory."""
    name = blob_id.hex()
    return f"{root}/{name[:2]}/{name}"


def chunk_count(size: int) -> int:
    """Chunks of an object of `size` bytes."""
    return -(-size // CHUNK_BYTES)


class ObjectReader(Protocol):
    """One version of one object, open for reading. Stays readable while it is open, even when overwritten."""

    entry: Entry

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Bytes start <= i < stop (at most READ_BYTES_MAX of them, all inside the object), verified.

        Cheapest where start is a multiple of CHUNK_BYTES. Raises CorruptData. May block on the disk.
        """
        ...

    def try_read(self, start: int, stop: int) -> bytes | memoryview | None:
        """The same from the page cache alone; None: it would block, call read() in a thread."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class InlineReader:
    """An object that was a log record: its data is already here, and verified."""

    __slots__ = ("_data", "entry")

    def __init__(self, entry: Entry, data: bytes) -> None:
        self.entry = entry
        self._data = data

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """See ObjectReader."""
        _check_range(start, stop, len(self._data))
        return self._data if stop - start == len(self._data) else memoryview(self._data)[start:stop]

    def try_read(self, start: int, stop: int) -> bytes | memoryview | None:
        """See ObjectReader."""
        return self.read(start, stop)

    def close(self) -> None:
        """See ObjectReader."""


class BlobReader:
    """An object that is a file."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        blob_id: bytes,
        checksum: int,
        entry: Entry,
        on_rot: Callable[[OSError | None], None] = lambda _: None,
    ) -> None:
        """Open and verify the table; `on_rot` hears of bytes that turn out wrong later (and of the error, if they can't
        be read), in the thread that reads.

        Raises PlaceGone (no such file), CorruptData, OSError.
        """
        self.entry = entry
        self._on_rot = on_rot
        self._disk = disk
        self._size = entry.size_bytes
        self._fd = -1
        try:
            self._fd = disk.open(path, READ)
        except FileNotFoundError:
            raise PlaceGone(path) from None
        try:
            self._table = self._read_table(blob_id, checksum)
        except BaseException:
            self.close()
            raise

    def _read_table(self, blob_id: bytes, checksum: int) -> memoryview:
        table_bytes = 8 * chunk_count(self._size)
        tail = self._disk.pread(self._fd, table_bytes + FOOTER_BYTES, self._size)
        if len(tail) != table_bytes + FOOTER_BYTES or self._disk.size(self._fd) != self._size + len(tail):
            raise CorruptData(f"blob {blob_id.hex()}: the file has not the length of its {self._size} bytes and table")
        if xxh3_64_intdigest(tail[:-8]) != checksum or int.from_bytes(tail[-8:], "little") != checksum:
            raise CorruptData(f"blob {blob_id.hex()}: the table's checksum is wrong")
        magic, chunk_bytes, _, size, stated = FOOTER.unpack_from(tail, table_bytes)
        if (magic, chunk_bytes, size, stated) != (MAGIC, CHUNK_BYTES, self._size, blob_id):
            raise CorruptData(f"blob {blob_id.hex()}: the footer is another blob's")
        return memoryview(tail[:table_bytes]).cast("Q")

    def _window(self, start: int, stop: int) -> tuple[int, int]:
        _check_range(start, stop, self._size)
        low = start - start % CHUNK_BYTES
        return low, min(self._size, -(-stop // CHUNK_BYTES) * CHUNK_BYTES)

    def _verify(self, data: bytes | bytearray, low: int, start: int, stop: int) -> bytes | memoryview:
        view = memoryview(data)
        first = low // CHUNK_BYTES
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = first + at // CHUNK_BYTES
            if xxh3_64_intdigest(view[at : at + CHUNK_BYTES]) != self._table[chunk]:
                self._on_rot(None)
                raise CorruptData(f"chunk {chunk} of a blob of {self._size} bytes has a wrong checksum")
        if start == low and stop - low == len(data):
            return data if isinstance(data, bytes) else view
        return view[start - low : stop - low]

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """See ObjectReader."""
        low, high = self._window(start, stop)
        try:
            data = self._disk.pread(self._fd, high - low, low)
        except OSError as error:
            self._on_rot(error)
            raise CorruptData(f"bytes {low}..{high} of a blob can't be read: {error}") from error
        if len(data) != high - low:
            self._on_rot(None)
            raise CorruptData(f"bytes {low}..{high} of a blob: the file ends at {low + len(data)}")
        return self._verify(data, low, start, stop)

    def try_read(self, start: int, stop: int) -> bytes | memoryview | None:
        """See ObjectReader."""
        low, high = self._window(start, stop)
        buffer = bytearray(high - low)
        if self._disk.pread_cached(self._fd, buffer, low) != len(buffer):
            return None
        return self._verify(buffer, low, start, stop)

    def close(self) -> None:
        """See ObjectReader."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1


def _check_range(start: int, stop: int, size: int) -> None:
    if not (0 <= start <= stop <= size and stop - start <= READ_BYTES_MAX):
        raise ValueError(f"bytes {start}..{stop} of an object of {size}: outside it, or more than {READ_BYTES_MAX}")


class BlobWriter:
    """An object's data on its way in, of a length that need not be known.

    Not thread-safe, but may move between threads between calls: `write` is short (page cache), `finish` syncs.
    """

    def __init__(
        self,
        disk: Disk,
        incoming: str,
        blobs: str,
        blob_id: bytes,
        inline_bytes_max: int,
        fallocate_bytes: int,
        make_room: Callable[[int, int], None],
        on_failure: Callable[[OSError, int], NoReturn],
    ) -> None:
        """`make_room(bytes, held_bytes)` raises DeviceFull or DeviceFenced when the device must not grow by that.

        Both it and `on_failure` are told how many bytes of the disk are held already.
        """
        self.size_bytes = 0
        self.blob_id = blob_id
        self.table_checksum = 0
        self._disk = disk
        self._incoming = incoming
        self._blobs = blobs
        self._inline_bytes_max = inline_bytes_max
        self._fallocate_bytes = fallocate_bytes
        self._make_room = make_room
        self._on_failure = on_failure
        self._pieces: list[bytes] = []
        self._fd = -1
        self._path = ""
        self._reserved = 0
        self._flushed = 0
        self._chunk = xxh3_64()
        self._table: list[bytes] = []
        self._state = "open"

    @property
    def in_memory(self) -> bool:
        """True while all of it fits the log: finish() then does no I/O and needs no thread."""
        return not self._path

    @property
    def finished(self) -> bool:
        """finish() has returned, and nothing has used the writer up yet."""
        return self._state == "finished"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises DeviceFull, DeviceFenced; the writer can then only be aborted."""
        if self._state != "open":
            raise ValueError(f"write to a {self._state} BlobWriter")
        if self.size_bytes + len(data) > BLOB_BYTES_MAX:
            raise DeviceFull(f"an object of more than {BLOB_BYTES_MAX} bytes")
        if not self._path:
            if self.size_bytes + len(data) <= self._inline_bytes_max:
                self._pieces.append(bytes(data))
                self.size_bytes += len(data)
                return
            self._spill()
        self._write_file(data)

    def _spill(self) -> None:
        self._make_room(self._inline_bytes_max, 0)
        path = f"{self._incoming}/{self.blob_id.hex()}"
        with self._failing():
            self._fd = self._disk.open(path, WRITE_NEW)
        self._path = path
        pieces, self._pieces, self.size_bytes = self._pieces, [], 0
        for piece in pieces:
            self._write_file(piece)

    def _write_file(self, data: bytes | bytearray | memoryview) -> None:
        end = self.size_bytes + len(data)
        if end > self._reserved:
            # A small file is not given what it would have to give back: that costs as much as writing half of it.
            grown = max(self._reserved, FALLOCATE_FIRST_BYTES)
            step = max(min(self._fallocate_bytes, grown), end - self._reserved)
            self._make_room(step, self._reserved)
            with self._failing():
                self._disk.fallocate(self._fd, self._reserved, step)
            self._reserved += step
        with self._failing():
            write_all(self._disk, self._fd, [data], self.size_bytes)
            if end - self._flushed >= WRITEBACK_BYTES:
                self._disk.start_writeback(self._fd, self._flushed, end - self._flushed)
                self._flushed = end
        self._add_to_table(data)
        self.size_bytes = end

    def _add_to_table(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        at = 0
        room = CHUNK_BYTES - self.size_bytes % CHUNK_BYTES
        while len(view) - at >= room:
            self._chunk.update(view[at : at + room])
            self._close_chunk()
            at += room
            room = CHUNK_BYTES
        if at < len(view):
            self._chunk.update(view[at:])

    def _close_chunk(self) -> None:
        self._table.append(self._chunk.intdigest().to_bytes(8, "little"))
        self._chunk.reset()

    def finish(self) -> None:
        """Put what was written on stable storage, under its final name. Blocks on fdatasync: run it in a thread.

        After it the writer goes into a PutBlob, or `abort`. Small totals stay in memory: `finish` is then quick.
        Raises DeviceFull, DeviceFenced.
        """
        if self._state != "open":
            raise ValueError(f"finish of a {self._state} BlobWriter")
        if self._path:
            if self.size_bytes % CHUNK_BYTES:
                self._close_chunk()
            tail = b"".join(self._table) + FOOTER.pack(MAGIC, CHUNK_BYTES, 0, self.size_bytes, self.blob_id)
            self.table_checksum = xxh3_64_intdigest(tail)
            target = blob_path(self._blobs, self.blob_id)
            with self._failing():
                write_all(self._disk, self._fd, [tail + self.table_checksum.to_bytes(8, "little")], self.size_bytes)
                # Gives back what was reserved beyond the end.
                self._disk.ftruncate(self._fd, self.size_bytes + len(tail) + 8)
                self._disk.fdatasync(self._fd)
                self._disk.rename(self._path, target)
                self._path = target
                self._disk.sync_directory(os.path.dirname(target))
            self._disk.close(self._fd)
            self._fd = -1
        self._state = "finished"

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """An OSError becomes the device's own error; one that is not for want of room fences the device."""
        try:
            yield
        except OSError as error:
            self._on_failure(error, self._reserved)

    def take_data(self) -> bytes:
        """The whole data of a finished writer that is in memory."""
        assert self._state == "finished"
        assert not self._path
        return b"".join(self._pieces)

    def used(self) -> None:
        """The log names the blob now (or holds the data): nothing is left to abort."""
        self._state = "used"
        self._pieces = []

    def abort(self) -> None:
        """Throw it away; does nothing after a PutBlob has taken it. Idempotent."""
        if self._state in ("used", "aborted"):
            return
        self._state = "aborted"
        self._pieces = []
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
        if self._path:
            # What can't be removed now is removed at the next opening, or reported by check().
            with contextlib.suppress(OSError):
                self._disk.unlink(self._path)


class PutBlob(NamedTuple):
    """Store an object whose data is a finished BlobWriter. -> Written; the writer is used up whatever the answer is."""

    hash: bytes
    key: bytes
    timestamp: int
    meta: bytes
    writer: BlobWriter
    manifest: bool = False
    lock: int | None = None
    meta_timestamp: int = 0
