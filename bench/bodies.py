"""What is stored: bytes that do not compress, in blocks that no other object has.

Problem: some stores compress, some keep equal blocks once (Garage names a block by its hash, and writes none that it has).
Asked to store one text again and again they would write next to nothing and sync next to nothing, which no user's
objects let them do; the comparison would be of what is easy about the benchmark.

Idea: random bytes, drawn once for a run, with a stamp (the number of the body, the number of the block in it) over the first
sixteen bytes of each block of a mebibyte, the largest unit by which any peer deduplicates. That costs no more
than a copy, where a generator that drew random bytes for each request would use as much processor as what it measures.

Invariants: no two blocks of a run are equal where they are at least a stamp long, nor of two runs but by chance; the bytes
after the stamp do not compress. The generator's Lua (load.py) makes the same bodies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 1 << 20
STAMP_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Bodies:
    """The bodies of one run, all of one size."""

    size_bytes: int
    filler: bytes
    """What each block is made of: a block, or the whole body where that is less."""

    def body(self, number: int) -> bytes:
        """One body; `number` tells it from the others."""
        rest = memoryview(self.filler)[STAMP_BYTES:]
        blocks: list[bytes | memoryview] = []
        for index, start in enumerate(range(0, self.size_bytes, BLOCK_BYTES)):
            length = min(BLOCK_BYTES, self.size_bytes - start)
            stamp = b"%08x%08x" % (number, index)
            blocks += [stamp[:length], rest[: max(length - STAMP_BYTES, 0)]]
        return b"".join(blocks)


def draw_bodies(size_bytes: int) -> Bodies:
    """Bodies that were never stored before."""
    return Bodies(size_bytes, os.urandom(min(size_bytes, BLOCK_BYTES)))
