"""A disk that remembers what was written and what was synced, so that power can be cut after any call.

Fault model. A write or a truncation lives in memory until fdatasync of its file returns; a cut keeps any of what is in
memory: each whole, not at all, or in part, in sectors of 512 bytes, in any order. Creating, renaming and unlinking live in
memory until sync_directory of the directory; a cut keeps a prefix of them (file systems journal them in order).

LMDB writes its file itself. Of the index a cut keeps the last commit; a cut amid a commit keeps that as well, with any part
of the commit's pages written beside it but not the page that makes them count. Of `recent`, which is never synced, nothing
is kept.

`RecordingDisk` passes every call on to the real disk and notes it. `Machine` is fed these events one by one and tells what a
cut would leave then, for each way in which it may choose.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from storage_node.disk import WRITE_NEW, RealDisk

SECTOR = 512
PAGE = 4096
INDEX = "index/data.mdb"
INDEX_META_BYTES = 2 * PAGE
"""LMDB's two meta pages: a commit counts when one of them is written."""


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
        self._index_meta = b""
        self.on_call: Callable[[str, str], None] = lambda kind, path: None
        """Called before each change; what it raises is what the call raises."""

    def _note(self, kind: str, path: str, offset: int = 0, data: bytes = b"", target: str = "") -> None:
        self.note_index()
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
        """If the index was committed since: that is what a cut keeps of it from now on."""
        path = Path(self.root, INDEX)
        try:
            with path.open("rb") as file:
                meta = file.read(INDEX_META_BYTES)
        except FileNotFoundError:
            return
        if meta != self._index_meta:
            self._index_meta = meta
            self.events.append(Event("index", INDEX, data=path.read_bytes()))

    def note(self, kind: str, number: int) -> None:
        """A note of the test's own."""
        self._note(kind, self.root, number)

    def boot_id(self) -> str:
        """See Disk."""
        return self.boot


class Choice(NamedTuple):
    """What a cut keeps of what was only in memory."""

    writes: tuple[str, ...]
    """For each write, in the order in which they were made: "gone", "whole" or "torn"."""
    names: int
    """So many of the creations, renamings and removals."""
    seed: int = 0
    """Decides which sectors of the torn ones."""


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


class Machine:
    """A machine's disk and memory after some events. `base` is what was on the disk before them."""

    def __init__(self, base: dict[str, bytes]) -> None:
        self._names = {name: _File(bytearray(content)) for name, content in base.items()}
        self._durable_names = dict(self._names)
        self._pending_names: list[tuple[str, Event, _File]] = []
        self._index = base[INDEX]
        self._index_before = self._index
        self._committing = False

    def feed(self, event: Event) -> None:
        """One more event."""
        self._committing = event.kind == "index"
        match event.kind:
            case "index":
                self._index_before, self._index = self._index, event.data
            case "write" | "truncate":
                self._names[event.path].pending.append(event)
            case "sync":
                self._names[event.path].synced()
            case "syncdir":
                for directory, done, file in self._pending_names:
                    if directory == event.path:
                        _rename_or_so(self._durable_names, done, file)
                self._pending_names = [item for item in self._pending_names if item[0] != event.path]
            case "create" | "rename" | "unlink":
                file = _File() if event.kind == "create" else self._names[event.path]
                _rename_or_so(self._names, event, file)
                self._pending_names.append((os.path.dirname(event.target or event.path) or ".", event, file))

    def _unsynced(self) -> list[tuple[_File, Event]]:
        """Writes that are only in memory, of files that a cut may leave a name."""
        files = {id(file): file for file in [*self._durable_names.values(), *(item[2] for item in self._pending_names)]}
        return [(file, event) for file in files.values() for event in file.pending]

    def choices(self, random: Random, *, torn: int, subsets_max: int) -> Iterator[Choice]:
        """Ways in which a cut may choose: nothing, all, whole writes in every combination (or `subsets_max` of them drawn
        at random, where there are more), and `torn` draws of sectors."""
        writes, names = len(self._unsynced()), len(self._pending_names)
        yield Choice(("gone",) * writes, 0)
        yield Choice(("whole",) * writes, names)
        for number in range(torn if writes else 0):
            yield Choice(("torn",) * writes, random.randint(0, names), number)
        combinations = 2**writes * (names + 1)
        if combinations <= subsets_max:
            for kept in itertools.product(("gone", "whole"), repeat=writes):
                for some in range(names + 1):
                    yield Choice(kept, some)
        else:
            for _ in range(subsets_max):
                mixed = tuple(random.choice(("gone", "whole", "torn")) for _ in range(writes))
                yield Choice(mixed, random.randint(0, names), random.getrandbits(32))

    def after_cut(self, choice: Choice) -> dict[str, bytes]:
        """What is on the disk after a cut."""
        random = Random(choice.seed)
        contents = {id(file): bytearray(file.durable) for file, _ in self._unsynced()}
        for (file, event), fate in zip(self._unsynced(), choice.writes, strict=True):
            if fate == "whole":
                _apply(contents[id(file)], event)
            elif fate == "torn":
                _apply_in_part(contents[id(file)], event, random)
        names = dict(self._durable_names)
        for _, done, file in self._pending_names[: choice.names]:
            _rename_or_so(names, done, file)
        kept = {name: bytes(contents.get(id(file), file.durable)) for name, file in names.items()}
        kept[INDEX] = self._index
        return kept

    def amid_commit(self, random: Random) -> dict[str, bytes] | None:
        """What a cut leaves while the index is being committed; None where no commit has just been made."""
        if not self._committing:
            return None
        kept = self.after_cut(Choice(("gone",) * len(self._unsynced()), 0))
        before, after = self._index_before, self._index
        length = max(len(before), len(after)) if random.random() < 0.5 else len(before)
        content = bytearray(before.ljust(length, b"\0"))
        for at in range(INDEX_META_BYTES, min(length, len(after)), PAGE):
            if random.random() < 0.5:
                content[at : at + PAGE] = after[at : at + PAGE]
        kept[INDEX] = bytes(content)
        return kept


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


def _rename_or_so(names: dict[str, _File], event: Event, file: _File) -> None:
    if event.kind == "create":
        names[event.path] = file
    elif event.kind == "rename":
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


class Target:
    """A directory in which devices are laid out as cuts left them, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for number in range(256):
            (path / "blobs" / f"{number:02x}").mkdir(parents=True)
        for name in ("incoming", "log", "index"):
            (path / name).mkdir()
        self._blobs: set[Path] = set()

    def lay_out(self, contents: dict[str, bytes]) -> None:
        """Let it hold exactly this."""
        for blob in self._blobs:
            blob.unlink(missing_ok=True)
        for folder in (self.path, *(self.path / name for name in ("incoming", "log", "index", "recent"))):
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if entry.is_file():
                    os.unlink(entry.path)
        for name, content in contents.items():
            (self.path / name).write_bytes(content)
        self._blobs = {self.path / name for name in contents if name.startswith("blobs/")}
