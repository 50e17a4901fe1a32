"""Placements as the rest of the builder sees them: tables of device ids in, tables of device ids out.

The assignment itself thinks in numbers of the tree's devices; this is where ids become such numbers and back, where rows
are added or dropped when the replica count changes, and where a move is made to look like what it is: a replica whose
device was in its partition before has not moved, in whatever row it stands, and of two replicas of a partition that move,
each goes to the place that is nearer to where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ring.first_placement import first_placement
from ring.polish import SIZE_MAX, polish
from ring.quota import DEVICE_LEVEL, Quotas
from ring.reassignment import reassign
from ring.ring import NO_DEVICE, Table
from ring.selection import Budget, pick
from ring.shuffle import Shuffler
from ring.topology import Device
from ring.wide_domain import ABSENT, NOWHERE


@dataclass(frozen=True, slots=True)
class Change:
    """One placement and the next, row by row: where the two tables differ, a replica moves from one device to the other.

    before   NO_DEVICE where there was no such replica; replicas that the next placement drops are not in it
    after    the next placement
    dropped  replicas of the old table that have no place in the next, because the replica count shrank
    """

    before: Table
    after: Table
    dropped: int

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Which entries change."""
        moved: NDArray[np.bool_] = self.before != self.after
        return moved


def next_placement(
    old: Table | None,
    quotas: Quotas,
    locked: NDArray[np.bool_] | None,
    seed: int,
    devices: Sequence[Device | None] = (),
) -> Change:
    """The change to a placement that meets the quotas and is as near to the old one as can be. Deterministic.

    `old` may name devices that are not in the tree (removed, or of weight 0): their replicas go elsewhere. `locked`
    says which partitions should not move if others can. `devices`, by id, are those of the old table, to tell near from far.
    """
    if old is None:
        after = first_placement(quotas, seed)
        return Change(np.full_like(after, NO_DEVICE), after, 0)
    before, dropped = _adjust_rows(old, quotas, Shuffler(seed ^ 1))
    home = _numbers(before, quotas)
    if not (home >= 0).any():
        after = first_placement(quotas, seed)
    else:
        wanted = np.arange(len(home))[:, None] < _replicas_wanted(quotas)
        home[wanted & (home == ABSENT)] = NOWHERE
        locked = np.zeros(quotas.part_count, dtype=bool) if locked is None else locked
        placed = reassign(quotas, home, locked, seed)
        if quotas.part_count * len(quotas.tree) ** 2 <= SIZE_MAX:
            polish(placed, _presence(old, quotas), quotas)
        after = np.where(placed == ABSENT, np.uint32(NO_DEVICE), quotas.tree.ids[placed])
    _align(after, before)
    _bring_near(after, before, [*devices, *quotas.tree.devices])
    return Change(before, after, dropped)


