"""Devices, searches and changes as operators type them."""

from __future__ import annotations

import pytest

from ring.device_text import (
    DeviceTextError,
    InfoChange,
    Search,
    normal_address,
    parse_change,
    parse_device,
    parse_search,
    parse_weight,
)
from ring.topology import Device, Topology

ONE = Device(74, 4, 1, "1.2.3.4", 5678, "sdb1", 2.0, meta={"note": "snet: 5.6.7.8", "replication_ip": "5.6.7.8"})
OTHER = Device(0, 1, 2, "::1", 6200, "sdc", 1.0, "host", {"rack": "A1"})


def test_a_device_with_everything():
    """Region, zone, address, replication address, name and note are taken apart."""
    device = parse_device("r1z2-10.0.0.1:6200R10.1.0.1:6300/sdb_shelf 3_b", "100.5", 7)
    assert device == Device(
        7,
        1,
        2,
        "10.0.0.1",
        6200,
        "sdb",
        100.5,
        meta={"replication_ip": "10.1.0.1", "replication_port": "6300", "note": "shelf 3_b"},
    )


def test_the_region_may_be_left_out_and_a_host_name_be_given():
    """Region 1 is the default; IPv6 stands in brackets; names are lower case."""
    assert parse_device("z3-[2001:DB8::0:1]:1/x", "0", 0).node == "2001:db8::1"
    device = parse_device("z3-Storage-1.Example.org.:1/x", "0", 0)
    assert (device.region, device.node) == (1, "storage-1.example.org")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "z1",
        "r1z1-10.0.0.1/sdb",
        "r1z1-10.0.0.1:x/sdb",
        "r1z1-10.0.0.1:6200",
        "r1z1-10.0.0.1:6200/",
        "r1z1-10.0.0:6200/sdb",
        "r1z1-999.0.0.1:6200/sdb",
        "r1z1-10.0.0.1:70000/sdb",
        "r1z1-[::g]:6200/sdb",
        "r1z1-::1:6200/sdb",
        "r1z99999-10.0.0.1:6200/sdb",
        "r-1z1-10.0.0.1:6200/sdb",
        "r1z1-10.0.0.1:6200/s db",
        "r1z1-10.0.0.1:6200/a/b",
        "r1z1 -10.0.0.1:6200/a",
        "r\u0661z1-10.0.0.1:6200/a",
    ],
)
def test_malformed_devices_are_refused(text: str):
    """Every malformed device string is refused, quoting it or the part that is wrong."""
    with pytest.raises(DeviceTextError):
        parse_device(text, "1", 0)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "1e13", "x", "", "1_0", "0x10", "1,5", "\u0661"])
def test_malformed_weights_are_refused(text: str):
    """A weight is a finite number that is not negative."""
    with pytest.raises(DeviceTextError, match="weight"):
        parse_weight(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("d74", [74]),
        ("r4", [74]),
        ("z1", [74]),
        ("z1-1.2.3.4", [74]),
        ("1.2.3.4", [74]),
        ("z1:5678", [74]),
        (":5678", [74]),
        ("R5.6.7.8", [74]),
        ("R:5678", [74]),
        ("1.2.3.4R5.6.7.8", [74]),
        ("/sdb1", [74]),
        ("_snet", [74]),
        ('_"snet: 5.6.7.8"', [74]),
        ('d74r4z1-1.2.3.4:5678/sdb1_"snet: 5.6.7.8"', [74]),
        ("[::1]", [0]),
        ("z2-[::0:1]:6200", [0]),
        ("_A1", [0]),
        ("r1z2-[::1]:6200/sdc", [0]),
        ("z9", []),
        ("d7", []),
    ],
)
def test_searches(text: str, found: list[int]):
    """The examples of swift-ring-builder's help find what they say."""
    assert [device.id for device in parse_search(text).find(Topology.of([ONE, OTHER]))] == found


@pytest.mark.parametrize("text", ["", "-", "x", "zone1", "d", "z1-", "d74x", "[::1", "R"])
def test_malformed_searches_are_refused(text: str):
    """What is no search matches nothing by accident."""
    with pytest.raises(DeviceTextError):
        parse_search(text)


def test_searches_by_options():
    """Weight and kind are searched for by options alone."""
    assert Search(weight=2.0).find(Topology.of([ONE, OTHER])) == [ONE]
    assert Search(kind="host").find(Topology.of([ONE, OTHER])) == [OTHER]


def test_changes():
    """A change names what it changes, and leaves the rest."""
    changed = parse_change("10.0.0.2:6201R10.1.0.2:6301/sdx_new").apply(ONE)
    assert (changed.node, changed.port, changed.name, changed.id, changed.weight) == ("10.0.0.2", 6201, "sdx", 74, 2.0)
    assert changed.meta == {"note": "new", "replication_ip": "10.1.0.2", "replication_port": "6301"}
    assert parse_change("_just a note").apply(OTHER).meta == {"rack": "A1", "note": "just a note"}
    assert parse_change(":99").apply(OTHER).port == 99
    assert InfoChange(meta=(("rack", ""), ("row", "3"))).apply(OTHER).meta == {"row": "3"}
    for text in ("", "/", "x", "1.2.3.4x"):
        with pytest.raises(DeviceTextError):
            parse_change(text)


def test_addresses():
    """Addresses are kept in one form."""
    assert normal_address("[::FFFF:0:0]") == "::ffff:0:0"
    with pytest.raises(DeviceTextError):
        normal_address("1.2.3")
