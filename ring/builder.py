"""A ring from devices in one call, for programs that make a cluster themselves.

An operator's ring has a history (`ring.rebalance`, `ring.builder_files`); the ring that `ringstead up` gives a new data
directory, and those of tests, have none. Both come from the same computation, and both are checked from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ring.rebalance import make_plan, rebalance
from ring.ring import Ring
from ring.topology import Device, Kind, Topology
from ring.topology_file import Design, Settings


def build_ring(
    devices: Iterable[Device],
    part_power: int,
    replicas: float,
    seed: int,
    *,
    overload: float = 0.0,
    kind: Kind = "disk",
    epoch: int = 1,
) -> Ring:
    """A ring of these devices; the same arguments give the same ring.

    `seed` becomes the ring's hash seed and decides the placement too. Partitions are on devices of `kind`; others are
    in the ring as well, for `Ring.walk`. TopologyError if a setting can't be; QuotaError if there are fewer such
    devices with weight than replicas, RebalanceError if there is none.
    """
    settings = Settings(part_power, replicas, min_part_hours=0, overload=overload, seed=seed, kind=kind)
    plan = make_plan(Design(settings, Topology.of(devices)), None, now_min=0)
    return rebalance(plan, None, now_min=0, epoch=epoch).memory.ring
