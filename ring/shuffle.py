"""Random order from a seed, the same everywhere and for ever.

Problem: the same seed must give the same ring on every machine and with every version of numpy, whose own generators may
change their streams between releases.

Idea: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) is a counter put through a
mixing function, so a whole array of it is a few vector operations. A permutation is the sort of random keys whose low
bits are the positions: a sort of plain integers is several times faster than an argsort, and no two keys are equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_U64 = (1 << 64) - 1


def mix(counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output for each counter; a new array."""
    word = counter * _GOLDEN
    word ^= word >> np.uint64(30)
    word *= _MIX_1
    word ^= word >> np.uint64(27)
    word *= _MIX_2
    word ^= word >> np.uint64(31)
    return word


def mix_one(counter: int) -> int:
    """SplitMix64's output for one counter."""
    return int(mix(np.array([counter & _U64], dtype=np.uint64))[0])


class Shuffler:
    """A stream of random arrays from one seed. Each call draws further on."""

    __slots__ = ("_counter",)

    def __init__(self, seed: int) -> None:
        self._counter = mix_one(seed)

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` random 64-bit words."""
        start = np.uint64(self._counter)
        with np.errstate(over="ignore"):
            counters = np.arange(count, dtype=np.uint64) + start
        self._counter = (self._counter + count + 1) & _U64
        return mix(counters)

    def permutation(self, count: int) -> NDArray[np.intp]:
        """The numbers 0..count-1 in random order."""
        bits = max(count - 1, 0).bit_length()
        mask = np.uint64((1 << bits) - 1)
        keys = self.words(count)
        keys &= ~mask
        keys |= np.arange(count, dtype=np.uint64)
        keys.sort()
        keys &= mask
        return keys.astype(np.intp)
