"""The builder's files on disk: one change at a time, every version kept, nothing lost to a crash.

Problem: a ring is changed by hand, by several people, over years. Two of them at once must not overwrite each other, a crash
between two files must not leave them at odds, and whoever errs wants to go back.

Files, beside each other, for a topology file `ring.toml`:

    ring.toml      what the ring should be (`ring.topology_file`)
    ring.memory    where replicas are and since when (`ring.memory`)
    ring.ring      what the nodes get (`ring.ring_file`)
    .ring.lock     held while a command changes them; says by whom
    backups/ring/000012/   the three as they were after change 12, and what the change was

Idea: a change is written to `backups/` first, whole and synced, under a name that says it is pending. Then the files
are replaced one by one, each atomically, then the pending version gets its final name. So a crash leaves a pending
version, which the next command completes; and until then readers read the pending version instead of the files, so
they never see half a change. Files that a change leaves alone are hard links.

Undo writes an earlier version's topology and placement as a new change, with a new epoch: nodes take the ring with
the higher epoch, so going back must go forward in epochs. The ring file that nodes have is never taken away.

Invariants: a file is replaced only if it is as it was when it was read; versions are never rewritten; at most VERSIONS_MAX.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ring import memory as memory_file
from ring import topology_file
from ring.durable import replace_file, sync_directory
from ring.memory import Memory, MemoryFileError
from ring.ring import NO_DEVICE, Ring
from ring.ring_file import RingFileError, epoch_of
from ring.ring_file import dumps as dump_ring
from ring.topology import Topology
from ring.topology_file import TOPOLOGY_BYTES_MAX, Design, Settings, TopologyFileError

VERSIONS_MAX = 500
"""Older versions go: at two megabytes each this is a gigabyte, and years of changes."""
_PENDING = ".pending"
_TOPOLOGY, _MEMORY, _RING, _ABOUT = "topology", "memory", "ring", "about.json"


class BuilderFileError(ValueError):
    """The caller's or the disk's: a file that can't be used. The message names the file and says what to do."""


class LockedError(BuilderFileError):
    """Another operator's: someone else is changing this ring right now."""


class NothingToUndoError(BuilderFileError):
    """The caller's: there is no earlier version."""


@dataclass(frozen=True, slots=True)
class Version:
    """A change that was made.

    number    1, 2, 3 …
    command   what the operator typed
    time_s    when, in seconds since 1970-01-01 UTC
    who       user and host
    origin    the version whose content this one has: its own number, or that of the one that was restored
    """

    number: int
    command: str
    time_s: int
    who: str
    origin: int


@dataclass(frozen=True, slots=True)
class Contents:
    """The files as bytes; None where there is none."""

    topology: bytes
    memory: bytes | None
    ring: bytes | None


@dataclass(frozen=True, slots=True)
class State:
    """What the files say. `numbered`: every line of the topology file has its id."""

    contents: Contents
    design: Design
    memory: Memory | None
    numbered: bool

    @property
    def ring_current(self) -> bool:
        """Whether the ring file is the last ring."""
        return self.memory is not None and self.contents.ring == dump_ring(self.memory.ring)

    @property
    def epoch_floor(self) -> int:
        """No ring that was ever written for this file has a higher epoch."""
        epochs = [0]
        if self.memory is not None:
            epochs.append(self.memory.ring.epoch)
        if self.contents.ring is not None:
            try:
                epochs.append(epoch_of(self.contents.ring))
            except RingFileError:
                # A ring file that can't be read is replaced by the next one; its epoch is that of the memory at most.
                epochs.append(0)
        return max(epochs)


