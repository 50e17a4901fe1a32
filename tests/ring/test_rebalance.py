"""Plans and their steps: what is said is done, one replica of a partition at a time, and no partition too soon."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.check import CheckError
from ring.memory import Memory, MemoryFileError, dumps, loads
from ring.rebalance import Plan, RebalanceError, check_steps, make_plan, rebalance
from ring.ring import NO_DEVICE, Ring
from ring.topology import Device, Topology
from ring.topology_file import Design
from tests.ring.histories import change, design_of, designs, devices

HOUR_MIN = 60


def first(design: Design) -> Memory:
    """The memory after a first rebalance."""
    return rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory


def with_devices(design: Design, placed: list[Device]) -> Design:
    """The design with other devices."""
    return replace(design, topology=Topology.of(placed))


def live_moves(design: Design, before: Ring, after: Ring) -> np.ndarray:
    """How many replicas of each partition left a device that is still in the design."""
    here = {device.id for device in design.topology}
    count = np.zeros(before.part_count, dtype=int)
    for partition in range(before.part_count):
        was = {int(i) for i in before.table[:, partition] if i != NO_DEVICE}
        now = {int(i) for i in after.table[:, partition] if i != NO_DEVICE}
        count[partition] = len((was & here) - now)
    return count


def test_what_the_plan_says_is_done():
    """A rebalance leads to the very table that the plan ended in, if that takes one step."""
    design = design_of(devices(12), 8)
    memory = first(design)
    grown = with_devices(design, devices(15))
    plan = make_plan(grown, memory, 0)
    done = rebalance(make_plan(grown, memory, 0), memory, 0, epoch=2)
    assert plan.step_count == 1
    assert np.array_equal(done.memory.ring.table, plan.change.after)
    assert (done.moved, done.waiting, done.memory.ring.epoch) == (plan.move_count, 0, 2)


def test_a_partition_that_moved_rests():
    """Within min_part_hours nothing of it moves again; afterwards it may."""
    design = design_of(devices(6), 4, hours=24)
    memory = rebalance(make_plan(design, None, 0), None, 0, epoch=1).memory
    design = with_devices(design, devices(9))
    now = 1000 * HOUR_MIN
    memory = rebalance(make_plan(design, memory, now), memory, now, epoch=2).memory
    moved = memory.moved_min == now
    assert moved.any()
    design = with_devices(design, devices(18))
    soon = now + 23 * HOUR_MIN
    done = rebalance(make_plan(design, memory, soon), memory, soon, epoch=3)
    assert np.array_equal(done.memory.ring.table[:, moved], memory.ring.table[:, moved])
    later = now + 24 * HOUR_MIN
    assert not make_plan(design, memory, later).locked.any()


def test_what_was_lost_is_made_again_at_once():
    """Replicas on a removed device go to others at once, whatever min_part_hours says, and nothing else of them moves."""
    design = design_of(devices(12), 8, hours=24)
    memory = first(design)
    memory = replace(memory, moved_min=np.full(256, 10, dtype=np.uint32))
    design = with_devices(design, devices(12)[1:])
    done = rebalance(make_plan(design, memory, 11), memory, 11, epoch=2)
    changed = done.memory.ring.table != memory.ring.table
    assert np.array_equal(changed, memory.ring.table == 0)
    assert done.memory.ring.devices[0] is None


def test_a_drained_device_gives_one_replica_of_a_partition_at_a_time():
    """Two devices of weight 0 that share partitions are emptied in two steps."""
    placed = [Device(i, 1, i % 2, f"n{i}", 1, "d", 1.0) for i in range(8)]
    design = design_of(placed, 6)
    memory = first(design)
    design = with_devices(design, [replace(d, weight=0.0) if d.id < 3 else d for d in placed])
    total = make_plan(design, memory, 0).move_count
    steps = make_plan(design, memory, 0).step_count
    moved = pushes = 0
    while True:
        plan = make_plan(design, memory, 0)
        done = rebalance(plan, memory, 0, epoch=memory.ring.epoch + 1)
        if not done.moved:
            break
        assert live_moves(design, memory.ring, done.memory.ring).max() <= 1
        memory, moved, pushes = done.memory, moved + done.moved, pushes + 1
    assert steps > 1
    assert pushes == steps
    assert moved == total
    assert not np.isin(memory.ring.table, [0, 1, 2]).any()


@given(designs(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_every_history_in_steps(design: Design, rng: random.Random):
    """Whatever changes, and in whatever step the next change comes, no partition has two live replicas in motion, the
    pushes end, and the end meets the plan's quality."""
    memory: Memory | None = None
    for round_ in range(4):
        for push in range(20):
            plan = make_plan(design, memory, 0)
            done = rebalance(plan, memory, 0, epoch=1 if memory is None else memory.ring.epoch + 1)
            if memory is not None:
                if not done.moved and not plan.change.dropped:
                    break
                if not plan.change.dropped:
                    assert live_moves(design, memory.ring, done.memory.ring).max() <= 1
            memory = done.memory
            assert done.memory.ring.replica_count == pytest.approx(
                design.settings.replica_total / design.settings.part_count
            )
            if push and rng.random() < 0.2:
                break
        else:
            pytest.fail("the pushes don't end")
        assert memory is not None
        memory = loads(dumps(memory))
        design = change(design, rng, taken=100 * (round_ + 1))


