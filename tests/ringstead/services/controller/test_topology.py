"""Hosts and SRs enter the builder's topology file beside the disks, and leave it, under numbers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ring.topology import Device, Topology
from ringstead.one_machine.builder import builder_files
from ringstead.one_machine.layout import DataDirectory, open_directory
from ringstead.services.controller.topology import TopologyUnwritable, enter, with_compute

DISKS = [Device(number, 1, number + 1, "10.0.0.1", 6200 + number, f"d{number}", 100.0) for number in range(3)]


def host(name: str, weight: float = 64.0, zone: int = 1, number: int = 70000) -> Device:
    """A host as a controller finds it, with a number of the controller's own."""
    return Device(number, 1, zone, f"10.1.0.{zone}", 443, name, weight, "host")


def test_numbers_are_the_topologys_and_stay() -> None:
    """New hosts get free numbers that no ring uses either; what is there keeps its number whatever else changes."""
    first = with_compute(Topology.of(DISKS), [host("a"), host("b", zone=2)], taken=[3])
    assert {device.name: device.id for device in first if device.kind == "host"} == {"a": 4, "b": 5}
    second = with_compute(first, [host("b", 128.0, 2), host("c", zone=3)], taken=[3])
    assert {device.name: (device.id, device.weight) for device in second if device.kind == "host"} == {
        "b": (5, 128.0),
        "c": (4, 64.0),
    }
    assert [device for device in second if device.kind == "disk"] == DISKS


def test_a_one_machine_clusters_file_is_made_and_kept(tmp_path: Path) -> None:
    """The file is made from the ring in force, disks untouched; entering the same again writes nothing."""
    directory = DataDirectory(tmp_path / "data")
    open_directory(directory, {"zones": 3, "devices_per_zone": 1, "xen": False})
    path = directory.path / "ring.toml"
    numbers = enter(path, [host("a"), Device(70001, 1, 1, "sr", 0, "s", 512.0, "sr")])
    assert numbers == {"a": 3, "s": 4}
    written = path.read_bytes()
    versions = len(builder_files(path).versions())
    assert enter(path, [host("a"), Device(70001, 1, 1, "sr", 0, "s", 512.0, "sr")]) == numbers
    assert path.read_bytes() == written
    assert len(builder_files(path).versions()) == versions
    kinds = [device.kind for device in builder_files(path).read().design.topology]
    assert kinds == ["disk", "disk", "disk", "host", "sr"]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Nonsense in the file is an error that names it, and the file stays as it is."""
    path = tmp_path / "ring.toml"
    path.write_text("this is = = no topology")
    with pytest.raises(TopologyUnwritable, match=r"ring\.toml"):
        enter(path, [host("a")])
    assert path.read_text() == "this is = = no topology"
