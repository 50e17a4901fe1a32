"""Hosts and SRs in the ring's topology: lines of kind `host` and `sr` beside the disks, in the builder's own file.

Problem: an availability zone must mean the same for data and for servers, and an operator must see in one place what
stands in it. Hosts and SRs are found by looking at pools, not entered by hand.

Idea: the controller enters what it finds, under the builder's own lock, as any operator's command would, and takes the
numbers that the topology gives. The ring that places data is not touched: only disks hold partitions.

Invariants: lines of kind `disk` are never changed; a line of a host or SR goes only when its pool was removed or says so
itself, never because a pool does not answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ring.builder_files import BuilderFileError
from ring.topology import Device, Topology
from ringstead.errors import RingsteadError
from ringstead.one_machine.builder import TOPOLOGY_NAME, builder_files, ensure_builder
from ringstead.one_machine.layout import DataDirectory
from scheduler.errors import SchedulerError

COMMAND: Final = "controller enters hosts and SRs"


class TopologyUnwritable(SchedulerError):
    """The operator's: the topology file cannot be written now. Hosts and SRs keep their present numbers."""


def enter(path: Path, found: Iterable[Device]) -> dict[str, int]:
    """Make the file's hosts and SRs these; the number of each by its name (the pool's uuid). Blocks. TopologyUnwritable."""
    try:
        if not path.exists() and path.name == TOPOLOGY_NAME:
            ensure_builder(DataDirectory(path.parent))
        files = builder_files(path)
        with files.lock(COMMAND):
            state = files.read()
            taken = [] if state.memory is None else [d.id for d in state.memory.ring.devices if d is not None]
            topology = with_compute(state.design.topology, list(found), taken)
            if topology != state.design.topology:
                design = dataclasses.replace(state.design, topology=topology)
                files.change(state, design, state.memory, COMMAND, write_ring=False)
    except (BuilderFileError, RingsteadError, OSError, ValueError) as error:
        raise TopologyUnwritable(f"{path}: {error}") from error
    return {device.name: device.id for device in topology if device.kind != "disk"}


def with_compute(topology: Topology, found: list[Device], taken: list[int]) -> Topology:
    """The topology with these hosts and SRs and no others; those that are there keep their numbers, new ones get free ones
    that neither a line nor a ring (`taken`) has."""
    present = {device.name: device for device in topology if device.kind != "disk"}
    kept = [device for device in topology if device.kind == "disk"]
    fresh: list[Device] = []
    for device in sorted(found, key=lambda device: (device.region, device.zone, device.kind, device.name)):
        known = present.get(device.name)
        if known is None:
            fresh.append(device)
        else:
            kept.append(dataclasses.replace(device, id=known.id, meta=known.meta))
    for device in fresh:
        number = Topology.of(kept).next_id(taken)
        kept.append(dataclasses.replace(device, id=number))
    return Topology.of(kept)