def test_steps_take_no_more_moves_than_the_plan():
    """Carried out in several pushes, a large change moves as many replicas as the plan said."""
    design = design_of(devices(6), 8)
    memory = first(design)
    design = with_devices(design, devices(24, zones=6))
    plan = make_plan(design, memory, 0)
    moved = 0
    while True:
        done = rebalance(make_plan(design, memory, 0), memory, 0, epoch=memory.ring.epoch + 1)
        if not done.moved:
            break
        memory, moved = done.memory, moved + done.moved
    assert moved <= plan.move_count * 1.05


def test_fewer_replicas_are_dropped_and_more_are_made():
    """Two replicas instead of three drop one of each partition; back to three makes one."""
    design = design_of(devices(6), 6)
    memory = first(design)
    fewer = replace(design, settings=replace(design.settings, replicas=2.0))
    plan = make_plan(fewer, memory, 0)
    assert plan.change.dropped == 64
    memory = rebalance(plan, memory, 0, epoch=2).memory
    assert memory.ring.replica_count == 2.0
    again = make_plan(design, memory, 0)
    assert again.move_count == 64
    assert again.step_count == 1


def test_ring_and_topology_must_fit():
    """A part power or seed that was edited by hand is refused, with what to do."""
    design = design_of(devices(6), 6)
    memory = first(design)
    with pytest.raises(RebalanceError, match="prepare_increase_partition_power"):
        make_plan(replace(design, settings=replace(design.settings, part_power=7)), memory, 0)
    with pytest.raises(RebalanceError, match="set it back"):
        make_plan(replace(design, settings=replace(design.settings, seed=1)), memory, 0)
    with pytest.raises(RebalanceError, match="no disk device with weight"):
        make_plan(with_devices(design, []), memory, 0)


def test_only_devices_of_the_kind_hold_partitions():
    """Hosts and storage repositories are in the ring, for whoever walks it, and hold nothing."""
    hosts = [Device(100 + i, 1, i % 3, f"xen{i}", 443, "xen", 64.0, "host") for i in range(6)]
    ring = first(design_of([*devices(6), *hosts], 6)).ring
    assert ring.table.max() < 6
    walk = ring.walk(17, "host")
    assert {device.id for device in walk} == {device.id for device in hosts}
    assert len({device.zone for device in walk[:3]}) == 3
    of_hosts = design_of(hosts, 6)
    of_hosts = replace(of_hosts, settings=replace(of_hosts.settings, kind="host"))
    assert first(of_hosts).ring.table.min() == 100


def test_the_check_of_steps_finds_two_moves_at_once():
    """A plan that moves two live replicas of a partition in one step does not pass."""
    design = design_of(devices(6), 6)
    memory = first(design)
    plan = make_plan(with_devices(design, devices(24, zones=6)), memory, 0)
    assert plan.step_count > 1
    hasty = replace(plan, steps=np.minimum(plan.steps, 1).astype(np.uint8))
    with pytest.raises(CheckError, match="moves two live replicas"):
        check_steps(hasty)


def test_a_damaged_memory_is_refused():
    """Every flipped bit of the builder's memory is found."""
    data = dumps(first(design_of(devices(4), 3)))
    for at in range(len(data)):
        with pytest.raises(MemoryFileError):
            loads(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def test_a_plan_is_the_same_every_time():
    """The same state and seed give the same plan; another seed may choose others among equals, as many."""
    design = design_of(devices(12), 10)
    memory = first(design)
    grown = with_devices(design, devices(13))

    def table(plan: Plan) -> bytes:
        return plan.change.after.tobytes()

    assert table(make_plan(grown, memory, 0)) == table(make_plan(grown, memory, 0))
    other = make_plan(grown, memory, 0, seed=77)
    assert table(other) != table(make_plan(grown, memory, 0))
    assert other.move_count == make_plan(grown, memory, 0).move_count
