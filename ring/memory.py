"""The builder's memory: where every replica is at present, and since when.

Problem: the next ring depends on the last one (what moves must be little) and on time (what has just moved must rest), and
neither is what the operator wants; so it can't stand in the topology file.

Idea: the memory is the last ring itself, with the devices as they were then, and for each partition the minute of its last
move. It is a sealed file beside the topology file, made by the tool only.

Invariants: as of a ring; one time for each partition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from ring.durable import SealError, seal, unseal
from ring.ring import Ring
from ring.ring_file import RingFileError
from ring.ring_file import dumps as dump_ring
from ring.ring_file import loads as load_ring

MAGIC = b"RINGBLD\n"
VERSION = 1
LONG_AGO_MIN = 0
"""When a partition moved that may move again: 1970."""


class MemoryFileError(ValueError):
    """The file's: the builder's memory is damaged, truncated or too new. The message says what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the builder remembers.

    ring       the last ring
    moved_min  when each partition moved last, in minutes since 1970-01-01 UTC
    """

    ring: Ring
    moved_min: NDArray[np.uint32]

    @classmethod
    def of(cls, ring: Ring) -> Memory:
        """The memory of a ring whose partitions all moved long ago."""
        return cls(ring, np.full(ring.part_count, LONG_AGO_MIN, dtype=np.uint32))


def dumps(memory: Memory) -> bytes:
    """The memory as the content of a file."""
    times, which = np.unique(memory.moved_min, return_inverse=True)
    # There are only as many moments as there were rebalances, so an index takes one byte, and deflates to little.
    width = np.dtype("<u1" if len(times) <= 1 << 8 else "<u2" if len(times) <= 1 << 16 else "<u4")
    sections = {
        "ring": dump_ring(memory.ring),
        "times": orjson.dumps(times.tolist()),
        "moved": which.astype(width).tobytes(),
    }
    return seal(MAGIC, VERSION, memory.ring.epoch, sections, raw={"ring"})


def loads(data: bytes) -> Memory:
    """The memory in these bytes. MemoryFileError says what is wrong with them, and where."""
    try:
        sealed = unseal(data, MAGIC, VERSION)
        ring = load_ring(sealed.sections["ring"])
        times = np.array(orjson.loads(sealed.sections["times"]), dtype=np.uint32)
        width = 1 if len(times) <= 1 << 8 else 2 if len(times) <= 1 << 16 else 4
        which = np.frombuffer(sealed.sections["moved"], dtype=f"<u{width}")
        if len(which) != ring.part_count:
            raise MemoryFileError(f"it has times for {len(which)} partitions instead of {ring.part_count}")
        return Memory(ring, times[which])
    except (SealError, RingFileError) as error:
        raise MemoryFileError(str(error)) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MemoryFileError(f"sound, but not as a memory is written: {error!r}") from error