class BuilderFiles:
    """The files of one ring. `now_s` is the clock, `who` the operator."""

    def __init__(self, path: Path, *, now_s: Callable[[], float], who: str) -> None:
        if path.suffix in (".memory", ".ring"):
            builder = path.with_suffix(".builder")
            path = builder if builder.exists() else path.with_suffix(".toml")
        self.path = path
        self.memory_path = path.with_suffix(".memory")
        self.ring_path = path.with_suffix(".ring")
        self.versions_path = path.parent / "backups" / path.stem
        self._lock_path = path.parent / f".{path.stem}.lock"
        self._now_s = now_s
        self._who = who

    # Reading.

    def read(self) -> State:
        """What the files say now. BuilderFileError names the file that can't be read, and why."""
        pending = self._pending()
        if pending is not None:
            return self._state(self._contents_of(pending))
        return self._state(self._contents())

    def versions(self) -> list[Version]:
        """The versions that are kept, oldest first."""
        numbers = sorted(int(entry.name) for entry in self._entries() if entry.name.isdecimal())
        return [self._about(self.versions_path / f"{number:06}") for number in numbers]

    def state_of(self, number: int) -> State:
        """What an earlier version said. BuilderFileError if it isn't kept."""
        path = self.versions_path / f"{number:06}"
        if not path.is_dir():
            raise BuilderFileError(f"{self.path}: there is no version {number}; `history` lists them")
        return self._state(self._contents_of(path))

    # Changing.

    @contextmanager
    def lock(self, command: str, *, to_create: bool = False) -> Iterator[None]:
        """Keep other operators off while a change is made. LockedError says who is at it."""
        if not self.path.parent.is_dir():
            raise BuilderFileError(f"{self.path.parent}: there is no such directory; make it first")
        if not (to_create or self.path.exists() or self._pending()):
            raise self._missing()
        handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 500).decode("utf-8", "replace").strip() or "someone"
                raise LockedError(f"{self.path}: {holder} is changing it now; try again when that is done") from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{self._who} (process {os.getpid()}, `{command}`)\n".encode(), 0)
            try:
                self._complete()
                yield
            finally:
                os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def create(self, design: Design, command: str, memory: Memory | None = None, *, from_ring: bool = False) -> None:
        """Begin a ring. BuilderFileError if there is one, or what is left of one. Holds the lock itself.

        from_ring: `memory` was made from the ring file that is there.
        """
        with self.lock(command, to_create=True):
            if self.path.exists():
                raise BuilderFileError(f"{self.path}: there is a ring already; choose another file with --file")
            for rest in (self.memory_path, self.ring_path):
                if rest.exists() and not from_ring:
                    raise BuilderFileError(f"{rest}: left of an earlier ring; `write_builder`, or move it away")
            ring = None if memory is None else dump_ring(memory.ring)
            self._commit(
                Contents(_encode(design), None if memory is None else memory_file.dumps(memory), ring), command
            )

    def change(self, state: State, design: Design, memory: Memory | None, command: str, *, write_ring: bool) -> bool:
        """Write what differs from `state`, which was read under the lock; False if nothing does.

        With write_ring the ring file becomes that of the memory, and every line of the topology file gets its id.
        """
        as_it_is = design == state.design and (state.numbered or not write_ring)
        topology = state.contents.topology if as_it_is else _encode(design)
        old_memory = state.contents.memory
        new_memory = old_memory if memory is state.memory else None if memory is None else memory_file.dumps(memory)
        ring = dump_ring(memory.ring) if write_ring and memory is not None else state.contents.ring
        contents = Contents(topology, new_memory, ring)
        if contents == state.contents:
            return False
        if self._contents() != state.contents:
            raise BuilderFileError(
                f"{self.path}: it was changed meanwhile by another program; nothing was written, try again"
            )
        self._note_hand_edit(state.contents)
        self._commit(contents, command)
        return True

    def undo(self, command: str, to: int | None = None, now_min: int = 0) -> Version:
        """Bring an earlier version back: `to`, or that before the last change. Returns the version that was restored.

        Placement and topology are as they were, the epoch goes on. NothingToUndoError if there is nothing earlier,
        BuilderFileError if `to` is not kept.
        """
        state = self.read()
        self._note_hand_edit(state.contents)
        versions = {version.number: version for version in self.versions()}
        current = versions[max(versions)]
        number = to if to is not None else max((n for n in versions if n < current.origin), default=0)
        if number == 0:
            raise NothingToUndoError(f"{self.path}: there is no version before this one")
        target = self.state_of(number)
        memory = _restored(state, target, now_min)
        ring = (
            dump_ring(memory.ring) if memory is not None and target.contents.ring is not None else state.contents.ring
        )
        encoded = None if memory is None else memory_file.dumps(memory)
        self._commit(Contents(target.contents.topology, encoded, ring), command, origin=versions[number].origin)
        return versions[number]

    # Files.

    def _contents(self) -> Contents:
        if not self.path.is_file():
            raise self._missing()
        if self.path.stat().st_size > TOPOLOGY_BYTES_MAX:
            raise BuilderFileError(f"{self.path}: it is too large for a topology file")
        return Contents(self.path.read_bytes(), _read(self.memory_path), _read(self.ring_path))

    def _missing(self) -> BuilderFileError:
        return BuilderFileError(f"{self.path}: there is no such file; begin one with `create`, or name one with --file")

    def _contents_of(self, version: Path) -> Contents:
        topology = _read(version / _TOPOLOGY)
        if topology is None:
            raise BuilderFileError(f"{version}: it holds no topology file; remove it if it is not yours")
        return Contents(topology, _read(version / _MEMORY), _read(version / _RING))

    def _state(self, contents: Contents) -> State:
        try:
            memory = None if contents.memory is None else memory_file.loads(contents.memory)
        except MemoryFileError as error:
            raise BuilderFileError(
                f"{self.memory_path}: {error}; go back to an earlier version with `undo --to`"
            ) from error
        known = (
            {} if memory is None else {device.place: device.id for device in memory.ring.devices if device is not None}
        )
        try:
            text = topology_file.read(contents.topology.decode(), known)
        except UnicodeDecodeError as error:
            what = "a builder of Swift: `import` it" if contents.topology[:1] == b"\x80" else "no text"
            raise BuilderFileError(f"{self.path}: it is {what}") from error
        except TopologyFileError as error:
            raise BuilderFileError(f"{self.path}: {error}") from error
        return State(contents, text.design, memory, text.numbered)

    def _entries(self) -> list[Path]:
        return list(self.versions_path.iterdir()) if self.versions_path.is_dir() else []

    def _pending(self) -> Path | None:
        return next((entry for entry in sorted(self._entries()) if entry.name.endswith(_PENDING)), None)

    def _about(self, path: Path) -> Version:
        try:
            return Version(**json.loads((path / _ABOUT).read_bytes()))
        except (OSError, TypeError, ValueError) as error:
            raise BuilderFileError(f"{path}: it is no version that this program wrote: {error}") from error

    def _commit(self, contents: Contents, command: str, origin: int | None = None) -> None:
        self.versions_path.mkdir(parents=True, exist_ok=True)
        versions = self.versions()
        number = versions[-1].number + 1 if versions else 1
        version = Version(number, command, int(self._now_s()), self._who, number if origin is None else origin)
        draft = self.versions_path / f"{number:06}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        last = self.versions_path / f"{number - 1:06}"
        for name, data in ((_TOPOLOGY, contents.topology), (_MEMORY, contents.memory), (_RING, contents.ring)):
            if data is not None:
                _write_or_link(draft / name, data, last / name)
        _write_or_link(draft / _ABOUT, json.dumps(asdict(version)).encode(), last / _ABOUT)
        sync_directory(draft)
        draft.rename(self.versions_path / f"{number:06}{_PENDING}")
        sync_directory(self.versions_path)
        self._complete()
        for old in versions[: max(0, len(versions) + 1 - VERSIONS_MAX)]:
            shutil.rmtree(self.versions_path / f"{old.number:06}")

    def _complete(self) -> None:
        """Finish a change whose version is pending: replace the files, then give the version its name."""
        pending = self._pending()
        if pending is None:
            return
        contents = self._contents_of(pending)
        replace_file(self.path, contents.topology)
        for path, data in ((self.memory_path, contents.memory), (self.ring_path, contents.ring)):
            if data is not None:
                replace_file(path, data)
            else:
                path.unlink(missing_ok=True)
        pending.rename(pending.with_name(pending.name.removesuffix(_PENDING)))
        sync_directory(self.versions_path)

    def _note_hand_edit(self, contents: Contents) -> None:
        """Keep what an editor left in the files as a version of its own, so that it can be gone back to."""
        versions = self.versions()
        if not versions:
            self._commit(contents, "found")
            return
        if self._contents_of(self.versions_path / f"{versions[-1].number:06}") != contents:
            self._commit(contents, "edited by hand")


