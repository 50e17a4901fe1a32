"""An SR for each disk of a server on a given host, or none.

Problem: several disks may want the same SR, each fits alone, and the greedy order finds no way although there is one. A
host that could take the server must not be turned down, and must not cost a search on every placement either.

Idea: the largest disk first, each on the best SR that still has room; where one does not fit, step back and try the
next best for the one before (depth first). A single disk, the usual case, is one pass over the few SRs in reach. The
search ends after a fixed number of steps; servers have few disks and hosts few SRs, so that is for what an enemy would
ask.

Which SR is best: one that the host reaches before one in its zone before any other; one that has the disk's image; the
one with most (or least) bytes free; the first by id.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.placement.inventory import NOTHING, Inventory
from scheduler.placement.placement import DiskPlacement
from scheduler.placement.request import Disk, Nearness
from scheduler.placement.settings import PlacementSettings

STEPS_MAX = 2_000
"""Attempts to put a disk on an SR, for one host."""


def assign_disks(
    inventory: Inventory, host_index: int, disks: Sequence[Disk], settings: PlacementSettings
) -> tuple[DiskPlacement, ...] | None:
    """An SR for each disk, in the order given, such that all fit together; None if there is no way on this host."""
    chosen: dict[str, DiskPlacement] = {}
    rest: list[Disk] = []
    for disk in disks:
        if stays(inventory, host_index, disk):
            assert disk.sr_id is not None
            chosen[disk.disk_id] = DiskPlacement(disk.disk_id, disk.sr_id)
        elif disk.sr_id is not None and not disk.movable:
            return None
        else:
            rest.append(disk)
    if len(rest) == 1:
        sr_index = _best_sr(inventory, host_index, rest[0], settings)
        if sr_index is None:
            return None
        chosen[rest[0].disk_id] = DiskPlacement(rest[0].disk_id, inventory.srs[sr_index].sr_id, rest[0].sr_id)
    elif rest:
        found = _search(inventory, host_index, sorted(rest, key=lambda disk: -disk.size_bytes), settings)
        if found is None:
            return None
        chosen.update(found)
    return tuple([chosen[disk.disk_id] for disk in disks])


def stays(inventory: Inventory, host_index: int, disk: Disk) -> bool:
    """Whether a disk that is there may stay there when its server is on this host."""
    if disk.sr_id is None:
        return False
    if disk.near is Nearness.ANYWHERE:
        return True
    sr_index = inventory.sr_index.get(disk.sr_id)
    if sr_index is None:
        return False
    if disk.near is Nearness.ZONE and inventory.srs[sr_index].zone == inventory.hosts[host_index].zone:
        return True
    return sr_index in inventory.in_reach(host_index)


def choices(
    inventory: Inventory, host_index: int, disk: Disk, settings: PlacementSettings
) -> list[tuple[tuple[int, bool, int, int], int]]:
    """The SRs that would take this disk now, with what they are ordered by; the least is the best."""
    largest = inventory.largest_on_sr(disk.volume_type)
    reach = inventory.in_reach(host_index)
    tiers: list[Sequence[int]] = [reach]
    if disk.near is not Nearness.HOST:
        nearby = inventory.in_zone(inventory.hosts[host_index].zone)
        tiers.append([index for index in nearby if index not in reach])
        if disk.near is Nearness.ANYWHERE:
            near = set(nearby).union(reach)
            tiers.append([index for index in range(len(inventory.srs)) if index not in near])
    found = []
    for tier, indexes in enumerate(tiers):
        for index in indexes:
            if largest[index] >= disk.size_bytes:
                free = int(inventory.sr_free[index])
                lacks_image = disk.image_id is not None and disk.image_id not in inventory.srs[index].image_ids
                found.append(((tier, lacks_image, -free if settings.sr_spread else free, index), index))
    return found


def _best_sr(inventory: Inventory, host_index: int, disk: Disk, settings: PlacementSettings) -> int | None:
    reach = inventory.in_reach(host_index)
    if len(reach) == 1 and disk.near is Nearness.HOST:
        return reach[0] if inventory.largest_on_sr(disk.volume_type)[reach[0]] >= disk.size_bytes else None
    return min(choices(inventory, host_index, disk, settings), default=(None, None))[1]


def _search(
    inventory: Inventory, host_index: int, disks: Sequence[Disk], settings: PlacementSettings
) -> dict[str, DiskPlacement] | None:
    """An SR for each disk, the first way that is found going depth first."""
    options = [choices(inventory, host_index, disk, settings) for disk in disks]
    taken: dict[int, int] = {}
    path: list[int] = []
    steps = 0

    def put(depth: int) -> bool:
        nonlocal steps
        if depth == len(disks):
            return True
        size = disks[depth].size_bytes
        for _, index in sorted(_with_taken(options[depth], taken, settings)):
            steps += 1
            if steps > STEPS_MAX:
                return False
            if taken.get(index, 0) + size > inventory.sr_free[index]:
                continue
            taken[index] = taken.get(index, 0) + size
            path.append(index)
            if put(depth + 1):
                return True
            path.pop()
            taken[index] -= size
        return False

    if not put(0):
        return None
    return {
        disk.disk_id: DiskPlacement(disk.disk_id, inventory.srs[index].sr_id, disk.sr_id)
        for disk, index in zip(disks, path, strict=True)
    }


def _with_taken(
    options: Sequence[tuple[tuple[int, bool, int, int], int]], taken: dict[int, int], settings: PlacementSettings
) -> list[tuple[tuple[int, bool, int, int], int]]:
    """The same choices, seen after what this server's larger disks take."""
    sign = 1 if settings.sr_spread else -1
    return [
        ((tier, lacks, free + sign * taken.get(index, 0), place), index)
        for (tier, lacks, free, place), index in options
    ]


def largest_in_reach(inventory: Inventory, host_index: int, disk: Disk) -> int:
    """The largest disk of this kind that could be put where this one may lie; NOTHING if there is no such SR."""
    largest = inventory.largest_on_sr(disk.volume_type)
    indexes: Sequence[int] = inventory.in_reach(host_index)
    if disk.near is Nearness.ZONE:
        indexes = [*indexes, *inventory.in_zone(inventory.hosts[host_index].zone)]
    elif disk.near is Nearness.ANYWHERE:
        indexes = range(len(inventory.srs))
    return max((int(largest[index]) for index in indexes), default=NOTHING)
