"""The disk as the device store sees it: a narrow door to the file system.

Problem: what a store does when power fails, a disk fills up or an fdatasync fails can only be tested when tests decide what
reaches the disk. The store must then not call `os` wherever it likes.

Idea: a Protocol of the few calls that the log, the blobs and the device's own files need, in the kernel's own words (file
descriptors, offsets, OSError). `RealDisk` binds them to the kernel at no cost: its hot calls *are* the functions of `os`.
A test's disk records writes and syncs, replays any cut, fails what it likes.

Rejected: an abstract file object (a Python call more on each read), and putting LMDB behind this door too: LMDB maps its
file itself and its commit protocol is its own; the crash tests take a copy of its file at each of its commits instead.

Invariants that callers rely on, and no more than these:
- What was written is on stable storage only after fdatasync of that file returned without an error.
- A name (create, rename, unlink) is durable only after sync_directory of its directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

READ = os.O_RDONLY | os.O_CLOEXEC
WRITE_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
WRITE = os.O_RDWR | os.O_CLOEXEC

FALLOC_KEEP_SIZE = 1


class Disk(Protocol):
    """What the store asks of a file system. Every call raises OSError as the kernel would."""

    def open(self, path: str, flags: int) -> int:
        """A file descriptor; `flags` is READ, WRITE or WRITE_NEW."""
        ...

    def close(self, fd: int) -> None: ...

    def size(self, fd: int) -> int:
        """The file's length in bytes."""
        ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        """At most `length` bytes; fewer only at the file's end."""
        ...

    def pread_cached(self, fd: int, buffer: bytearray, offset: int) -> int:
        """Fill `buffer` from memory alone; the bytes that were there, -1 when that would take the disk."""
        ...

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int, /) -> int:
        """Write all or less; the count of bytes written."""
        ...

    def append(self, path: str, data: bytes, length_max: int) -> None:
        """Add to a file's end (made if missing) in one write; nothing, if the file has grown beyond `length_max`."""
        ...

    def ftruncate(self, fd: int, length: int, /) -> None: ...

    def fallocate(self, fd: int, offset: int, length: int) -> None:
        """Reserve room without changing the file's length. May do nothing where the file system can't."""
        ...

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """A hint: begin to write this range, so that the fdatasync to come has less to wait for."""
        ...

    def fdatasync(self, fd: int, /) -> None: ...

    def sync_directory(self, path: str) -> None: ...

    def rename(self, source: str, target: str, /) -> None: ...

    def unlink(self, path: str, /) -> None: ...

    def mkdir(self, path: str, /) -> None: ...

    def listdir(self, path: str, /) -> list[str]: ...

    def free_bytes(self, path: str) -> tuple[int, int]:
        """(total, free to us) bytes of the file system."""
        ...

    def lock(self, fd: int) -> None:
        """Take the advisory lock of an open file; BlockingIOError when another has it."""
        ...

    def boot_id(self) -> str:
        """Changes whenever the machine may have lost what was only in its memory."""
        ...


class RealDisk:
    """The kernel's own."""

    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    pwritev = staticmethod(os.pwritev)
    ftruncate = staticmethod(os.ftruncate)
    fdatasync = staticmethod(os.fdatasync)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags, 0o600)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def append(self, path: str, data: bytes, length_max: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size <= length_max:
                os.write(fd, data)
        finally:
            os.close(fd)

    def pread_cached(self, fd: int, buffer: bytearray, offset: int) -> int:
        try:
            return os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            # EAGAIN: not in memory. EOPNOTSUPP: this file system can't tell; the thread that then reads finds any fault.
            return -1

    def fallocate(self, fd: int, offset: int, length: int) -> None:
        fallocate_keep_size(fd, offset, length)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        # DONTNEED begins writeback of dirty pages and drops only clean ones: these have just been written, so none is.
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def sync_directory(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mkdir(self, path: str, /) -> None:
        os.mkdir(path, 0o700)

    def listdir(self, path: str, /) -> list[str]:
        return os.listdir(path)

    def free_bytes(self, path: str) -> tuple[int, int]:
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def lock(self, fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def boot_id(self) -> str:
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            # Unknown: as if the machine had just started, which is always safe.
            return os.urandom(16).hex()


_libc = ctypes.CDLL(None, use_errno=True)


def fallocate_keep_size(fd: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_KEEP_SIZE, which `os` lacks; a file system without it is left alone."""
    try:
        call = _libc.fallocate
    except AttributeError:
        return
    result = call(ctypes.c_int(fd), ctypes.c_int(FALLOC_KEEP_SIZE), ctypes.c_int64(offset), ctypes.c_int64(length))
    if result != 0:
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))


def write_all(disk: Disk, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
    """Write every buffer, one behind the other; raises OSError when not all of it could be written."""
    index = 0
    while index < len(buffers):
        some = buffers[index : index + 512]
        length = sum(map(len, some))
        written = disk.pwritev(fd, some, offset)
        if written != length:
            rest = b"".join(some)
            while written < length:
                written += disk.pwritev(fd, [memoryview(rest)[written:]], offset + written)
        offset += length
        index += len(some)


def write_file(disk: Disk, directory: str, name: str, content: bytes) -> None:
    """Replace a small file so that after any crash it is whole: the old one or the new one."""
    temporary, target = f"{directory}/{name}.new", f"{directory}/{name}"
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(temporary)
    fd = disk.open(temporary, WRITE_NEW)
    try:
        write_all(disk, fd, [content], 0)
        disk.fdatasync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, target)
    disk.sync_directory(directory)


def read_file(disk: Disk, path: str, limit_bytes: int = 1 << 20) -> bytes:
    """A small file's content; what is longer than the limit is cut."""
    fd = disk.open(path, READ)
    try:
        return disk.pread(fd, limit_bytes, 0)
    finally:
        disk.close(fd)
