"""A one-machine cluster that grows and shrinks: devices in its topology file, and a service for each that has a place.

Problem: `up` makes a rectangle, zones times devices. A cluster that lives gets a zone more, loses a disk, is drained here
and there; and for each device that comes or goes on this machine a process has to come or go.

Idea: what a device needs is a line in the topology file (that is where it is added or drained) and a settings file in
`config/` (that is what the supervisor starts). The settings files follow the rings: a device that a ring in force has gets
one, one that no ring has any more loses it, its folder stays. Both are done by whoever notices first: `up` at its start,
the supervisor while it runs, `rebalance start` before it installs a ring, so that new devices are up before the first write
to them.

The devices of a ring are read without numpy, since the supervisor lives as long as the cluster and is small.

Invariant: nothing in `devices/` is made, moved or removed here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import orjson

from ring.durable import SealError, unseal
from ring.moves import moving_dir
from ringstead.errors import RingsteadError
from ringstead.one_machine.layout import DEVICE_WEIGHT, NODE, DataDirectory, DevicePlace, write_storage_config
from ringstead.processes.sockets import STORAGE_PORT_FIRST, free_port_range
from ringstead.rings.files import RING_MAGIC, RingFiles
from ringstead.settings.config import StorageConfig
from ringstead.settings.config_file import load

_PREFIX = "storage-"
BUILDER_RING_NAME = "ring.ring"
"""What the builder has made last in the cluster's folder: it is about to be in force, or is."""


@dataclass(frozen=True)
class NewDevice:
    """A device to be added to a one-machine cluster."""

    zone: int
    name: str
    port: int
    weight: float = DEVICE_WEIGHT

    @property
    def text(self) -> str:
        """As `ringstead ring add` takes it."""
        return f"r1z{self.zone}-{NODE}:{self.port}/{self.name}"


def missing_devices(
    present: dict[str, int], zones: int, devices_per_zone: int, near_port: int, taken_ports: list[int]
) -> list[NewDevice]:
    """What is missing to so many zones with so many devices each. `present`: zone by name of device.

    Zones are counted, not numbered: one that was drained and removed is not brought back under its number. Raises
    ClusterBusy where there are no free ports.
    """
    numbers = sorted(set(present.values()))
    while len(numbers) < zones:
        numbers.append(max(numbers, default=0) + 1)
    wanted: list[tuple[int, str]] = []
    for zone in numbers:
        have = sum(place == zone for place in present.values())
        number = 0
        while have < devices_per_zone:
            number += 1
            name = f"z{zone}d{number}"
            if name not in present:
                wanted.append((zone, name))
                have += 1
    if not wanted:
        return []
    near = max(taken_ports) + 1 - STORAGE_PORT_FIRST if taken_ports else near_port
    while True:
        first = free_port_range(NODE, near, len(wanted))
        if not set(range(first, first + len(wanted))).intersection(taken_ports):
            break
        near += len(wanted)
    return [NewDevice(zone, name, first + index) for index, (zone, name) in enumerate(wanted)]


def ring_devices(directory: DataDirectory) -> dict[str, DevicePlace]:
    """The disks on this machine of the rings in force and of the one that the builder has made last, by name.

    Raises RingsteadError.
    """
    found: dict[str, DevicePlace] = {}
    settled_epoch = RingFiles(directory.ring_file).state().settled_epoch
    older = sorted(moving_dir(directory.ring_file).glob("*.ring"))
    for path in [*older, directory.ring_file, directory.path / BUILDER_RING_NAME]:
        if path in older and path.stem.isdecimal() and int(path.stem) < settled_epoch:
            continue
        try:
            rows = orjson.loads(unseal(path.read_bytes(), RING_MAGIC, 1).sections["devices"])
            for _, _, zone, node, port, name, _, kind, *_ in rows:
                if node == NODE and kind == "disk":
                    found[name] = DevicePlace(zone, name, port)
        except FileNotFoundError:
            continue
        except (OSError, SealError, KeyError, TypeError, ValueError) as error:
            raise RingsteadError(f"{path}: {error}") from error
    return found


def storage_names(directory: DataDirectory) -> list[str]:
    """The storage services that have settings, in the order of their zones and numbers."""
    return sorted((path.stem for path in directory.config_dir.glob(f"{_PREFIX}*.toml")), key=_natural)


def _natural(name: str) -> tuple[object, ...]:
    digits = "".join(letter if letter.isdigit() else " " for letter in name).split()
    return (*map(int, digits), name)


def give_service(directory: DataDirectory, place: DevicePlace) -> bool:
    """See to it that a device of this machine has a service; whether it had none."""
    path = directory.config_file(_PREFIX + place.name)
    if path.exists():
        present = load(StorageConfig, path)
        listen = f"{NODE}:{place.port}"
        if present.listen != listen:
            write_storage_config(directory, place, dataclasses.replace(present, listen=listen))
            return True
        return False
    write_storage_config(directory, place)
    return True


def follow_rings(directory: DataDirectory) -> tuple[list[str], list[str]]:
    """Let each device of the rings in force have a service, and no other; -> names of those that came, and that went.

    Raises RingsteadError.
    """
    places = ring_devices(directory)
    came = [name for name, place in places.items() if give_service(directory, place)]
    gone = [name.removeprefix(_PREFIX) for name in storage_names(directory)]
    gone = [name for name in gone if name not in places]
    for name in gone:
        directory.config_file(_PREFIX + name).unlink(missing_ok=True)
    return came, gone