def _encode(design: Design) -> bytes:
    return topology_file.dumps(design).encode()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write_or_link(path: Path, data: bytes, last: Path) -> None:
    """Write a file of a version, or link it to that of the version before if it is the same."""
    if _read(last) == data:
        os.link(last, path)
        return
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _restored(state: State, target: State, now_min: int) -> Memory | None:
    """The memory that undo leaves: the target's placement, one epoch after the present one."""
    now, then = state.memory, target.memory
    if then is None or (now is not None and state.contents.memory == target.contents.memory):
        return then
    old = then.ring
    ring = Ring(
        part_power=old.part_power,
        seed=old.seed,
        epoch=state.epoch_floor + 1,
        devices=old.devices,
        table=old.table,
        transition_power=old.transition_power,
    )
    if now is None or now.ring.table.shape != old.table.shape:
        return Memory(ring, then.moved_min)
    moved = (now.ring.table != old.table).any(axis=0)
    return replace(then, ring=ring, moved_min=np.where(moved, np.uint32(now_min), now.moved_min))


def design_of(ring: Ring, hours: int) -> tuple[Design, Memory]:
    """What would lead to a ring, and the memory of it."""
    first = ring.devices[int(ring.table[0, 0])]
    assert first is not None
    settings = Settings(
        part_power=ring.part_power,
        replicas=int(np.count_nonzero(ring.table != NO_DEVICE)) / ring.part_count,
        min_part_hours=hours,
        seed=ring.seed,
        kind=first.kind,
    )
    return Design(settings, Topology.of(d for d in ring.devices if d is not None)), Memory.of(ring)
