"""Where devices differ: comparing digests, from partitions down to ranges of a few entries. Pure.

Problem: six devices hold a million objects each, three replicas of every partition, every device another set of partitions.
In a round it must cost milliseconds to know that all agree, and where one object differs, a few kilobytes to find it.

Idea: a device keeps the XOR of its entries' hashes for each prefix of 16 bits, so the digests of all partitions are one
answer. Those of a partition's primaries are compared with each other; a device that is no primary of it must have the digest
of nothing, zero. What differs is narrowed by asking the devices concerned for the digests of the range's parts. Ranges are
prefixes of the hash, as partitions are, so nothing of the ring's making is needed below the first comparison.

All devices of the cluster are compared at once, not pair by pair: one question to each device a round, and for what
differs it is known at once which of all replicas is the newest.

A digest of zero is taken for emptiness: XORs of 128-bit hashes vanish by chance once in 2**128.

Invariants: a device that did not answer is left out; it makes no partition differ and confirms nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ring.ring import NO_DEVICE, Ring
from storage_node.operations import HASH_BYTES

CELL_BITS_MAX = 16
"""Devices keep digests of prefixes up to this length; longer ones they make by reading the index."""
HASH_BITS = 8 * HASH_BYTES
NOTHING = bytes(16)
"""The digest of an empty range."""

Digests = NDArray[np.uint64]
"""One device's digests of all cells: shape (cells, 2)."""


class HashRange(NamedTuple):
    """All hashes that begin with the `bits` bits of `prefix`."""

    bits: int
    prefix: int

    @property
    def start(self) -> bytes:
        """The lowest hash of the range."""
        return (self.prefix << (HASH_BITS - self.bits)).to_bytes(HASH_BYTES, "big")

    @property
    def end(self) -> bytes | None:
        """The first hash behind it; None at the end of all."""
        behind = self.prefix + 1
        return None if behind >> self.bits else (behind << (HASH_BITS - self.bits)).to_bytes(HASH_BYTES, "big")

    def part(self, index: int, fan_out_bits: int) -> HashRange:
        """One of its 2**fan_out_bits equal parts."""
        return HashRange(self.bits + fan_out_bits, self.prefix << fan_out_bits | index)


class Concerned(NamedTuple):
    """The devices that a range of hashes concerns."""

    primaries: tuple[int, ...]
    """By every ring in force; those of the newest first. Some may not answer."""
    others: tuple[int, ...]
    """That hold something of it all the same."""

    @property
    def everyone(self) -> tuple[int, ...]:
        """Both."""
        return self.primaries + self.others


class Difference(NamedTuple):
    """A cell in which devices do not agree."""

    range: HashRange
    concerned: Concerned


def unpack_digests(digests: Sequence[bytes]) -> Digests:
    """An answer to GetDigests as an array."""
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


class Membership:
    """Which devices are primaries of each cell, under all rings in force.

    A cell that is finer than a ring's partitions has its partition's primaries, one that is coarser those of all its
    partitions; it is then `mixed`: its digests differ between devices though all may be well.
    """

    __slots__ = ("_table", "bits", "mixed", "moves")

    def __init__(self, rings: Sequence[Ring]) -> None:
        self.bits = min(CELL_BITS_MAX, *(ring.part_power for ring in rings))
        self.mixed = any(ring.part_power > self.bits for ring in rings)
        tables = [_cells(ring, self.bits) for ring in rings]
        self._table = np.concatenate(tables)
        """Device ids, [replica, cell]; NO_DEVICE where there is none, and a device may come twice."""
        self.moves: NDArray[np.bool_] = _unlike(tables)
        """For each cell whether the rings disagree about its primaries."""

    def primaries(self, cell: int) -> tuple[int, ...]:
        """The primaries of a cell, those of the first ring first."""
        return tuple(dict.fromkeys(device for device in self._table[:, cell].tolist() if device != NO_DEVICE))

    def touching(self, devices: Collection[int]) -> NDArray[np.bool_]:
        """For each cell whether one of these devices is a primary of it."""
        wanted = np.array(sorted(devices), dtype=np.uint32)
        return np.asarray(np.isin(self._table, wanted).any(axis=0), dtype=np.bool_)

    def differences(self, digests: Mapping[int, Digests]) -> list[Difference]:
        """The cells in which the devices that answered do not agree. Mixed cells differ unless they are empty."""
        if not digests:
            return []
        devices = list(digests)
        table = np.stack([digests[device] for device in devices])
        holds: NDArray[np.bool_] = np.any(table != 0, axis=2)
        row_of = np.full(max(devices) + 2, -1, dtype=np.int64)
        row_of[devices] = np.arange(len(devices))
        rows = row_of[np.minimum(self._table, max(devices) + 1)]
        strangers = holds.copy()
        cells = np.arange(rows.shape[1])
        for replica in rows:
            strangers[replica[replica >= 0], cells[replica >= 0]] = False
        differ = holds.any(axis=0) if self.mixed else _unequal(table, rows) | strangers.any(axis=0)
        found = []
        for cell in np.flatnonzero(differ).tolist():
            others = tuple(devices[row] for row in np.flatnonzero(strangers[:, cell]).tolist())
            found.append(Difference(HashRange(self.bits, cell), Concerned(self.primaries(cell), others)))
        return found


def _cells(ring: Ring, bits: int) -> NDArray[np.uint32]:
    """A ring's table by cells, [replica, cell]."""
    if ring.part_power <= bits:
        return np.repeat(ring.table, 1 << (bits - ring.part_power), axis=1)
    narrower = 1 << (ring.part_power - bits)
    replicas = ring.table.reshape(len(ring.table), -1, narrower).transpose(0, 2, 1)
    return replicas.reshape(len(ring.table) * narrower, -1)


def _unlike(tables: Sequence[NDArray[np.uint32]]) -> NDArray[np.bool_]:
    """For each cell whether the rings' tables have different devices for it."""
    first = np.sort(tables[0], axis=0)
    unlike = np.zeros(first.shape[1], dtype=np.bool_)
    for table in tables[1:]:
        other = np.sort(table, axis=0)
        if other.shape == first.shape:
            unlike |= (other != first).any(axis=0)
        else:
            unlike[:] = True
    return unlike


def _unequal(table: Digests, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Cells in which two primaries that answered have different digests. `rows` may hold -1: did not answer."""
    cells = np.arange(rows.shape[1])
    answered = rows >= 0
    first = rows[answered.argmax(axis=0), cells]
    values = table[np.maximum(rows, 0), cells]
    reference = table[np.maximum(first, 0), cells]
    result: NDArray[np.bool_] = ((values != reference).any(axis=2) & answered).any(axis=0)
    return result


def differing_parts(digests: Mapping[int, Sequence[bytes]], primaries: Collection[int], fan_out_bits: int) -> list[int]:
    """Which parts of a range differ: primaries that answered do not agree, or another device holds something."""
    answered = [digests[device] for device in primaries if device in digests]
    others = [parts for device, parts in digests.items() if device not in primaries]
    return [
        part
        for part in range(1 << fan_out_bits)
        if any(parts[part] != NOTHING for parts in others)
        or any(parts[part] != answered[0][part] for parts in answered[1:])
    ]
