"""A disk that remembers what was written and what was synced, so that power can be cut after any call.

Fault model. A write or a truncation lives in memory until fdatasync of its file returns; a cut keeps any part of what is in
memory, in sectors of 512 bytes, in any order. Creating, renaming and unlinking live in memory until sync_directory of
the directory; a cut keeps a prefix of them (file systems journal them in order). LMDB is taken at its word: of the index a
cut keeps the last committed file (`note_index` is called at each commit), of `recent` nothing.

`RecordingDisk` passes every call on to the real disk and notes it. `write_survivors` makes the directory that a machine
finds after a cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from storage_node.disk import WRITE_NEW, RealDisk

SECTOR = 512
Survival = Callable[[int], bool]
"""Whether the n-th thing that was only in memory reached the disk."""


class Event(NamedTuple):
    """One call that changes the disk, or a note."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    target: str = ""


class RecordingDisk(RealDisk):
    """The real disk, all changes noted in `events`."""

    def __init__(self, root: str, boot_id: str = "boot") -> None:
        self.root = root
        self.events: list[Event] = []
        self.boot = boot_id
        self._paths: dict[int, str] = {}
        self.on_call: Callable[[str, str], None] = lambda kind, path: None
        """Called before each change; what it raises is what the call raises."""

    def _note(self, kind: str, path: str, offset: int = 0, data: bytes = b"", target: str = "") -> None:
        relative = os.path.relpath(path, self.root)
        self.events.append(Event(kind, relative, offset, data, os.path.relpath(target, self.root) if target else ""))

    def open(self, path: str, flags: int) -> int:
        """See Disk."""
        if flags == WRITE_NEW:
            self.on_call("create", path)
        fd = super().open(path, flags)
        self._paths[fd] = path
        if flags == WRITE_NEW:
            self._note("create", path)
        return fd

    def close(self, fd: int) -> None:
        """See Disk."""
        self._paths.pop(fd, None)
        os.close(fd)

    def pwritev(  # type: ignore[override]
        self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int, /
    ) -> int:
        """See Disk."""
        self.on_call("write", self._paths[fd])
        written = os.pwritev(fd, buffers, offset)
        self._note("write", self._paths[fd], offset, b"".join(buffers)[:written])
        return written

    def ftruncate(self, fd: int, length: int, /) -> None:
        """See Disk."""
        self.on_call("truncate", self._paths[fd])
        os.ftruncate(fd, length)
        self._note("truncate", self._paths[fd], length)

    def fdatasync(self, fd: int, /) -> None:  # type: ignore[override]
        """See Disk."""
        self.on_call("sync", self._paths[fd])
        os.fdatasync(fd)
        self._note("sync", self._paths[fd])

    def sync_directory(self, path: str) -> None:
        """See Disk."""
        self.on_call("syncdir", path)
        super().sync_directory(path)
        self._note("syncdir", path)

    def rename(self, source: str, target: str, /) -> None:  # type: ignore[override]
        """See Disk."""
        self.on_call("rename", source)
        os.rename(source, target)
        self._note("rename", source, target=target)

    def unlink(self, path: str, /) -> None:  # type: ignore[override]
        """See Disk."""
        self.on_call("unlink", path)
        os.unlink(path)
        self._note("unlink", path)

    def note_index(self) -> None:
        """The index was committed: this is what a cut keeps of it."""
        self._note("index", f"{self.root}/index", data=Path(self.root, "index/data.mdb").read_bytes())

    def note_acknowledged(self, count: int) -> None:
        """So many operations have been acknowledged by now."""
        self._note("acknowledged", self.root, count)

    def boot_id(self) -> str:
        """See Disk."""
        return self.boot


@dataclass
class _File:
    """What of a file is on the disk, and what is only in memory."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)

    def synced(self) -> None:
        """All of it is on the disk."""
        for event in self.pending:
            _apply(self.durable, event)
        self.pending.clear()

    def after_cut(self, random: Random, survival: str) -> bytes:
        """What a cut leaves."""
        content = bytearray(self.durable)
        for event in self.pending:
            if survival == "all":
                _apply(content, event)
            elif survival == "torn":
                _apply_in_part(content, event, random)
        return bytes(content)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data


def _apply_in_part(content: bytearray, event: Event, random: Random) -> None:
    if event.kind == "truncate":
        if random.random() < 0.5:
            _apply(content, event)
        return
    start, stop = event.offset, event.offset + len(event.data)
    at = start
    while at < stop:
        end = min(stop, (at // SECTOR + 1) * SECTOR)
        if random.random() < 0.5:
            _apply(content, Event("write", "", at, event.data[at - start : end - start]))
        at = end


SURVIVALS = ("none", "all", "torn")


def write_survivors(target: Path, base: dict[str, bytes], events: Sequence[Event], random: Random, kind: str) -> None:
    """Make in `target` what is left of `base` and `events` after a cut behind the last event."""
    files: dict[str, _File] = {name: _File(bytearray(content)) for name, content in base.items()}
    durable_names = dict(files)
    names = dict(files)
    pending: list[tuple[str, Event, _File | None]] = []
    index = base["index/data.mdb"]
    for event in events:
        if event.kind == "index":
            index = event.data
        elif event.kind in ("write", "truncate"):
            names[event.path].pending.append(event)
        elif event.kind == "sync":
            names[event.path].synced()
        elif event.kind == "syncdir":
            directory = event.path
            for _, done, file in [item for item in pending if item[0] == directory]:
                _rename_or_so(durable_names, done, file)
            pending = [item for item in pending if item[0] != directory]
        elif event.kind in ("create", "rename", "unlink"):
            made = _File() if event.kind == "create" else names[event.path]
            _rename_or_so(names, event, made)
            pending.append((os.path.dirname(event.target or event.path) or ".", event, made))
    kept = {"none": 0, "all": len(pending), "torn": random.randint(0, len(pending))}[kind]
    for _, done, file in pending[:kept]:
        _rename_or_so(durable_names, done, file)
    contents = {name: file.after_cut(random, kind) for name, file in durable_names.items()}
    contents["index/data.mdb"] = index
    for name, content in contents.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _rename_or_so(names: dict[str, _File], event: Event, file: _File | None) -> None:
    if event.kind == "create":
        assert file is not None
        names[event.path] = file
    elif event.kind == "rename":
        assert file is not None
        names.pop(event.path, None)
        names[event.target] = file
    else:
        names.pop(event.path, None)


def read_tree(root: Path) -> dict[str, bytes]:
    """All that matters of a device's directory at rest."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith("recent") and name != "index/lock.mdb":
            found[name] = path.read_bytes()
    return found
