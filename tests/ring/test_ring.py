"""The ring: keys to partitions to devices, primaries and handoffs."""

from __future__ import annotations

import numpy as np
import pytest

from ring.builder import build_ring
from ring.quota import QuotaError
from ring.ring import Ring, RingError
from ring.ring_file import RingFileError
from ring.topology import Device, Topology, TopologyError


def devices(count: int, zones: int = 3) -> list[Device]:
    """`count` equal devices, one a node, over some zones."""
    return [Device(i, 1, i % zones, f"10.0.0.{i}", 6200, "sda", 100.0) for i in range(count)]


def test_a_key_has_three_devices_in_three_zones():
    """Three replicas in three equal zones: each partition has one device in each."""
    ring = build_ring(devices(12), 8, 3, seed=1)
    for partition in range(ring.part_count):
        assert {device.zone for device in ring.primaries(partition)} == {0, 1, 2}


def test_every_device_holds_its_share():
    """Equal devices hold equal numbers of replicas, to one."""
    ring = build_ring(devices(12), 8, 3, seed=1)
    counts = np.bincount(ring.table.ravel())
    assert counts.sum() == 768
    assert counts.min() == counts.max() == 64


def test_the_partition_is_a_prefix_of_the_hash():
    """The partition is the top bits of a big-endian hash of 16 bytes."""
    ring = build_ring(devices(3), 10, 3, seed=2**64 - 1)
    key_hash = ring.hash_key("/a/c/ö".encode())
    assert len(key_hash) == 16
    assert ring.partition(key_hash) == int.from_bytes(key_hash[:2], "big") >> 6


def test_handoffs_are_all_the_others_and_start_in_an_unused_domain():
    """Handoffs hold each other device once; with a fourth zone the first is in the zone that has no replica."""
    ring = build_ring(devices(16, zones=4), 6, 3, seed=3)
    for partition in range(ring.part_count):
        primaries = ring.primaries(partition)
        handoffs = list(ring.handoffs(partition))
        assert len(handoffs) == 13
        assert {d.id for d in primaries} | {d.id for d in handoffs} == set(range(16))
        assert handoffs[0].zone not in {d.zone for d in primaries}
        assert handoffs == list(ring.handoffs(partition))


def test_first_handoffs_are_shared_out():
    """Over all partitions no device is the first handoff much more often than another."""
    ring = build_ring(devices(12), 10, 3, seed=4)
    first = np.bincount([next(ring.handoffs(p)).id for p in range(ring.part_count)], minlength=12)
    assert first.min() > 50
    assert first.max() < 130


def test_a_device_without_weight_is_the_last_handoff():
    """A drained device holds nothing and is asked last."""
    drained = Device(12, 1, 9, "10.0.0.99", 6200, "sda", 0.0)
    ring = build_ring([*devices(12), drained], 6, 3, seed=5)
    assert 12 not in ring.table
    assert [*ring.handoffs(7)][-1] == drained


def test_fractional_replicas():
    """With 2.25 replicas a quarter of the partitions have a third one."""
    ring = build_ring(devices(6), 6, 2.25, seed=6)
    assert ring.replica_count == 2.25
    assert [len(ring.primaries(p)) for p in range(64)] == [3] * 16 + [2] * 48


def test_more_replicas_than_devices_is_refused():
    """A replica needs a device of its own."""
    with pytest.raises(QuotaError, match="3 devices with weight, and there are 2"):
        build_ring(devices(2), 4, 3, seed=7)


def test_dumps_and_loads():
    """What is loaded is what was written, byte for byte when written again."""
    ring = build_ring([*devices(12), Device(300, 1, 1, "::1", 1, "sdx", 0.5, "sr", {"uuid": "ü"})], 8, 2.5, seed=8)
    again = Ring.loads(ring.dumps())
    assert again.devices == ring.devices
    assert np.array_equal(again.table, ring.table)
    assert (again.part_power, again.seed, again.epoch, again.replica_count) == (8, 8, 1, 2.5)
    assert again.dumps() == ring.dumps()


def test_every_damaged_byte_is_found():
    """A ring file with any one bit flipped, or cut anywhere, is refused."""
    data = build_ring(devices(4), 4, 3, seed=9).dumps()
    for at in range(len(data)):
        with pytest.raises(RingFileError):
            Ring.loads(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(RingFileError, match="truncated"):
            Ring.loads(data[:at])


def test_a_partition_that_is_not_there():
    """A partition beyond the ring is an error, not another partition."""
    ring = build_ring(devices(4), 4, 3, seed=9)
    with pytest.raises((RingError, IndexError)):
        ring.primaries(16)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 1e13])
def test_bad_weights(weight: float):
    """A weight is finite and not negative."""
    with pytest.raises(TopologyError, match="weight"):
        Device(0, 1, 1, "10.0.0.1", 6200, "sda", weight)


def test_twins_are_refused():
    """Two devices share neither id nor place."""
    one = devices(1)[0]
    with pytest.raises(TopologyError, match="id 0 occurs twice"):
        Topology.of([one, one])
    with pytest.raises(TopologyError, match="is there already, as id 0"):
        Topology.of([one, Device(1, 2, 2, one.node, one.port, one.name, 1.0)])
