"""Adding what is missing to the topology file of a one-machine cluster."""

from __future__ import annotations

from dataclasses import replace

from ring.ring import Ring
from ring.topology import Device, Topology
from ring.topology_file import with_settings
from ringstead.commands.cluster.ring_home import RingHome
from ringstead.errors import UsageError
from ringstead.one_machine.growth import missing_devices
from ringstead.one_machine.layout import DEVICES_PER_ZONE_MAX, NODE, REPLICAS_MAX, ZONES_MAX, load_shape


def not_in_force(home: RingHome, ring: Ring) -> list[str]:
    """Names of this machine's disks that the topology file has and the ring has not."""
    known = {device.name for device in ring.devices if device is not None and device.node == NODE}
    topology = home.files.read().design.topology
    return [d.name for d in topology if d.kind == "disk" and d.node == NODE and d.name not in known]


def add_missing(home: RingHome, zones: int | None, devices_per_zone: int | None) -> None:
    """Add devices until there are so many zones with so many devices each.

    None: as many as there are (of devices: as the cluster was made with). A cluster that had too few devices for
    REPLICAS_MAX copies gets as many as it can have now. Raises RingsteadError.
    """
    assert home.directory is not None
    shape = load_shape(home.directory)
    for name, value, most in (
        ("zones", zones, ZONES_MAX),
        ("devices-per-zone", devices_per_zone, DEVICES_PER_ZONE_MAX),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{name} {value} is outside 1..{most}")
    with home.files.lock("rebalance grow"):
        state = home.files.read()
        topology = state.design.topology
        here = [device for device in topology if device.kind == "disk" and device.node == NODE]
        present = len({device.zone for device in here})
        if zones is not None and zones < present:
            raise UsageError(f"there are {present} zones; for fewer, empty one (`ringstead ring drain z{present}`)")
        fresh = missing_devices(
            {device.name: device.zone for device in here},
            zones or present,
            devices_per_zone or shape.devices_per_zone,
            shape.port,
            [device.port for device in here],
        )
        taken = [] if state.memory is None else [d.id for d in state.memory.ring.devices if d is not None]
        for new in fresh:
            device = Device(topology.next_id(taken), 1, new.zone, NODE, new.port, new.name, new.weight)
            topology = Topology.of([*topology, device])
        if fresh:
            design = replace(state.design, topology=topology)
            copies = min(REPLICAS_MAX, sum(device.weight > 0 for device in here) + len(fresh))
            if copies > design.settings.replicas:  # it was made with too few devices for more
                design = with_settings(design, replicas=float(copies))
            home.files.change(state, design, state.memory, "rebalance grow", write_ring=False)
