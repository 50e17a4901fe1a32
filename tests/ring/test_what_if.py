"""What plans and losses mean: moves, bytes, time, partitions at risk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ring.rebalance import make_plan, rebalance
from ring.topology import Device, Topology
from ring.topology_file import Design
from ring.what_if import Rates, loss_of, traffic_of
from tests.ring.histories import design_of, devices


def first(design: Design):
    """The memory after a first rebalance."""
    return rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory


def test_traffic_adds_up():
    """What comes is what goes; zones, devices and steps count the same moves; bytes and time follow."""
    design = design_of(devices(12), 8)
    memory = first(design)
    fresh = [Device(100 + i, 1, 0, "10.0.9.9", 6200, f"n{i}", 100.0) for i in range(3)]
    plan = make_plan(replace(design, topology=Topology.of([*design.topology, *fresh])), memory, 0)
    traffic = traffic_of(plan, 256e9, Rates(device=1e6))
    assert traffic.replica_bytes == 1e9
    assert traffic.moves == plan.move_count == traffic.moves_due
    assert sum(flow.coming for flow in traffic.devices) == traffic.moves
    assert sum(flow.going for flow in traffic.devices) == traffic.moves
    assert sum(traffic.zones.values()) == traffic.moves
    assert sum(step.moves for step in traffic.steps) == traffic.moves
    assert {to for _, to in traffic.zones} == {(1, 0)}
    busiest = max(flow.coming for flow in traffic.devices)
    assert traffic.steps[0].duration_s == pytest.approx(busiest * 1000)
    slow = traffic_of(plan, 256e9, Rates(device=1e9, zone=1e6))
    across = max(count for (one, other), count in traffic.zones.items() if one != other)
    assert slow.steps[0].duration_s == pytest.approx(across * 1000)


def test_what_is_made_again_is_copied_from_the_living():
    """A lost replica is copied from a device that is left, not from the one that is gone."""
    design = design_of(devices(6), 6)
    memory = first(design)
    plan = make_plan(replace(design, topology=Topology.of(devices(6)[1:])), memory, 0)
    traffic = traffic_of(plan, 1e9, Rates(1e6))
    assert all(flow.device.id or flow.coming == 0 for flow in traffic.devices)
    assert sum(traffic.zones.values()) == plan.move_count


def test_losing_one_of_three_zones_leaves_a_majority():
    """With a replica in each of three zones the loss of one leaves two of each, and the rest would carry three."""
    design = design_of(devices(12), 8)
    loss = loss_of(design, first(design).ring, [d.id for d in devices(12) if d.zone == 2], 0)
    assert (len(loss.below), len(loss.gone), loss.fewer, loss.untouched) == (0, 0, 256, 0)
    assert loss.carried is not None
    assert loss.carried.tolist()[:2] == [96, 96]
    assert loss.repairs == 256


def test_losing_two_of_three_zones_leaves_one_replica():
    """All partitions fall under a majority; on too few devices no third replica can be made."""
    design = design_of(devices(3), 4)
    loss = loss_of(design, first(design).ring, [0, 1], 0)
    assert len(loss.below) == 16
    assert loss.carried is None
    assert "3 replicas need 3 devices with weight, and there are 1" in loss.obstacle
    everything = loss_of(design, first(design).ring, [0, 1, 2], 0)
    assert len(everything.gone) == 16
    assert len(everything.below) == 0


def test_losing_a_device_touches_what_it_held():
    """Exactly the partitions of the device are touched."""
    design = design_of(devices(12), 8)
    ring = first(design).ring
    loss = loss_of(design, ring, [5], 0)
    assert loss.fewer == int((ring.table == 5).sum())
    assert loss.untouched == 256 - loss.fewer
    assert loss.lost == [ring.devices[5]]
