"""The rings of a node as whole files, for those who hand them on and need not understand them.

Problem: every storage process tells peers which rings are in force at its node and gives them away, but a process that
serves one device has no other use for rings, and no need of numpy in its memory.

Idea: a ring file's first 32 bytes hold its epoch. `RingFiles.answer` is what a storage server is given for `GetRings`: what
is in force, and a piece of one file. Digests are made once for each file that is there.

Invariants: never raises for what is on disk: what cannot be read is not held.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import xxhash

from ring.durable import SealError, peek_epoch
from ring.moves import STATE_BYTES_MAX, MoveState, MoveStateError, loads, moving_dir, state_file
from storage_node.operations import RING_PIECE_BYTES, FoundRings, GetRings, HeldRing, Status

RING_MAGIC = b"RINGSTD\n"
"""What a ring file begins with: see ring.ring_file, which is not imported here."""


class RingFiles:
    """The ring file at a path and those beside it that are in force."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests: dict[tuple[int, int, int], HeldRing] = {}
        """By inode, time and size of the file."""

    def epoch(self) -> int:
        """Of the newest ring; 0 if there is none."""
        with contextlib.suppress(OSError, SealError), self._path.open("rb") as file:
            return peek_epoch(file.read(32), RING_MAGIC)
        return 0

    def state(self) -> MoveState:
        """What is known of moves; nothing where it cannot be read."""
        with contextlib.suppress(OSError, MoveStateError):
            return loads(state_file(self._path).read_bytes())
        return MoveState()

    def answer(self, question: GetRings) -> FoundRings:
        """The answer to a peer."""
        held: dict[int, Path] = {}
        rings: list[HeldRing] = []
        settled_epoch = self.state().settled_epoch
        for path in (self._path, *sorted(moving_dir(self._path).glob("*.ring"), reverse=True)):
            ring = self._look(path)
            if ring is not None and ring.epoch not in held and (path == self._path or ring.epoch >= settled_epoch):
                held[ring.epoch] = path
                rings.append(ring)
        state = b""
        with contextlib.suppress(OSError):
            state = state_file(self._path).read_bytes()
        if len(state) > STATE_BYTES_MAX:
            state = b""
        if not question.epoch:
            return FoundRings(Status.FOUND, tuple(rings), state)
        if question.epoch not in held:
            return FoundRings(Status.MISSING, tuple(rings), state, detail=f"ring {question.epoch} is not in force here")
        try:
            with held[question.epoch].open("rb") as file:
                file.seek(question.start)
                return FoundRings(Status.FOUND, tuple(rings), state, file.read(RING_PIECE_BYTES))
        except (OSError, ValueError) as error:
            return FoundRings(Status.MISSING, tuple(rings), state, detail=str(error)[:500])

    def _look(self, path: Path) -> HeldRing | None:
        """A file as peers are told of it; None if it cannot be read or is no ring."""
        try:
            stat = path.stat()
            key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            held = self._digests.get(key)
            if held is None:
                data = path.read_bytes()
                if len(self._digests) >= 64:
                    self._digests.clear()
                held = self._digests[key] = HeldRing(
                    peek_epoch(data[:32], RING_MAGIC), len(data), xxhash.xxh3_128_digest(data)
                )
        except (OSError, SealError):
            return None
        return held