def _replicas_wanted(quotas: Quotas) -> NDArray[np.int64]:
    """How many replicas each partition should have: with a fractional count the first partitions have one more."""
    rows = -(-quotas.replica_total // quotas.part_count)
    extra_count = quotas.replica_total - (rows - 1) * quotas.part_count
    return np.where(np.arange(quotas.part_count) < extra_count, rows, rows - 1)


def _numbers(table: Table, quotas: Quotas) -> NDArray[np.int32]:
    """Device ids as numbers of the tree's devices; NOWHERE for those that are not in the tree."""
    ids = quotas.tree.ids
    id_max = int(np.max(table, where=table != NO_DEVICE, initial=0))
    number_of = np.full(max(id_max, int(ids.max(initial=0))) + 2, NOWHERE, dtype=np.int32)
    number_of[ids] = np.arange(len(ids))
    number_of[-1] = ABSENT
    return number_of[np.minimum(table, np.uint32(len(number_of) - 1))]


def _presence(table: Table, quotas: Quotas) -> NDArray[np.bool_]:
    """Which partition was on which device of the tree, [partition, device]."""
    numbers = _numbers(table, quotas)
    present = np.zeros((quotas.part_count, len(quotas.tree)), dtype=bool)
    for row in numbers:
        columns = np.flatnonzero(row >= 0)
        present[columns, row[columns]] = True
    return present


def _adjust_rows(old: Table, quotas: Quotas, shuffler: Shuffler) -> tuple[Table, int]:
    """The old table with as many rows as the replica count says: empty ones added, or replicas dropped; and how many."""
    wanted = _replicas_wanted(quotas)
    rows = int(wanted.max())
    table = np.full((max(rows, len(old)), quotas.part_count), NO_DEVICE, dtype=np.uint32)
    table[: len(old)] = old
    dropped = _drop(table, wanted, quotas, shuffler)
    if dropped:
        order = np.argsort(table == NO_DEVICE, axis=0, kind="stable")
        table = np.take_along_axis(table, order, axis=0)
    return table[:rows], dropped


def _drop(table: Table, wanted: NDArray[np.int64], quotas: Quotas, shuffler: Shuffler) -> int:
    """Drop replicas of partitions that have too many: those without a device, then those of overfull devices."""
    dropped = 0
    while True:
        too_many = np.count_nonzero(table != NO_DEVICE, axis=0) > wanted
        if not too_many.any():
            return dropped
        home = _numbers(table, quotas)
        may = (home != ABSENT) & too_many
        held = np.bincount(home[home >= 0], minlength=len(quotas.tree))
        surplus = np.maximum(held - quotas.counts[DEVICE_LEVEL], 0)
        alike = np.zeros(home.shape, dtype=np.uint8)
        rows, columns = pick(may & (home < 0), alike, shuffler, ())
        if not len(columns):
            rows, columns = pick(may, alike, shuffler, (Budget(np.maximum(home, 0), surplus),))
        if not len(columns):
            rows, columns = pick(may, alike, shuffler, ())
        table[rows, columns] = NO_DEVICE
        dropped += len(columns)


def _align(after: Table, before: Table) -> None:
    """Put each device that a partition keeps back into the row where it was."""
    columns = np.flatnonzero((after != before).any(axis=0))
    now, was = after[:, columns], before[:, columns]
    for row in range(len(was)):
        for other in range(len(was)):
            # What stands in `other` belongs into `row`: change places.
            swap = (now[other] == was[row]) & (now[row] != was[row]) & (was[row] != NO_DEVICE)
            now[row, swap], now[other, swap] = now[other, swap], now[row, swap]
    after[:, columns] = now


def _bring_near(after: Table, before: Table, devices: Sequence[Device | None]) -> None:
    """Where several replicas of a partition move, pair each with the destination that shares its node, zone or region."""
    moved = after != before
    columns = np.flatnonzero(np.count_nonzero(moved, axis=0) > 1)
    if not len(columns):
        return
    now, was = after[:, columns], before[:, columns]
    free = moved[:, columns] & (was != NO_DEVICE)
    id_max = max(device.id for device in devices if device)
    for level in (2, 1, 0):
        domain_of = _domain_numbers(devices, level, id_max)
        from_, to = domain_of[np.minimum(was, id_max + 1)], domain_of[np.minimum(now, id_max + 1)]
        for row in range(len(now)):
            for other in range(len(now)):
                swap = free[row] & free[other] & (from_[row] != to[row]) & (from_[row] == to[other])
                swap &= from_[other] != to[other]
                now[row, swap], now[other, swap] = now[other, swap], now[row, swap]
                to[row, swap], to[other, swap] = to[other, swap], to[row, swap]
    after[:, columns] = now


def _domain_numbers(devices: Sequence[Device | None], level: int, id_max: int) -> NDArray[np.int64]:
    """A number for the region (0), zone (1) or node (2) of each device id; -1 for what is no device."""
    seen: dict[object, int] = {}
    numbers = np.full(id_max + 2, -1, dtype=np.int64)
    for device in devices:
        if device is not None:
            numbers[device.id] = seen.setdefault(device.tiers[level], len(seen))
    return numbers
