"""What a move from one ring to another copies: replicas, bytes, between which zones, how long at given rates. Pure.

Problem: before a move begins, and while it goes on, an operator wants to know what it means for the disks and links that
there are, with the data that is on them and not with a guess.

Idea: compare the two tables. A device that a partition gains copies it from the device that it loses in the same row, if
that one is still there, else from the first one that stays. All partitions of a device are taken to be equally full; how
full, the devices themselves say.

Invariants: replicas that only change their row move nothing; every replica that moves is counted once, into one device, out
of at most one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.ring import NO_DEVICE, Ring, Table
from ring.topology import Tier


@dataclass(frozen=True, slots=True)
class MovePreview:
    """What a move copies.

    partitions  that have other devices afterwards
    replicas    that are copied
    size_bytes  of all that is copied
    zones       (replicas, bytes) from one zone to another, or within one
    into        bytes by id of the device that they go to
    out_of      bytes by id of the device that they come from
    """

    partitions: int
    replicas: int
    size_bytes: float
    zones: dict[tuple[Tier, Tier], tuple[int, float]]
    into: dict[int, float]
    out_of: dict[int, float]

    def duration_s(self, bytes_per_s: float, device_bytes_per_s: float) -> float:
        """How long it takes if the cluster copies so much in a second, and any one device is given so much of it."""
        busiest = max(self.into.values(), default=0.0)
        return max(self.size_bytes / bytes_per_s, busiest / device_bytes_per_s)


def preview(before: Ring, after: Ring, held_bytes: Mapping[int, float]) -> MovePreview:
    """What is copied when `after` follows `before`, if devices hold so many bytes now (by id; others nothing)."""
    power = max(before.part_power, after.part_power)
    old, new = _widened(before, power), _widened(after, power)
    rows = max(len(old), len(new))
    old, new = _padded(old, rows), _padded(new, rows)
    gained = ~_among(new, old) & (new != NO_DEVICE)
    source = _sources(old, new, after)
    replica_bytes = _replica_bytes(before, held_bytes) * 2.0 ** (before.part_power - power)
    known = gained & (source != NO_DEVICE)
    to, come_from = new[known], source[known]
    sizes = replica_bytes[come_from]
    ids = max(len(before.devices), len(after.devices))
    into = np.bincount(to, weights=sizes, minlength=ids)
    out_of = np.bincount(come_from, weights=sizes, minlength=ids)
    return MovePreview(
        partitions=int(np.count_nonzero(gained.any(axis=0))) >> (power - before.part_power),
        replicas=int(np.count_nonzero(gained)) >> (power - before.part_power),
        size_bytes=float(sizes.sum()),
        zones=_between(before, after, come_from, to, sizes),
        into={number: float(size) for number, size in enumerate(into) if size},
        out_of={number: float(size) for number, size in enumerate(out_of) if size},
    )


def _widened(ring: Ring, power: int) -> Table:
    return np.repeat(ring.table, 1 << (power - ring.part_power), axis=1)


def _padded(table: Table, rows: int) -> Table:
    missing = np.full((rows - len(table), table.shape[1]), NO_DEVICE, dtype=np.uint32)
    return np.concatenate((table, missing))


def _among(table: Table, other: Table) -> NDArray[np.bool_]:
    """For each entry whether its partition has that device in the other table."""
    found = np.zeros(table.shape, dtype=np.bool_)
    for row in other:
        found |= table == row
    return found


def _sources(old: Table, new: Table, after: Ring) -> Table:
    """For each entry of the new table the device that has the replica now."""
    here = np.array([*(device is not None for device in after.devices), False])
    alive = here[np.minimum(old, len(after.devices))] & (old != NO_DEVICE)
    leaving = alive & ~_among(old, new)
    first = np.take_along_axis(old, alive.argmax(axis=0)[None], axis=0)[0]
    first = np.where(alive.any(axis=0), first, np.uint32(NO_DEVICE))
    return np.where(leaving, old, first[None]).astype(np.uint32)


def _replica_bytes(ring: Ring, held_bytes: Mapping[int, float]) -> NDArray[np.float64]:
    """The size of one replica on each device of a ring, by id."""
    held = ring.table[ring.table != NO_DEVICE]
    counts = np.bincount(held, minlength=len(ring.devices))
    sizes = np.array([float(held_bytes.get(number, 0.0)) for number in range(len(counts))])
    return sizes / np.maximum(counts, 1)


def _between(
    before: Ring, after: Ring, come_from: Table, to: Table, sizes: NDArray[np.float64]
) -> dict[tuple[Tier, Tier], tuple[int, float]]:
    tier_of = {device.id: device.tiers[1] for ring in (before, after) for device in ring.devices if device is not None}
    tiers = sorted(set(tier_of.values()), key=lambda tier: tuple(map(int, tier)))
    number = {tier: index for index, tier in enumerate(tiers)}
    zone_of = np.array([number[tier_of[i]] if i in tier_of else 0 for i in range(max(tier_of, default=0) + 1)])
    pairs = zone_of[come_from] * len(tiers) + zone_of[to]
    counts = np.bincount(pairs, minlength=len(tiers) ** 2)
    weights = np.bincount(pairs, weights=sizes, minlength=len(tiers) ** 2)
    return {
        (tiers[index // len(tiers)], tiers[index % len(tiers)]): (int(counts[index]), float(weights[index]))
        for index in np.flatnonzero(counts).tolist()
    }
