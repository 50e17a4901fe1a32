"""Quotas: exact shares of every domain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from ring.quota import DEVICE_LEVEL, QuotaError, Tree, check_quotas, fill_to_level, round_to_sum, solve_quotas
from ring.topology import Device
from ring.topology_file import Design
from tests.ring.histories import designs, devices
from tests.ring.oracle import most_dispersed


def solve(placed: list[Device], part_count: int, replicas: float, overload: float = 0.0) -> dict[object, float]:
    """The real share of every domain, in replicas per partition, by tier."""
    tree = Tree.of(placed)
    quotas = solve_quotas(tree, part_count, int(part_count * replicas), overload)
    shares: dict[object, float] = {}
    for level in range(1, DEVICE_LEVEL + 1):
        for number, start in enumerate(tree.starts[level]):
            shares[tree.devices[start].tiers[level - 1]] = quotas.shares[level][number] / part_count
    return shares


def zone(number: int, weights: list[float], first: int = 0) -> list[Device]:
    """A zone of one node with devices of these weights."""
    return [
        Device(first + i, 1, number, f"10.0.0.{number}", 6200, f"sd{first + i}", weight)
        for i, weight in enumerate(weights)
    ]


def test_equal_zones_hold_a_replica_each():
    """Three replicas in three equal zones are one in each."""
    shares = solve(devices(12), 1024, 3)
    assert all(shares[1, number] == pytest.approx(1.0) for number in range(3))


def test_without_overload_the_weights_decide():
    """A zone with half of all weight holds half of all replicas, though they then share it."""
    shares = solve([*zone(1, [1, 1]), *zone(2, [1], 2), *zone(3, [1], 3)], 1024, 3)
    assert shares[1, 1] == pytest.approx(1.5)
    assert shares[1, 2] == pytest.approx(0.75)


def test_overload_is_used_as_far_as_it_disperses():
    """With enough overload each zone holds one replica; with less, the small zones take what they may."""
    placed = [*zone(1, [1, 1]), *zone(2, [1], 2), *zone(3, [1], 3)]
    assert solve(placed, 1024, 3, overload=0.5)[1, 1] == pytest.approx(1.0)
    assert solve(placed, 1024, 3, overload=0.1)[1, 2] == pytest.approx(0.825)
    assert solve(placed, 1024, 3, overload=0.1)[1, 1] == pytest.approx(1.35)


def test_overload_that_disperses_nothing_is_not_used():
    """Where replicas are apart already, overload changes nothing."""
    placed = [*zone(1, [3]), *zone(2, [3], 1), *zone(3, [2], 2), *zone(4, [1], 3)]
    assert solve(placed, 1024, 3, overload=1.0) == pytest.approx(solve(placed, 1024, 3))


def test_a_device_too_heavy_for_its_own_good():
    """No device holds a partition twice: what is above goes to the others, by their weights."""
    shares = solve([*zone(1, [100]), *zone(2, [2], 1), *zone(3, [1], 2), *zone(4, [1], 3)], 1024, 3)
    assert shares[1, 1] == pytest.approx(1.0)
    assert shares[1, 2] == pytest.approx(1.0)
    assert shares[1, 3] == pytest.approx(0.5)


def test_too_few_devices():
    """Replicas need as many devices with weight."""
    with pytest.raises(QuotaError, match="3 replicas need 3 devices with weight, and there are 2: add devices"):
        solve([*zone(1, [1, 1, 0])], 16, 3)


@given(designs())
@settings(max_examples=80, deadline=None)
def test_quotas_add_up_and_are_near_their_shares(design: Design):
    """Children sum up to their parent exactly, and each is within one of its real share."""
    tree = Tree.of(design.holders())
    quotas = solve_quotas(tree, design.settings.part_count, design.settings.replica_total, design.settings.overload)
    assert check_quotas(quotas) == []
    room = quotas.weighted * (1 + design.settings.overload)
    assert np.all(quotas.counts[DEVICE_LEVEL] < np.minimum(room, design.settings.part_count) + 1)


@given(designs(power_max=3))
@settings(max_examples=60, deadline=None)
def test_no_flow_is_more_dispersed(design: Design):
    """A maximum flow within what devices can take does not put more replicas into different regions than the quotas do."""
    tree = Tree.of(design.holders())
    part_count, total = design.settings.part_count, design.settings.replica_total
    quotas = solve_quotas(tree, part_count, total, design.settings.overload)
    replicas = [total // part_count + (partition < total % part_count) for partition in range(part_count)]
    # The room of each device, rounded up, is what rounding may give it.
    room = np.ceil(np.minimum(quotas.weighted * (1 + design.settings.overload), part_count) - 1e-6).astype(int)
    by_id = {device.id: int(room[index]) for index, device in enumerate(tree.devices)}
    for limit in (1, 2):
        best = most_dispersed(tree.devices, replicas, by_id, 1, limit)
        held = int(np.minimum(quotas.counts[1], limit * part_count).sum())
        # Rounding up of all rooms at once gives the flow up to one replica a device more than there is room for.
        assert held >= best - len(tree)


def test_fill_to_level_is_exact():
    """The sum is right and every share is its weight times one level, or at a bound."""
    weights = np.array([1.0, 2.0, 3.0, 10.0])
    low, high = np.array([0.0, 1.0, 0.0, 0.0]), np.array([5.0, 5.0, 2.0, 4.0])
    share = fill_to_level(weights, low, high, 9.0)
    assert share.sum() == pytest.approx(9.0)
    free = (share > low + 1e-9) & (share < high - 1e-9)
    assert np.ptp(share[free] / weights[free]) < 1e-9


def test_rounding_keeps_what_is_held():
    """Among equals those are rounded up that hold more already, so nothing moves without need."""
    share = np.full(4, 2.5)
    assert round_to_sum(share, 10, np.array([2, 3, 2, 3])).tolist() == [2, 3, 2, 3]


def test_rounding_favours_the_small():
    """One more or less is a large deviation for a small share: that is what rounding avoids."""
    share = np.array([1.6, 99.4, 99.0])
    assert round_to_sum(share, 200, np.zeros(3, dtype=np.int64)).tolist() == [2, 99, 99]


def test_what_has_no_choice_is_counted_once():
    """A child whose bounds are the same, at a total a rounding error below the most, leaves the others their share."""
    weights = np.array([2.5945945945945947, 7.135135135135135])
    low, high = np.array([3.891891891891892, 8.0]), np.array([3.891891891891892, 10.702702702702704])
    share = fill_to_level(weights, low, high, 14.594594594594595)
    assert share.tolist() == pytest.approx(high.tolist())
