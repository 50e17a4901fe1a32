"""Rings from devices: what the operator's commands and `ringstead up` call."""

from __future__ import annotations

from collections.abc import Iterable

from ring.first_placement import first_placement
from ring.quota import Tree, solve_quotas
from ring.ring import Ring
from ring.topology import Device, Topology


def build_ring(
    devices: Iterable[Device], part_power: int, replicas: float, seed: int, *, overload: float = 0.0, epoch: int = 1
) -> Ring:
    """A ring of these devices, in one call; the same arguments give the same ring.

    `seed` becomes the ring's hash seed and decides the placement too. QuotaError if there are fewer devices of kind `disk`
    with weight than replicas.
    """
    topology = Topology.of(devices)
    part_count = 1 << part_power
    tree = Tree.of([device for device in topology if device.kind == "disk"])
    quotas = solve_quotas(tree, part_count, int(replicas * part_count), overload)
    by_id: list[Device | None] = [None] * (max((device.id for device in topology), default=-1) + 1)
    for device in topology:
        by_id[device.id] = device
    return Ring(part_power=part_power, seed=seed, epoch=epoch, devices=by_id, table=first_placement(quotas, seed))
