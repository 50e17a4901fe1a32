"""What a move copies, against counting partition by partition."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.builder import build_ring
from ring.memory import Memory
from ring.move_preview import preview
from ring.rebalance import make_plan, rebalance
from ring.ring import Ring
from ring.topology import Device, Topology
from ring.topology_file import Design, Settings

POWER = 5


def ring_of(ids: set[int], *, epoch: int, part_power: int = POWER, weights: dict[int, float] | None = None) -> Ring:
    """A ring of these devices, in four zones."""
    devices = [Device(i, 1, i % 4, f"10.0.0.{i}", 6200, "sda", (weights or {}).get(i, 100.0)) for i in sorted(ids)]
    return build_ring(devices, part_power, 3, seed=3, epoch=epoch)


device_sets = st.sets(st.integers(0, 9), min_size=3, max_size=8)


@settings(max_examples=60, deadline=None)
@given(device_sets, device_sets)
def test_every_replica_that_moves_is_counted_once(one: set[int], other: set[int]) -> None:
    """Moves, bytes into and out of devices, and zone pairs all add up to what a loop over partitions counts."""
    before, after = ring_of(one, epoch=1), ring_of(other, epoch=2)
    held = {number: 1000.0 * (number + 1) for number in one}
    found = preview(before, after, held)
    moves, partitions = 0, 0
    for partition in range(before.part_count):
        old = {device.id for device in before.primaries(partition)}
        new = {device.id for device in after.primaries(partition)}
        moves += len(new - old)
        partitions += new != old
    assert (found.replicas, found.partitions) == (moves, partitions)
    assert sum(found.into.values()) == pytest.approx(found.size_bytes)
    assert sum(found.out_of.values()) == pytest.approx(found.size_bytes)
    assert sum(size for _, size in found.zones.values()) == pytest.approx(found.size_bytes)
    if one & other:
        assert sum(count for count, _ in found.zones.values()) <= moves
    assert set(found.into) <= other
    assert set(found.out_of) <= one & other


def test_emptying_a_device_copies_what_it_holds() -> None:
    """It stays in the ring with weight 0, so the copies come from itself."""
    before = ring_of({0, 1, 2, 3, 4, 5, 6, 7}, epoch=1)
    devices = [replace(d, weight=0.0) if d.id == 3 else d for d in before.devices if d is not None]
    memory = Memory.of(before)
    plan = make_plan(Design(Settings(POWER, 3.0, 0, 0.0, 3, "disk"), Topology.of(devices)), memory, now_min=9)
    after = rebalance(plan, memory, 9, epoch=2).memory.ring
    held = dict.fromkeys(range(8), 4096.0)
    found = preview(before, after, held)
    assert found.out_of[3] == pytest.approx(4096.0)
    assert 3 not in found.into


def test_nothing_moves_between_equal_rings_whatever_their_part_power() -> None:
    """More partitions move nothing."""
    ring = ring_of({0, 1, 2, 3}, epoch=1)
    wider = Ring(part_power=POWER + 1, seed=3, epoch=2, devices=ring.devices, table=ring.table.repeat(2, axis=1))
    for one, other in ((ring, ring), (ring, wider), (wider, ring)):
        found = preview(one, other, {0: 10.0})
        assert (found.replicas, found.size_bytes, found.zones) == (0, 0.0, {})
        assert found.duration_s(1.0, 1.0) == 0.0


def test_the_time_is_that_of_the_narrowest_place() -> None:
    """All devices together, or the one that gets most."""
    before, after = ring_of({0, 1, 2}, epoch=1), ring_of({0, 1, 2, 3}, epoch=2)
    found = preview(before, after, dict.fromkeys(range(3), 100.0))
    assert set(found.into) == {3}
    assert found.duration_s(1.0, 1e9) == pytest.approx(found.size_bytes)
    assert found.duration_s(1e9, 2.0) == pytest.approx(found.into[3] / 2)
