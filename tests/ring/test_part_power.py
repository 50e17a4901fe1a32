"""Increasing the part power: nothing moves, and both numberings hold until the end."""

from __future__ import annotations

import pytest

from ring.part_power import PartPowerError, cancel_increase, finish_increase, increase, prepare_increase
from ring.rebalance import RebalanceError, make_plan, rebalance
from ring.ring import Ring, RingError
from tests.ring.histories import design_of, devices

KEYS = [f"/account/container/{index}".encode() for index in range(300)]


def places(ring: Ring) -> list[list[int]]:
    """Where each key is: primaries, and then handoffs."""
    found = []
    for key in KEYS:
        partition = ring.partition(ring.hash_key(key))
        found.append([d.id for d in (*ring.primaries(partition), *ring.handoffs(partition))])
    return found


def test_no_key_changes_its_devices():
    """At every step each name has the same primaries; handoffs are the same until the end."""
    design = design_of(devices(12), 6, 2.5)
    memory = rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory
    start = places(memory.ring)
    design, prepared = prepare_increase(design, memory)
    assert prepared.ring.part_powers == (6, 7)
    design, increased = increase(design, prepared)
    assert design.settings.part_power == increased.ring.part_power == 7
    assert increased.ring.part_powers == (7, 6)
    design, finished = finish_increase(design, increased)
    assert finished.ring.part_powers == (7,)
    assert [m.ring.epoch for m in (memory, prepared, increased, finished)] == [1, 2, 3, 4]
    assert places(prepared.ring) == places(increased.ring) == start
    assert [ids[:2] for ids in places(finished.ring)] == [ids[:2] for ids in start]
    # Twice as many partitions can be shared out more finely: at most one replica a device.
    assert make_plan(design, finished, 0).move_count <= 12


def test_partitions_of_both_powers_are_valid_in_between():
    """A node that has not the new ring yet, and one that has it, mean the same by either number."""
    design = design_of(devices(12), 6)
    memory = rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory
    _, prepared = prepare_increase(design, memory)
    _, increased = increase(design, prepared)
    for key in KEYS[:50]:
        key_hash = memory.ring.hash_key(key)
        old, new = memory.ring.partition(key_hash), increased.ring.partition(key_hash)
        for ring in (prepared.ring, increased.ring):
            assert ring.primaries_under(old, 6) == ring.primaries_under(new, 7) == memory.ring.primaries(old)
    with pytest.raises(RingError, match="part power 7 is not in force"):
        memory.ring.primaries_under(0, 7)


def test_the_file_keeps_the_transition():
    """A ring under way is loaded as such."""
    design = design_of(devices(4), 4)
    memory = rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory
    _, prepared = prepare_increase(design, memory)
    assert Ring.loads(prepared.ring.dumps()).part_powers == (4, 5)


def test_steps_out_of_order_are_refused():
    """Each step says which one comes before it; a ring under way is not rebalanced."""
    design = design_of(devices(4), 4)
    memory = rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory
    for step in (increase, finish_increase, cancel_increase):
        with pytest.raises(PartPowerError):
            step(design, memory)
    _, prepared = prepare_increase(design, memory)
    with pytest.raises(PartPowerError):
        prepare_increase(design, prepared)
    with pytest.raises(PartPowerError):
        finish_increase(design, prepared)
    with pytest.raises(RebalanceError, match="under way"):
        make_plan(design, prepared, 0)
    _, cancelled = cancel_increase(design, prepared)
    assert cancelled.ring.part_powers == (4,)
    grown, increased = increase(design, prepared)
    with pytest.raises(PartPowerError):
        cancel_increase(grown, increased)
