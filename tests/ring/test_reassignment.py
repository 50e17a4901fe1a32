"""Placements: all quotas and bounds, and the fewest moves, over histories."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.check import CheckError, check
from ring.measure import balance, device_counts, dispersion
from ring.placement import next_placement
from ring.quota import DEVICE_LEVEL, Quotas, Tree, solve_quotas
from ring.ring import NO_DEVICE, Table
from ring.topology import Device
from ring.topology_file import Design
from tests.ring.histories import change, design_of, designs, devices
from tests.ring.oracle import fewest_moves


def quotas_of(design: Design, old: Table | None) -> Quotas:
    """The quotas of a design, rounded as a rebalance does."""
    tree = Tree.of(design.holders())
    held = None if old is None else device_counts(old, int(tree.ids.max()) + 1)[tree.ids]
    chosen = design.settings
    return solve_quotas(tree, chosen.part_count, chosen.replica_total, chosen.overload, held)


def place(design: Design, old: Table | None, seed: int = 1) -> Table:
    """The next placement, checked from nothing."""
    quotas = quotas_of(design, old)
    change_ = next_placement(old, quotas, None, seed)
    check(quotas, change_.after)
    return change_.after


def moves(old: Table, new: Table) -> int:
    """Replicas on devices that their partition was not on."""
    moved = new != NO_DEVICE
    for row in old:
        moved = moved & (new != row)
    return int(np.count_nonzero(moved))


def oracle(design: Design, old: Table, new: Table) -> int | None:
    """The fewest moves from `old` to a placement with the quotas of `new`, by minimum-cost flow."""
    quotas = quotas_of(design, old)
    tree = quotas.tree
    bounds: dict[tuple[object, ...], tuple[int, int]] = {}
    for level in (1, 2, 3):
        low, high = quotas.bounds(level)
        for number, start in enumerate(tree.starts[level]):
            bounds[tree.devices[start].tiers[level - 1]] = (int(low[number]), int(high[number]))
    counts = quotas.counts[DEVICE_LEVEL]
    return fewest_moves(
        tree.devices,
        np.count_nonzero(new != NO_DEVICE, axis=0).tolist(),
        {device.id: int(counts[index]) for index, device in enumerate(tree.devices)},
        bounds,
        [set(old[:, partition].tolist()) for partition in range(old.shape[1])],
    )


@given(designs(power_max=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_first_placement_is_right(design: Design, seed: int):
    """Whatever the design, the first placement meets all quotas and bounds, and the seed decides it."""
    assert np.array_equal(place(design, None, seed), place(design, None, seed))


@given(designs(power_max=6), st.randoms(use_true_random=False), st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_every_history_is_right(design: Design, rng: random.Random, length: int):
    """Adds, removals, failures, weights, zones, replica counts: each placement is right, and stable."""
    table = place(design, None)
    for step in range(length):
        design = change(design, rng, taken=100 * (step + 1))
        table = place(design, table)
        assert moves(table, place(design, table, seed=99)) == 0


@given(designs(power_max=3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_no_flow_moves_less(design: Design, rng: random.Random):
    """A minimum-cost flow finds no placement with these quotas and fewer moves."""
    table = place(design, None)
    for step in range(3):
        design = change(design, rng, taken=100 * (step + 1))
        new = place(design, table)
        assert moves(table, new) == oracle(design, table, new)
        table = new


def zones(count: int, nodes: int, per_node: int) -> list[Device]:
    """Zones of equal nodes of equal devices."""
    return [
        Device(
            number, 1, number % count, f"10.{number % count}.0.{number // count // per_node}", 6200, f"d{number}", 1.0
        )
        for number in range(count * nodes * per_node)
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_adding_a_node_moves_only_its_share(count: int):
    """Growing one zone moves no replica except onto the new node, each partition at most once."""
    placed = zones(count, 4, 4)
    table = place(design_of(placed, 12), None)
    fresh = [Device(1000 + i, 1, 0, "10.0.9.9", 6200, f"n{i}", 1.0) for i in range(4)]
    new = place(design_of([*placed, *fresh], 12), table)
    changed = new != table
    assert np.all(new[changed] >= 1000)
    assert changed.sum(axis=0).max() == 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_losing_a_device_moves_only_what_it_held(count: int):
    """The replicas of a removed device are made again; no other moves."""
    placed = zones(count, 4, 4)
    table = place(design_of(placed, 12), None)
    new = place(design_of(placed[1:], 12), table)
    assert np.array_equal(new != table, table == 0)


def test_locked_partitions_move_last():
    """Where others can move instead, partitions that are locked stay."""
    table = place(design_of(devices(12), 10), None)
    design = design_of(devices(13), 10)
    quotas = quotas_of(design, table)
    locked = np.arange(1024) % 2 == 0
    moved = next_placement(table, quotas, locked, 3).moved.any(axis=0)
    assert not np.any(moved & locked)
    assert moved.any()


def test_partners_are_spread():
    """The replicas beside those of one device are on all devices of the other zones, evenly."""
    table = place(design_of(zones(3, 2, 5), 14), None)
    partners = np.bincount(table[:, (table == 0).any(axis=0)].ravel(), minlength=30)
    others = [partners[number] for number in range(30) if number % 3]
    assert min(others) > 120
    assert max(others) < 210


def test_partners_are_spread_in_a_single_zone():
    """The same where only nodes keep replicas apart."""
    table = place(design_of(zones(1, 15, 2), 14), None)
    partners = np.bincount(table[:, (table == 0).any(axis=0)].ravel(), minlength=30)
    assert partners[1] == 0
    assert partners[2:].min() > 75
    assert partners[2:].max() < 160


def test_first_replicas_are_spread():
    """Replica 0 is not always in the same zone."""
    table = place(design_of(zones(3, 2, 5), 12), None)
    share = np.bincount(table[0] % 3) / 4096
    assert share.min() > 0.3


def test_the_check_finds_what_is_wrong():
    """A table with two replicas exchanged, doubled or missing does not pass."""
    design = design_of(devices(12), 6)
    table = place(design, None)
    quotas = quotas_of(design, None)
    other = table.copy()
    other[0, 0] = other[1, 0]
    with pytest.raises(CheckError, match="too many replicas in one device"):
        check(quotas, other)
    moved = table.copy()
    moved[0, 0] = next(i for i in range(12) if i not in table[:, 0] and i % 3 == table[0, 0] % 3)
    with pytest.raises(CheckError, match="2 devices miss their quota"):
        check(quotas, moved)
    missing = table.copy()
    missing[2, 5] = NO_DEVICE
    with pytest.raises(CheckError, match="another number of replicas"):
        check(quotas, missing)
    foreign = table.copy()
    foreign[0, 0] = 77
    with pytest.raises(CheckError, match="takes none"):
        check(quotas, foreign)


def test_balance_and_dispersion_are_counted_as_swift_counts_them():
    """One device with half of all weight in one of three zones: its zone has too many replicas of some partitions."""
    placed = [*devices(3), Device(3, 1, 0, "10.9.9.9", 6200, "sda", 100.0)]
    table = place(design_of(placed, 8), None)
    assert balance(placed, table) == 0.0
    assert dispersion(placed, table) == pytest.approx(100 * 128 / 768)
    assert balance(devices(3), place(design_of(devices(3), 8), None)) == 0.0
