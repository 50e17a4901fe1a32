"""Devices that come and go on a one-machine cluster: what is missing, and which services there are to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring.builder import build_ring
from ring.generations import finish, install
from ring.ring import Ring
from ring.ring_file import load
from ring.topology import Device
from ringstead.errors import RingsteadError
from ringstead.one_machine.growth import follow_rings, missing_devices, ring_devices, storage_names
from ringstead.one_machine.layout import DataDirectory, open_directory
from ringstead.settings.config import StorageConfig
from ringstead.settings.config_file import load as load_config


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    """A folder as `up` makes it."""
    made = DataDirectory(tmp_path / "data")
    open_directory(made, {"port": 7333, "zones": 3, "devices_per_zone": 1})
    return made


def with_devices(ring: Ring, names: dict[str, int], epoch: int) -> Ring:
    """The next ring, with these devices (name: zone)."""
    by_name = {device.name: device for device in ring.devices if device is not None}
    devices = []
    for number, (name, zone) in enumerate(names.items()):
        known = by_name.get(name)
        devices.append(known or Device(20 + number, 1, zone, "127.0.0.1", 21000 + number, name, 100.0))
    return build_ring(devices, 6, 2, ring.seed, epoch=epoch)


def test_what_is_missing_is_counted_by_zone() -> None:
    """New zones get new numbers, zones with too few devices are filled up, names are not used twice."""
    present = {"z1d1": 1, "z1d2": 1, "z3d2": 3}
    found = missing_devices(present, 3, 2, 7444, [20_000, 20_001, 20_002])
    assert [(new.zone, new.name) for new in found] == [(3, "z3d1"), (4, "z4d1"), (4, "z4d2")]
    ports = [new.port for new in found]
    assert len(set(ports)) == 3
    assert not set(ports) & {20_000, 20_001, 20_002}
    assert missing_devices(present, 2, 1, 7444, []) == []


def test_services_follow_the_rings_in_force(directory: DataDirectory) -> None:
    """A device that comes gets settings; one that goes keeps them until no ring in force has it; its folder stays."""
    assert follow_rings(directory) == ([], [])
    old = load(directory.ring_file)
    (directory.devices_dir / "z1d1").mkdir(parents=True)
    new = with_devices(old, {"z2d1": 2, "z3d1": 3, "z4d1": 4, "z4d10": 4, "z4d2": 4}, 2)
    install(directory.ring_file, new)
    assert follow_rings(directory) == (["z4d1", "z4d10", "z4d2"], [])
    assert storage_names(directory) == [
        "storage-z1d1",
        "storage-z2d1",
        "storage-z3d1",
        "storage-z4d1",
        "storage-z4d2",
        "storage-z4d10",
    ]
    config = load_config(StorageConfig, directory.config_file("storage-z4d1"))
    assert config.devices == ("z4d1",)
    assert config.listen == f"127.0.0.1:{ring_devices(directory)['z4d1'].port}"
    finish(directory.ring_file, 2)
    assert follow_rings(directory) == ([], ["z1d1"])
    assert "storage-z1d1" not in storage_names(directory)
    assert (directory.devices_dir / "z1d1").is_dir()


def test_an_operators_settings_stay(directory: DataDirectory) -> None:
    """Only the address follows the ring."""
    place = ring_devices(directory)["z2d1"]
    path = directory.config_file("storage-z2d1")
    path.write_text(path.read_text() + "free_bytes_min = 123456789\n")
    old = load(directory.ring_file)
    devices = [
        device if device.name != "z2d1" else Device(device.id, 1, 2, "127.0.0.1", place.port + 1, "z2d1", 100.0)
        for device in old.devices
        if device is not None
    ]
    install(directory.ring_file, build_ring(devices, old.part_power, 3, old.seed, epoch=2))
    assert follow_rings(directory) == (["z2d1"], [])
    config = load_config(StorageConfig, path)
    assert (config.listen, config.free_bytes_min) == (f"127.0.0.1:{place.port + 1}", 123456789)


def test_a_damaged_ring_changes_nothing(directory: DataDirectory) -> None:
    """It is said which file it is; no service goes for it."""
    before = storage_names(directory)
    directory.ring_file.write_bytes(b"rubbish")
    with pytest.raises(RingsteadError, match=r"cluster\.ring"):
        follow_rings(directory)
    assert storage_names(directory) == before
