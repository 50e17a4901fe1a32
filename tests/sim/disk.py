"""A machine's disk: real files, of which the machine knows what would be left if power failed now.

Fault model. What was written since the last fdatasync of a file is in memory: a power cut keeps all of it, none of it, or
any sectors of it. Names (create, rename, unlink) are in memory until sync_directory: a cut keeps a prefix of them. An
fdatasync may fail; what it should have written is then never certain again, and the page cache may forget it. A disk may
be full (at once, or in the middle of a write), slow, unable to read, or give back other bytes than were written.

LMDB writes behind this door: of `index` a cut keeps its last commit, which is what its file holds between commits; `recent`
is gone, as the boot id tells. Files that are written without a Disk (positions of a scrub, suspects) survive as they are.

The page cache is the machine's: a process that is killed loses nothing that it had written.

How: a write notes what it overwrites, and a cut takes back what it does not keep; unlinked files are kept aside until their
directory is synced. So a run costs two small system calls more for each write, not a copy of each file.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from storage_node.disk import WRITE_NEW, RealDisk

if TYPE_CHECKING:
    from tests.sim.world import Process

SECTOR = 512
TOTAL_BYTES = 1 << 30
SURVIVALS = ("none", "all", "torn")


class _Write(NamedTuple):
    """Something that is only in memory."""

    offset: int
    before: bytes
    after: bytes
    length_before: int


class _Naming(NamedTuple):
    """A change of a directory that is only in memory."""

    kind: str
    path: str
    target: str
    aside: str
    """Where the file lies that an unlink or a rename took away."""


class MachineDisk:
    """What outlives the processes of a machine."""

    def __init__(self, root: Path, random: Random) -> None:
        self.root = root
        self.random = random
        self.aside = root / "aside"
        self.aside.mkdir(parents=True)
        self.boot = 0
        self.unsynced: dict[int, list[_Write]] = {}
        """By inode."""
        self.doomed: dict[int, list[_Write]] = {}
        """What a failed fdatasync did not write: no later one will."""
        self.names: dict[str, list[_Naming]] = {}
        """By directory."""
        self._count = 0
        self.full = False
        self.fail_syncs = 0
        """So many of the next ones fail."""
        self.slow_s = 0.0
        """What an fdatasync takes."""
        self.unreadable = 0.0
        """Part of the reads that fail."""
        self.wrong = 0.0
        """Part of the reads that give wrong bytes, once."""
        self.calls_to_live: int | None = None
        """After so many more calls the calling process dies."""
        self.on_last_call: Callable[[Process], None] = lambda process: None
        self.lies = False
        """A canary: fdatasync says that it has, and has not."""
        self.noted: Callable[[str], None] = lambda kind: None

    # ---------------------------------------------------------------------------------------------------------- changes

    def about_to_write(self, fd: int, offset: int, data: bytes) -> None:
        """Note what is about to be overwritten."""
        status = os.fstat(fd)
        before = os.pread(fd, len(data), offset) if offset < status.st_size else b""
        self.unsynced.setdefault(status.st_ino, []).append(_Write(offset, before, data, status.st_size))

    def about_to_truncate(self, fd: int, length: int) -> None:
        """The same for a truncation."""
        status = os.fstat(fd)
        before = os.pread(fd, max(0, status.st_size - length), length)
        self.unsynced.setdefault(status.st_ino, []).append(_Write(length, before, b"", status.st_size))

    def synced(self, fd: int) -> None:
        """What was written to a file is on the disk."""
        self.unsynced.pop(os.fstat(fd).st_ino, None)

    def not_synced(self, fd: int) -> None:
        """It is not, and never will be."""
        inode = os.fstat(fd).st_ino
        self.doomed.setdefault(inode, []).extend(self.unsynced.pop(inode, []))

    def named(self, kind: str, path: str, target: str = "", aside: str = "") -> None:
        """A directory was changed."""
        self.names.setdefault(os.path.dirname(target or path), []).append(_Naming(kind, path, target, aside))

    def put_aside(self, path: str) -> str:
        """Keep what a name stands for, which is about to go."""
        self._count += 1
        aside = f"{self.aside}/{self._count}"
        os.link(path, aside)
        return aside

    def directory_synced(self, path: str) -> None:
        """Its names are on the disk."""
        for naming in self.names.pop(path, ()):
            if naming.aside:
                os.unlink(naming.aside)

    # ------------------------------------------------------------------------------------------------------------ faults

    def cut_power(self, survival: str) -> None:
        """Leave what a power cut leaves. No process of the machine may be running."""
        self.boot += 1
        for inode, writes in self.doomed.items():
            self.unsynced[inode] = writes + self.unsynced.get(inode, [])
        doomed = set(self.doomed)
        self.doomed = {}
        unsynced, self.unsynced = self.unsynced, {}
        paths = self._paths()
        for inode in sorted(unsynced):
            if inode in paths:
                kept = "torn" if survival == "all" and inode in doomed else survival
                self._take_back(paths[inode], unsynced[inode], kept)
        for directory in sorted(self.names):
            namings = self.names[directory]
            kept_count = {"none": 0, "all": len(namings), "torn": self.random.randint(0, len(namings))}[survival]
            for naming in reversed(namings[kept_count:]):
                self._undo(naming)
            for naming in namings[:kept_count]:
                if naming.aside and os.path.exists(naming.aside):
                    os.unlink(naming.aside)
        self.names = {}

    def forget_cache(self) -> None:
        """The page cache drops what a failed fdatasync marked as clean, and reads what is on the disk."""
        doomed, self.doomed = self.doomed, {}
        paths = self._paths()
        for inode in sorted(doomed):
            if inode in paths and inode not in self.unsynced:
                self._take_back(paths[inode], doomed[inode], "torn")

    def forget_all(self) -> None:
        """Another disk has taken its place."""
        self.unsynced, self.doomed, self.names = {}, {}, {}
        for path in self.aside.iterdir():
            path.unlink()

    def _paths(self) -> dict[int, str]:
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = f"{folder}/{name}"
                found[os.stat(path).st_ino] = path
        return found

    def _take_back(self, path: str, writes: list[_Write], survival: str) -> None:
        """Undo what did not reach the disk."""
        if survival == "all":
            return
        with open(path, "r+b") as file:
            for write in reversed(writes):
                file.seek(write.offset)
                file.write(write.before)
                file.truncate(write.length_before)
            if survival == "torn":
                for write in writes:
                    self._in_part(file, write)

    def _in_part(self, file: object, write: _Write) -> None:
        """Some of it reached the disk."""
        if not write.after:
            if self.random.random() < 0.5:
                file.truncate(write.offset)  # type: ignore[attr-defined]
            return
        start, stop = write.offset, write.offset + len(write.after)
        at = start
        keep_all = self.random.random() < 0.3
        while at < stop:
            end = min(stop, (at // SECTOR + 1) * SECTOR)
            if keep_all or self.random.random() < 0.5:
                file.seek(at)  # type: ignore[attr-defined]
                file.write(write.after[at - start : end - start])  # type: ignore[attr-defined]
            at = end

    @staticmethod
    def _undo(naming: _Naming) -> None:
        if naming.kind == "create":
            if os.path.exists(naming.path):
                os.unlink(naming.path)
        elif naming.kind == "unlink":
            os.rename(naming.aside, naming.path)
        else:
            os.rename(naming.target, naming.path)
            if naming.aside:
                os.rename(naming.aside, naming.target)

    def rot(self, folder: Path, patterns: Sequence[str]) -> str:
        """Flip a few bytes in one of the files that match; what was done, "" if there is nothing to rot."""
        files = [
            path
            for pattern in patterns
            for path in sorted(folder.glob(pattern))
            if path.is_file() and path.stat().st_size > 64
        ]
        if not files:
            return ""
        path = self.random.choice(files)
        content = path.read_bytes()
        # Where there is something: zeros ahead of the log say nothing to anybody.
        used = len(content.rstrip(b"\0"))
        if used <= 64:
            return ""
        at = self.random.randrange(64, used)
        length = min(self.random.choice((1, 8, 512)), used - at)
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes(byte ^ self.random.randrange(1, 256) for byte in content[at : at + length]))
        return f"{length} bytes at {at} of {path.name}"

    def remove(self) -> None:
        """Throw it away."""
        shutil.rmtree(self.root, ignore_errors=True)


class SimDisk(RealDisk):
    """A machine's disk as one process sees it: a Disk."""

    def __init__(self, machine_disk: MachineDisk, process: Process) -> None:
        self._machine = machine_disk
        self._process = process
        self._open: set[int] = set()

    def _enter(self, fd_or_path: object = None) -> None:
        """Each call begins here: the process may be dead, or die here."""
        self._process.check_alive()
        machine = self._machine
        if machine.calls_to_live is not None:
            machine.calls_to_live -= 1
            if machine.calls_to_live <= 0:
                machine.calls_to_live = None
                machine.on_last_call(self._process)
                self._process.check_alive()

    def open(self, path: str, flags: int) -> int:
        """See Disk."""
        self._enter(path)
        if flags == WRITE_NEW and self._machine.full and not path.endswith(".new"):
            raise OSError(errno.ENOSPC, "simulated: no room", path)
        fd = super().open(path, flags)
        self._open.add(fd)
        if flags == WRITE_NEW:
            self._machine.named("create", path)
        return fd

    def close(self, fd: int) -> None:  # type: ignore[override]
        """See Disk. The dead may close, too: their kernel does it for them."""
        if fd in self._open:
            self._open.discard(fd)
            os.close(fd)

    def close_all(self) -> None:
        """The process is dead."""
        for fd in sorted(self._open):
            os.close(fd)
        self._open.clear()

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:  # type: ignore[override]
        """See Disk."""
        self._process.check_alive()
        machine = self._machine
        if machine.unreadable and machine.random.random() < machine.unreadable:
            machine.noted("read error")
            raise OSError(errno.EIO, "simulated: can't be read")
        data = os.pread(fd, length, offset)
        if machine.wrong and data and machine.random.random() < machine.wrong:
            machine.noted("wrong read")
            at = machine.random.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :]
        return data

    def pread_cached(self, fd: int, buffer: bytearray, offset: int) -> int:
        """See Disk."""
        try:
            data = self.pread(fd, len(buffer), offset)
        except OSError:
            return -1
        buffer[: len(data)] = data
        return len(data)

    def pwritev(  # type: ignore[override]
        self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int, /
    ) -> int:
        """See Disk."""
        self._enter(fd)
        data = b"".join(buffers)
        machine = self._machine
        if machine.full:
            machine.noted("write to a full disk")
            if len(data) > SECTOR and machine.random.random() < 0.5:
                data = data[: machine.random.randrange(1, len(data))]
                machine.about_to_write(fd, offset, data)
                return os.pwrite(fd, data, offset)
            raise OSError(errno.ENOSPC, "simulated: no room")
        machine.about_to_write(fd, offset, data)
        return os.pwrite(fd, data, offset)

    def append(self, path: str, data: bytes, length_max: int) -> None:
        """See Disk."""
        self._process.check_alive()
        super().append(path, data, length_max)

    def ftruncate(self, fd: int, length: int, /) -> None:  # type: ignore[override]
        """See Disk."""
        self._enter(fd)
        self._machine.about_to_truncate(fd, length)
        os.ftruncate(fd, length)

    def fallocate(self, fd: int, offset: int, length: int) -> None:
        """See Disk."""
        self._enter(fd)
        if self._machine.full:
            raise OSError(errno.ENOSPC, "simulated: no room")

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """See Disk."""

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        """See Disk."""
        self._enter(fd)
        machine = self._machine
        self._process.busy_s += machine.slow_s
        if machine.fail_syncs:
            machine.fail_syncs -= 1
            machine.noted("fdatasync failed")
            machine.not_synced(fd)
            raise OSError(errno.EIO, "simulated: fdatasync failed")
        if not machine.lies:
            machine.synced(fd)
        self._enter(fd)

    def sync_directory(self, path: str) -> None:
        """See Disk."""
        self._enter(path)
        self._machine.directory_synced(path)

    def rename(self, source: str, target: str, /) -> None:  # type: ignore[override]
        """See Disk."""
        self._enter(source)
        aside = self._machine.put_aside(target) if os.path.exists(target) else ""
        os.rename(source, target)
        self._machine.named("rename", source, target, aside)

    def unlink(self, path: str, /) -> None:  # type: ignore[override]
        """See Disk."""
        self._enter(path)
        aside = self._machine.put_aside(path)
        os.unlink(path)
        self._machine.named("unlink", path, aside=aside)

    def mkdir(self, path: str, /) -> None:
        """See Disk."""
        self._enter(path)
        super().mkdir(path)

    def listdir(self, path: str, /) -> list[str]:
        """See Disk. Sorted: a file system's own order is no part of the seed."""
        self._process.check_alive()
        return sorted(os.listdir(path))

    def free_bytes(self, path: str) -> tuple[int, int]:
        """See Disk."""
        return TOTAL_BYTES, 0 if self._machine.full else TOTAL_BYTES // 2

    def lock(self, fd: int) -> None:
        """See Disk. Locks belong to open files: those of a dead process are let go of when its tasks are gone."""
        self._process.check_alive()

    def boot_id(self) -> str:
        """See Disk."""
        return f"boot {self._machine.boot}"
